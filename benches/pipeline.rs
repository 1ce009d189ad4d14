//! What i2kit costs, measured beside the pipeline that a person would write by hand, in the same run. Prints a table
//! and writes `target/bench.json`; `scripts/bench` makes what it needs.
//!
//! Two programs are compared by processor time, which says the same on a busy machine as on an idle one; what a user
//! waits for is measured as time. Every number is the median of several runs.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

mod home;
mod table;

use std::fs::{self, File};
use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use table::{Row, median, report, time};

/// Runs of each measurement; odd, so that the median is one of them.
const RUNS: usize = 5;

/// Folders and programs of the measurements.
struct Bench {
    home: PathBuf,
    registry: Child,
    /// `127.0.0.1:PORT` of the registry.
    mirror: String,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.i2kit(&["-q", "destroy", "--all"]).output();
        let _ = self.registry.kill();
        let _ = self.registry.wait();
    }
}

fn main() {
    let bench = Bench::start();
    let mut rows = Vec::new();
    bench.cold(&mut rows);
    bench.warm(&mut rows);
    bench.layer(&mut rows);
    bench.boot(&mut rows);
    report(&rows, "bench.json");
}

/// What one call used.
struct Used {
    /// Processor seconds.
    cpu: f64,
    /// Memory at its peak, in MB.
    peak: f64,
}

