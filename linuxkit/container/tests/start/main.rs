//! Starts containers on this machine, without a VM, and looks at what becomes of them.
//!
//! Namespaces, mounts and cgroups are real, so this needs root; as another user it runs itself with `sudo -n`, and fails
//! where that is not possible. Each case has namespaces of its own for everything that it makes ([`world`]), and leaves
//! nothing behind. `cargo test -p i2kit-container --test start NAME` runs the cases whose name contains NAME.
//!
//! The cases run in this one thread: the process of a container is cloned out of the one that starts it.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the harness of the tests")]

mod cases;
mod world;

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for (name, _) in cases::ALL {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        return as_root(&arguments);
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| filter.is_none_or(|part| name.contains(part.as_str()));
    let mut failed = 0;
    for (name, case) in cases::ALL.iter().filter(|(name, _)| wanted(name)) {
        let passed = world::run(*case);
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += usize::from(!passed);
    }
    ExitCode::from(u8::from(failed > 0))
}

/// Runs this program again as root.
fn as_root(arguments: &[String]) -> ExitCode {
    let own = std::env::current_exe().unwrap();
    let status = Command::new("sudo").arg("-n").arg(own).args(arguments).status();
    if status.is_ok_and(|status| status.success()) {
        return ExitCode::SUCCESS;
    }
    eprintln!("these tests start containers, which needs root: run them as root, or run `sudo -v` before");
    ExitCode::FAILURE
}
