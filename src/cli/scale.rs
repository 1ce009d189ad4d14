//! `i2kit scale`: another number of instances.

use super::args::ScaleArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::{carry_out, connection, named};
use crate::cloud::Materials;
use crate::plan::rollout::{self, PlanError};

/// Sets the size of the group and waits until it has it.
pub(super) async fn run(context: &Context, args: &ScaleArgs) -> Result<Exit, Failure> {
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let name = &named::group(&fleet, &args.name)?.name;
    context.environment.provider.refuse_size(name, args.replicas).or_exit(Exit::Usage)?;
    let exit = |error: &PlanError| match error {
        PlanError::Job { .. } | PlanError::OneDisk { .. } => Exit::Usage,
        _ => Exit::NotFound,
    };
    let plan = rollout::scale(&fleet, name, args.replicas).map_err(|e| Failure::new(exit(&e), e))?;
    carry_out::carry_out(context, cloud.as_ref(), &plan, &Materials::default()).await
}
