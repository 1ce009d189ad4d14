//! A network of its own: a process that carries in it, connections from the host into it, and its name server.

use std::fs::File;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use super::door::{Door, LAYOUT, PATIENCE, PORT, eventually, times};
use super::traffic::{Clients, Random, assert_held, report, serve};

/// A network namespace, held by a process.
struct Network {
    holder: Child,
    namespace: File,
}

impl Network {
    /// A new one; none where this user may not make one that a thread can enter.
    #[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root's threads enter a network namespace");
            return None;
        }
        let mut holder =
            Command::new("unshare").args(["--net", "sleep", "1000"]).stdin(Stdio::null()).spawn().unwrap();
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let path = format!("/proc/{}/ns/net", holder.id());
        let namespace = eventually("network namespace", || {
            assert!(holder.try_wait().unwrap().is_none(), "no network namespace can be made here");
            let is_new = std::fs::read_link(&path).is_ok_and(|found| found != own);
            is_new.then(|| File::open(&path).unwrap())
        });
        let network = Self { holder, namespace };
        network.inside(|| {
            let up = ["link", "set", "lo", "up"];
            let address = ["address", "add", "10.77.1.2/32", "dev", "lo"];
            for arguments in [&up[..], &address] {
                assert!(Command::new("busybox").arg("ip").args(arguments).status().unwrap().success());
            }
            // As the networks of environments have it: a minute of ports that ended lasts for fewer newcomers than come here.
            for (setting, value) in [("ip_local_port_range", "1024 65535"), ("tcp_tw_reuse", "1")] {
                std::fs::write(format!("/proc/sys/net/ipv4/{setting}"), value).unwrap();
            }
        });
        Some(network)
    }

    /// Does something on a thread that is in the network.
    fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(self.namespace.as_fd(), kind).unwrap();
                act()
            });
            thread.join().unwrap()
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.holder.kill().and_then(|()| self.holder.wait());
    }
}

