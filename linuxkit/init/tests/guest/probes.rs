//! How containers are asked for their health, seen from inside them and from a server on the host.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::manifest::{SHELL, pod_of};
use crate::metric;
use crate::vm::{Vm, wanted};

/// A server of openssl on this machine with a certificate that nobody else has signed.
struct TlsServer {
    process: Child,
    port: u16,
}

impl TlsServer {
    fn start(folder: &Path, version: &str) -> Self {
        let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=nobody", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stderr(Stdio::null())
            .status()
            .expect("openssl is installed");
        assert!(made.success());
        let mut process = Command::new("openssl")
            .args(["s_server", "-www", version, "-accept", "127.0.0.1:0", "-key"])
            .arg(&key)
            .arg("-cert")
            .arg(&certificate)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.find_map(|line| line.strip_prefix("ACCEPT 127.0.0.1:")?.parse().ok());
        let port = port.expect("the server says on which port it listens");
        // What it says of its clients is read, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, port }
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_server_is_asked_over_tls_whatever_its_certificate_is() {
    if !wanted() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [new, old] = ["-tls1_3", "-tls1_2"].map(|version| TlsServer::start(folder.path(), version));
    let probe = |host: &str, port: u16| {
        format!(
            "{{periodSeconds: 1, timeoutSeconds: 60, failureThreshold: 30, httpGet: {{scheme: HTTPS, host: {host}, port: {port}, path: /up}}}}"
        )
    };
    // One over an address, one over a name; and a port where nobody speaks TLS.
    let spec = format!(
        "{{hostAliases: [{{ip: 10.0.2.2, hostnames: [secure.test]}}], containers: [{{{SHELL}, startupProbe: {}, \
         readinessProbe: {}}}, {{name: plain, image: busybox, command: [httpd, -f, -p, '80', -h, /www], readinessProbe: {}}}]}}",
        probe("secure.test", new.port),
        probe("10.0.2.2", old.port),
        probe("127.0.0.1", 80),
    );
    let mut vm = Vm::boot(&pod_of(&spec, ""));
    vm.wait_answer("/readyz", |answer| {
        answer.body.starts_with("plain: readiness probe: https://127.0.0.1:80/up: ")
            && answer.body.lines().count() == 1
    });
    drop((new, old));
    vm.wait_answer("/readyz", |answer| answer.body.contains("shell: readiness probe: "));
    let resident = metric(&vm.get("/metrics").body, "i2kit_guest_resident_bytes");
    assert!(resident < 6e6, "PID 1 and the supervisor use {resident} bytes after speaking TLS");
}

#[test]
fn a_request_is_what_the_probe_says() {
    if !wanted() {
        return;
    }
    // Says what it was asked, and is content with the header.
    let server = "printf 'read line; echo $line > /proc/1/fd/1; code=400; while read -r name value && [ ${#name} -gt 1 ]; do \
                  echo $name $value > /proc/1/fd/1; case $name$value in X-Probe:*a?b*) code=200;; esac; done; \
                  printf \"HTTP/1.1 $code x\\\\r\\\\n\\\\r\\\\n\"' > /serve; exec nc -ll -p 8080 -e sh /serve";
    let probe = "readinessProbe: {periodSeconds: 1, timeoutSeconds: 60, httpGet: {host: 127.0.0.1, port: web, path: '/up?x=1', \
                 httpHeaders: [{name: X-Probe, value: a b}, {name: Host, value: web.test}]}}";
    let spec = format!(
        "{{containers: [{{name: web, image: busybox, ports: [{{name: web, containerPort: 8080}}], command: [sh, -c, {}], {probe}}}]}}",
        serde_json::to_string(server).unwrap()
    );
    let mut vm = Vm::boot(&pod_of(&spec, ""));
    vm.ready();
    for line in ["GET /up?x=1 HTTP/1.1", "User-Agent: kube-probe/i2kit", "X-Probe: a b", "Host: web.test"] {
        vm.says(&format!("web | {line}"));
    }
    assert!(!vm.console().contains("web | Host: 127"), "{}", vm.console());
}

#[test]
fn other_probes_wait_for_the_startup_probe_and_for_their_delay() {
    if !wanted() {
        return;
    }
    let say = |what: &str| {
        format!("exec: {{command: [sh, -c, 'echo {what} $(cut -d. -f1 /proc/uptime) > /proc/1/fd/1']}}")
    };
    let spec = format!(
        "{{containers: [{{name: web, image: busybox, command: [sh, -c, 'echo begin $(($(cut -d\" \" -f22 /proc/1/stat) / 100)); sleep 3; touch /up; \
         exec sleep 1000'], startupProbe: {{periodSeconds: 1, timeoutSeconds: 60, failureThreshold: 600, exec: {{command: [sh, -c, 'test -e /up && echo \
         up > /proc/1/fd/1']}}}}, livenessProbe: {{periodSeconds: 1, timeoutSeconds: 60, {}}}, readinessProbe: {{initialDelaySeconds: 9, \
         periodSeconds: 1, timeoutSeconds: 60, {}}}}}]}}",
        say("alive"),
        say("ready"),
    );
    let mut vm = Vm::boot(&pod_of(&spec, ""));
    vm.ready();
    let console = vm.console();
    let lines: Vec<&str> = console.lines().filter_map(|line| line.strip_prefix("web | ")).collect();
    let place = |word: &str| lines.iter().position(|line| line.starts_with(word));
    let second = |word: &str| {
        let line = lines[place(word).unwrap_or_else(|| panic!("no {word} in\n{console}"))];
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert!(place("up") < place("alive"), "{console}");
    assert_eq!(lines.iter().filter(|line| **line == "up").count(), 1, "a startup probe goes on\n{console}");
    // From the moment at which the container's process was made, in hundredths, however late it spoke. Whole seconds of
    // the clock: one less than the delay may be left of it.
    assert!(second("ready") >= second("begin") + 8, "{console}");
}
