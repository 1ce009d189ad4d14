//! What end-to-end tests stand on: a world of its own for each test (folders, an environment, a local cloud), calls of
//! the program with what is expected of them, and the registry of test images that all worlds share.

mod call;
mod ending;
mod eventually;
mod http;
mod processes;
mod registry;
mod running;
mod world;

pub(crate) use call::Call;
pub(crate) use ending::Ending;
pub(crate) use eventually::{PATIENCE, eventually};
pub(crate) use http::{Response, ask, get, get_with, wait_for_page};
pub(crate) use registry::{Images, mirror};
pub(crate) use running::Running;
pub(crate) use world::{World, kill};

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether tests that boot virtual machines run; says so when they do not.
pub(crate) fn machines() -> bool {
    runs("I2KIT_TEST_QEMU")
}

/// Whether tests that need the test images or foreign tools run; says so when they do not.
pub(crate) fn tools() -> bool {
    runs("I2KIT_TEST_TOOLS")
}

#[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
fn runs(variable: &str) -> bool {
    let runs = std::env::var_os(variable).is_some_and(|value| value == "1");
    if !runs {
        eprintln!("skipped: {variable}=1 is not set; scripts/test sets it and makes what the test needs");
    }
    runs
}

/// The guest bundle that `scripts/guest --out target/guest` made, or the one that `I2KIT_GUEST` names.
pub(crate) fn guest() -> PathBuf {
    std::env::var_os("I2KIT_GUEST").map_or_else(|| root().join("target/guest"), PathBuf::from)
}

/// Whether tests repeat what they do as often as a soak test does, see `scripts/soak`.
pub(crate) fn soaks() -> bool {
    std::env::var_os("I2KIT_SOAK").is_some_and(|value| value == "1")
}

/// Files below `folder` that hold one of the texts.
pub(crate) fn holders(folder: &Path, texts: &[String], found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            holders(&path, texts, found);
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let content = String::from_utf8_lossy(&bytes);
            if texts.iter().any(|text| content.contains(text)) {
                found.insert(path.display().to_string());
            }
        }
    }
}
