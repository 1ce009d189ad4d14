//! `i2kit gc`: delete images that no revision needs, and what interrupted runs left.

use std::collections::BTreeSet;

use super::args::GcArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::{connection, output};
use crate::report::{self, Format};

/// Deletes, or with `--dry-run` lists.
pub(super) async fn run(context: &Context, args: &GcArgs) -> Result<Exit, Failure> {
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let revisions = fleet.groups.iter().flat_map(|group| &group.revisions);
    let used: BTreeSet<_> = revisions.map(|revision| revision.launch.image).collect();
    let unused: Vec<_> = fleet.images.iter().copied().filter(|image| !used.contains(image)).collect();
    if !args.dry_run {
        cloud.delete_images(&unused).await.or_exit(Exit::Cloud)?;
    }
    let mut leftovers: Vec<String> = unused.iter().map(|image| format!("image {image}")).collect();
    leftovers.extend(cloud.collect_leftovers(!args.dry_run).await.or_exit(Exit::Cloud)?);
    match context.format {
        Format::Json => {
            output::json(&serde_json::json!({ "deleted": !args.dry_run, "leftovers": leftovers }));
        }
        Format::Text if leftovers.is_empty() => report::result("nothing to delete\n"),
        Format::Text => report::result(&(leftovers.join("\n") + "\n")),
    }
    Ok(Exit::Success)
}
