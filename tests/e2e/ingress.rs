//! An Ingress of the local cloud over real machines: hosts and paths, TLS of a Secret and of the local authority, both
//! versions of HTTP and a WebSocket, while processes are killed and pods are updated. Beside it are Services whose balancers
//! end TLS.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::{Ending, World, eventually, kill, machines, wait_for_page};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Two pods of busybox that serve their names; the second one has a WebSocket that sends back what it gets, and a port that
/// does so without HTTP. The first one's name has a version. Balancers of both end TLS, as it is written for any cloud and as it
/// is for AWS.
const PODS: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: one}
spec:
  selector: {matchLabels: {app: one}}
  template:
    metadata: {labels: {app: one}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
        - name: web
          image: busybox:1.35
          command: [sh, -c, "mkdir /w && echo one VERSION >/w/index.html && exec httpd -f -p 8000 -h /w"]
          resources: {limits: {memory: 32Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: one, annotations: {i2kit.dev/tls-ports: https}}
spec:
  type: LoadBalancer
  selector: {app: one}
  ports: [{name: web, port: 80, targetPort: 8000}, {name: https, port: 443, targetPort: 8000}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: two}
spec:
  selector: {matchLabels: {app: two}}
  template:
    metadata: {labels: {app: two}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
        - name: web
          image: busybox:1.35
          command: [sh, -c, "mkdir -p /w/deep && echo two | tee /w/index.html >/w/deep/index.html && exec httpd -f -p 8000 -h /w"]
          resources: {limits: {memory: 32Mi}}
        - name: chat
          image: busybox:1.35
          command:
            - sh
            - -c
            - |
              cat >/chat <<'END'
              #!/bin/sh
              while read -r line && [ ${#line} -gt 1 ]; do :; done
              printf 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n'
              printf 'Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n'
              exec cat
              END
              chmod +x /chat
              nc -ll -p 9001 -e cat &
              exec nc -ll -p 9000 -e /chat
          resources: {limits: {memory: 32Mi}}
---
apiVersion: v1
kind: Service
metadata:
  name: two
  annotations:
    service.beta.kubernetes.io/aws-load-balancer-ssl-cert: arn:aws:acm:eu-west-1:123456789012:certificate/0f3b
    service.beta.kubernetes.io/aws-load-balancer-ssl-ports: echo
spec:
  selector: {app: two}
  ports: [{name: web, port: 80, targetPort: 8000}, {name: chat, port: 9000}, {name: echo, port: 9443, targetPort: 9001}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop}
spec:
  tls:
    - {hosts: [own.test], secretName: own}
    - {hosts: [signed.test]}
  rules:
    - host: own.test
      http:
        paths:
          - {path: /, pathType: Prefix, backend: {service: {name: one, port: {number: 80}}}}
          - {path: /deep, pathType: Prefix, backend: {service: {name: two, port: {name: web}}}}
          - {path: /index.html, pathType: Exact, backend: {service: {name: two, port: {name: web}}}}
    - host: signed.test
      http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: two, port: {name: web}}}}]}
    - host: plain.test
      http:
        paths:
          - {path: /, pathType: Prefix, backend: {service: {name: one, port: {number: 80}}}}
          - {path: /chat, pathType: Exact, backend: {service: {name: two, port: {name: chat}}}}
---
"#;

/// A Secret with a certificate that signs itself, another one with each call.
fn secret(world: &World) -> String {
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=own.test -addext \
                     subjectAltName=DNS:own.test -keyout own.key -out own.crt";
    world.tool("openssl", &arguments.split_whitespace().collect::<Vec<_>>()).run();
    let file = |name: &str| {
        let text = std::fs::read_to_string(world.path().join(name)).unwrap();
        "    ".to_owned() + &text.trim_end().replace('\n', "\n    ") + "\n"
    };
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: own}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        file("own.crt"),
        file("own.key")
    )
}

/// The Ingress as its clients reach it.
struct Site<'w> {
    world: &'w World,
    host: String,
    plain: u16,
    tls: u16,
}

impl<'w> Site<'w> {
    fn of(world: &'w World) -> Self {
        let fleet = world.fleet();
        let balancer = fleet.balancers.iter().find(|found| found.spec.name.name == "ingress/shop").unwrap();
        assert!(balancer.targets.iter().all(|target| target.healthy), "{balancer:?}");
        let [plain, tls] = [0, 1].map(|index| balancer.bound[index].unwrap());
        Self { world, host: balancer.host.clone(), plain, tls }
    }

