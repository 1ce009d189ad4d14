//! `i2kit plan`: what deploy would do.

use super::args::PlanArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::{connection, output, prepare, secrets};
use crate::plan::rollout;
use crate::report::{self, Format};

/// Prints the plan; changes nothing.
pub(super) async fn run(context: &Context, args: &PlanArgs) -> Result<Exit, Failure> {
    let prepared = prepare::prepare(context, &args.set).await?;
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let secrets = secrets::find(context, cloud.as_ref(), &prepared.set).await?;
    let desired = prepared.desired(context, &secrets, args.prune);
    rollout::check_disks(&desired, &fleet).or_exit(Exit::Manifest)?;
    let plan = rollout::rollout(&desired, &fleet);
    let cost = context.environment.provider.cost(&plan, &fleet);
    match context.format {
        Format::Json => {
            let mut value = serde_json::to_value(&plan).expect("plans have only string keys");
            if let (Some(cost), Some(object)) = (&cost, value.as_object_mut()) {
                object.insert("cost".into(), serde_json::json!(cost));
            }
            output::json(&value);
        }
        Format::Text => {
            report::result(&plan.to_string());
            if let Some(cost) = &cost {
                report::result(&cost.to_string());
            }
        }
    }
    let changes = args.detailed_exitcode && !plan.is_unchanged();
    Ok(if changes { Exit::Changes } else { Exit::Success })
}
