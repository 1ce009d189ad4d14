//! `i2kit gc`: delete images that no revision needs, and what interrupted runs left.

use super::args::GcArgs;
use super::context::{Context, holder};
use super::exit::{Exit, Failure, OrExit as _};
use super::{carry_out, connection, output};
use crate::cloud::{Cloud, Materials, Scope};
use crate::plan::act::Act;
use crate::plan::rollout::{self, RolloutPlan};
use crate::report::{self, Events, Format};
use crate::rollout::RunRecord;

/// Deletes, or with `--dry-run` lists.
pub(super) async fn run(context: &Context, args: &GcArgs) -> Result<Exit, Failure> {
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.inspect(&Scope::Detailed).await.or_exit(Exit::Cloud)?;
    let plan = rollout::collect(&fleet);
    let deleted = if args.dry_run {
        plan.acts().flat_map(deleted).collect()
    } else {
        collect(&plan, cloud.as_ref()).await?
    };
    match context.format {
        Format::Json => {
            output::json(&serde_json::json!({ "deleted": !args.dry_run, "leftovers": deleted }));
        }
        Format::Text if deleted.is_empty() => report::result("nothing to delete\n"),
        Format::Text => report::result(&(deleted.join("\n") + "\n")),
    }
    Ok(Exit::Success)
}

/// Carries the plan out. Returns what was deleted.
async fn collect(plan: &RolloutPlan, cloud: &dyn Cloud) -> Result<Vec<String>, Failure> {
    let options =
        crate::rollout::RolloutOptions { by: holder(), ..crate::rollout::RolloutOptions::default() };
    let (nothing, quiet, record) = (Materials::default(), Events::none(), RunRecord::default());
    crate::rollout::execute(plan, &nothing, cloud, &quiet, &options, &record)
        .await
        .map_err(carry_out::failure)?;
    Ok(record.applied().iter().flat_map(deleted).collect())
}

/// What an act of a collection deletes, a line each.
fn deleted(act: &Act) -> Vec<String> {
    match act {
        Act::DeleteImages { images } => images.iter().map(|image| format!("image {image}")).collect(),
        Act::DeleteLeftovers { leftovers } => leftovers.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    }
}
