//! `i2kit rollback`: a rollout to an earlier revision.

use super::args::RollbackArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::{carry_out, connection, named};
use crate::cloud::Materials;
use crate::manifest::api::Name;
use crate::plan::fleet::Fleet;
use crate::plan::rollout::{self, PlanError, RolloutPlan};

/// Rolls the group out at an earlier revision and waits.
pub(super) async fn run(context: &Context, args: &RollbackArgs) -> Result<Exit, Failure> {
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let name = &named::group(&fleet, &args.name)?.name;
    let plan = plan(&fleet, name, args.to_revision)?;
    carry_out::carry_out(context, cloud.as_ref(), &plan, &Materials::default()).await
}

/// The plan that brings the group back to revision `to`, or to the one that served before.
pub(super) fn plan(fleet: &Fleet, name: &Name, to: Option<u32>) -> Result<RolloutPlan, Failure> {
    let exit = |error: &PlanError| match error {
        PlanError::Replicas { .. } => Exit::Usage,
        _ => Exit::NotFound,
    };
    rollout::rollback(fleet, name, to).map_err(|error| Failure::new(exit(&error), error))
}
