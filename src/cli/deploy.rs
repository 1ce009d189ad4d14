//! `i2kit deploy`: build what changed, roll it out, wait until it is healthy.

use std::pin::pin;

use super::args::DeployArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::prepare::{self, PlannedDeployment};
use super::{addresses, carry_out, connection, output};
use crate::plan::act::Act;
use crate::plan::fleet::{BalancerSpec, Fleet};
use crate::plan::rollout::{Intent, RolloutPlan, Step};
use crate::report::{self, Format};
use crate::rollout::RunRecord;

/// Deploys the set.
pub(super) async fn run(context: &Context, args: &DeployArgs) -> Result<Exit, Failure> {
    let record = RunRecord::default();
    carry_out::interruptible(context, &record, deploy(context, args, &record)).await
}

async fn deploy(context: &Context, args: &DeployArgs, record: &RunRecord) -> Result<Exit, Failure> {
    let Deployed { plan, left, answering, fleet } = carry(context, args, record, None).await?;
    match context.format {
        Format::Json => {
            let mut result = carry_out::done(&plan, record, &left);
            result["addresses"] = serde_json::json!(answering);
            output::json(&result);
        }
        Format::Text => {
            if carry_out::is_unchanged(record, &left) {
                report::result("unchanged\n");
            }
            for service in &answering {
                report::result(&format!("{service}\n"));
            }
        }
    }
    connection::warn(context, &fleet);
    Ok(Exit::Success)
}

/// What came of a deployment.
#[derive(Debug)]
pub(super) struct Deployed {
    /// What was to be done.
    plan: RolloutPlan,
    /// What of it is left, since it was not waited for.
    left: Vec<Step>,
    /// Where the set's Services answer.
    answering: Vec<addresses::Answering>,
    /// What the environment holds now.
    pub(super) fleet: Fleet,
}

/// Picks acts of a plan.
pub(super) type Pick = fn(&Act) -> bool;

/// Deploys the set and prints no result. Of the plan only those acts are carried out that `only` picks; the next deployment
/// does the rest.
pub(super) async fn carry(
    context: &Context,
    args: &DeployArgs,
    record: &RunRecord,
    only: Option<Pick>,
) -> Result<Deployed, Failure> {
    let PlannedDeployment { prepared, cloud, fleet, secrets, desired, mut plan } =
        prepare::plan(context, &args.set, args.prune).await?;
    refuse_network(context, &plan, &fleet).await?;
    if let Some(picked) = only {
        plan.steps.retain(|step| step.act().is_some_and(picked));
        // Made again, it would be the whole plan.
        plan.intent = Intent::None;
    }
    let materials = prepared.materials(&plan, &secrets).await?;
    let set = prepared.set.clone();
    let left = {
        let work = (&plan, &materials);
        let mut carrying = pin!(carry_out::carry_out_to(context, cloud.as_ref(), work, args.wait, record));
        tokio::select! {
            left = &mut carrying => left?,
            // The wait for machines needs nothing of the cache, which others may prune meanwhile.
            () = until_put(&plan, record) => {
                drop(prepared);
                carrying.await?
            }
        }
    };
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let answering = addresses::answering(&set, &desired.balancers, &fleet);
    Ok(Deployed { plan, left, answering, fleet })
}

/// Refuses a network that cannot hold what the plan brings, before anything is made. What is there already is changed as ever.
async fn refuse_network(context: &Context, plan: &RolloutPlan, fleet: &Fleet) -> Result<(), Failure> {
    let Brought { balancers, has_new_groups } = brought(plan, fleet);
    if balancers.is_empty() && !has_new_groups {
        return Ok(());
    }
    let client = connection::client(context)?;
    let provider = connection::provider(context)?;
    provider.refuse_network(&client, &balancers, has_new_groups).await.or_exit(Exit::Cloud)
}

/// What a plan brings to a network.
#[derive(Debug, PartialEq, Eq)]
struct Brought {
    /// Balancers that are put; the cloud knows which of them are there.
    balancers: Vec<BalancerSpec>,
    /// Whether there are groups that the environment does not have.
    has_new_groups: bool,
}

fn brought(plan: &RolloutPlan, fleet: &Fleet) -> Brought {
    let balancers = plan.acts().filter_map(|act| match act {
        Act::PutBalancer { spec } => Some(spec.clone()),
        _ => None,
    });
    let is_group = |act: &Act| matches!(act, Act::PutGroup { group, .. } if fleet.group(group).is_none());
    Brought { balancers: balancers.collect(), has_new_groups: plan.acts().any(is_group) }
}

/// Ends when the cloud has its own copies of all images of the plan.
async fn until_put(plan: &RolloutPlan, record: &RunRecord) {
    let are_put = |applied: &[Act]| plan.images().all(|image| applied.contains(&Act::PutImage { image }));
    record.until(are_put).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::{Name, Protocol, ServiceType, Strategy};
    use crate::plan::example;
    use crate::plan::fleet::{InstanceGroup, Listener};

    #[test]
    fn a_plan_brings_balancers_and_new_groups() {
        let name = Name { namespace: "default".into(), name: "web".into() };
        let listeners = vec![Listener::new(80, Protocol::Tcp, vec![])];
        let web = BalancerSpec::new(name.clone(), ServiceType::ClusterIP, listeners);
        let settings = example::settings(Strategy::Recreate);
        let plan = |spec: BalancerSpec| {
            let acts = [
                Act::PutBalancer { spec },
                Act::PutGroup { group: name.clone(), settings: settings.clone() },
                Act::Scale { group: name.clone(), replicas: 2 },
            ];
            RolloutPlan { steps: acts.map(Into::into).into(), ..RolloutPlan::default() }
        };
        let first = brought(&plan(web.clone()), &Fleet::default());
        assert_eq!(first, Brought { balancers: vec![web.clone()], has_new_groups: true });
        // Groups that are there and change are not new; which balancers are there the cloud knows.
        let groups = vec![InstanceGroup::new(name.clone(), settings.clone())];
        let fleet = Fleet { groups, ..Fleet::default() };
        let changed = brought(&plan(web.clone()), &fleet);
        assert_eq!(changed, Brought { balancers: vec![web], has_new_groups: false });
        let scale = Act::Scale { group: name.clone(), replicas: 3 };
        let scaled = RolloutPlan { steps: vec![scale.into()], ..RolloutPlan::default() };
        assert_eq!(brought(&scaled, &fleet), Brought { balancers: vec![], has_new_groups: false });
    }
}
