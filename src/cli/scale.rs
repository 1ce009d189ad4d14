//! `i2kit scale`: another number of instances.

use super::args::ScaleArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::{carry_out, connection, named};
use crate::cloud::Materials;
use crate::manifest::api::Name;
use crate::plan::fleet::Fleet;
use crate::plan::rollout::{self, PlanError, RolloutPlan};

/// Sets the size of the group and waits until it has it.
pub(super) async fn run(context: &Context, args: &ScaleArgs) -> Result<Exit, Failure> {
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let name = &named::group(&fleet, &args.name)?.name;
    let plan = plan(context, &fleet, name, args.replicas)?;
    carry_out::carry_out(context, cloud.as_ref(), &plan, &Materials::default()).await
}

/// The plan that gives the group that size.
pub(super) fn plan(context: &Context, fleet: &Fleet, name: &Name, size: u32) -> Result<RolloutPlan, Failure> {
    context.environment.provider.refuse_size(name, size).or_exit(Exit::Usage)?;
    let exit = |error: &PlanError| match error {
        PlanError::Job { .. } | PlanError::OneDisk { .. } | PlanError::Replicas { .. } => Exit::Usage,
        _ => Exit::NotFound,
    };
    rollout::scale(fleet, name, size).map_err(|error| Failure::new(exit(&error), error))
}
