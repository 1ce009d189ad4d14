//! The network of an environment, with machines in it: who reaches whom, and what goes on when the local cloud does not.

use std::io::{self, ErrorKind, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::environments::two_do_not_see_each_other;
use crate::support::{Call, World, eventually, kill, machines, tools, wait_for_page};

/// Two machines that serve their name and address; each has a client that asks what it is told to, over and over.
const MANIFEST: &str = r#"apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: web
          image: busybox:1.35
          command: [/bin/sh, -c, 'echo "$(hostname) $POD_IP" > /tmp/index.html; exec httpd -f -p 8080 -h /tmp']
          ports: [{containerPort: 8080}]
          env:
            - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
            - {name: POD_IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
          resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 100m, memory: 32Mi}}
        - name: client
          image: busybox:1.35
          command:
            - /bin/sh
            - -c
            - |
              while :; do
                to=$(cat /tmp/to 2> /dev/null) && { timeout 30 wget -qO- "$to" > /dev/null 2>&1 && echo ok || echo lost; }
                sleep 0.1
              done
          resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 100m, memory: 32Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: pods}
spec:
  clusterIP: None
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{name: http, port: 8080}]
"#;

/// A Service of IPv6 alone, which the user network cannot have.
const SIX: &str = "---
apiVersion: v1
kind: Service
metadata: {name: six}
spec:
  ipFamilies: [IPv6]
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
";

/// Nobody reaches the machines but a network that is far away, and they reach nobody.
const WALL: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: wall}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}]}]
";

/// A policy of two machines of one group, of which `first` has 10.78.1.1: the network enforces it, without a new machine.
fn a_policy_closes_and_opens(world: &World, first: &str) {
    let connect = |to: &str| script(world, first, "web", &format!("nc -w 20 {to} 8080 < /dev/null"));
    connect("10.78.1.2").run();
    let before = world.group("web").instances;
    world.write("wall.yaml", WALL);
    world.i2kit(&["deploy", "web.yaml", "wall.yaml"]).run();
    // From the end of the deployment on.
    connect("10.78.1.2").code(1).says("refused").run();
    connect("192.0.2.1").code(1).says("refused").run();
    connect("fd69:326b:6974:78::102").code(1).says("refused").run();
    connect("2001:db8::1").code(1).says("refused").run();
    // Itself, names, and clients of this host are never kept out.
    connect("10.78.1.1").run();
    script(world, first, "web", "nslookup web.default.svc.cluster.local").run();
    wait_for_page(&world.address("web"), "10.78.1.");
    // One that allows the group of itself.
    let friends = WALL.replace("ipBlock: {cidr: 192.0.2.0/24}", "podSelector: {matchLabels: {app: web}}");
    world.write("wall.yaml", &(friends + "  egress: [{to: [{podSelector: {}}]}]\n"));
    world.i2kit(&["deploy", "web.yaml", "wall.yaml"]).run();
    connect("10.78.1.2").run();
    connect("fd69:326b:6974:78::102").run();
    connect("192.0.2.1").code(1).says("refused").run();
    world.i2kit(&["deploy", "web.yaml"]).run();
    let after = world.group("web").instances;
    assert!(before.iter().all(|instance| after.iter().any(|found| found.id == instance.id)), "{after:?}");
}

/// Names that stand for others: for a Service, and for a name that no server outside has.
const ALIASES: &str = "---
apiVersion: v1
kind: Service
metadata: {name: inner}
spec: {type: ExternalName, externalName: web.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: outer}
spec: {type: ExternalName, externalName: db.invalid}
";

