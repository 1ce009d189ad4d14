//! The proxy's two processes: `i2kit local-proxy guard` and `i2kit local-proxy carry`, each with the link to the other as
//! its standard input. Each starts the other one anew when that ends; the guardian is started by whoever begins, and
//! starts the first carrier itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::link;
use crate::cloud::local::blocking::blocking;
use crate::cloud::local::home::Home;
use crate::cloud::local::machine::descriptors;

/// The hidden verb.
const VERB: &str = "local-proxy";
pub(super) const GUARD: &str = "guard";
pub(super) const CARRY: &str = "carry";

/// The pause after a first start in vain.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Starts `program` as one of the two, with everything that is kept; returns the link to it.
pub(super) fn start(
    home: &Home,
    program: &Path,
    role: &str,
    kept: &BTreeMap<String, OwnedFd>,
) -> io::Result<(Child, OwnedFd)> {
    let (ours, theirs) = link::pair()?;
    let log = File::options().create(true).append(true).open(home.log())?;
    let mut command = Command::new(program);
    command
        .args([VERB, role])
        .env_clear()
        .envs(home.environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(log);
    let mut child = blocking(|| descriptors::alone(|| command.spawn()))?;
    // The other end of the link is the child's alone: its end is seen here.
    drop(command);
    if let Err(error) = link::send_all(ours.as_fd(), kept) {
        // With a part of what is kept it would be a second proxy beside this one.
        end(&mut child);
        return Err(error);
    }
    Ok((child, ours))
}

/// Kills a process that was started in vain.
pub(super) fn end(child: &mut Child) {
    drop(child.kill());
    drop(child.wait());
}

/// Starts a proxy that serves nothing yet. It outlives this process.
pub(super) fn begin(home: &Home) -> io::Result<()> {
    let (mut child, link) = start(home, &home.executable, GUARD, &BTreeMap::new())?;
    // The guardian finds no carrier at the other end, and starts one.
    drop(link);
    // It is not this process's to wait for, unless it ends first.
    std::thread::spawn(move || child.wait());
    Ok(())
}

/// What both do first.
pub(super) fn detach() -> io::Result<OwnedFd> {
    // Away from the terminal, and from a signal to the process group of who started it. It fails in a leader.
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    descriptors::close_on_exec();
    descriptors::raise_limit();
    io::stdin().as_fd().try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn the_proxy_is_started_while_no_machine_is() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(&root.path().join("i2kit"), root.path(), PathBuf::from("/bin/true"));
        home.create().unwrap();
        let (send, begun) = mpsc::channel();
        let starting = descriptors::starting();
        let starter = std::thread::spawn(move || {
            // It may have ended before it is sent anything.
            drop(begin(&home));
            send.send(()).unwrap();
        });
        assert!(begun.recv_timeout(Duration::from_millis(200)).is_err());
        drop(starting);
        begun.recv_timeout(Duration::from_mins(1)).unwrap();
        starter.join().unwrap();
    }
}
