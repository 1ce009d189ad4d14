//! `i2kit plan`: what deploy would do.

use super::args::PlanArgs;
use super::context::Context;
use super::environment::Provider;
use super::exit::{Exit, Failure, OrExit as _};
use super::{pipeline, secrets};
use crate::plan::aws::outlook;
use crate::plan::rollout;
use crate::report::{self, Format};

/// Prints the plan; changes nothing.
pub(super) async fn run(context: &Context, args: &PlanArgs) -> Result<Exit, Failure> {
    let prepared = pipeline::prepare(context, &args.set).await?;
    let cloud = pipeline::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let secrets = secrets::find(context, cloud.as_ref(), &prepared.set).await?;
    let plan = rollout::rollout(&prepared.desired(context, &secrets, args.prune), &fleet);
    let on_aws = matches!(context.environment.provider, Provider::Aws(_));
    let outlook = on_aws.then(|| outlook::outlook(&plan, &fleet));
    match context.format {
        Format::Json => {
            let mut value = serde_json::to_value(&plan).expect("plans have only string keys");
            if let (Some(outlook), Some(object)) = (&outlook, value.as_object_mut()) {
                object.insert("outlook".into(), serde_json::json!(outlook));
            }
            pipeline::json(&value);
        }
        Format::Text => {
            report::result(&plan.to_string());
            if let Some(outlook) = &outlook {
                report::result(&outlook.to_string());
            }
        }
    }
    let changes = args.detailed_exitcode && !plan.is_unchanged();
    Ok(if changes { Exit::Changes } else { Exit::Success })
}
