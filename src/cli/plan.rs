//! `i2kit plan`: what deploy would do.

use super::args::PlanArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::pipeline;
use crate::plan::rollout;
use crate::report::{self, Format};

/// Prints the plan; changes nothing.
pub(super) async fn run(context: &Context, args: &PlanArgs) -> Result<Exit, Failure> {
    let prepared = pipeline::prepare(context, &args.set).await?;
    let cloud = pipeline::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let plan = rollout::rollout(&prepared.desired(context, args.prune), &fleet);
    match context.format {
        Format::Json => pipeline::json(&plan),
        Format::Text => report::result(&plan.to_string()),
    }
    let changes = args.detailed_exitcode && !plan.is_unchanged();
    Ok(if changes { Exit::Changes } else { Exit::Success })
}
