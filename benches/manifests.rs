//! What `i2kit check` costs: large sets, a small file, and files made to cost more. Needs nothing but the program itself.
//! `scripts/bench` runs it.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

#[path = "../tests/support/hostile.rs"]
mod hostile;
mod table;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use table::{Row, median, report, time};

/// Runs of each measurement; odd, so that the median is one of them.
const RUNS: usize = 15;

/// Size of the hostile files.
const HOSTILE: usize = 1_000_000;

fn main() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-manifests");
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(&home).unwrap();
    let write = |name: &str, text: &str| {
        let path = home.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let many = write("many.yaml", &many());
    let large = write("large.yaml", &large());
    let small = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/nginx.yaml");
    let bomb = write("bomb.yaml", &hostile::alias_bomb());
    let mut rows = vec![
        time("10,000 documents of 2.5 MB", runs(&many), 500.0),
        Row {
            what: "10,000 documents, peak memory",
            value: peak(&many),
            unit: "MB",
            by_hand: None,
            goal: Some(100.0),
            is_rate: false,
        },
        time("84 objects of 640 KB", runs(&large), 10.0),
        time("a small file", runs(&small), 5.0),
        time("an alias bomb", runs(&bomb), 100.0),
    ];
    // Nothing was promised of these but a bound.
    for (name, text) in hostile::files(HOSTILE) {
        let path = write("hostile.yaml", &text);
        rows.push(time(name, vec![took(&path)], 2000.0));
    }
    report(&rows, "bench-manifests.json");
}

fn check(path: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_i2kit"));
    command.args(["check", "--language-only"]).arg(path).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// From the start of the program to its end.
fn took(path: &Path) -> Duration {
    let started = Instant::now();
    check(path).status().unwrap();
    started.elapsed()
}

fn runs(path: &Path) -> Vec<Duration> {
    (0..RUNS).map(|_| took(path)).collect()
}

/// Memory at its peak, in MB.
fn peak(path: &Path) -> f64 {
    let mut command = Command::new("/usr/bin/time");
    let check = check(path);
    command.args(["-f", "%M"]).arg(check.get_program()).args(check.get_args()).stdout(Stdio::null());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    median(vec![text.lines().last().unwrap().parse::<f64>().unwrap() * 1024.0 / 1e6])
}

/// Small objects of three kinds that belong together.
fn many() -> String {
    let mut text = String::new();
    for i in 0..3334 {
        let _ = write!(
            text,
            "---
apiVersion: v1
kind: ConfigMap
metadata:
  name: settings-{i}
  labels: {{app: app-{i}}}
data:
  level: \"{i}\"
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: app-{i}
  labels: {{app: app-{i}}}
spec:
  replicas: 2
  selector:
    matchLabels: {{app: app-{i}}}
  template:
    metadata:
      labels: {{app: app-{i}}}
    spec:
      containers:
      - name: app
        image: registry.example.com/team/app-{i}:1.{i}.0
        ports:
        - containerPort: 8080
        resources:
          limits: {{memory: 64Mi}}
---
apiVersion: v1
kind: Service
metadata:
  name: app-{i}
spec:
  selector: {{app: app-{i}}}
  ports:
  - port: 80
    targetPort: 8080
"
        );
    }
    text
}

/// Thirty applications, and the configuration of most of them: what a team's own repository may hold.
fn large() -> String {
    let mut text = String::new();
    for i in 0..30 {
        let _ = write!(
            text,
            "---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: app-{i}
  labels:
    app.kubernetes.io/name: app-{i}
    app.kubernetes.io/part-of: shop
spec:
  replicas: 3
  selector:
    matchLabels:
      app.kubernetes.io/name: app-{i}
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxSurge: 1
      maxUnavailable: 0
  template:
    metadata:
      labels:
        app.kubernetes.io/name: app-{i}
        app.kubernetes.io/part-of: shop
    spec:
      terminationGracePeriodSeconds: 45
      containers:
      - name: app
        image: registry.example.com/shop/app-{i}:2.{i}.1
        args: [\"--listen=:8080\", \"--config=/etc/app/app.conf\"]
        ports:
        - name: http
          containerPort: 8080
        readinessProbe:
          httpGet: {{path: /ready, port: http}}
          periodSeconds: 5
        livenessProbe:
          httpGet: {{path: /live, port: http}}
          initialDelaySeconds: 10
        resources:
          requests: {{cpu: 100m, memory: 128Mi}}
          limits: {{cpu: 500m, memory: 256Mi}}
        env:
"
        );
        for j in 0..20 {
            let _ = writeln!(
                text,
                "        - name: SETTING_{j}\n          value: \"http://app-{j}.shop.svc:8080/v{i}\""
            );
        }
        let _ = write!(
            text,
            "---
apiVersion: v1
kind: Service
metadata:
  name: app-{i}
spec:
  selector:
    app.kubernetes.io/name: app-{i}
  ports:
  - name: http
    port: 80
    targetPort: http
"
        );
    }
    for i in 0..24 {
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: app-{i}\ndata:\n  app.conf: |\n"
        );
        for j in 0..390 {
            let _ = writeln!(text, "    upstream-{j}.address = \"app-{j}.shop.svc.cluster.local:8080\"");
        }
    }
    text
}
