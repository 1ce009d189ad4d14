//! Any bytes as what a container sends to `cp`: whatever they are, nothing outside of the target changes.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use i2kit::cli::unpack::{CopyTarget, unpack};

use super::checksums::repaired;

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("the folder was made here")
        .map(|entry| entry.expect("it reads").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Fails when something does not hold.
pub(crate) fn run(data: &[u8]) {
    let Some(tar) = repaired(data) else { return };
    let root: PathBuf = std::env::temp_dir().join(format!("i2kit-fuzz-unpack-{}", std::process::id()));
    let _ = fs::remove_dir_all(&root);
    for folder in ["in", "o"] {
        fs::create_dir_all(root.join(folder)).expect("the temporary folder takes folders");
    }
    fs::write(root.join("o/s"), "secret").expect("the temporary folder takes files");
    let target = CopyTarget::new(&root.join("in"), "d").expect("the folder is there");
    let _ = unpack("d", &target, &tar[..], &mut drop);

    assert_eq!(names(&root), ["in", "o"]);
    assert_eq!(names(&root.join("o")), ["s"]);
    assert!(names(&root.join("in")).iter().all(|name| name == "d"), "only what was asked for");
    let secret = fs::metadata(root.join("o/s")).expect("it is still there");
    assert_eq!(secret.nlink(), 1, "nothing links to it");
    assert_eq!(fs::read(root.join("o/s")).expect("it reads"), b"secret");
    fs::remove_dir_all(&root).expect("all of it can be removed");
}
