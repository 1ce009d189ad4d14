//! `i2kit wait`: wait for what an earlier `deploy --wait=false`, or anybody else, began.

use super::args::WaitArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::{carry_out, connection, named};
use crate::cloud::Materials;
use crate::plan::rollout;

/// Waits until the groups are what they are being made.
pub(super) async fn run(context: &Context, args: &WaitArgs) -> Result<Exit, Failure> {
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let named: Result<Vec<_>, Failure> =
        args.names.iter().map(|name| named::group(&fleet, name).map(|group| group.name.clone())).collect();
    let plan = rollout::wait(&fleet, &named?);
    carry_out::carry_out(context, cloud.as_ref(), &plan, &Materials::default()).await
}