impl Bench {
    fn start() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let home = root.join("target/bench");
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(&home).unwrap();
        let registry = Command::new(root.join("scripts/registry")).arg(&home).spawn().unwrap();
        let environment = home.join("environment.yml");
        let text = loop {
            if let Ok(text) = fs::read_to_string(&environment) {
                break text;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let mirror = text.split('"').nth(1).unwrap().to_owned();
        let manifest = fs::read_to_string(root.join("manifests/nginx.yaml")).unwrap();
        fs::write(home.join("nginx.yaml"), manifest.replace("replicas: 3", "replicas: 1")).unwrap();
        Self { home, registry, mirror }
    }

    /// A call of the program, in its folders below `home`.
    fn i2kit(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_i2kit"));
        command.args(arguments);
        self.place(&mut command);
        command
    }

    fn place(&self, command: &mut Command) {
        home::place(command, &self.home);
        command.stdout(Stdio::null()).stderr(Stdio::null());
    }

    /// Runs a program to its end under GNU time.
    fn measured(&self, program: &str, arguments: &[&str]) -> Used {
        let report = self.home.join("time");
        let mut command = Command::new("/usr/bin/time");
        command.args(["-f", "%U %S %M", "-o"]).arg(&report).arg(program).args(arguments);
        self.place(&mut command);
        assert!(command.status().unwrap().success(), "{command:?} failed");
        let text = fs::read_to_string(report).unwrap();
        let numbers: Vec<f64> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
        Used { cpu: numbers[0] + numbers[1], peak: numbers[2] * 1024.0 / 1e6 }
    }

    /// An empty cache, and the same image by hand: fetched, unpacked, and made an uncompressed erofs.
    fn cold(&self, rows: &mut Vec<Row>) {
        let image = format!("docker://{}/library/nginx:1.27", self.mirror);
        let (mut ours, mut peak, mut by_hand, mut peak_by_hand) = (vec![], vec![], vec![], vec![]);
        for _ in 0..RUNS {
            self.remove(&["cache", "layout", "bundle", "root.erofs"]);
            let used = self.measured(env!("CARGO_BIN_EXE_i2kit"), &["build", "nginx.yaml"]);
            ours.push(used.cpu);
            peak.push(used.peak);
            let steps = [
                self.measured(
                    "skopeo",
                    &["copy", "-q", "--src-tls-verify=false", &image, "oci:layout:nginx"],
                ),
                self.measured("umoci", &["unpack", "--image", "layout:nginx", "bundle"]),
                self.measured("mkfs.erofs", &["root.erofs", "bundle/rootfs"]),
            ];
            by_hand.push(steps.iter().map(|step| step.cpu).sum());
            peak_by_hand.push(steps.iter().map(|step| step.peak).fold(0.0, f64::max));
        }
        let (ours, by_hand) = (median(ours), median(by_hand));
        let peak_by_hand = Some(median(peak_by_hand));
        rows.push(Row {
            what: "cold build, processor time",
            value: ours,
            unit: "s",
            by_hand: Some(by_hand),
            goal: Some(by_hand / 4.0),
            is_rate: false,
        });
        rows.push(Row {
            what: "cold build, peak memory",
            value: median(peak),
            unit: "MB",
            by_hand: peak_by_hand,
            goal: Some(64.0),
            is_rate: false,
        });
    }

    /// Builds on what the cold ones left: with nothing changed, and with one environment variable changed.
    fn warm(&self, rows: &mut Vec<Row>) {
        let unchanged = || self.took(&["build", "nginx.yaml"]);
        rows.push(time("nothing changed, build", (0..4 * RUNS).map(|_| unchanged()).collect(), 50.0));
        let text = fs::read_to_string(self.home.join("nginx.yaml")).unwrap();
        let changed = |round: usize| {
            let variable = format!("          env: [{{name: ROUND, value: \"{round}\"}}]\n          ports:");
            let text = text.replace("          ports:", &variable);
            fs::write(self.home.join("changed.yaml"), text).unwrap();
            self.took(&["build", "changed.yaml"])
        };
        rows.push(time("one variable changed, build", (0..4 * RUNS).map(changed).collect(), 100.0));
    }

    /// The base layer's tar to erofs, from file to file; mkfs.erofs does it from the unpacked files.
    fn layer(&self, rows: &mut Vec<Row>) {
        let tar = self.largest_layer();
        let megabytes = f64::from(u32::try_from(tar.len()).unwrap()) / 1e6;
        let (from, to) = (self.home.join("layer.tar"), self.home.join("ours.erofs"));
        fs::write(&from, &tar).unwrap();
        let rate = |_| {
            let started = thread_time();
            // As i2kit itself reads and writes layers; a new file each time, since holes are left out.
            let tar = BufReader::with_capacity(128 * 1024, File::open(&from).unwrap());
            i2kit::erofs::write_layer(tar, File::create(&to).unwrap()).unwrap();
            megabytes / (thread_time() - started)
        };
        let ours = median((0..RUNS).map(rate).collect());
        fs::create_dir_all(self.home.join("layer")).unwrap();
        let mut unpack =
            Command::new("tar").args(["-x", "-C"]).arg(self.home.join("layer")).stdin(Stdio::piped()).spawn();
        unpack.as_mut().unwrap().stdin.take().unwrap().write_all(&tar).unwrap();
        assert!(unpack.unwrap().wait().unwrap().success());
        let mkfs = |_| megabytes / self.measured("mkfs.erofs", &["layer.erofs", "layer"]).cpu;
        rows.push(Row {
            what: "layer tar to erofs, one core",
            value: ours,
            unit: "MB/s",
            by_hand: Some(median((0..RUNS).map(mkfs).collect())),
            goal: Some(400.0),
            is_rate: true,
        });
    }

    /// The uncompressed tar of the largest layer in the cache.
    fn largest_layer(&self) -> Vec<u8> {
        let blobs = fs::read_dir(self.home.join("layout/blobs/sha256")).unwrap();
        let largest =
            blobs.map(|blob| blob.unwrap().path()).max_by_key(|path| path.metadata().unwrap().len()).unwrap();
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(File::open(largest).unwrap()).read_to_end(&mut tar).unwrap();
        tar
    }

    /// From "there should be one machine" to the first page through the balancer.
    fn boot(&self, rows: &mut Vec<Row>) {
        assert!(self.i2kit(&["deploy", "nginx.yaml"]).status().unwrap().success());
        let status = self.i2kit(&["status", "-o", "json"]).stdout(Stdio::piped()).output().unwrap();
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        let balancer = &status["balancers"][0];
        let address = format!("{}:{}", balancer["host"].as_str().unwrap(), balancer["bound"][0]);
        let boot = |_| {
            assert!(self.i2kit(&["scale", "nginx", "--replicas", "0"]).status().unwrap().success());
            let started = Instant::now();
            let mut scale = self.i2kit(&["scale", "nginx", "--replicas", "1"]).spawn().unwrap();
            while !answers(&address) {
                assert!(started.elapsed() < Duration::from_mins(2), "no page from {address}");
                std::thread::sleep(Duration::from_millis(10));
            }
            let took = started.elapsed();
            assert!(scale.wait().unwrap().success());
            took
        };
        let unchanged = |_| self.took(&["deploy", "nginx.yaml"]);
        rows.push(time("nothing changed, deploy", (0..4 * RUNS).map(unchanged).collect(), 50.0));
        rows.push(time("power on to first 200", (0..RUNS).map(boot).collect(), 4000.0));
    }

    /// How long a call takes.
    fn took(&self, arguments: &[&str]) -> Duration {
        let started = Instant::now();
        assert!(self.i2kit(arguments).status().unwrap().success(), "i2kit {arguments:?} failed");
        started.elapsed()
    }

    fn remove(&self, names: &[&str]) {
        for name in names {
            let path = self.home.join(name);
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

/// Processor seconds of this thread.
fn thread_time() -> f64 {
    let mut text = String::new();
    File::open("/proc/thread-self/schedstat").unwrap().read_to_string(&mut text).unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// Whether a page comes from `address`.
fn answers(address: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok(start.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}
