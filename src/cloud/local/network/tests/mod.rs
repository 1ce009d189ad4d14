//! The network in the kernel: namespaces that the test makes as root, with stand-ins in the place of machines. A stand-in is a
//! network namespace whose one interface is cabled to that of the machine, with the address and the routes that the guest
//! sets.

mod forged;
mod hostile;
mod policies;
mod ports;
mod reach;
mod speed;
mod tables;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;

use super::namespace::{self, DEVICE, Handles, Join};
use super::sys::{self, Virtual};
use super::wanted::{Block, GATEWAY, GATEWAY_HARDWARE, GATEWAY6, Wanted, WantedService, machine_address6};
use super::{interfaces, wanted};
use crate::manifest::api::Protocol;

/// Whether these tests run; says so when they do not.
#[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
fn runs() -> bool {
    let runs = std::env::var_os("I2KIT_TEST_TOOLS").is_some_and(|value| value == "1");
    if !runs {
        eprintln!("skipped: I2KIT_TEST_TOOLS=1 is not set; scripts/test sets it, and runs as root");
    }
    runs
}

/// A thread in a network namespace, which does what it is given.
struct Inside {
    work: mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl Inside {
    /// A thread that begins with `enter`.
    fn new<T: Send + 'static>(enter: impl FnOnce() -> T + Send + 'static) -> (Self, T) {
        let (work, given) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (entered, result) = mpsc::channel();
        std::thread::spawn(move || {
            entered.send(enter()).unwrap();
            for work in given {
                work();
            }
        });
        let entered = result.recv().unwrap();
        (Self { work }, entered)
    }

    /// Does `work` there.
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.work.send(Box::new(move || done.send(work()).unwrap())).unwrap();
        result.recv().unwrap()
    }

    /// Begins `work` there, on a thread of its own.
    fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        self.run(move || drop(std::thread::spawn(work)));
    }
}

/// An environment's network.
struct Network {
    inside: Inside,
    handles: Handles,
}

fn network() -> Network {
    let (inside, handles) = Inside::new(|| namespace::open(&Join::default()).unwrap());
    Network { inside, handles }
}

/// The stand-in of a machine.
struct Standin {
    address: Ipv4Addr,
    inside: Inside,
    /// The number of frames from it.
    sent: Arc<AtomicU64>,
}

fn block(address: impl Into<IpAddr>, bits: u8) -> Block {
    Block { address: address.into(), bits }
}

/// These machines, with both of their addresses.
fn there(machines: &[Ipv4Addr]) -> BTreeMap<Ipv4Addr, Option<Ipv6Addr>> {
    machines.iter().map(|machine| (*machine, Some(machine_address6(*machine)))).collect()
}

impl Network {
    fn tap(&self, address: Ipv4Addr) -> OwnedFd {
        let tap = self
            .inside
            .run(move || sys::interface(Path::new(DEVICE), &wanted::tap(address), Virtual::Frames));
        let tap = tap.unwrap();
        self.connect(address);
        tap
    }

    /// Makes an interface that is there that of a machine.
    fn connect(&self, address: Ipv4Addr) {
        let index = interfaces::list(&self.handles.route).unwrap()[&wanted::tap(address)];
        namespace::write_frames(&self.handles.rules, address).unwrap();
        interfaces::request(
            &self.handles.route,
            &interfaces::machine(index, address, Some(machine_address6(address))),
        )
        .unwrap();
    }

    fn standin(&self, last: u8) -> Standin {
        let address = Ipv4Addr::new(10, 78, 1, last);
        let ours = self.tap(address);
        let (inside, theirs) = Inside::new(move || {
            sys::unshare(false, true).unwrap();
            let theirs = sys::interface(Path::new(DEVICE), "eth0", Virtual::Frames).unwrap();
            set_up(address);
            theirs
        });
        let sent = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&sent);
        let (a, b) = (Arc::new(ours), Arc::new(theirs));
        for (from, to, count) in [(Arc::clone(&a), Arc::clone(&b), None), (b, a, Some(count))] {
            std::thread::spawn(move || {
                let mut frame = vec![0; 70_000];
                while let Ok(length) = rustix::io::read(&*from, &mut *frame) {
                    if let Some(count) = &count {
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                    let _ = rustix::io::write(&*to, &frame[..length]);
                }
            });
        }
        Standin { address, inside, sent }
    }

    fn write(&self, wanted: &Wanted) {
        namespace::write_rules(&self.handles.rules, wanted, self.handles.has_ipv6).unwrap();
    }
}

/// Sets the addresses and routes of a machine in this thread's network, on its `eth0`, and what the guest sets of TCP.
fn set_up(address: Ipv4Addr) {
    std::fs::write("/proc/sys/net/ipv4/tcp_timestamps", "2").unwrap();
    let [mac, gateway] = [wanted::hardware_address(address), GATEWAY_HARDWARE]
        .map(|bytes| bytes.map(|byte| format!("{byte:02x}")).join(":"));
    for command in [
        "ip link set lo up".to_owned(),
        format!("ip link set eth0 address {mac} up"),
        format!("ip address add {address}/32 dev eth0"),
        format!("ip route add {GATEWAY} dev eth0"),
        format!("ip route add default via {GATEWAY}"),
        format!("ip -6 address add {}/128 dev eth0 nodad", machine_address6(address)),
        format!("ip -6 neigh add {GATEWAY6} lladdr {gateway} dev eth0 nud permanent"),
        format!("ip -6 route add default via {GATEWAY6} dev eth0"),
    ] {
        ip(&command);
    }
}

/// Runs a command of iproute2 in this thread's network.
fn ip(command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    let status = std::process::Command::new(words[0]).args(&words[1..]).status().unwrap();
    assert!(status.success(), "{command}");
}

impl Standin {
    /// Answers connections to a port with the machine's address and the client's.
    fn serve(&self, port: u16) {
        let (listening, is) = mpsc::channel();
        let own = self.address;
        self.inside.spawn(move || {
            let listener = TcpListener::bind(("::", port)).unwrap();
            listening.send(()).unwrap();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let client = stream.peer_addr().unwrap().ip().to_canonical();
                let _ = stream.write_all(format!("{own} from {client}").as_bytes());
            }
        });
        is.recv().unwrap();
    }

    fn get(&self, address: impl Into<IpAddr>, port: u16) -> Result<String, Errno> {
        let address = address.into();
        self.inside.run(move || get(address, port))
    }

    fn address6(&self) -> Ipv6Addr {
        machine_address6(self.address)
    }
}

/// What is answered at a port; why there is no answer.
fn get(address: impl Into<IpAddr>, port: u16) -> Result<String, Errno> {
    let to = SocketAddr::new(address.into(), port);
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::TIMEDOUT);
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).map_err(failed)?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 3, 4);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd69, 0x326b, 0x6974, 0x77, 0, 0, 0, 0x304);

/// A Service at [`VIP`] with these machines behind port 80.
fn service(backends: &[Ipv4Addr]) -> WantedService {
    WantedService {
        address: VIP.into(),
        protocol: Protocol::Tcp,
        port: 80,
        has_affinity: false,
        backends: backends.iter().map(|address| SocketAddr::from((*address, 8080))).collect(),
    }
}

/// The same over IPv6.
fn service6(backends: &[Ipv4Addr]) -> WantedService {
    let backends = backends.iter().map(|machine| SocketAddr::from((machine_address6(*machine), 8080)));
    WantedService { address: VIP6.into(), backends: backends.collect(), ..service(&[]) }
}
