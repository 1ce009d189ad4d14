//! The bed of the tests: three network namespaces, each of a thread of its own. The machine's has two addresses of each
//! family and a route to the environment's; the environment's has `tun0`, the listeners and TPROXY's rule; the host's has
//! servers, and egress runs in it as an ordinary user without capabilities.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::super::{Budget, Carrier, Egress, Interest, Pair, Prefix, Ranges, Report, Sockets};
use crate::cloud::local::network::sys::{self, SocketOption, Virtual};

/// The machine's addresses, two for each family.
pub(in crate::cloud::local::mover) const MACHINES: [&str; 4] =
    ["10.78.1.7", "10.78.1.8", "fd76::7", "fd76::8"];

/// The servers' addresses on the host.
pub(in crate::cloud::local::mover) const SERVERS: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// The user whom egress runs as.
const NOBODY: u32 = 65_534;

const PORT: u16 = 15_001;

/// The environment's network, as far as egress needs it.
const RULES: &str = "table inet egress {
    chain divert {
        type filter hook prerouting priority -150;
        iifname \"tun0\" meta nfproto ipv4 tcp flags & (fin|syn|rst|ack) == syn tproxy ip to :15001 meta mark set 1 accept
        iifname \"tun0\" meta nfproto ipv6 tcp flags & (fin|syn|rst|ack) == syn tproxy ip6 to :15001 meta mark set 1 accept
        meta l4proto tcp socket transparent 1 meta mark set 1 accept
    }
    chain forward { type filter hook forward priority 0; ct state established,related accept; }
}";

/// Whether the tests run here; says so when they do not.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
#[expect(clippy::disallowed_methods, reason = "the runner's settings come by the environment")]
pub(in crate::cloud::local::mover) fn wanted() -> bool {
    let tools = std::env::var("I2KIT_TEST_TOOLS").is_ok_and(|value| value == "1");
    let missing = if !tools {
        "I2KIT_TEST_TOOLS=1 is not set"
    } else if !rustix::process::geteuid().is_root() {
        "network namespaces of a thread need root"
    } else {
        return true;
    };
    eprintln!("skipped: {missing}");
    false
}

type Act = Box<dyn FnOnce() + Send>;

/// A network namespace, and the thread in it.
pub(in crate::cloud::local::mover) struct Namespace {
    acts: Option<Sender<Act>>,
    thread: Option<JoinHandle<()>>,
    /// Its thread, whose namespace others move devices to.
    pub(in crate::cloud::local::mover) id: i32,
}

