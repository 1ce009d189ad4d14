//! `i2kit gc`: delete images that no revision needs, and what interrupted runs left.

use super::args::GcArgs;
use super::context::{Context, holder};
use super::exit::{Exit, Failure, OrExit as _};
use super::{connection, output};
use crate::cloud::{Materials, Scope};
use crate::plan::act::Act;
use crate::plan::rollout;
use crate::report::{self, Events, Format};

/// Deletes, or with `--dry-run` lists.
pub(super) async fn run(context: &Context, args: &GcArgs) -> Result<Exit, Failure> {
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.inspect(&Scope::Detailed).await.or_exit(Exit::Cloud)?;
    let plan = rollout::collect(&fleet);
    if !args.dry_run {
        let options = crate::rollout::Options { by: holder(), ..crate::rollout::Options::default() };
        let (nothing, quiet) = (Materials::default(), Events::none());
        crate::rollout::execute(&plan, &nothing, cloud.as_ref(), &quiet, &options)
            .await
            .or_exit(Exit::Cloud)?;
    }
    let deleted = plan.acts().flat_map(|act| match act {
        Act::DeleteImages { images } => images.iter().map(|image| format!("image {image}")).collect(),
        Act::DeleteLeftovers { leftovers } => leftovers.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    });
    let leftovers: Vec<String> = deleted.collect();
    match context.format {
        Format::Json => {
            output::json(&serde_json::json!({ "deleted": !args.dry_run, "leftovers": leftovers }));
        }
        Format::Text if leftovers.is_empty() => report::result("nothing to delete\n"),
        Format::Text => report::result(&(leftovers.join("\n") + "\n")),
    }
    Ok(Exit::Success)
}
