//! `i2kit build`: the machine image of every pod.

use serde::Serialize;

use super::args::{BuildArgs, DiskFormat};
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::pipeline;
use crate::image::{DiskImage, bootable, export};
use crate::report::{self, Format};

/// One line of the result.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Built {
    name: String,
    image: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<std::path::PathBuf>,
}

/// Builds the images; writes disks and their parts when a folder is named.
pub(super) async fn run(context: &Context, args: &BuildArgs) -> Result<Exit, Failure> {
    let prepared = pipeline::prepare(context, &args.set).await?;
    let images = prepared.build(|_| true).await?;
    let mut results = Vec::new();
    for (deployment, plan) in prepared.set.deployments.iter().zip(&prepared.plans) {
        let id = plan.id();
        let image = images.iter().find(|image| image.id == id).expect("every plan of the set was built");
        let name = deployment.meta.name.clone();
        let disk = match &args.dir {
            Some(folder) => {
                let folder = folder.join(name.to_string());
                let image = in_form(image, args.format, context)?;
                Some(export::write(&image, plan, &folder).or_exit(Exit::Build)?)
            }
            None => None,
        };
        results.push(Built { name: name.to_string(), image: id.to_string(), size: image.size(), disk });
    }
    match context.format {
        Format::Json => pipeline::json(&results),
        Format::Text => {
            for built in results {
                let disk = built.disk.map_or_else(String::new, |path| format!(" {}", path.display()));
                report::result(&format!("{} {}{disk}\n", built.name, built.image));
            }
        }
    }
    Ok(Exit::Success)
}

/// The image with its disk in the form that was asked for.
fn in_form(image: &DiskImage, format: DiskFormat, context: &Context) -> Result<DiskImage, Failure> {
    let segments = match format {
        DiskFormat::Raw => image.segments.clone(),
        DiskFormat::RawEfi => bootable(image, &context.dirs.cache).or_exit(Exit::Build)?,
    };
    Ok(DiskImage { segments, ..image.clone() })
}
