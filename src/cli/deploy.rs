//! `i2kit deploy`: build what changed, roll it out, wait until it is healthy.

use super::args::DeployArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::{addresses, carry_out, connection, output, prepare, secrets};
use crate::plan::rollout;
use crate::report::{self, Format};
use crate::rollout::Record;

/// Deploys the set.
pub(super) async fn run(context: &Context, args: &DeployArgs) -> Result<Exit, Failure> {
    let prepared = prepare::prepare(context, &args.set).await?;
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let secrets = secrets::find(context, cloud.as_ref(), &prepared.set).await?;
    let desired = prepared.desired(context, &secrets, args.prune);
    rollout::check_disks(&desired, &fleet).or_exit(Exit::Manifest)?;
    let plan = rollout::rollout(&desired, &fleet);
    let materials = prepared.materials(&plan, &secrets).await?;
    let record = Record::default();
    let work = (&plan, &materials);
    let left = carry_out::carry_out_to(context, cloud.as_ref(), work, args.wait, &record).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let answering = addresses::answering(&prepared.set, &desired.balancers, &fleet);
    match context.format {
        Format::Json => {
            let mut result = carry_out::done(&plan, &record, &left);
            result["addresses"] = serde_json::json!(answering);
            output::json(&result);
        }
        Format::Text => {
            if carry_out::is_unchanged(&record, &left) {
                report::result("unchanged\n");
            }
            for service in &answering {
                report::result(&format!("{service}\n"));
            }
            connection::warn(context, &fleet);
        }
    }
    Ok(Exit::Success)
}
