//! Certificates by ACME: `pebble`, the test server of Let's Encrypt, signs for public hosts of Ingresses. No machine is
//! needed: nothing is behind the Ingress.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use i2kit::plan::fleet::{LoadBalancer, ServedCertificate};
use serde_json::{Value, json};

use crate::support::{World, eventually, kill, soaks, tools};

/// A CA with the DNS that it sees. Both end with the test.
struct Authority {
    world: World,
    programs: Vec<Child>,
    port: u16,
    management: u16,
    dns: u16,
    chain: String,
}

impl Drop for Authority {
    fn drop(&mut self) {
        for program in &mut self.programs {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

/// A port below those that the kernel gives whoever asks for any: nobody is given it before it is bound.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 1000).unwrap() * 12;
    let mut ports =
        std::iter::repeat_with(|| 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000);
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// An Ingress of these hosts, whose Service is nowhere.
fn manifest(hosts: &[&str]) -> String {
    let rules: Vec<Value> = hosts
        .iter()
        .map(|host| {
            let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
            json!({"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}})
        })
        .collect();
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "shop", "annotations": {"cert-manager.io/cluster-issuer": "pebble"}},
        "spec": {"tls": [{"hosts": hosts, "secretName": "shop-tls"}], "rules": rules},
    });
    ingress.to_string()
}

impl Authority {
    /// Deploys an Ingress of these hosts without a CA, and starts one that finds them there, at the port without TLS
    /// where that is so. Its certificates are good for so many seconds.
    fn new(hosts: &[&str], seconds: u32, has_http: bool) -> Self {
        let world = World::bare();
        let mut authority = Self {
            world,
            programs: Vec::new(),
            port: free_port(),
            management: free_port(),
            dns: free_port(),
            chain: String::new(),
        };
        authority.environment(false);
        authority.world.write("shop.json", &manifest(hosts));
        authority.world.i2kit(&["deploy", "shop.json", "--external", "service/web"]).run();
        let ingress = authority.ingress();
        let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        authority.chain = key.cert.pem();
        authority.world.write("server.pem", &authority.chain);
        authority.world.write("server.key", &key.signing_key.serialize_pem());
        authority.start_dns(&ingress.host);
        let http = ingress.bound[0].filter(|_| has_http).unwrap_or_else(free_port);
        let config = json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{}", authority.port),
            "managementListenAddress": format!("127.0.0.1:{}", authority.management),
            "certificate": "server.pem", "privateKey": "server.key",
            "httpPort": http, "tlsPort": ingress.bound[1].unwrap(),
            "certificateValidityPeriod": seconds,
        }});
        authority.world.write("pebble.json", &config.to_string());
        let dns = format!("127.0.0.1:{}", authority.dns);
        authority.start("pebble", &["-config", "pebble.json", "-dnsserver", &dns]);
        authority.get("roots/0");
        authority
    }

    fn environment(&self, has_acme: bool) {
        // Addresses follow from the name: worlds of other suites run beside this one.
        let folder = self.world.path().file_name().unwrap().to_string_lossy().to_lowercase();
        let name: String = folder.chars().filter(char::is_ascii_alphanumeric).take(20).collect();
        let acme = json!({
            "directory": format!("https://127.0.0.1:{}/dir", self.port),
            "email": "ops@i2kit.dev", "caBundle": self.chain,
        });
        let provider =
            if has_acme { json!({"type": "local", "acme": acme}) } else { json!({"type": "local"}) };
        self.world.write("environment.yml", &json!({"name": name, "provider": provider}).to_string());
    }

    /// Has the CA asked from now on.
    fn ask(&self) {
        self.environment(true);
        self.world.i2kit(&["deploy", "shop.json", "--external", "service/web"]).run();
    }

    fn start(&mut self, program: &str, arguments: &[&str]) {
        let log = fs::File::create(self.world.path().join(format!("{program}.log"))).unwrap();
        let child = Command::new(program)
            .args(arguments)
            .current_dir(self.world.path())
            .env("PEBBLE_VA_SLEEPTIME", "2")
            .env("PEBBLE_AUTHZREUSE", "0")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{program} does not start ({error}): scripts/deps --test installs it")
            });
        self.programs.push(child);
    }

    /// Has every name resolve to an address.
    fn start_dns(&mut self, address: &str) {
        let (dns, management) = (format!("127.0.0.1:{}", self.dns), format!("127.0.0.1:{}", free_port()));
        let arguments = [
            "-dns01",
            &dns,
            "-management",
            &management,
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
            "-defaultIPv4",
            address,
            "-defaultIPv6",
            "",
        ];
        self.start("pebble-challtestsrv", &arguments);
    }

    /// What the management interface has.
    fn get(&self, path: &str) -> String {
        let url = format!("https://127.0.0.1:{}/{path}", self.management);
        eventually("answer of the CA", || {
            let output = Command::new("curl")
                .args(["-sSf", "--cacert", "server.pem", &url])
                .current_dir(self.world.path())
                .output()
                .unwrap();
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
        })
    }

    fn ingress(&self) -> LoadBalancer {
        let fleet = self.world.fleet();
        fleet.balancers.into_iter().find(|balancer| balancer.spec.http.is_some()).unwrap()
    }

    /// The certificate that `status` shows for a host.
    fn served(&self, host: &str) -> Option<ServedCertificate> {
        self.ingress().certificates.into_iter().find(|served| served.hosts == [host])
    }

    /// Whether a client that trusts the file `root` alone is answered by a host.
    fn is_answered(&self, host: &str, root: &str) -> bool {
        // A process that was just started does not know the port yet.
        let (address, port) = eventually("port of the Ingress", || {
            let ingress = self.ingress();
            Some((ingress.host, ingress.bound[1]?))
        });
        let resolve = format!("{host}:{port}:{address}");
        let url = format!("https://{host}:{port}/");
        let arguments = ["-sS", "-o", "/dev/null", "--cacert", root, "--resolve", &resolve, &url];
        Command::new("curl").args(arguments).current_dir(self.world.path()).output().unwrap().status.success()
    }

    /// Waits until a host has a certificate of the CA, and clients believe it.
    fn wait_for(&self, host: &str) -> ServedCertificate {
        let served = eventually("certificate of the CA", || {
            self.served(host).filter(|served| served.source == "127.0.0.1")
        });
        self.world.write("root.pem", &self.get("roots/0"));
        eventually("client that believes it", || self.is_answered(host, "root.pem").then_some(()));
        served
    }

    /// Orders that were placed.
    fn orders(&self) -> usize {
        self.log().matches("Added order ").count()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.world.path().join("pebble.log")).unwrap()
    }

    /// The files of hosts, but for those that are being written.
    fn records(&self) -> Vec<(PathBuf, Value)> {
        let folder = self.world.path().join("state/i2kit/local/acme/hosts");
        let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_new = |path: &Path| path.file_name().unwrap().as_encoded_bytes().starts_with(b".");
        let files =
            files.filter(|path| path.extension().is_some_and(|found| found == "json") && !is_new(path));
        files
            .filter_map(|path| Some((path.clone(), serde_json::from_slice(&fs::read(path).ok()?).ok()?)))
            .collect()
    }

    /// What is written of a host.
    fn record(&self, host: &str) -> Option<Value> {
        self.records().into_iter().map(|(_, record)| record).find(|record| record["want"]["host"] == host)
    }

    fn warning(&self, text: &str) -> Option<String> {
        self.world.fleet().warnings.into_iter().find(|warning| warning.contains(text))
    }
}

