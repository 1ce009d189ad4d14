//! Where PID 1 keeps the containers' lines for the supervisor: a folder a container, whose files are named
//! `FIRST.RUN`, the number of their first line and the container's run.

use std::path::{Path, PathBuf};

/// The folder of all containers' folders.
pub const FOLDER: &str = "/run/i2kit/logs";

/// The folder of the guest's own lines. No container can have this name.
pub const GUEST: &str = "_guest";

/// The file of a container's lines from number `first` on, written in its run `run`.
pub fn segment(container: &str, first: u64, run: u64) -> PathBuf {
    Path::new(FOLDER).join(container).join(format!("{first:020}.{run}"))
}