    /// A page over TLS, with its status and the version of HTTP; `None` where the certificate is not trusted.
    fn page(&self, host: &str, path: &str, arguments: &[&str]) -> Option<String> {
        let port = self.tls;
        let answer = Command::new("curl")
            .args(["-sS", "--max-time", "20", "-w", " %{http_code} %{http_version}", "--resolve"])
            .arg(format!("{host}:{port}:{}", self.host))
            .args(arguments)
            .arg(format!("https://{host}:{port}{path}"))
            .current_dir(self.world.path())
            .output()
            .unwrap();
        answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    /// The file of the local authority's certificate.
    fn authority(&self) -> String {
        self.world.path().join("state/i2kit/ca/ca.crt").to_str().unwrap().to_owned()
    }

    /// Where the last port of a Service is reached, which is the one that ends TLS.
    fn port(&self, service: &str) -> String {
        let fleet = self.world.fleet();
        let balancer = fleet.balancers.iter().find(|found| found.spec.name.name == service).unwrap();
        assert!(balancer.bound.iter().all(Option::is_some), "{balancer:?}");
        balancer.addresses().pop().unwrap()
    }

    /// The page of the Service with a page, whose balancer ends TLS, at this address.
    fn secured(&self, address: &str) -> String {
        let arguments =
            ["-sS", "--max-time", "20", "--cacert", &self.authority(), &format!("https://{address}/")];
        let answer = Command::new("curl").args(arguments).output().unwrap();
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8_lossy(&answer.stdout).into_owned()
    }

    /// Sends bytes over TLS to the Service of bytes and ends that direction; they come back, and so does the end.
    fn echoes(&self) {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&std::fs::read(self.authority()).unwrap()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
        let name = ServerName::try_from("two.default.svc.cluster.local").unwrap();
        let socket = TcpStream::connect(self.port("two")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = StreamOwned::new(ClientConnection::new(config, name).unwrap(), socket);
        let sent: Vec<u8> = (0..50_000_u32).flat_map(u32::to_be_bytes).collect();
        stream.write_all(&sent).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        stream.sock.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer == sent, "{} bytes came back", answer.len());
    }

    fn own(&self, path: &str) -> Option<String> {
        self.page("own.test", path, &["--cacert", "own.crt"])
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((self.host.as_str(), self.plain))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// An answer without TLS, over a connection of its own.
    fn raw(&self, host: &str) -> io::Result<String> {
        let mut stream = self.connect()?;
        write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Opens a WebSocket, and has a frame come back.
    fn chats(&self) {
        let mut stream = self.connect().unwrap();
        let head = "GET /chat HTTP/1.1\r\nHost: plain.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let frame = b"\x82\x85\x01\x02\x03\x04igoou";
        stream.write_all(frame).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(frame) {
            let mut buffer = [0; 1024];
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "it ends after {:?}", String::from_utf8_lossy(&answer));
            answer.extend(&buffer[..read]);
        }
        let answer = String::from_utf8_lossy(&answer).to_lowercase();
        assert!(answer.starts_with("http/1.1 101 "), "{answer}");
        assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
    }

    /// Asks without a pause, with TLS and without, while `act` goes on: every question has an answer. Returns how many
    /// there were.
    fn serves_while(&self, act: impl FnOnce()) -> u32 {
        let (stop, asked) = (AtomicBool::new(false), AtomicU32::new(0));
        let secured = self.port("one");
        let until_stopped = |ask: &dyn Fn()| {
            while !stop.load(Ordering::Relaxed) {
                ask();
                asked.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        std::thread::scope(|scope| {
            let threads = [
                scope.spawn(|| {
                    until_stopped(&|| {
                        let answer = self.raw("plain.test").unwrap();
                        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("one "), "{answer}");
                    });
                }),
                scope.spawn(|| {
                    until_stopped(&|| {
                        let answer = self.own("/").unwrap();
                        assert!(answer.starts_with("one ") && answer.ends_with(" 200 2"), "{answer}");
                    });
                }),
                scope.spawn(|| {
                    until_stopped(&|| {
                        let page = self.secured(&secured);
                        assert!(page.starts_with("one "), "{page}");
                    });
                }),
            ];
            // Also after a failure: the threads are waited for.
            let stopping = Ending(&stop);
            act();
            drop(stopping);
            for thread in threads {
                thread.join().unwrap();
            }
        });
        asked.into_inner()
    }
}

/// A process of this world whose command line has this part.
fn process(world: &World, part: &str) -> Option<u32> {
    let found = world.processes().into_iter().find(|(_, arguments)| arguments.contains(part));
    found.map(|(pid, _)| pid)
}

/// Services whose balancers end TLS: who speaks it has the page or the bytes of their pods, who does not has nothing, and pods
/// of the environment have the pods' port itself.
fn passes(site: &Site<'_>, version: &str) {
    let world = site.world;
    assert_eq!(site.secured(&site.port("one")), format!("one {version}\n"));
    site.echoes();
    let mut plain = TcpStream::connect(site.port("one")).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    drop(plain.read_to_end(&mut answer));
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    let metrics = world.i2kit(&["status", "--metrics"]).run().stdout;
    for service in ["service=\"one\",port=\"443\"", "service=\"two\",port=\"9443\""] {
        let mut lines = metrics.lines().filter(|line| line.starts_with("i2kit_service_connections_total{"));
        let line = lines.find(|line| line.contains(service)).unwrap_or_else(|| panic!("{metrics}"));
        assert!(line.rsplit(' ').next().unwrap().parse::<u32>().unwrap() > 0, "{line}");
    }
    let status = world.i2kit(&["status"]).prints("one.default.svc.cluster.local").run();
    let url = format!("https://{}/", site.port("one").trim_end_matches(":443"));
    assert!(status.stdout.contains(&url), "{}", status.stdout);
    // With qemu's user network machines have no addresses, and pods reach the balancer itself.
    let has_network = world.group("one").instances.iter().all(|instance| instance.address.is_some());
    if has_network {
        let ask = "printf plain | nc two 9443";
        world.i2kit(&["exec", "one", "--", "sh", "-c", ask]).stdout("plain").run();
    }
}

#[test]
fn an_ingress_serves_hosts_and_paths_with_tls_while_processes_die_and_pods_are_updated() {
    if !machines() {
        return;
    }
    let world = World::new();
    let first = secret(&world);
    let write = |version: &str, secret: &str| {
        world.write("shop.yaml", &(PODS.replace("VERSION", version) + secret));
    };
    write("v1", &first);
    world.i2kit(&["deploy", "shop.yaml"]).prints("https://own.test").prints("http://plain.test").run();
    let site = Site::of(&world);
    let authority = site.authority();
    let signed = ["--cacert", authority.as_str()];
    assert_eq!(site.own("/").unwrap(), "one v1\n 200 2");
    assert_eq!(site.own("/deep/").unwrap(), "two\n 200 2");
    assert_eq!(site.own("/index.html").unwrap(), "two\n 200 2");
    assert_eq!(
        site.page("own.test", "/", &["--cacert", "own.crt", "--http1.1"]).unwrap(),
        "one v1\n 200 1.1"
    );
    assert_eq!(site.page("signed.test", "/", &signed).unwrap(), "two\n 200 2");
    assert_eq!(
        site.page("signed.test", "/", &["--cacert", "own.crt"]),
        None,
        "another authority is not trusted"
    );
    assert!(site.raw("own.test").unwrap().starts_with("HTTP/1.1 308 "));
    assert!(site.raw("other.test").unwrap().starts_with("HTTP/1.1 404 "));
    site.chats();
    // What was asked is counted by Service and class, tunnels among it.
    let of =
        |service: &str, class: &str| format!("ingress=\"shop\",service=\"{service}\",code=\"{class}\"}} ");
    let metrics = world.i2kit(&["status", "--metrics"]).run().stdout;
    for (service, class, least) in
        [("one", "2xx", 2), ("one", "3xx", 1), ("two", "2xx", 3), ("two", "1xx", 1), ("", "4xx", 1)]
    {
        let label = of(service, class);
        let line = metrics
            .lines()
            .find(|line| line.contains(&label))
            .unwrap_or_else(|| panic!("{label}: {metrics}"));
        let count: u32 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(line.starts_with("i2kit_ingress_requests_total{") && count >= least, "{line}");
    }
    world.i2kit(&["status"]).prints("curl --cacert").prints("https://own.test").run();
    world.i2kit(&["ca", "print"]).stdout(&std::fs::read_to_string(&authority).unwrap()).run();
    passes(&site, "v1");

    // The local cloud and the guardian are killed and the first pod is updated: nobody notices.
    write("v2", &first);
    let asked = site.serves_while(|| {
        kill(world.local_cloud());
        let guardian = process(&world, "local-proxy guard").unwrap();
        kill(guardian);
        eventually("another guardian", || {
            process(&world, "local-proxy guard").filter(|pid| *pid != guardian)
        });
        world.i2kit(&["deploy", "shop.yaml"]).run();
    });
    assert!(asked > 20, "{asked} questions");
    assert_eq!(site.own("/").unwrap(), "one v2\n 200 2");
    let carrier = process(&world, "local-proxy carry").unwrap();
    kill(carrier);
    assert_eq!(site.own("/").unwrap(), "one v2\n 200 2", "the next carrier accepts what waits");
    assert_eq!(site.secured(&site.port("one")), "one v2\n");
    site.echoes();

    // Another certificate is served after a deployment that starts no machine.
    let boots = || world.group("one").members().map(|member| member.boot_id.clone()).collect::<Vec<_>>();
    let before = boots();
    write("v2", &secret(&world));
    world.i2kit(&["deploy", "shop.yaml"]).run();
    eventually("the new certificate", || site.own("/").filter(|page| page == "one v2\n 200 2"));
    // A port whose TLS goes is the front door's, one whose TLS comes is the proxy's, and it is the same port.
    let port = site.port("one");
    let (text, secret) = (PODS.replace("VERSION", "v2"), secret(&world));
    world.write("shop.yaml", &(text.replace("i2kit.dev/tls-ports: https", "") + &secret));
    world.i2kit(&["deploy", "shop.yaml"]).run();
    assert_eq!(site.port("one"), port);
    wait_for_page(&port, "one v2");
    write("v2", &secret);
    world.i2kit(&["deploy", "shop.yaml"]).run();
    assert_eq!(site.port("one"), port);
    assert_eq!(site.secured(&port), "one v2\n");
    assert_eq!(boots(), before);
    world.i2kit(&["destroy", "--all"]).run();
    world.assert_nothing_left();
}