/// Gives descriptors with a request.
fn give(door: &Door, descriptors: &[BorrowedFd<'_>]) -> io::Result<Value> {
    let mut stream = UnixStream::connect(door.state().join("door.sock"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let body = serde_json::to_vec(&json!({ "give": { "environment": "test" } }))?;
    let framed = [&u32::try_from(body.len()).unwrap().to_be_bytes(), body.as_slice()].concat();
    let mut space = [const { std::mem::MaybeUninit::uninit() }; rustix::cmsg_space!(ScmRights(6))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
    rustix::net::sendmsg(&stream, &[IoSlice::new(&framed)], &mut ancillary, SendFlags::empty())?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut body = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
    stream.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

/// Routes to an address in the network, and a name server in it.
fn routes(door: &Door, inside: &str) -> Value {
    let service = json!({ "namespace": "default", "name": "web" });
    let id = json!({ "environment": "test", "service": service, "port": PORT, "protocol": "TCP" });
    let host = door.address().ip();
    let route = json!({ "host": host, "backends": [], "inside": inside });
    let zone = json!({ "records": { "web.default.svc.cluster.local": [{ "address": "10.77.1.2" }] } });
    let names = json!({ "test": { "address": "127.78.0.9", "zone": zone, "inside": true } });
    json!({ "apply": { "listeners": [[id, route]], "name_servers": names } })
}

/// A question for the address of `web.default.svc.cluster.local`.
fn question() -> Vec<u8> {
    let mut message = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["web", "default", "svc", "cluster", "local"] {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// The answer of the name server to a datagram.
fn by_udp(server: SocketAddr) -> io::Result<Vec<u8>> {
    let client = UdpSocket::bind("127.0.0.1:0")?;
    client.connect(server)?;
    client.set_read_timeout(Some(std::time::Duration::from_secs(1)))?;
    client.send(&question())?;
    let mut answer = [0; 512];
    let length = client.recv(&mut answer)?;
    Ok(answer[..length].to_vec())
}

/// The same over a connection, as resolvers ask after an answer that was cut: each message has its length in front.
fn by_tcp(server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut client = TcpStream::connect(server)?;
    client.set_read_timeout(Some(std::time::Duration::from_secs(1)))?;
    let question = question();
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    client.write_all(&[&length.to_be_bytes(), question.as_slice()].concat())?;
    let mut length = [0; 2];
    client.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    client.read_exact(&mut answer)?;
    Ok(answer)
}

/// Kills each process in turn, so many times in all, each once traffic of `clients` goes on after the last, and has `look`
/// see what else goes on.
fn kill_in_turn(door: &Door, clients: &Clients, count: u32, look: impl Fn()) {
    let mut random = Random(9);
    let all = ["i2kit-door-net", "i2kit-door", "i2kit-guardian"];
    for number in 0..count {
        let before = clients.answers();
        eventually("answer after the last kill", || (clients.answers() > before + 5).then_some(()));
        std::thread::sleep(std::time::Duration::from_micros(random.below(30_000)));
        let name = all[usize::try_from(number).unwrap() % all.len()];
        let pid = door.process(name);
        Door::signal(pid, "-KILL");
        eventually("successor", || (door.process(name) != pid).then_some(()));
        look();
    }
}

#[test]
fn the_host_reaches_a_network_of_its_own_whatever_is_killed() {
    let Some(network) = Network::new() else { return };
    let door = Door::start();
    let listener = network.inside(|| TcpListener::bind("10.77.1.2:8080").unwrap());
    serve(listener);
    let names: SocketAddr = "127.0.0.1:5300".parse().unwrap();
    let (udp, tcp) = network.inside(|| (UdpSocket::bind(names).unwrap(), TcpListener::bind(names).unwrap()));
    udp.set_nonblocking(true).unwrap();
    tcp.set_nonblocking(true).unwrap();
    let routes = routes(&door, "10.77.1.2:8080");
    let answer = door.ask(&routes).unwrap();
    assert_eq!(answer["report"]["bound"], json!([]), "nobody is in the network yet: {answer}");

    let user = File::open("/proc/self/ns/user").unwrap();
    let stand_in = File::open("/dev/null").unwrap();
    let net = network.namespace.as_fd();
    let given = [user.as_fd(), net, stand_in.as_fd(), stand_in.as_fd(), udp.as_fd(), tcp.as_fd()];
    assert_eq!(give(&door, &given).unwrap(), json!("done"), "{}", door.log());
    assert!(give(&door, &[net]).unwrap()["refused"].is_string());
    drop((udp, tcp));
    eventually("process in the network", || {
        let answer = door.ask(&json!("report")).unwrap();
        let report = &answer["report"];
        assert_eq!(report["bound"][0][1], json!(PORT), "it is bound with the network: {answer}");
        (report["networks"] == json!(["test"])).then_some(())
    });

    let names_are_answered = || {
        for ask in [by_udp, by_tcp] {
            // A resolver asks again.
            let answer = network.inside(|| eventually("answer of the name server", || ask(names).ok()));
            assert_eq!(answer[answer.len() - 4..], [10, 77, 1, 2]);
        }
    };
    let clients = Clients::start(door.address());
    kill_in_turn(&door, &clients, times(6, 100), names_are_answered);
    let upgrade = json!({ "upgrade": { "program": env!("CARGO_BIN_EXE_i2kit"), "layout": LAYOUT } });
    let pid = door.process("i2kit-door-net");
    eventually("begun upgrade", || (door.ask(&upgrade).ok()? == json!("done")).then_some(()));
    let mut given_up = 0;
    eventually("newer process", || {
        // On a host that is too busy the older program goes on, and says so: it is asked again.
        let times = door.log().matches("does not take over").count();
        if times > given_up && door.ask(&upgrade).is_ok_and(|answer| answer == json!("done")) {
            given_up = times;
        }
        (door.process("i2kit-door-net") != pid).then_some(())
    });
    clients.assert_whole();
    let newcomers = Clients::newcomers(door.address());
    let kills = times(6, 300);
    kill_in_turn(&door, &newcomers, kills, names_are_answered);
    let rate = newcomers.rate();
    assert_held(rate);
    report(&format!("{kills} kills with a network of its own"), rate, &newcomers.assert_whole());

    // An environment that is gone takes its process along.
    eventually("answer to empty routes", || {
        door.ask(&json!({ "apply": { "listeners": [], "name_servers": {} } })).ok()
    });
    eventually("end of the process in the network", || {
        let is_gone = !door.processes().iter().any(|(_, name)| name == "i2kit-door-net");
        is_gone.then_some(())
    });
    assert!(std::net::TcpStream::connect(door.address()).is_err());
}
