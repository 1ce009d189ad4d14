//! `i2kit diff`: what deploy would change, field by field.

use std::collections::BTreeMap;
use std::fs;

use super::args::DiffArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::{connection, output, prepare, secrets};
use crate::plan::difference;
use crate::plan::fleet::Fleet;
use crate::plan::image::ImageId;
use crate::plan::linuxkit;
use crate::report::{self, Format};

/// Prints the differences; changes nothing.
pub(super) async fn run(context: &Context, args: &DiffArgs) -> Result<Exit, Failure> {
    let prepared = prepare::prepare(context, &args.set).await?;
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let secrets = secrets::find(context, cloud.as_ref(), (&prepared.set, &fleet)).await?;
    let mut images = built(context, &fleet);
    images.extend(prepared.plans.iter().map(|plan| (plan.id(), linuxkit::render(plan))));
    let found = difference::differences(&prepared.desired(context, &secrets, args.prune), &fleet, &images);
    match context.format {
        Format::Json => output::json(&found),
        Format::Text => {
            for difference in &found {
                report::result(&difference.to_string());
            }
        }
    }
    Ok(if found.is_empty() { Exit::Success } else { Exit::Changes })
}

/// The LinuxKit files of the images that run or are being rolled out, as far as they were built on this machine.
fn built(context: &Context, fleet: &Fleet) -> BTreeMap<ImageId, String> {
    let folder = context.dirs.cache.join("images");
    let current =
        fleet.groups.iter().filter_map(|group| Some(group.revision(group.heading()?)?.launch.image));
    let read = |image: ImageId| {
        Some((image, fs::read_to_string(folder.join(image.0.hex()).join("linuxkit.yml")).ok()?))
    };
    current.filter_map(read).collect()
}
