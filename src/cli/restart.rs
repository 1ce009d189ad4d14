//! `i2kit restart`: equal instances in place of those that run.

use super::args::RestartArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::{carry_out, connection, named};
use crate::cloud::Materials;
use crate::manifest::api::Name;
use crate::plan::fleet::Fleet;
use crate::plan::rollout::{self, PlanError, RolloutPlan};

/// Replaces the instances of the group and waits.
pub(super) async fn run(context: &Context, args: &RestartArgs) -> Result<Exit, Failure> {
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let name = &named::group(&fleet, &args.name)?.name;
    let plan = plan(&fleet, name)?;
    carry_out::carry_out(context, cloud.as_ref(), &plan, &Materials::default()).await
}

/// The plan that replaces the instances of the group.
pub(super) fn plan(fleet: &Fleet, name: &Name) -> Result<RolloutPlan, Failure> {
    let exit = |error: &PlanError| match error {
        PlanError::JobEnds { .. } => Exit::Usage,
        _ => Exit::NotFound,
    };
    rollout::restart(fleet, name, &format!("i2kit restart {name}"))
        .map_err(|error| Failure::new(exit(&error), error))
}
