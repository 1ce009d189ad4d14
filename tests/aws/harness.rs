//! The test bed as a value: started by a test, ended with it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// How long a bed may take to start; no measure of speed.
const PATIENCE: Duration = Duration::from_mins(5);

/// The emulator, the fault proxy and with `--boot` the machines, ended with the value.
pub(crate) struct Bed {
    process: Child,
    /// Its state and logs.
    pub(crate) folder: tempfile::TempDir,
    /// Where all services answer.
    pub(crate) endpoint: String,
}

impl Bed {
    /// Starts the bed; nothing boots, instances are healthy on paper.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts the bed with more arguments.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aws");
        let setup = Command::new(tests.join("setup")).output().unwrap();
        assert!(setup.status.success(), "{}", String::from_utf8_lossy(&setup.stderr));
        let python = String::from_utf8(setup.stdout).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let process = Command::new(python.trim())
            .args(["-m", "bed", "--dir"])
            .arg(folder.path())
            .args(arguments)
            .env("PYTHONPATH", &tests)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .spawn()
            .unwrap();
        let mut bed = Self { process, folder, endpoint: String::new() };
        let started = Instant::now();
        while !bed.folder.path().join("bed.json").exists() {
            assert!(started.elapsed() < PATIENCE, "the bed does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        let facts: serde_json::Value =
            serde_json::from_slice(&fs::read(bed.folder.path().join("bed.json")).unwrap()).unwrap();
        facts["endpoint"].as_str().unwrap().clone_into(&mut bed.endpoint);
        bed
    }

    /// One call of the bed itself.
    pub(crate) fn call(&self, method: &str, path: &str, body: &str) -> String {
        let host = self.endpoint.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        let length = body.len();
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// From now on calls fail as these rules say.
    pub(crate) fn fault(&self, rules: &serde_json::Value) {
        self.call("POST", "/_fault", &rules.to_string());
    }

    /// The calls since the last time.
    pub(crate) fn journal(&self) -> Vec<String> {
        let calls = serde_json::from_str(&self.call("GET", "/_journal", "")).unwrap();
        self.call("DELETE", "/_journal", "");
        calls
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // SIGTERM, so that it ends what it started.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}
