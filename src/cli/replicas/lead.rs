//! `i2kit replicas NAME --lead SLOT`: another replica leads. Nothing is lost: commands wait for a moment.

use i2kit_spec::replica::{LeadRequest, Led, Role};
use serde::Serialize;

use super::shown::{Replica, ask, in_contract};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure, OrExit as _};
use crate::cli::output;
use crate::cloud::{Cloud, ReplicaAnswer, ReplicaOrder};
use crate::plan::fleet::{InstanceGroup, InstanceId, member_name};
use crate::report::{self, Format};

/// What is printed as JSON.
#[derive(Debug, Serialize)]
struct Lead {
    /// Whether another one led before.
    moved: bool,
    leader: u32,
    name: String,
    term: u64,
}

/// Has the replica of `slot` lead, and says who leads then.
pub(super) async fn run(
    context: &Context,
    cloud: &dyn Cloud,
    group: &InstanceGroup,
    slot: u32,
) -> Result<Exit, Failure> {
    if slot >= group.replicas {
        return Err(Failure::new(Exit::Usage, anyhow::anyhow!("{}", no_slot(group, slot))));
    }
    let replicas = ask(cloud, group).await;
    let name = member_name(&group.name, slot);
    let leader = leader(&replicas).ok_or_else(|| {
        let error = anyhow::anyhow!(
            "no replica of {0} says that it leads: `i2kit replicas {0}` shows what each waits for; without a majority there is no lead to move",
            group.name
        );
        Failure::new(Exit::Cloud, error)
    })?;
    let lead = if leader.slot == slot {
        Lead { moved: false, leader: slot, name, term: leader.term }
    } else {
        let order = ReplicaOrder::Lead(LeadRequest { group: in_contract(&group.name), slot });
        match cloud.order_replica(leader.instance, &order).await.or_exit(Exit::Cloud)? {
            ReplicaAnswer::Led(Led { leader, term }) => Lead { moved: true, leader, name, term },
            answer => {
                return Err(Failure::from(anyhow::anyhow!(
                    "the replica answers another question: {answer:?}"
                )));
            }
        }
    };
    match context.format {
        Format::Json => output::json(&lead),
        Format::Text => report::result(&text(&lead)),
    }
    Ok(Exit::Success)
}

fn text(lead: &Lead) -> String {
    let Lead { moved, name, term, .. } = lead;
    if *moved {
        format!("{name} leads, in term {term}\n")
    } else {
        format!("{name} leads already, in term {term}\n")
    }
}

/// What is said of a slot that the group does not have.
fn no_slot(group: &InstanceGroup, slot: u32) -> String {
    match group.replicas.checked_sub(1) {
        Some(last) => format!("{} has no slot {slot}: its slots are 0 to {last}", group.name),
        None => format!("{} has no machines now: deploy it first", group.name),
    }
}

/// A replica that says that it leads.
#[derive(Debug, PartialEq, Eq)]
struct Leader<'f> {
    instance: &'f InstanceId,
    slot: u32,
    term: u64,
}

/// The one that leads in the newest term: an older one may not have heard yet that it does not lead any more.
fn leader<'f>(replicas: &[Replica<'f>]) -> Option<Leader<'f>> {
    let leads = replicas.iter().filter_map(|replica| {
        let status = replica.status.as_ref().filter(|status| status.role == Role::Leader)?;
        Some(Leader { instance: replica.instance?, slot: status.slot, term: status.term })
    });
    leads.max_by_key(|leader| leader.term)
}

#[cfg(test)]
mod tests {
    use super::super::shown::tests::status;
    use super::*;

    #[test]
    fn the_leader_of_the_newest_term_is_asked() {
        let ids: Vec<InstanceId> = ["a", "b", "c"].map(InstanceId::from).into();
        let replica = |number: usize, role, term| {
            let slot = u32::try_from(number).unwrap();
            let mut said = status(slot, role);
            said.term = term;
            Replica {
                instance: Some(&ids[number]),
                name: format!("db-{number}"),
                status: Some(said),
                error: None,
            }
        };
        let none = [replica(0, Role::Follower, 3), replica(1, Role::Candidate, 4)];
        assert_eq!(leader(&none), None);
        let two = [replica(0, Role::Leader, 3), replica(1, Role::Leader, 5), replica(2, Role::Follower, 5)];
        assert_eq!(leader(&two), Some(Leader { instance: &ids[1], slot: 1, term: 5 }));
        let lead = |moved| Lead { moved, leader: 1, name: "db-1".into(), term: 5 };
        assert_eq!(text(&lead(true)), "db-1 leads, in term 5\n");
        assert_eq!(text(&lead(false)), "db-1 leads already, in term 5\n");
    }
}