/// Who may connect, who stays with a machine, and names that stand for others: settings of balancers, without a new machine.
fn clients_are_kept_out_or_stay(world: &World) {
    let before = world.group("web").instances;
    let address = world.address("web");
    let deploy = |spec: &str| {
        let service = "  selector: {app: web}\n  ports: [{port: 80, targetPort: 8080}]\n";
        assert!(MANIFEST.contains(service));
        let manifest = MANIFEST.replace(service, &format!("{service}{spec}"));
        world.write("web.yaml", &(manifest + ALIASES));
        world.i2kit(&["deploy", "web.yaml"]).run();
    };
    let page = || {
        let mut stream = TcpStream::connect(address.as_str())?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        // Without the head, which has the time.
        io::Result::Ok(answer.lines().last().unwrap_or_default().to_owned())
    };
    deploy("  loadBalancerSourceRanges: [192.0.2.0/24]\n");
    eventually("a client that is kept out", || page().is_err().then_some(()));
    // Other pods are not clients from outside.
    let get = |url: &str| script(world, "web/1", "web", &format!("timeout 30 wget -qO- {url}"));
    get("http://web/").prints(" 10.78.1.").run();
    deploy("  loadBalancerSourceRanges: [127.0.0.1/32]\n  sessionAffinity: ClientIP\n");
    let first = eventually("an answer", || page().ok().filter(|answer| answer.contains(" 10.78.1.")));
    assert!((0..10).all(|_| page().unwrap() == first), "{first}");
    let own = get("http://web/").run().stdout;
    assert!((0..4).all(|_| get("http://web/").run().stdout == own), "{own}");
    get("http://inner/").prints(" 10.78.1.").run();
    let lookup =
        |name: &str| script(world, "web/1", "web", &format!("nslookup {name}.default.svc.cluster.local"));
    lookup("inner").prints("web.default.svc.cluster.local").run();
    lookup("outer").code(1).run();
    world.i2kit(&["status"]).prints("db.invalid").run();
    world.i2kit(&["status", "--metrics"]).prints("i2kit_service_refused_total").run();
    world.write("web.yaml", MANIFEST);
    world.i2kit(&["deploy", "--prune", "web.yaml"]).run();
    let after = world.group("web").instances;
    assert!(before.iter().all(|instance| after.iter().any(|found| found.id == instance.id)), "{after:?}");
}

/// Runs a script in a container of a machine.
fn script(world: &World, machine: &str, container: &str, script: &str) -> Call {
    world.i2kit(&["exec", machine, "-c", container, "--", "sh", "-c", script])
}

/// Machines, of which `first` has the first address, Services and names over IPv6, on a host whose kernel has it.
fn machines_talk_over_ipv6(world: &World, first: &str) {
    let group = world.group("web");
    let mut found: Vec<String> =
        group.instances.iter().map(|instance| instance.address6.unwrap().to_string()).collect();
    found.sort();
    assert_eq!(found, ["fd69:326b:6974:78::101", "fd69:326b:6974:78::102"]);
    let get = |url: &str| script(world, first, "web", &format!("timeout 30 wget -qO- {url}"));
    for instance in &group.instances {
        let [address, address6] =
            [instance.address.unwrap().to_string(), instance.address6.unwrap().to_string()];
        let said = format!("{address},{address6}\n");
        script(world, &instance.id.to_string(), "web", "echo $POD_IPS").stdout(&said).run();
    }
    get("http://[fd69:326b:6974:78::102]:8080/").prints(" 10.78.1.2").run();
    // By a Service that has no other address, from this host too.
    get("http://six/").prints(" 10.78.1.").run();
    wait_for_page(&world.address("six"), "10.78.1.");
    for (question, answer) in [
        ("-type=aaaa pods.default.svc.cluster.local", "fd69:326b:6974:78::102"),
        ("-type=aaaa fd69-326b-6974-78--101.pods.default.svc.cluster.local", "fd69:326b:6974:78::101"),
        ("-type=aaaa six.default.svc.cluster.local", "fd69:326b:6974:77::"),
        ("fd69:326b:6974:78::101", "fd69-326b-6974-78--101.pods.default.svc.cluster.local"),
    ] {
        script(world, "web/2", "web", &format!("nslookup {question}")).prints(answer).run();
    }
    // Neither this host's servers, nor what is near it, nor addresses without a machine.
    let listener = TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for address in ["fd69:326b:6974:78::1", "fd69:326b:6974:78::909", "::1"] {
        let connect = format!("nc -w 3 {address} {port} < /dev/null");
        script(world, "web/1", "web", &connect).code(1).says("refused").run();
    }
    for address in ["fe80::1%eth0", "fd00:ec2::254", "ff02::1%eth0"] {
        script(world, "web/1", "web", &format!("nc -w 3 {address} {port} < /dev/null")).code(1).run();
    }
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    // By the host's routes, or its own answer at once where it has none.
    let route = UdpSocket::bind("[::]:0").unwrap();
    let said = if route.connect("[2001:db8::1]:9").is_ok() { "" } else { "unreachable" };
    script(world, "web/1", "web", "nc -w 3 2001:db8::1 80 < /dev/null").code(1).says(said).run();
}