impl Namespace {
    pub(in crate::cloud::local::mover) fn new() -> Self {
        let (acts, todo) = mpsc::channel::<Act>();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            sys::unshare(false, true).unwrap();
            tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            for act in todo {
                act();
            }
        });
        Self { acts: Some(acts), thread: Some(thread), id: told.recv().unwrap() }
    }

    /// Does something in the namespace. Sockets stay in the one that they are made in.
    pub(in crate::cloud::local::mover) fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (tell, told) = mpsc::channel();
        let act = Box::new(move || drop(tell.send(act())));
        self.acts.as_ref().unwrap().send(act).unwrap();
        told.recv().expect("the act panicked; its message is above")
    }

    /// Runs a program in the namespace, with `input`.
    pub(in crate::cloud::local::mover) fn tool(
        &self,
        command: &'static [&'static str],
        input: impl Into<String>,
    ) {
        let input = input.into();
        self.run(move || {
            let mut tool = Command::new(command[0]);
            let mut tool = tool.args(&command[1..]).stdin(Stdio::piped()).spawn().unwrap();
            tool.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            assert!(tool.wait().unwrap().success(), "{command:?} failed with {input}");
        });
    }

    pub(in crate::cloud::local::mover) fn ip(&self, batch: impl Into<String>) {
        self.tool(&["ip", "-batch", "-"], batch);
    }

    /// Writes a value below `/proc/sys/net`.
    pub(in crate::cloud::local::mover) fn sysctl(&self, name: &'static str, value: &'static str) {
        self.run(move || std::fs::write(Path::new("/proc/sys/net").join(name), value).unwrap());
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.acts.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The namespaces, the sockets of the environment's, and egress.
pub(in crate::cloud::local::mover) struct Bed {
    running: Option<Running>,
    pub(in crate::cloud::local::mover) host: Namespace,
    pub(in crate::cloud::local::mover) guest: Namespace,
    pub(in crate::cloud::local::mover) environment: Namespace,
    tun: BorrowedFd<'static>,
    listeners: [BorrowedFd<'static>; 2],
    /// Seconds that egress believes to have passed beside those of the clock.
    pub(in crate::cloud::local::mover) skipped: Arc<AtomicU64>,
}

/// A loop that drives egress.
struct Running {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<Report>>,
}

/// A descriptor that is open until the process ends, as those of a namespace are.
pub(in crate::cloud::local::mover) fn forever(fd: OwnedFd) -> BorrowedFd<'static> {
    let fd: &'static OwnedFd = Box::leak(Box::new(fd));
    fd.as_fd()
}

fn listener(family: AddressFamily) -> OwnedFd {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).unwrap();
    sys::set_option(&socket, SocketOption::Transparent, 1).unwrap();
    let any: IpAddr = if family == AddressFamily::INET {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        sockopt::set_ipv6_v6only(&socket, true).unwrap();
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    rustix::net::bind(&socket, &SocketAddr::new(any, PORT)).unwrap();
    rustix::net::listen(&socket, 4096).unwrap();
    socket
}

pub(in crate::cloud::local::mover) fn ranges() -> Ranges {
    let range = |text: &str, bits| Prefix::new(text.parse().unwrap(), bits);
    Ranges {
        machines: vec![range("10.78.0.0", 16), range("fd76::", 64)],
        private: vec![range("10.78.0.0", 16), range("10.77.0.0", 16), range("fd76::", 16)],
        node: Ipv4Addr::new(10, 78, 0, 1),
        node6: Some("fd76::1".parse().unwrap()),
    }
}

impl Bed {
    /// The namespaces, with a loop that drives egress.
    pub(in crate::cloud::local::mover) fn new() -> Self {
        let mut bed = Self::without_egress();
        bed.start(true);
        bed
    }

    pub(in crate::cloud::local::mover) fn without_egress() -> Self {
        let (host, environment, guest) = (Namespace::new(), Namespace::new(), Namespace::new());
        host.ip(
            "link set lo up\nlink add dev wan type veth peer name wan0\nlink set wan0 up\nlink set wan up\n\
             addr add 192.0.2.1/32 dev wan\naddr add 2001:db8::1/128 dev wan nodad\n\
             route add unreachable 198.51.100.0/24\nroute add unreachable 2001:db8:2::/48\n\
             route add prohibit 198.51.101.0/24\nlink add dev narrow mtu 1300 type veth peer name narrow0\n\
             link set narrow0 up\nlink set narrow up\naddr add 198.18.0.1/24 dev narrow\n\
             addr add 2001:db8:3::1/64 dev narrow nodad\nneigh add 198.18.0.2 lladdr 02:00:00:00:00:02 dev narrow\n\
             neigh add 2001:db8:3::2 lladdr 02:00:00:00:00:02 dev narrow\n",
        );
        host.sysctl("ipv4/ping_group_range", "0 2147483647");
        let tun = environment.run(|| {
            let tun = sys::interface(Path::new("/dev/net/tun"), "tun0", Virtual::Packets).unwrap();
            rustix::io::ioctl_fionbio(&tun, true).unwrap();
            forever(tun)
        });
        for (name, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/all/accept_local", "1"),
        ] {
            environment.sysctl(name, value);
        }
        environment.ip(format!("link add dev tap type veth peer name eth0 netns {}\n", guest.id));
        guest.ip(
            "link set lo up\nlink set eth0 up\naddr add 10.78.1.7/32 dev eth0\naddr add 10.78.1.8/32 dev eth0\n\
             addr add fd76::7/128 dev eth0 nodad\naddr add fd76::8/128 dev eth0 nodad\n\
             route add 169.254.1.1 dev eth0\nroute add default via 169.254.1.1 dev eth0\n\
             route add ::/0 via fe80::1 dev eth0\n",
        );
        guest.sysctl("ipv4/ping_group_range", "0 2147483647");
        environment.ip(
            "link set lo up\nlink set tap up\nlink set tun0 up mtu 65535\naddr add 10.78.0.1/32 dev lo\n\
             addr add 169.254.1.1/32 dev lo\naddr add fd76::1/128 dev lo nodad\naddr add fe80::1/64 dev tap nodad\n\
             route add 10.78.1.7/32 dev tap\nroute add 10.78.1.8/32 dev tap\nroute add fd76::7/128 dev tap\n\
             route add fd76::8/128 dev tap\nroute add default dev tun0 src 10.78.0.1\n\
             route add ::/0 dev tun0 src fd76::1\nrule add fwmark 1 lookup 100\n\
             route add local 0.0.0.0/0 dev lo table 100\nroute add local ::/0 dev lo table 100\n",
        );
        environment.tool(&["ip", "-6", "-batch", "-"], "rule add fwmark 1 lookup 100\n");
        environment.tool(&["nft", "-f", "-"], RULES);
        let listeners = environment
            .run(|| [forever(listener(AddressFamily::INET)), forever(listener(AddressFamily::INET6))]);
        // The link between both is up as soon as the kernel gets to it; what is sent before that is lost.
        guest.run(|| {
            let started = Instant::now();
            let closed = SocketAddr::from(([10, 78, 0, 1], 1));
            let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            while !TcpStream::connect_timeout(&closed, Duration::from_millis(100)).is_err_and(refused) {
                assert!(started.elapsed() < Duration::from_secs(20), "the machine has no network");
            }
        });
        Self { running: None, host, guest, environment, tun, listeners, skipped: Arc::default() }
    }

    pub(in crate::cloud::local::mover) fn sockets(&self) -> Sockets {
        Sockets { tun: self.tun, listener: self.listeners[0], listener6: Some(self.listeners[1]) }
    }

    /// Starts a loop that drives egress, in the host's namespace. Without `accepting` it leaves the listeners alone.
    pub(in crate::cloud::local::mover) fn start(&mut self, accepting: bool) {
        let sockets = self.sockets();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, skipped) = (Arc::clone(&stop), Arc::clone(&self.skipped));
        let egress = Egress::new(self.sockets(), ranges(), Budget::new(4096, 16_384));
        let report = Arc::new(Mutex::new(egress.report()));
        drop(egress);
        let told = Arc::clone(&report);
        let thread = self.host.run(move || {
            std::thread::spawn(move || {
                become_nobody();
                let egress = Egress::new(sockets, ranges(), Budget::new(4096, 16_384));
                drive(egress, accepting, &stopped, &skipped, &told);
            })
        });
        self.running = Some(Running { thread, stop, report });
    }

    /// Ends the loop; what egress had for itself is closed.
    pub(in crate::cloud::local::mover) fn stop(&mut self) {
        if let Some(Running { thread, stop, .. }) = self.running.take() {
            stop.store(true, Ordering::Release);
            thread.join().expect("egress panicked; its message is above");
        }
    }

    pub(in crate::cloud::local::mover) fn report(&self) -> Report {
        self.running.as_ref().unwrap().report.lock().unwrap().clone()
    }

    /// Waits until a report is as it should be.
    pub(in crate::cloud::local::mover) fn until(&self, is: impl Fn(&Report) -> bool) -> Report {
        let started = Instant::now();
        loop {
            let report = self.report();
            if is(&report) {
                return report;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "{report:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

/// Takes this thread's capabilities and its user, as the processes of an ordinary user have none.
pub(in crate::cloud::local::mover) fn become_nobody() {
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    rustix::thread::set_thread_res_gid(group, group, group).unwrap();
    rustix::thread::set_thread_res_uid(user, user, user).unwrap();
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).unwrap();
}

/// A carrier that copies bytes in threads.
#[derive(Debug)]
pub(in crate::cloud::local::mover) struct Copier {
    epoll: OwnedFd,
    watched: HashSet<RawFd>,
    carried: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Copier {
    pub(in crate::cloud::local::mover) fn new() -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        Self { epoll, watched: HashSet::new(), carried: Arc::default() }
    }

    /// Number of sockets that egress has it watch.
    pub(in crate::cloud::local::mover) fn watched(&self) -> usize {
        self.watched.len()
    }

    /// The descriptors that are ready within `patience`.
    pub(in crate::cloud::local::mover) fn wait(&self, patience: Duration) -> Vec<RawFd> {
        let mut events = Vec::with_capacity(256);
        let patience = patience.try_into().unwrap();
        // A signal makes it a call without events.
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&patience));
        events.iter().map(|event| RawFd::try_from(event.data.u64()).unwrap()).collect()
    }

    pub(in crate::cloud::local::mover) fn add(&self, fd: BorrowedFd<'_>, flags: epoll::EventFlags) {
        let data = epoll::EventData::new_u64(fd.as_raw_fd().cast_unsigned().into());
        epoll::add(&self.epoll, fd, data, flags).unwrap();
    }
}

impl Carrier for Copier {
    fn watch(&mut self, fd: BorrowedFd<'_>, interest: Interest) {
        let flags = match interest {
            Interest::Read => epoll::EventFlags::IN,
            Interest::Write => epoll::EventFlags::OUT,
            // What it has to tell all the same, it tells once.
            Interest::Nothing => epoll::EventFlags::ET,
        };
        if self.watched.insert(fd.as_raw_fd()) {
            self.add(fd, flags);
        } else {
            let data = epoll::EventData::new_u64(fd.as_raw_fd().cast_unsigned().into());
            epoll::modify(&self.epoll, fd, data, flags).unwrap();
        }
    }

    fn unwatch(&mut self, fd: BorrowedFd<'_>) {
        assert!(self.watched.remove(&fd.as_raw_fd()), "not watched");
        epoll::delete(&self.epoll, fd).unwrap();
    }

    fn adopt_pair(&mut self, pair: Pair) -> Result<(), Pair> {
        let Pair { guest, host, machine, .. } = pair;
        *self.carried.lock().unwrap().entry(machine).or_default() += 1;
        let carried = Arc::clone(&self.carried);
        std::thread::spawn(move || {
            let [guest, host] = [guest, host].map(TcpStream::from);
            let copy = |from: &TcpStream, to: &TcpStream| {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                std::thread::spawn(move || {
                    from.set_nonblocking(false).unwrap();
                    let _ = io::copy(&mut &from, &mut &to);
                    let _ = to.shutdown(Shutdown::Write);
                })
            };
            for copying in [copy(&guest, &host), copy(&host, &guest)] {
                copying.join().unwrap();
            }
            *carried.lock().unwrap().get_mut(&machine).unwrap() -= 1;
        });
        Ok(())
    }

    fn carried(&self, machine: IpAddr) -> usize {
        self.carried.lock().unwrap().get(&machine).copied().unwrap_or(0)
    }
}

/// Drives egress until `stop`, as the process that carries traffic does.
fn drive(
    mut egress: Egress,
    accepting: bool,
    stop: &AtomicBool,
    skipped: &AtomicU64,
    report: &Mutex<Report>,
) {
    let mut carrier = Copier::new();
    let Sockets { tun, listener, listener6 } = &egress.sockets;
    carrier.add(tun.as_fd(), epoll::EventFlags::IN);
    for listener in [Some(listener), listener6.as_ref()].into_iter().flatten().filter(|_| accepting) {
        carrier.add(listener.as_fd(), epoll::EventFlags::IN);
    }
    let mut next = Instant::now();
    while !stop.load(Ordering::Acquire) {
        let ready = carrier.wait(Duration::from_millis(20));
        let now = Instant::now() + Duration::from_secs(skipped.load(Ordering::Acquire));
        for fd in ready {
            egress.ready(fd, &mut carrier, now);
        }
        if now >= next {
            next = egress.tick(&mut carrier, now);
        }
        *report.lock().unwrap() = egress.report();
    }
}

/// A checksum of a transfer.
pub(in crate::cloud::local::mover) fn digest(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// Bytes without a pattern, different for each seed.
pub(in crate::cloud::local::mover) fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) << 1 | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[1]
    };
    (0..len).map(next).collect()
}
