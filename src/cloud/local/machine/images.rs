//! Machine images of the local cloud: a folder each, with links to the parts and a VMDK descriptor that shows qemu
//! the disk without a copy.
//!
//! The parts are hard links (reflinks or copies across file systems), so that pruning a cache takes nothing away from a
//! running machine.

use std::fs;
use std::io;
use std::path::Path;

use crate::cloud::CloudError;
use crate::cloud::local::home::{Home, flush};
use crate::disk::vmdk::{self, Extent};
use crate::image::DiskImage;
use crate::plan::image::ImageId;

/// The kernel, in an image's folder.
pub(crate) const KERNEL: &str = "kernel";

/// The initial RAM file system, in an image's folder.
pub(crate) const INITRD: &str = "initrd";

/// The disk, in an image's folder.
pub(crate) const DISK: &str = "disk.vmdk";

/// The image's kernel command line, in its folder.
const CMDLINE: &str = "cmdline";

/// A sparse file; every run of zeroes is a part of it.
const ZEROES: &str = "zeroes";

/// Makes the image's folder, unless it exists. It appears whole or not at all, and is on the disk when this returns: machines
/// that a record tells of are started from it after a power cut, too.
pub(crate) fn put(home: &Home, image: &DiskImage) -> Result<(), CloudError> {
    let (images, target) = (home.images(), home.image(image.id));
    if target.exists() {
        // Another process may have renamed it and not flushed the folder yet.
        return flush(&images);
    }
    fs::create_dir_all(&images).map_err(CloudError::file("create", &images))?;
    let folder = tempfile::Builder::new()
        .prefix("new-")
        .tempdir_in(&images)
        .map_err(CloudError::file("create a folder in", &images))?;
    link(&image.kernel, &folder.path().join(KERNEL))?;
    link(&image.initrd, &folder.path().join(INITRD))?;
    let names: Vec<Option<String>> =
        image.segments.iter().enumerate().map(|(index, s)| s.file.as_ref().map(|_| part(index))).collect();
    for (segment, name) in image.segments.iter().zip(&names) {
        if let (Some(file), Some(name)) = (&segment.file, name) {
            link(file, &folder.path().join(name))?;
        }
    }
    let extents: Vec<Extent> = image
        .segments
        .iter()
        .zip(&names)
        .map(|(segment, name)| Extent { file: name.as_deref(), length: segment.length })
        .collect();
    let zeroes = folder.path().join(ZEROES);
    fs::File::create(&zeroes)
        .and_then(|file| file.set_len(vmdk::zeros_length(&extents)))
        .map_err(CloudError::file("write", &zeroes))?;
    let descriptor = vmdk::descriptor(&extents, ZEROES).expect("parts have plain names");
    write(&folder.path().join(DISK), &descriptor)?;
    write(&folder.path().join(CMDLINE), &image.cmdline)?;
    // A name may reach the disk before what is behind it.
    let files = fs::read_dir(folder.path()).map_err(CloudError::file("read", folder.path()))?;
    for file in files {
        flush(&file.map_err(CloudError::file("read", folder.path()))?.path())?;
    }
    flush(folder.path())?;
    match fs::rename(folder.path(), &target) {
        Ok(()) => {
            // The temporary folder has become the image's.
            let _ = folder.keep();
            flush(&images)
        }
        // Another process was faster.
        Err(_) if target.exists() => flush(&images),
        Err(error) => Err(CloudError::file("create", &target)(error)),
    }
}

/// The image's own kernel command line.
pub(crate) fn cmdline(home: &Home, id: ImageId) -> Result<String, CloudError> {
    let path = home.image(id).join(CMDLINE);
    fs::read_to_string(&path).map_err(CloudError::file("read", &path))
}

/// Removes every image that is not in `kept`, and what interrupted runs left. A machine that still runs from one
/// keeps its open files.
pub(crate) fn sweep(home: &Home, kept: impl Fn(&Path) -> bool) -> Result<(), CloudError> {
    let images = home.images();
    let entries = match fs::read_dir(&images) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(CloudError::file("read", &images))?,
    };
    for entry in entries {
        let path = entry.map_err(CloudError::file("read", &images))?.path();
        if !kept(&path) {
            fs::remove_dir_all(&path).map_err(CloudError::file("remove", &path))?;
        }
    }
    Ok(())
}

fn part(index: usize) -> String {
    format!("part-{index}")
}

fn link(from: &Path, to: &Path) -> Result<(), CloudError> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    reflink_copy::reflink_or_copy(from, to)
        .map(drop)
        .map_err(CloudError::file("copy a part of the image to", to))
}

fn write(path: &Path, text: &str) -> Result<(), CloudError> {
    fs::write(path, text).map_err(CloudError::file("write", path))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::image::Segment;
    use crate::oci::Digest;

    fn sample(folder: &Path) -> DiskImage {
        let file = |name: &str, bytes: usize| {
            let path = folder.join(name);
            fs::write(&path, vec![b'x'; bytes]).unwrap();
            path
        };
        let segment = |file: Option<PathBuf>, length| Segment { file, length };
        DiskImage {
            id: ImageId(Digest::of(b"sample")),
            architecture: i2kit_spec::Architecture::Amd64,
            kernel: file("k", 10),
            initrd: file("i", 10),
            cloud: None,
            stub: None,
            cmdline: "quiet".into(),
            segments: vec![
                segment(Some(file("head", 1024)), 1024),
                segment(None, 4096),
                segment(Some(file("pod", 512)), 512),
            ],
        }
    }

    #[test]
    fn an_image_is_put_once_and_outlives_its_sources() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(&root.path().join("state"), root.path(), PathBuf::new());
        let sources = root.path().join("sources");
        fs::create_dir(&sources).unwrap();
        let image = sample(&sources);
        put(&home, &image).unwrap();
        put(&home, &image).unwrap();
        fs::remove_dir_all(&sources).unwrap();
        let folder = home.image(image.id);
        assert_eq!(fs::read(folder.join("part-0")).unwrap().len(), 1024);
        assert_eq!(cmdline(&home, image.id).unwrap(), "quiet");
        insta::assert_snapshot!("vmdk", fs::read_to_string(folder.join(DISK)).unwrap());
        assert_eq!(fs::read_dir(home.images()).unwrap().count(), 1);

        fs::create_dir(home.images().join("new-left")).unwrap();
        sweep(&home, |path| path == folder).unwrap();
        assert_eq!(fs::read_dir(home.images()).unwrap().count(), 1);
        sweep(&home, |_| false).unwrap();
        assert!(!folder.exists());
    }
}