#[test]
fn machines_have_addresses_and_talk_to_each_other_without_the_local_cloud() {
    if !machines() {
        return;
    }
    let world = World::new().file("web.yaml", &(MANIFEST.to_owned() + SIX));
    world.i2kit(&["deploy", "web.yaml"]).run();
    let group = world.group("web");
    let mut found: Vec<(String, String)> = group
        .instances
        .iter()
        .map(|instance| (instance.id.to_string(), instance.address.unwrap().to_string()))
        .collect();
    found.sort_by(|a, b| a.1.cmp(&b.1));
    let [(a, a_address), (b, b_address)] = &found[..] else { panic!("{found:?}") };
    assert_eq!((a_address.as_str(), b_address.as_str()), ("10.78.1.1", "10.78.1.2"));
    world.i2kit(&["status"]).prints(b_address).run();

    // By address: the other one is who it is, and knows its own.
    let page = |name: &str, address: &str| format!("{name} {address}\n");
    let get = |url: &str| format!("timeout 30 wget -qO- {url}");
    script(&world, a, "web", &get("http://10.78.1.2:8080/")).stdout(&page(b, b_address)).run();
    script(&world, b, "web", &get("http://10.78.1.1:8080/")).stdout(&page(a, a_address)).run();
    // By Service, and by its name: both in turn, itself among them.
    let service: Ipv4Addr = world.address("web").rsplit_once(':').unwrap().0.parse().unwrap();
    let [.., c, d] = service.octets();
    for url in [
        format!("http://10.77.{c}.{d}/"),
        "http://web/".into(),
        "http://web.default.svc.cluster.local/".into(),
    ] {
        let twice = format!("{0} && {0}", get(&url));
        let answers = script(&world, "web/1", "web", &twice).run().stdout;
        let mut answers: Vec<&str> = answers.lines().collect();
        answers.sort_unstable();
        let mut both = [format!("{a} {a_address}"), format!("{b} {b_address}")];
        both.sort_unstable();
        assert_eq!(answers, both, "{url}");
    }
    // By the headless Service: one of the machines, whose names, ports and reverse names are those of a cluster.
    script(&world, "web/1", "web", &get("http://pods.default:8080/")).prints(" 10.78.1.").run();
    for (question, answer) in [
        ("pods.default.svc.cluster.local", "10.78.1.2"),
        ("10-78-1-1.pods.default.svc.cluster.local", "10.78.1.1"),
        (
            "-type=srv _http._tcp.pods.default.svc.cluster.local",
            "8080 10-78-1-2.pods.default.svc.cluster.local",
        ),
        ("10.78.1.1", "10-78-1-1.pods.default.svc.cluster.local"),
        (&format!("10.77.{c}.{d}"), "web.default.svc.cluster.local"),
    ] {
        script(&world, "web/2", "web", &format!("nslookup {question}")).prints(answer).run();
    }
    // From this host.
    wait_for_page(&world.address("web"), "10.78.1.");
    // Neither this host's servers, nor metadata services, nor addresses without a machine.
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for (address, port) in
        [("169.254.1.1", port), ("10.78.0.1", port), ("127.0.0.1", port), ("10.78.9.9", 80)]
    {
        let connect = format!("nc -w 3 {address} {port} < /dev/null");
        script(&world, "web/1", "web", &connect).code(1).says("refused").run();
    }
    script(&world, "web/1", "web", "nc -w 3 169.254.169.254 80 < /dev/null").code(1).run();
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);

    machines_talk_over_ipv6(&world, a);
    machines_reach_the_outside(&world);
    a_policy_closes_and_opens(&world, a);
    clients_are_kept_out_or_stay(&world);
    it_goes_on_alone(&world, &world.address("web"));
    two_do_not_see_each_other(&world);
    let lines = world.i2kit(&["logs", "web/1", "-c", "client"]).run().stdout;
    assert!(!lines.contains("lost"), "{lines}");
    world.i2kit(&["destroy", "--all"]).run();
    world.assert_nothing_left();
}

