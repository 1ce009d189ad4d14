//! The HTTP proxy of the local cloud as processes of the program, started in a folder of its own and spoken to over its
//! control socket.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use self::eventually::{PATIENCE, eventually};

#[path = "eventually.rs"]
pub(crate) mod eventually;

/// A proxy in a folder of its own.
pub(crate) struct Proxy {
    folder: tempfile::TempDir,
}

impl Proxy {
    /// Starts one that serves nothing yet.
    pub(crate) fn new() -> Self {
        let folder = tempfile::TempDir::with_prefix_in("proxy-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let proxy = Self { folder };
        fs::create_dir_all(proxy.home()).unwrap();
        proxy.begin();
        proxy
    }

    fn begin(&self) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_i2kit"))
            .args(["local-proxy", "guard"])
            .env_clear()
            .env("HOME", self.folder.path())
            .env("XDG_STATE_HOME", self.folder.path().join("state"))
            .current_dir("/")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        thread::spawn(move || child.wait());
    }

    /// The local cloud's folder.
    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("state/i2kit/local")
    }

    fn socket(&self) -> io::Result<UnixStream> {
        // A socket's path has a bound that this folder may be beyond.
        let folder = fs::File::open(self.home())?;
        let short = format!("/proc/self/fd/{}/proxy.sock", std::os::fd::AsRawFd::as_raw_fd(&folder));
        let stream = UnixStream::connect(short)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Asks, as often as there is nobody to answer.
    pub(crate) fn call(&self, call: &Value) -> Value {
        eventually("answer of the proxy", || {
            let mut stream = self.socket().ok()?;
            let text = serde_json::to_vec(call).unwrap();
            stream.write_all(&u32::try_from(text.len()).unwrap().to_be_bytes()).ok()?;
            stream.write_all(&text).ok()?;
            let mut length = [0; 4];
            stream.read_exact(&mut length).ok()?;
            let mut answer = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut answer).ok()?;
            serde_json::from_slice(&answer).ok()
        })
    }

    /// What it serves.
    pub(crate) fn report(&self) -> Value {
        self.call(&json!({"call": "report"}))
    }

    /// Serves `servers` at `host`; returns the address.
    pub(crate) fn serve(&self, host: Ipv4Addr, servers: &[SocketAddr]) -> SocketAddr {
        let servers: Vec<Value> = servers
            .iter()
            .map(|address| json!({"machine": address.to_string(), "address": address}))
            .collect();
        let front = json!({
            "environment": "test", "host": host, "certificates": [], "redirect": true, "default": null,
            "rules": [{"path": "/", "backend": 0}],
            "pools": [{"service": "web", "http2": false, "servers": servers}],
        });
        let report = self.call(&json!({"call": "apply", "value": {"test/default/web": front}}));
        let port = report["bound"]["test/default/web"]["http"].as_u64().unwrap();
        (host, u16::try_from(port).unwrap()).into()
    }

    /// Process ids, by role.
    pub(crate) fn processes(&self, role: &str) -> Vec<u32> {
        let folder = self.folder.path().to_str().unwrap();
        let all = fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| {
            let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
            let arguments = read("cmdline").replace('\0', " ");
            let is_one =
                arguments.contains(&format!("local-proxy {role}")) && read("environ").contains(folder);
            is_one.then(|| entry.file_name().to_str()?.parse().ok())?
        })
        .collect()
    }

    /// Kills its processes of a role.
    pub(crate) fn kill(&self, role: &str) {
        for pid in self.processes(role) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for _ in 0..50 {
            self.kill("guard");
            self.kill("carry");
            if self.processes("").is_empty() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
