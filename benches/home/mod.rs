//! The folder in which a call of the program works and keeps all that it writes.

use std::path::Path;
use std::process::Command;

/// Has a command work in `home`, and keep caches, states, data and configuration there.
pub(crate) fn place(command: &mut Command, home: &Path) {
    command.current_dir(home);
    for (variable, folder) in [
        ("XDG_CACHE_HOME", "cache"),
        ("XDG_STATE_HOME", "state"),
        ("XDG_DATA_HOME", "data"),
        ("XDG_CONFIG_HOME", "config"),
    ] {
        command.env(variable, home.join(folder));
    }
}