/// By the host's routes: an address of the host that its neighbours reach too, or the host's own answer where it has none.
fn machines_reach_the_outside(world: &World) {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let route = UdpSocket::bind("0.0.0.0:0").unwrap();
    let ask = |to: &str| script(world, "web/1", "web", &format!("echo hello | nc -w 20 {to}"));
    if route.connect("192.0.2.1:9").is_ok() {
        let host = route.local_addr().unwrap().ip();
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
            text
        });
        ask(&format!("{host} {port}")).run();
        assert_eq!(reading.join().unwrap(), "hello\n");
        ask(&format!("{host} 1")).code(1).says("refused").run();
    } else {
        ask("192.0.2.1 80").code(1).says("unreachable").run();
    }
}

/// What machines say to each other, names and this host's clients go on without the local cloud; the next one finds the
/// network by the machines.
fn it_goes_on_alone(world: &World, front: &str) {
    let lines = || world.i2kit(&["logs", "web/1", "-c", "client"]).run().stdout;
    let ok = |text: &str| text.lines().filter(|line| line.ends_with("ok")).count();
    script(world, "web/1", "client", "echo http://web/ > /tmp/to").run();
    let before = eventually("answers", || Some(ok(&lines())).filter(|count| *count > 3));
    kill(world.local_cloud());
    wait_for_page(front, "10.78.1.");
    let after =
        eventually("answers without the local cloud", || Some(lines()).filter(|text| ok(text) > before + 20));
    assert!(!after.contains("lost"), "{after}");
    let healthy = || world.group("web").healthy() == 2;
    eventually("health of machines that were adopted", || healthy().then_some(()));
    wait_for_page(front, "10.78.1.");
    // The process that opens sockets inside is replaced when it is gone, though nobody asks it.
    let holder = || {
        let found = world.processes().into_iter().find(|(_, arguments)| arguments.contains("local-network"));
        found.map(|(pid, _)| pid)
    };
    let gone = holder().unwrap();
    kill(gone);
    eventually("another holder", || holder().filter(|pid| *pid != gone));
    eventually("health of machines without the holder", || healthy().then_some(()));
    wait_for_page(front, "10.78.1.");
    assert!(!lines().contains("lost"));
}

/// Containers reach neither the host's own servers nor the metadata service of the cloud that it may be in.
fn the_host_is_out_of_reach(world: &World) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // A host may be without IPv6.
    let second = TcpListener::bind("[::1]:0").ok();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port().to_string();
    let connect = |address: &str, port: &str| {
        script(world, "web/1", "web", &format!("nc -w 3 {address} {port} < /dev/null")).code(1)
    };
    connect("10.0.2.2", &port(&listener)).says("Operation not permitted").run();
    connect("::ffff:10.0.2.2", &port(&listener)).says("Operation not permitted").run();
    connect("169.254.169.254", "80").says("Operation not permitted").run();
    connect("127.0.0.1", &port(&listener)).says("refused").run();
    if let Some(second) = &second {
        connect("fec0::2", &port(second)).run();
    }
    for listener in [Some(listener), second].into_iter().flatten() {
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "{listener:?}");
    }
}

