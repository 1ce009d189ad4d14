//! `i2kit replicas`: what the machines of a replicated group say of themselves.

use comfy_table::Table;
use i2kit_spec::replica::{COORDINATOR, ReplicaStatus, Role};
use serde::Serialize;

use super::args::GroupArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::tables::{lines, row, table};
use super::{connection, named, output};
use crate::cloud::{Cloud, CloudError};
use crate::manifest::support::Answer;
use crate::plan::fleet::{InstanceGroup, InstanceId, InstanceState};
use crate::report::{self, Format};

/// A slot of the group: its machine, and what the coordinator of that says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Replica<'f> {
    /// Nothing where none runs.
    instance: Option<&'f InstanceId>,
    name: String,
    /// Nothing of one that does not answer.
    status: Option<ReplicaStatus>,
    /// Why it does not.
    error: Option<String>,
}

/// Prints what each replica of the group says.
pub(super) async fn run(context: &Context, args: &GroupArgs) -> Result<Exit, Failure> {
    let support = connection::provider(context)?.support();
    if matches!(support.answer("i2kit replicas"), Answer::NotYet | Answer::No) {
        let unsupported = CloudError::Unsupported {
            what: format!("`i2kit replicas` on {}", support.name),
            advice: "deploy replicated pods to the local cloud".into(),
        };
        return Err(unsupported).or_exit(Exit::Cloud);
    }
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let group = named::group(&fleet, &args.name)?;
    if !is_replicated(group) {
        let error = anyhow::anyhow!(
            "{} is not replicated: the pod of a StatefulSet is, with the annotation `i2kit.dev/replicated`",
            group.name
        );
        return Err(Failure::new(Exit::Usage, error));
    }
    let replicas = ask(cloud.as_ref(), group).await;
    match context.format {
        Format::Json => output::json(&replicas),
        Format::Text if replicas.is_empty() => report::result("No instance runs.\n"),
        Format::Text => report::result(&lines(&[shown(&replicas)])),
    }
    Ok(Exit::Success)
}

/// Whether the machines of the group are replicas of each other.
pub(super) fn is_replicated(group: &InstanceGroup) -> bool {
    let revision = group.heading().and_then(|number| group.revision(number));
    revision.is_some_and(|revision| revision.launch.containers.iter().any(|name| name == COORDINATOR))
}

/// The table of a group for `status`; nothing where the group is not replicated.
pub(super) async fn detail(cloud: &dyn Cloud, group: &InstanceGroup) -> String {
    if !is_replicated(group) {
        return String::new();
    }
    let replicas = ask(cloud, group).await;
    if replicas.is_empty() { String::new() } else { format!("\n{}", lines(&[shown(&replicas)])) }
}

/// Asks all machines of the group that run, at once.
async fn ask<'f>(cloud: &dyn Cloud, group: &'f InstanceGroup) -> Vec<Replica<'f>> {
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

fn shown(replicas: &[Replica<'_>]) -> Table {
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

fn word(role: Role) -> &'static str {
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
        (Some(ReplicaStatus { diverged_at: Some(index), .. }), _) => {
            format!("its replies differ from those of the others since index {index}")
        }
        (Some(status), _) => status.waits_for.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_a_replica_and_says_what_is_wrong() {
        let status = |slot, role, applied, committed, waits_for: Option<&str>| ReplicaStatus {
            slot,
            id: 0xab,
            role,
            term: 3,
            leader: Some(0),
            committed,
            applied,
            members: vec![],
            diverged_at: (role == Role::Quarantined).then_some(9),
            divergences: 0,
            log_bytes: 0,
            waits_for: waits_for.map(str::to_owned),
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
