//! The processes of a world: those whose command line or environment names its folder.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Each with its arguments, as the kernel tells them: with a zero byte behind each.
pub(crate) fn of(folder: &Path) -> Vec<(u32, Vec<u8>)> {
    let folder = folder.as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse() else { continue };
        let read = |name: &str| fs::read(process.path().join(name)).unwrap_or_default();
        let arguments = read("cmdline");
        let names = |text: &[u8]| text.windows(folder.len()).any(|window| window == folder);
        if names(&arguments) || names(&read("environ")) {
            found.push((pid, arguments));
        }
    }
    found
}

/// Ends all of them, or as many as that time is enough for.
pub(crate) fn end(folder: &Path, patience: Duration) {
    let given_up = Instant::now() + patience;
    while !of(folder).is_empty() && Instant::now() < given_up {
        // All are stopped before any is killed: processes of the front door start each other again.
        for signal in ["-STOP", "-KILL"] {
            for (pid, _) in of(folder) {
                let _ = Command::new("kill").args([signal, &pid.to_string()]).status();
            }
        }
    }
}
