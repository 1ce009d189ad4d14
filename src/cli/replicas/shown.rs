//! What the replicas of a group say of themselves, as tables and values: by their own answers, and as the cloud knows them.

use comfy_table::Table;
use i2kit_spec::replica::{COORDINATOR, ReplicaReport, ReplicaStatus, Role};
use serde::Serialize;

use crate::cli::tables::{lines, row, table};
use crate::cloud::Cloud;
use crate::manifest::api::Name;
use crate::plan::fleet::{Instance, InstanceGroup, InstanceId, InstanceState};

/// A slot of the group: its machine, and what the coordinator of that says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Replica<'f> {
    /// Nothing where none runs.
    pub(super) instance: Option<&'f InstanceId>,
    pub(super) name: String,
    /// Nothing of one that does not answer.
    pub(super) status: Option<ReplicaStatus>,
    /// Why it does not.
    pub(super) error: Option<String>,
}

/// A group's name as its coordinators have it: with its namespace always.
pub(super) fn in_contract(name: &Name) -> String {
    format!("{}/{}", name.namespace, name.name)
}

/// Whether the machines of the group are replicas of each other.
pub(in crate::cli) fn is_replicated(group: &InstanceGroup) -> bool {
    let revision = group.heading().and_then(|number| group.revision(number));
    revision.is_some_and(|revision| revision.launch.containers.iter().any(|name| name == COORDINATOR))
}

/// The table of a group for `status`; nothing where the group is not replicated.
pub(in crate::cli) async fn detail(cloud: &dyn Cloud, group: &InstanceGroup) -> String {
    if !is_replicated(group) {
        return String::new();
    }
    let replicas = ask(cloud, group).await;
    if replicas.is_empty() { String::new() } else { format!("\n{}", lines(&[shown(&replicas)])) }
}

/// Asks all machines of the group that run, at once.
pub(super) async fn ask<'f>(cloud: &dyn Cloud, group: &'f InstanceGroup) -> Vec<Replica<'f>> {
    let running = group.instances.iter().filter(|instance| instance.state == InstanceState::Running);
    let asked = running.map(async |instance| {
        let (status, error) = match cloud.replica(&instance.id).await {
            Ok(status) => (Some(status), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Replica { instance: Some(&instance.id), name: instance.called().to_owned(), status, error }
    });
    let mut replicas = futures::future::join_all(asked).await;
    replicas.extend(empty_slots(group));
    replicas.sort_by(|a, b| slot(a).cmp(&slot(b)).then_with(|| a.name.cmp(&b.name)));
    replicas
}

/// The slots in which no machine runs.
fn empty_slots(group: &InstanceGroup) -> Vec<Replica<'static>> {
    let taken: Vec<u32> = group.members().filter_map(|instance| instance.ordinal).collect();
    let free = (0..group.replicas).filter(|slot| !taken.contains(slot));
    let empty = |slot| Replica {
        instance: None,
        name: format!("{}-{slot}", group.name.name),
        status: None,
        error: Some("no machine runs".to_owned()),
    };
    free.map(empty).collect()
}

/// The slot of a replica: the number at the end of its name.
fn slot(replica: &Replica<'_>) -> Option<u32> {
    replica.name.rsplit_once('-').and_then(|(_, slot)| slot.parse().ok())
}

