//! A front door in a folder of its own, and its processes.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) use crate::eventually::{PATIENCE, eventually};

/// A number of repeats: that of a soak test when `I2KIT_SOAK=1`.
pub(crate) fn times(usually: u32, soak: u32) -> u32 {
    if std::env::var_os("I2KIT_SOAK").is_some_and(|value| value == "1") { soak } else { usually }
}

/// A front door. Dropping it ends its processes.
pub(crate) struct Door {
    folder: TempDir,
    host: Ipv4Addr,
}

/// The layout of the processes' shared table, as a program that takes over names it.
pub(crate) const LAYOUT: u32 = 2;

/// The port of the Service that a front door of a test carries.
pub(crate) const PORT: u16 = 8000;

impl Door {
    /// Starts one.
    pub(crate) fn start() -> Self {
        static NUMBER: AtomicU8 = AtomicU8::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let [high, low] = [std::process::id() >> 8, std::process::id()].map(|part| part.to_le_bytes()[0]);
        let door =
            Self { folder: TempDir::new().unwrap(), host: Ipv4Addr::new(127, 120 + number, high, low) };
        door.run();
        door
    }

    /// Runs the program; it returns once its processes carry.
    pub(crate) fn run(&self) {
        let log = fs::File::options().create(true).append(true).open(self.log_file()).unwrap();
        let status = Command::new(env!("CARGO_BIN_EXE_i2kit"))
            .arg("local-door")
            .arg(self.state())
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .status();
        assert!(status.unwrap().success(), "{}", self.log());
    }

    /// The local cloud's folder.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("messages")
    }

    /// What the processes have said.
    pub(crate) fn log(&self) -> String {
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        read(&self.state().join("cloud.log")) + &read(&self.log_file())
    }

    /// Where its Service is.
    pub(crate) fn address(&self) -> SocketAddr {
        (self.host, PORT).into()
    }

    /// Asks on the control socket.
    pub(crate) fn ask(&self, request: &Value) -> io::Result<Value> {
        let mut stream = UnixStream::connect(self.state().join("door.sock"))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let body = serde_json::to_vec(request)?;
        stream.write_all(&u32::try_from(body.len()).unwrap().to_be_bytes())?;
        stream.write_all(&body)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        stream.read_exact(&mut body)?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Has it carry connections to these backends.
    pub(crate) fn carry(&self, backends: &[SocketAddr]) {
        self.carry_for(&[], backends);
    }

    /// The same for clients of these ranges alone.
    pub(crate) fn carry_for(&self, ranges: &[&str], backends: &[SocketAddr]) {
        let backends: Vec<_> = backends
            .iter()
            .map(|address| json!({ "machine": address.to_string(), "address": address }))
            .collect();
        let id = |protocol: &str| {
            let service = json!({ "namespace": "default", "name": "web" });
            json!({ "environment": "test", "service": service, "port": PORT, "protocol": protocol })
        };
        let route = json!({ "host": self.host, "backends": backends, "source_ranges": ranges });
        let listeners = json!([[id("TCP"), route], [id("UDP"), route]]);
        let routes = json!({ "apply": { "listeners": listeners, "name_servers": {} } });
        eventually("answer to the routes", || {
            let answer = self.ask(&routes).ok()?;
            let bound = answer["report"]["bound"].as_array().map(Vec::len);
            assert_eq!(bound, Some(2), "{answer}\n{}", self.log());
            Some(())
        });
    }

    /// Its processes, each with its name.
    pub(crate) fn processes(&self) -> Vec<(u32, String)> {
        let state = self.state();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            if words.get(1) == Some(&&b"local-door"[..])
                && words.get(2) == Some(&state.as_os_str().as_bytes())
            {
                let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                found.push((pid, name.trim().to_owned()));
            }
        }
        found
    }

    /// The process of that name.
    pub(crate) fn process(&self, name: &str) -> u32 {
        eventually(name, || self.processes().into_iter().find(|(_, found)| found == name).map(|(pid, _)| pid))
    }

    /// Sends a signal.
    pub(crate) fn signal(pid: u32, signal: &str) {
        let _ = Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status().unwrap();
    }

    /// Waits until all processes have ended.
    pub(crate) fn assert_ended(&self) {
        eventually("end of all processes", || self.processes().is_empty().then_some(()));
    }
}

impl Drop for Door {
    #[expect(clippy::print_stderr, reason = "what a failed test leaves is shown with its output")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let _ = self.ask(&json!("stop"));
        // Each that runs starts the others again.
        let given_up = Instant::now() + Duration::from_secs(10);
        while !self.processes().is_empty() && Instant::now() < given_up {
            for signal in ["-STOP", "-KILL"] {
                for (pid, _) in self.processes() {
                    Self::signal(pid, signal);
                }
            }
        }
    }
}
