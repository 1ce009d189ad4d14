//! `i2kit rollback`: a rollout to an earlier revision.

use super::args::RollbackArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::{carry_out, connection, named};
use crate::cloud::Materials;
use crate::plan::rollout;

/// Rolls the group out at an earlier revision and waits.
pub(super) async fn run(context: &Context, args: &RollbackArgs) -> Result<Exit, Failure> {
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let name = &named::group(&fleet, &args.name)?.name;
    let plan = rollout::rollback(&fleet, name, args.to_revision).or_exit(Exit::NotFound)?;
    carry_out::carry_out(context, cloud.as_ref(), &plan, &Materials::default()).await
}