pub(super) fn shown(replicas: &[Replica<'_>]) -> Table {
    let mut table = table(&["REPLICA", "SLOT", "ROLE", "TERM", "APPLIED", "BEHIND", "ID", "NOTE"]);
    let known = replicas.iter().filter_map(|replica| replica.status.as_ref());
    let newest = known.map(|status| status.committed).max().unwrap_or_default();
    for replica in replicas {
        let none = || "-".to_owned();
        let of = |text: &dyn Fn(&ReplicaStatus) -> String| replica.status.as_ref().map_or_else(none, text);
        table.add_row(row([
            replica.name.clone(),
            of(&|status| status.slot.to_string()),
            of(&|status| word(status.role).to_owned()),
            of(&|status| status.term.to_string()),
            of(&|status| status.applied.to_string()),
            of(&|status| newest.saturating_sub(status.applied).to_string()),
            of(&|status| format!("{:016x}", status.id)),
            note(replica),
        ]));
    }
    table
}

/// The replicas of all groups as the cloud knows them, for the status of an environment: a line each.
pub(in crate::cli) fn known(groups: &[InstanceGroup]) -> Option<Table> {
    let mut table = table(&["REPLICA", "ROLE", "TERM", "APPLIED", "BEHIND", "NOTE"]);
    for group in groups {
        let said =
            || group.instances.iter().filter_map(|instance| Some((instance, instance.replica.as_ref()?)));
        let newest = newest(said().map(|(_, report)| report));
        for (instance, report) in said() {
            let Progress { applied, behind } = Progress::of(report, newest);
            table.add_row(row([
                instance.called().to_owned(),
                word(report.role).to_owned(),
                report.term.to_string(),
                applied.map_or_else(|| "-".to_owned(), |applied| applied.to_string()),
                behind.map_or_else(|| "-".to_owned(), |behind| behind.to_string()),
                complaint(report),
            ]));
        }
    }
    (table.row_count() > 0).then_some(table)
}

/// How far a replica is, where that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct Progress {
    /// The index of the last entry that its application executed.
    pub(in crate::cli) applied: Option<u64>,
    /// How many entries lie between that and the newest one that some replica knows to be committed.
    pub(in crate::cli) behind: Option<u64>,
}

impl Progress {
    /// That of one replica, where the newest entry that is known to be committed is `newest`.
    pub(in crate::cli) fn of(report: &ReplicaReport, newest: u64) -> Self {
        let applied = report.progress.map(|progress| progress.applied);
        Self { applied, behind: applied.map(|applied| newest.saturating_sub(applied)) }
    }
}

/// The newest entry that some of these replicas knows to be committed.
pub(in crate::cli) fn newest<'r>(reports: impl Iterator<Item = &'r ReplicaReport>) -> u64 {
    reports.filter_map(|report| report.progress).map(|progress| progress.committed).max().unwrap_or_default()
}

/// The same of a group.
pub(in crate::cli) fn newest_of(group: &InstanceGroup) -> u64 {
    newest(group.instances.iter().filter_map(|instance: &Instance| instance.replica.as_ref()))
}

/// What is wrong with a replica, or what it waits for; nothing where all is as it should be.
pub(in crate::cli) fn complaint(report: &ReplicaReport) -> String {
    match report {
        ReplicaReport { diverged_at: Some(index), .. } => differs(*index),
        ReplicaReport { waits_for: Some(what), .. } => what.clone(),
        ReplicaReport { has_quorum: false, .. } => NO_QUORUM.to_owned(),
        _ => String::new(),
    }
}

/// What is said of a replica that a majority does not hear.
const NO_QUORUM: &str = "it is connected with no majority of the voters";

fn differs(index: u64) -> String {
    format!("its replies differ from those of the others since index {index}")
}

/// A role in a word.
pub(in crate::cli) fn word(role: Role) -> &'static str {
    match role {
        Role::Starting => "starting",
        Role::Learner => "learner",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
        Role::Quarantined => "quarantined",
    }
}

