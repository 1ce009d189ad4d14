//! What the replica of a replicated pod says of itself: its coordinator tells it over the pod's socket, and it is part of the
//! pod's status.
//!
//! It is kept in a file beside PID 1's record, so that a supervisor which was just started knows as much as the one before. It is
//! of one run of the coordinator: what an earlier run said is nothing any more.

use std::fs;
use std::io;
use std::path::Path;

use i2kit_spec::replica::{COORDINATOR, ReplicaReport};
use i2kit_spec::status;
use serde::{Deserialize, Serialize};

use crate::record::{ContainerState, Record};

/// Where it lies in the VM.
const PATH: &str = "/run/i2kit/replica.json";

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    /// The coordinator's run that said it.
    run: u64,
    /// What it said.
    report: ReplicaReport,
}

/// Keeps what the coordinator says now.
pub(crate) fn note(report: ReplicaReport) -> Result<(), String> {
    let record = Record::read().map_err(|error| format!("the state record cannot be read: {error}"))?;
    let run = run(&record).ok_or("the coordinator does not run, as PID 1 has it")?;
    save(Path::new(PATH), run, report).map_err(|error| format!("{PATH} cannot be written: {error}"))
}

/// What the coordinator said last, while it runs.
pub(crate) fn noted(record: &Record) -> Option<ReplicaReport> {
    load(Path::new(PATH), run(record)?)
}

/// The number of the coordinator's run.
fn run(record: &Record) -> Option<u64> {
    let coordinator = record.containers.iter().find(|container| container.name == COORDINATOR)?;
    matches!(coordinator.state, ContainerState::Running { .. }).then_some(coordinator.run)
}

fn save(path: &Path, run: u64, mut report: ReplicaReport) -> io::Result<()> {
    // Its words come from a container, and go to people.
    status::cut_report(&mut report);
    let new = path.with_extension("new");
    fs::write(&new, serde_json::to_vec(&Noted { run, report })?)?;
    fs::rename(&new, path)
}

fn load(path: &Path, run: u64) -> Option<ReplicaReport> {
    let noted: Noted = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (noted.run == run).then_some(noted.report)
}

#[cfg(test)]
mod tests {
    use i2kit_spec::replica::{Progress, Role};
    use i2kit_spec::status::TEXT_BYTES;

    use super::*;

    #[test]
    fn what_a_run_of_the_coordinator_said_is_there_while_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replica.json");
        let report = ReplicaReport {
            role: Role::Leader,
            term: 3,
            leader: Some(0),
            has_quorum: true,
            recoveries: 0,
            diverged_at: None,
            waits_for: Some("x".repeat(2 * TEXT_BYTES)),
            progress: Some(Progress { committed: 7, applied: 7 }),
        };
        assert_eq!(load(&path, 1), None, "nothing was said");
        save(&path, 1, report.clone()).unwrap();
        let loaded = load(&path, 1).unwrap();
        assert_eq!((loaded.role, loaded.progress), (Role::Leader, report.progress));
        assert!(loaded.waits_for.unwrap().len() <= TEXT_BYTES);
        assert_eq!(load(&path, 2), None, "another run has not said anything");
        save(&path, 2, ReplicaReport { role: Role::Follower, ..report }).unwrap();
        assert_eq!(load(&path, 2).map(|report| report.role), Some(Role::Follower));
        fs::write(&path, b"{").unwrap();
        assert_eq!(load(&path, 2), None);
    }
}
