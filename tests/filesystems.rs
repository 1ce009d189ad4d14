//! Foreign judges of file systems and disks: `fsck.erofs`, the kernel, GNU tar, `mkfs.erofs`, `sgdisk`, `sfdisk`, qemu.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "filesystems/disks.rs"]
mod disks;
#[path = "filesystems/layers.rs"]
mod layers;
#[path = "filesystems/mounts.rs"]
mod mounts;
#[path = "filesystems/snapshot.rs"]
mod snapshot;

use std::ffi::OsStr;
use std::process::Command;

/// Whether tests that need foreign tools run; says so when they do not.
#[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
fn tools() -> bool {
    let runs = std::env::var_os("I2KIT_TEST_TOOLS").is_some_and(|value| value == "1");
    if !runs {
        eprintln!("skipped: I2KIT_TEST_TOOLS=1 is not set; scripts/test sets it and installs the tools");
    }
    runs
}

/// Runs a tool that must succeed; returns what it printed.
fn run(program: &str, arguments: &[impl AsRef<OsStr>]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {}\n{text}{errors}", output.status);
    text + &errors
}
