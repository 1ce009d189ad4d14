//! Mounting what a test made, where the machine lets it.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Something mounted; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    /// The image in a file, as the kernel sees it.
    pub(crate) fn image(image: &Path, at: &'a Path) -> Self {
        let mounted = mount(&["-t", "erofs", "-o", "ro,loop"].map(OsStr::new), image, at);
        assert_eq!(mounted, Ok(()), "the kernel does not mount {}", image.display());
        Self(at)
    }

    /// Layers over each other, the uppermost first.
    pub(crate) fn overlay(layers: &[&Path], at: &'a Path) -> Self {
        let layers: Vec<_> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
        let options = format!("ro,lowerdir={}", layers.join(":"));
        let options = ["-t", "overlay", "-o", &options];
        assert_eq!(mount(&options.map(OsStr::new), Path::new("overlay"), at), Ok(()));
        Self(at)
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

/// Whether this machine mounts images at all, tried with one that `mkfs.erofs` made; says so when it does not.
#[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
pub(crate) fn mounts() -> bool {
    let folder = tempfile::tempdir().unwrap();
    let [tree, image, at] = ["tree", "image", "at"].map(|name| folder.path().join(name));
    fs::create_dir(&tree).unwrap();
    fs::create_dir(&at).unwrap();
    super::run("mkfs.erofs", &[&image, &tree]);
    match mount(&["-t", "erofs", "-o", "ro,loop"].map(OsStr::new), &image, &at) {
        Ok(()) => {
            drop(Mount(&at));
            true
        }
        Err(reason) => {
            eprintln!("skipped: this machine mounts no erofs image: {reason}");
            false
        }
    }
}

fn mount(options: &[&OsStr], what: &Path, at: &Path) -> Result<(), String> {
    let output = Command::new("mount").args(options).arg(what).arg(at).output().unwrap();
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