#[test]
fn the_user_network_is_there_where_it_is_asked_for() {
    if !machines() {
        return;
    }
    let manifest = MANIFEST.replace("replicas: 2", "replicas: 1");
    let (rest, _headless) = manifest.rsplit_once("---\n").unwrap();
    let world = World::new()
        .file("web.yaml", rest)
        .file("all.yaml", &manifest)
        .file("six.yaml", &(rest.to_owned() + SIX));
    world.i2kit(&["deploy", "web.yaml"]).environment("I2KIT_LOCAL_NETWORK", "user").run();
    // What needs addresses is refused.
    let refused = world.i2kit(&["deploy", "all.yaml"]);
    refused.code(7).says("a headless Service without a network of the environment's own").run();
    let refused = world.i2kit(&["deploy", "six.yaml"]);
    refused
        .code(7)
        .says("a Service with an address of IPv6 without a network of the environment's own")
        .run();
    let instance = &world.group("web").instances[0];
    assert_eq!(instance.address, None);
    // From this host, and by its name from the machine itself.
    wait_for_page(&world.address("web"), &format!("{} 10.0.2.15", instance.id));
    let get = "timeout 30 wget -qO- http://web/";
    script(&world, "web/1", "client", get).stdout(&format!("{} 10.0.2.15\n", instance.id)).run();
    the_host_is_out_of_reach(&world);
    // The next process leaves the environment what it has, whatever is the default.
    kill(world.local_cloud());
    world.i2kit(&["scale", "web", "--replicas", "2"]).run();
    assert!(world.group("web").instances.iter().all(|instance| instance.address.is_none()));
    world.i2kit(&["destroy", "--all"]).run();
    world.assert_nothing_left();
}

/// A process that holds a network, as a user without rights, where the device of virtual interfaces has this mode.
struct Holder {
    process: Child,
    socket: OwnedFd,
    descriptors: Vec<OwnedFd>,
}

impl Holder {
    fn new(device_mode: &str) -> Self {
        let (ours, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        // In a mount namespace of its own, the device and a copy of the program are where that user reaches them.
        let script = format!(
            "set -e; mount -t tmpfs -o mode=755 tmpfs /mnt; cp {program} /mnt/i2kit; mknod /mnt/tun c 10 200; \
             chmod {device_mode} /mnt/tun; mount --bind /mnt/tun /dev/net/tun; \
             exec setpriv --reuid 65534 --regid 65534 --clear-groups /mnt/i2kit local-network",
            program = env!("CARGO_BIN_EXE_i2kit"),
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).stdin(theirs).stdout(Stdio::null());
        Self { process: command.spawn().unwrap(), socket: ours, descriptors: Vec::new() }
    }

    /// The next answer. Descriptors that come with it are kept: the network's interface is gone with the last one.
    fn answer(&mut self) -> String {
        let mut bytes = [0; 4096];
        let mut space = [const { MaybeUninit::uninit() }; rustix::cmsg_space!(ScmRights(16))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let received =
            rustix::net::recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        String::from_utf8(bytes[..received.bytes].to_vec()).unwrap()
    }

    fn ask(&mut self, request: &str) -> String {
        rustix::net::send(&self.socket, request.as_bytes(), rustix::net::SendFlags::empty()).unwrap();
        self.answer()
    }

    /// Closes the socket, which ends the process.
    fn end(mut self) {
        drop(self.socket);
        assert!(self.process.wait().unwrap().success());
    }
}

#[test]
fn a_user_without_rights_has_a_network_of_its_own() {
    if !tools() {
        return;
    }
    let mut holder = Holder::new("666");
    assert_eq!(holder.answer(), r#"{"opened":{"hasIpv6":true}}"#);
    // The rest of the answers carry descriptors: of an interface, and of sockets.
    for request in [r#"{"tap":{"machine":"10.78.1.1"}}"#, r#""sockets""#] {
        assert_eq!(holder.ask(request), r#""done""#, "{request}");
    }
    holder.end();
}

#[test]
fn what_a_host_forbids_is_named() {
    if !tools() {
        return;
    }
    let mut holder = Holder::new("600");
    let answer = holder.answer();
    assert!(answer.contains(r#""step":"device""#) && answer.contains(r#""code":13"#), "{answer}");
    holder.end();
}
