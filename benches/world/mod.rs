//! The world of a measurement: folders of its own below `target`, and a PATH on which this executable is qemu. What i2kit starts
//! in it ends with it.

#[path = "../../tests/support/processes.rs"]
mod processes;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{home, standin};

/// How long a call of the program, and whatever else is waited for, may take.
pub(crate) const PATIENCE: Duration = Duration::from_mins(5);

/// How long a stand-in may take for a connection, and for a page.
const ANSWER: Duration = Duration::from_secs(30);

/// Folders, and a PATH on which this executable is qemu.
pub(crate) struct World {
    pub(crate) home: PathBuf,
    path: OsString,
}

impl World {
    /// An empty world in that folder below `target`. What a run that was killed left there is ended first.
    pub(crate) fn new(folder: &str) -> Self {
        let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(folder);
        let programs = home.join("bin");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = [programs.clone()].into_iter().chain(std::env::split_paths(&path));
        let world = Self { path: std::env::join_paths(path).unwrap(), home };
        world.end_processes();
        let _ = fs::remove_dir_all(&world.home);
        fs::create_dir_all(&programs).unwrap();
        std::os::unix::fs::symlink(std::env::current_exe().unwrap(), programs.join(standin::program()))
            .unwrap();
        world
    }

    /// Runs the program to its end, and returns its results.
    pub(crate) fn call(&self, arguments: &[&str]) -> String {
        self.attempt(arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs the program to its end: its results, or the call with all that it printed where it failed.
    pub(crate) fn attempt(&self, arguments: &[&str]) -> Result<String, String> {
        let [output, errors] = ["output", "errors"].map(|name| self.home.join(name));
        let mut command = self.command(arguments);
        command.stdout(File::create(&output).unwrap()).stderr(File::create(&errors).unwrap());
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        let given_up = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() > given_up {
                let _ = child.kill().and_then(|()| child.wait());
                break None;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let [output, errors] = [output, errors].map(|path| fs::read_to_string(path).unwrap());
        match status {
            Some(status) if status.success() => Ok(output),
            Some(status) => Err(format!("i2kit {arguments:?}: {status}\n{output}{errors}")),
            None => {
                Err(format!("i2kit {arguments:?}: no end after {} s\n{output}{errors}", PATIENCE.as_secs()))
            }
        }
    }

    /// The program in this world.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_i2kit"));
        command.args(arguments).env("PATH", &self.path).env("HOME", &self.home);
        home::place(&mut command, &self.home);
        command
    }

    /// The processes that i2kit started, each with its arguments.
    pub(crate) fn processes(&self) -> Vec<(u32, Vec<u8>)> {
        processes::of(&self.home.join("state"))
    }

    fn end_processes(&self) {
        processes::end(&self.home.join("state"), Duration::from_secs(30));
    }

    /// Fails unless everything is gone: processes, and files of the local cloud.
    pub(crate) fn assert_nothing_left(&self) {
        eventually("end of all processes", || self.processes().is_empty().then_some(()));
        let state = self.home.join("state/i2kit/local");
        let left: Vec<_> =
            fs::read_dir(state).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "destroy left {left:?}");
    }
}

impl Drop for World {
    /// Ends what is left after a failure.
    fn drop(&mut self) {
        self.end_processes();
    }
}

/// What a stand-in answers at that address, over a connection of its own.
pub(crate) fn page(address: &str) -> io::Result<String> {
    let address = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What `look` finds, within the patience of a call.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let given_up = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < given_up, "no {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