/// What is to be known of a replica besides numbers.
fn note(replica: &Replica<'_>) -> String {
    match (&replica.status, &replica.error) {
        (None, error) => error.clone().unwrap_or_default(),
        (Some(status), _) => complaint(&ReplicaReport::from(status)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cli::replicas) fn status(slot: u32, role: Role) -> ReplicaStatus {
        ReplicaStatus {
            slot,
            id: 0xab,
            role,
            term: 3,
            leader: Some(0),
            committed: 0,
            applied: 0,
            members: vec![],
            diverged_at: (role == Role::Quarantined).then_some(9),
            divergences: 0,
            log_bytes: 0,
            waits_for: None,
            recoveries: 0,
            has_quorum: true,
        }
    }

    #[test]
    fn the_table_has_a_line_a_replica_and_says_what_is_wrong() {
        let status = |slot, role, applied, committed, waits_for: Option<&str>| ReplicaStatus {
            committed,
            applied,
            waits_for: waits_for.map(str::to_owned),
            ..status(slot, role)
        };
        let ids: Vec<InstanceId> = ["a", "b", "c", "d"].map(InstanceId::from).into();
        let replica = |number: usize, name: &str, status, error: Option<&str>| Replica {
            instance: Some(&ids[number]),
            name: name.to_owned(),
            status,
            error: error.map(str::to_owned),
        };
        let replicas = [
            replica(0, "db-0", Some(status(0, Role::Leader, 12, 12, None)), None),
            replica(1, "db-1", Some(status(1, Role::Learner, 2, 5, Some("a\u{1b}snapshot"))), None),
            replica(2, "db-2", Some(status(2, Role::Quarantined, 9, 9, None)), None),
            replica(3, "db-3", None, Some("its coordinator does not answer")),
        ];
        assert_eq!(
            lines(&[shown(&replicas)]),
            "REPLICA  SLOT  ROLE         TERM  APPLIED  BEHIND  ID                NOTE\n\
             db-0     0     leader       3     12       0       00000000000000ab\n\
             db-1     1     learner      3     2        10      00000000000000ab  a␛snapshot\n\
             db-2     2     quarantined  3     9        3       00000000000000ab  its replies differ from those of the others since index 9\n\
             db-3     -     -            -     -        -       -                 its coordinator does not answer\n"
        );
        let json = serde_json::to_value(&replicas[1]).unwrap();
        assert_eq!((&json["status"]["role"], &json["name"]), (&"learner".into(), &"db-1".into()));
        assert_eq!(json["status"]["id"], "00000000000000ab", "a text, which no reader rounds");
    }

    #[test]
    fn what_the_cloud_knows_is_a_table_without_a_question_to_anybody() {
        let settings = crate::plan::example::settings(crate::manifest::api::Strategy::Recreate);
        let name = Name { namespace: "default".into(), name: "db".into() };
        let mut group = InstanceGroup { replicas: 3, ..InstanceGroup::new(name, settings) };
        let machine = |slot: u32, replica: serde_json::Value| -> Instance {
            let fields = serde_json::json!({
                "id": format!("i-{slot}"), "name": format!("db-{slot}"), "ordinal": slot, "revision": 1, "state": "running",
                "health": {"status": "healthy"}, "since": 0, "endpoints": [], "containers": [], "replica": replica,
            });
            serde_json::from_value(fields).unwrap()
        };
        let report = |role: &str, more: serde_json::Value| {
            let mut report =
                serde_json::json!({"role": role, "term": 3, "leader": 0, "hasQuorum": true, "recoveries": 0});
            report.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            report
        };
        assert!(known(std::slice::from_ref(&group)).is_none(), "no replicas");
        group.instances = vec![
            machine(0, report("leader", serde_json::json!({"progress": {"committed": 12, "applied": 12}}))),
            machine(1, report("follower", serde_json::json!({"progress": {"committed": 9, "applied": 7}}))),
            machine(2, report("candidate", serde_json::json!({"hasQuorum": false}))),
            machine(3, serde_json::Value::Null),
        ];
        let table = known(&[group]).unwrap();
        assert_eq!(
            lines(&[table]),
            "REPLICA  ROLE       TERM  APPLIED  BEHIND  NOTE\n\
             db-0     leader     3     12       0\n\
             db-1     follower   3     7        5\n\
             db-2     candidate  3     -        -       it is connected with no majority of the voters\n"
        );
    }

    #[test]
    fn a_slot_without_a_machine_has_a_row() {
        let settings = crate::plan::example::settings(crate::manifest::api::Strategy::Recreate);
        let name = crate::manifest::api::Name { namespace: "default".into(), name: "db".into() };
        let mut group = InstanceGroup { replicas: 3, ..InstanceGroup::new(name, settings) };
        let machine = |slot: u32, state: &str| {
            let fields = serde_json::json!({
                "id": format!("i-{slot}"), "name": format!("db-{slot}"), "ordinal": slot, "revision": 1, "state": state,
                "health": {"status": "healthy"}, "since": 0, "endpoints": [], "containers": [],
            });
            serde_json::from_value(fields).unwrap()
        };
        group.instances = vec![machine(0, "running"), machine(2, "stopping")];
        let empty = empty_slots(&group);
        assert_eq!(empty.iter().map(slot).collect::<Vec<_>>(), [Some(1), Some(2)]);
        assert!(
            lines(&[shown(&empty)])
                .contains("db-1     -     -     -     -        -       -   no machine runs\n")
        );
    }
}
