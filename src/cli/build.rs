//! `i2kit build`: the machine image of every pod.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::args::{BuildArgs, DiskFormat};
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::{output, prepare};
use crate::image::{DiskImage, FileFormat, ImageError, Signer, bootable_signed, export};
use crate::plan::image::ImagePlan;
use crate::report::{self, Format};

/// One line of the result.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Built {
    name: String,
    image: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<PathBuf>,
}

/// Builds the images; writes disks and their parts when a folder is named.
pub(super) async fn run(context: &Context, args: &BuildArgs) -> Result<Exit, Failure> {
    let prepared = prepare::prepare(context, &args.set).await?;
    if args.dir.is_some() {
        // What is written is booted elsewhere, where nobody can ask whether it is right.
        prepared.verify_guest()?;
    }
    let results = match written(&prepared, args, context).await? {
        Ok(results) => results,
        // What is spoiled has been removed, and is made anew.
        Err(ImageError::Spoiled { .. }) => written(&prepared, args, context).await?.or_exit(Exit::Build)?,
        Err(error) => return Err(Failure::new(Exit::Build, error)),
    };
    match context.format {
        Format::Json => output::json(&results),
        Format::Text => {
            for built in results {
                let disk = built.disk.map_or_else(String::new, |path| format!(" {}", path.display()));
                report::result(&format!("{} {}{disk}\n", built.name, built.image));
            }
        }
    }
    Ok(Exit::Success)
}

/// Builds all images and writes them where a folder is named. The inner error is that of writing.
async fn written(
    prepared: &prepare::Prepared,
    args: &BuildArgs,
    context: &Context,
) -> Result<Result<Vec<Built>, ImageError>, Failure> {
    let images = prepared.build(|_| true).await?;
    let mut results = Vec::new();
    for ((name, _), plan) in prepared.set.pods().zip(&prepared.plans) {
        let id = plan.id();
        let image = images.iter().find(|image| image.id == id).expect("every plan of the set was built");
        let disk = match &args.dir {
            Some(folder) => {
                let folder = folder.join(name.to_string());
                match write(image, plan, &folder, args, context)? {
                    Ok(disk) => Some(disk),
                    Err(error) => return Ok(Err(error)),
                }
            }
            None => None,
        };
        results.push(Built { name: name.to_string(), image: id.to_string(), size: image.size(), disk });
    }
    Ok(Ok(results))
}

/// Writes the image with its disk in the form that was asked for. The inner error is that of writing.
fn write(
    image: &DiskImage,
    plan: &ImagePlan,
    folder: &Path,
    args: &BuildArgs,
    context: &Context,
) -> Result<Result<PathBuf, ImageError>, Failure> {
    let format = match args.format {
        DiskFormat::Raw | DiskFormat::RawEfi => FileFormat::Raw,
        DiskFormat::Qcow2 => FileFormat::Qcow2,
        DiskFormat::Vhd => FileFormat::Vhd,
        DiskFormat::Vmdk => FileFormat::Vmdk,
    };
    let signer = args.sign_key.clone().zip(args.sign_cert.clone());
    let signer = signer.map(|(key, certificate)| Signer { key, certificate });
    if args.format == DiskFormat::Raw {
        if signer.is_some() {
            let reason = "--sign-key needs a disk that firmware boots, such as --format raw-efi";
            return Err(Failure::new(Exit::Usage, anyhow::anyhow!(reason)));
        }
        return Ok(export::write(image, plan, format, folder));
    }
    let segments = match bootable_signed(image, &context.dirs.cache, signer.as_ref()) {
        Ok(segments) => segments,
        Err(error) => return Ok(Err(error)),
    };
    let image = DiskImage { segments, ..image.clone() };
    Ok(export::write(&image, plan, format, folder))
}
