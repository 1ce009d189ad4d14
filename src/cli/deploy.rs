//! `i2kit deploy`: build what changed, roll it out, wait until it is healthy.

use super::args::DeployArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::{pipeline, secrets};
use crate::plan::rollout;
use crate::report::{self, Format};

/// Deploys the set.
pub(super) async fn run(context: &Context, args: &DeployArgs) -> Result<Exit, Failure> {
    let prepared = pipeline::prepare(context, &args.set).await?;
    let cloud = pipeline::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let secrets = secrets::find(context, cloud.as_ref(), &prepared.set).await?;
    let desired = prepared.desired(context, &secrets, args.prune);
    let plan = rollout::rollout(&desired, &fleet);
    let wanted: Vec<_> = plan.images().collect();
    let images = prepared.build(|id| wanted.contains(&id)).await?;
    secrets.put(cloud.as_ref(), &plan).await?;
    let exit = pipeline::carry_out_to(context, cloud.as_ref(), &plan, (&images, args.wait)).await?;
    if context.format == Format::Text {
        let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
        let names: Vec<_> = desired.balancers.iter().map(|balancer| &balancer.name).collect();
        for balancer in fleet.balancers.iter().filter(|balancer| names.contains(&&balancer.spec.name)) {
            report::result(&format!("{} {}\n", balancer.spec.name, balancer.addresses().join(" ")));
        }
        pipeline::warn(context, &fleet);
    }
    Ok(exit)
}
