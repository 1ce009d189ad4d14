//! `i2kit run`: a run of a Job, or of a CronJob's Job, now.

use super::args::RunArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::{carry_out, connection, named, output};
use crate::cloud::Materials;
use crate::plan::rollout::{self, PlanError};
use crate::report::Format;
use crate::rollout::RunRecord;

/// Starts a run, and waits for its end.
pub(super) async fn run(context: &Context, args: &RunArgs) -> Result<Exit, Failure> {
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let name = &named::group(&fleet, &args.name)?.name;
    let exit = |error: &PlanError| match error {
        PlanError::NoJob { .. } => Exit::Usage,
        _ => Exit::NotFound,
    };
    let plan = rollout::run(&fleet, name).map_err(|e| Failure::new(exit(&e), e))?;
    let (materials, record) = (Materials::default(), RunRecord::default());
    let left =
        carry_out::carry_out_to(context, cloud.as_ref(), (&plan, &materials), args.wait, &record).await?;
    if context.format == Format::Json {
        output::json(&carry_out::done(&plan, &record, &left));
    }
    Ok(Exit::Success)
}
