//! An image as files that other tools use: the raw disk, and the parts that qemu boots directly.

use std::fs;
use std::path::{Path, PathBuf};

use super::{DiskImage, FileFormat, ImageError, formats, raw};
use crate::plan::image::ImagePlan;
use crate::plan::linuxkit;

/// Writes `disk.raw` (or of another format), `kernel`, `initrd`, `cmdline`, `plan.json` and `linuxkit.yml` into `folder`; gives the disk's
/// path. A disk in place is brought up to date; [`raw::write`] describes what a killed run leaves.
pub fn write(
    image: &DiskImage,
    plan: &ImagePlan,
    format: FileFormat,
    folder: &Path,
) -> Result<PathBuf, ImageError> {
    fs::create_dir_all(folder).map_err(|e| ImageError::io(folder, e))?;
    for (from, name) in [(&image.kernel, "kernel"), (&image.initrd, "initrd")] {
        let path = folder.join(name);
        fs::copy(from, &path).map_err(|e| ImageError::io(&path, e))?;
    }
    for (name, content) in [
        ("cmdline", image.cmdline.clone()),
        ("plan.json", plan.canonical()),
        ("linuxkit.yml", linuxkit::render(plan)),
    ] {
        let path = folder.join(name);
        fs::write(&path, content).map_err(|e| ImageError::io(&path, e))?;
    }
    let disk = folder.join(format!("disk.{}", format.extension()));
    match format {
        FileFormat::Raw => raw::write(image, &disk).map(drop)?,
        _ => formats::write(image, format, &disk)?,
    }
    Ok(disk)
}