#[test]
fn a_public_host_has_a_certificate_of_the_ca_that_is_renewed_and_goes_with_the_environment() {
    if !tools() {
        return;
    }
    let hosts = ["shop.i2kit.dev", "inside.test"];
    let authority = Authority::new(&hosts, 60, true);
    assert_eq!(authority.served(hosts[0]).unwrap().source, "local authority");
    authority.ask();
    let first = authority.wait_for(hosts[0]);
    assert_eq!(authority.served(hosts[1]).unwrap().source, "local authority");
    assert!(!authority.is_answered(hosts[1], "root.pem"), "no CA is asked for a host that is nobody's");
    // What only this user may read, and nobody else has.
    let folder = authority.world.path().join("state/i2kit/local/acme");
    let (record, content) = authority.records().remove(0);
    for file in
        fs::read_dir(folder.join("accounts")).unwrap().map(|entry| entry.unwrap().path()).chain([record])
    {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    let key = content["issued"]["key"].as_str().unwrap().lines().nth(1).unwrap().to_owned();
    let mut holders = std::collections::BTreeSet::new();
    crate::support::holders(&authority.world.path().join("state"), &[key], &mut holders);
    assert_eq!(holders.len(), 1, "the key is in {holders:?}");
    // It is renewed, whoever was killed meanwhile, and what is served goes on.
    kill(authority.world.local_cloud());
    assert!(authority.is_answered(hosts[0], "root.pem"));
    let next = eventually("another certificate", || {
        authority.served(hosts[0]).filter(|served| served.expires > first.expires)
    });
    assert_eq!(next.source, "127.0.0.1");
    // An order a certificate, however often it was renewed meanwhile.
    let (orders, issued) = (authority.orders(), authority.log().matches("Issued certificate serial").count());
    assert!(orders >= 2 && orders <= issued + 1, "{orders} orders for {issued} certificates");
    assert!(next.state.unwrap().starts_with("renewal at "));
    authority.world.i2kit(&["status"]).prints("shop.i2kit.dev").prints("renewal at").run();
    authority.world.i2kit(&["destroy", "--all"]).run();
    authority.world.assert_nothing_left();
    assert!(!folder.exists());
}

#[test]
fn a_failure_is_shown_and_remembered_and_the_other_challenge_follows() {
    if !tools() {
        return;
    }
    let host = "shop.i2kit.dev";
    // The port without TLS leads elsewhere.
    let authority = Authority::new(&[host], 3600, false);
    authority.ask();
    let warning = eventually("failure", || authority.warning("no certificate by ACME for shop.i2kit.dev"));
    assert!(warning.contains("connection") && warning.contains("tried again at"), "{warning}");
    assert!(warning.contains("local authority is served meanwhile"), "{warning}");
    assert_eq!(authority.served(host).unwrap().source, "local authority");
    authority.world.i2kit(&["status"]).says("no certificate by ACME").run();
    // Neither a deployment nor another process asks again before its time.
    for _ in 0..3 {
        authority.ask();
        kill(authority.world.local_cloud());
        authority.world.i2kit(&["status"]).run();
        std::thread::sleep(Duration::from_secs(1));
    }
    eventually("the failure again", || authority.warning("no certificate by ACME"));
    assert_eq!(authority.orders(), 1);
    // Once its time has come, the host is proved by the other challenge.
    kill(authority.world.local_cloud());
    let (path, mut record) = authority.records().remove(0);
    record["pause"] = 0.into();
    fs::write(path, record.to_string()).unwrap();
    authority.wait_for(host);
    assert_eq!(authority.orders(), 2);
    assert_eq!(authority.warning("ACME"), None);
}

#[test]
fn an_order_is_gone_on_with_wherever_the_process_was_killed() {
    if !tools() {
        return;
    }
    let host = |round: usize| format!("h{round}.i2kit.dev");
    let authority = Authority::new(&[&host(0)], 3600, true);
    let rounds = if soaks() { 20 } else { 2 };
    for round in 0..rounds {
        let host = host(round);
        authority.world.write("shop.json", &manifest(&[&host]));
        authority.ask();
        // At the beginning, when the order is placed, and while the CA looks. More often it is not gone on with at once.
        for stage in ["/want", "/order", "/order/challenge"] {
            let order = eventually("step", || {
                let record = authority.record(&host)?;
                let is_reached = record.pointer(stage).is_some_and(|found| !found.is_null());
                (is_reached || !record["issued"].is_null()).then(|| record["order"]["url"].clone())
            });
            kill(authority.world.local_cloud());
            authority.world.i2kit(&["status"]).run();
            let record = authority.record(&host).expect("what was written is there");
            let is_same = record["order"].is_null() || record["order"]["url"] == order;
            assert!(order.is_null() || is_same, "{order} became {record}");
        }
        authority.wait_for(&host);
        // One that was placed and not yet written down when the process was killed is placed again.
        let orders = authority.orders();
        assert!(orders <= 2 * (round + 1), "{orders} orders in {} rounds", round + 1);
        assert_eq!(authority.records().len(), 1, "that of the host before is gone");
    }
}
