//! Egress in the process that carries: connections outlive it, and how fast they are beside others' networks.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::mem::ManuallyDrop;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::view;
use crate::cloud::local::figures::{self, Peer};
use crate::cloud::local::mover::admission::Shares;
use crate::cloud::local::mover::carrier::{Carrier, Shared};
use crate::cloud::local::mover::carry::Engine;
use crate::cloud::local::mover::egress::tests::bed::{Bed, Namespace, become_nobody, noise, wanted};
use crate::cloud::local::mover::egress::{Carrier as _, Pair};
use crate::cloud::local::mover::log::Log;
use crate::cloud::local::mover::member::become_member;
use crate::cloud::local::mover::places::HOST;
use crate::cloud::local::mover::protocol::DoorAnswer;
use crate::cloud::local::mover::suspects::Suspects;
use crate::cloud::local::mover::table::{Fd, Table};

/// A carrier in the bed's host, as an ordinary user.
struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Running {
    /// Carries what is in the table. The first one is given the environment's network.
    fn start(bed: &Bed, shared: Shared, server: SocketAddr, network: Option<Vec<Fd>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = bed.host.run(move || {
            std::thread::spawn(move || {
                become_nobody();
                assert!(become_member(&shared.table, HOST, std::process::id(), c"carrier"));
                // It is never dropped, as that of a process that is killed.
                let mut carrier: ManuallyDrop<Carrier> = Carrier::new(shared, HOST).unwrap();
                let mut suspects = Suspects::find(&shared.table, HOST);
                carrier.recover();
                // Of this test alone: the process has descriptors of other tests.
                suspects.offer(|fd| if is_to(fd, server) { carrier.adopt(fd) } else { Some(fd) });
                if let Some(network) = network {
                    assert_eq!(carrier.give("local".to_owned(), &network), DoorAnswer::Done);
                }
                while !stopped.load(Ordering::Acquire) {
                    carrier.run(Instant::now() + Duration::from_millis(1));
                }
            })
        });
        Self { stop, thread }
    }

    /// Stops it between two steps, with everything open.
    fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("the carrier panicked; its message is above");
    }
}

/// Whether it is a machine's connection to the server, which a carrier has accepted.
fn is_to(fd: Fd, server: SocketAddr) -> bool {
    let own = rustix::net::getsockname(fd).ok().and_then(|own| SocketAddr::try_from(own).ok());
    let peer = rustix::net::getpeername(fd).ok().flatten().and_then(|peer| SocketAddr::try_from(peer).ok());
    own == Some(server) && peer.is_some_and(|peer| peer.ip().to_string().starts_with("10.78."))
}

fn shared() -> Shared {
    let folder = tempfile::tempdir().unwrap().keep();
    let log = Log::open(&folder.join("log")).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    Shared { table: Table::create().unwrap(), shares: Shares::of(1 << 17), log }
}

/// The descriptors of the bed's environment.
fn network(bed: &Bed) -> Vec<Fd> {
    let sockets = bed.sockets();
    let again = |fd| rustix::io::fcntl_dupfd_cloexec(fd, 0).unwrap();
    let (tun, egress) = (again(sockets.tun), again(sockets.listener));
    let [user, net, udp, tcp] = bed.environment.run(|| {
        let open = |path: &str| OwnedFd::from(std::fs::File::open(path).unwrap());
        let udp = UdpSocket::bind("169.254.1.1:53").unwrap();
        udp.set_nonblocking(true).unwrap();
        let tcp = TcpListener::bind("169.254.1.1:53").unwrap();
        tcp.set_nonblocking(true).unwrap();
        [open("/proc/thread-self/ns/user"), open("/proc/thread-self/ns/net"), udp.into(), tcp.into()]
    });
    [user, net, tun, egress, udp, tcp].map(Fd::from_owned).to_vec()
}

/// A server that does what the first byte says: `E` sends all back, `S` counts and tells the number at the end, `D`
/// sends without end, `C` sends a byte and ends.
fn serve(namespace: &Namespace, address: &'static str) -> SocketAddr {
    namespace.run(move || {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let at = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                std::thread::spawn(move || {
                    let mut client = client.unwrap();
                    let mut buffer = vec![0; 256 << 10];
                    // Who has gone away is told by what it does not get.
                    let Ok(1) = client.read(&mut buffer[..1]) else { return };
                    let mut total = 0_u64;
                    match buffer[0] {
                        b'E' => drop(std::io::copy(&mut &client, &mut &client)),
                        b'S' => {
                            while let Ok(read @ 1..) = client.read(&mut buffer) {
                                total += read as u64;
                            }
                            let _ = client.write_all(&total.to_be_bytes());
                        }
                        b'D' => while client.write_all(&buffer).is_ok() {},
                        _ => drop(client.write_all(b"!")),
                    }
                    let _ = client.shutdown(Shutdown::Write);
                });
            }
        });
        at
    })
}

#[test]
fn connections_are_counted_for_a_machine_of_an_environment_and_leave_services_room() {
    let shares = Shares { connections: 8, listener: 8, names: 1, outside: 64, outwards: 4 };
    let mut engine = Engine::new(Table::create().unwrap(), HOST).unwrap();
    let (mut watched, mut others) = (HashMap::new(), Vec::new());
    let machine: IpAddr = "10.78.1.1".parse().unwrap();
    let mut adopt = |engine: &mut Engine, environment: &str| {
        let [guest, host] = [(), ()].map(|()| {
            let (end, other) = UnixStream::pair().unwrap();
            end.set_nonblocking(true).unwrap();
            others.push(other);
            end.into()
        });
        let (mut view, _) = view(engine, &mut watched, environment, shares);
        (view.adopt_pair(Pair { guest, host, machine }).is_ok(), view.carried(machine))
    };
    for count in 1..=3 {
        assert_eq!(adopt(&mut engine, "hostile"), (true, count));
    }
    // Every environment has a machine of that address.
    assert_eq!(adopt(&mut engine, "other"), (true, 1));
    assert_eq!(adopt(&mut engine, "other"), (false, 1));
    assert_eq!(engine.of_all(), shares.connections - shares.outwards);
    engine.poll.close(&engine.table);
}

/// How often the process that carries is replaced while clients talk.
const REPLACEMENTS: u32 = 24;

#[test]
fn connections_to_the_outside_outlive_the_process_that_carries_them() {
    if !wanted() {
        return;
    }
    let bed = Bed::without_egress();
    let server = serve(&bed.host, "192.0.2.1");
    let shared = shared();
    let mut running = Running::start(&bed, shared, server, Some(network(&bed)));
    let replaced = Arc::new(AtomicU32::new(0));
    let clients: Vec<_> = (0..6_u32)
        .map(|seed| {
            let replaced = Arc::clone(&replaced);
            bed.guest.run(move || {
                std::thread::spawn(move || {
                    // However fast the machine is, connections are open for all replacements.
                    for round in (0..).take_while(|_| replaced.load(Ordering::Acquire) < REPLACEMENTS) {
                        let mut client =
                            TcpStream::connect_timeout(&server, Duration::from_secs(20)).unwrap();
                        let sent = noise(seed * 100 + round, 1 << 18);
                        client.write_all(b"E").unwrap();
                        let mut writer = client.try_clone().unwrap();
                        let copy = sent.clone();
                        let writing = std::thread::spawn(move || {
                            for part in copy.chunks(4096) {
                                writer.write_all(part).unwrap();
                                std::thread::sleep(Duration::from_micros(300));
                            }
                            writer.shutdown(Shutdown::Write).unwrap();
                        });
                        let mut back = Vec::new();
                        client.read_to_end(&mut back).unwrap();
                        writing.join().unwrap();
                        assert!(
                            back == sent,
                            "client {seed}, round {round}: {} of {}",
                            back.len(),
                            sent.len()
                        );
                    }
                })
            })
        })
        .collect();
    // A client whose connection was lost has ended: nothing is waited for then.
    for round in 0..REPLACEMENTS {
        if clients.iter().any(JoinHandle::is_finished) {
            break;
        }
        std::thread::sleep(Duration::from_millis(3 + u64::from(round % 9 * 9)));
        running.stop();
        running = Running::start(&bed, shared, server, None);
        replaced.fetch_add(1, Ordering::AcqRel);
    }
    replaced.store(REPLACEMENTS, Ordering::Release);
    for client in clients {
        client.join().expect("a connection was lost or spoiled; the message is above");
    }
    // Datagrams, by the same process.
    let echo = bed.host.run(|| UdpSocket::bind("192.0.2.1:0").unwrap());
    let at = echo.local_addr().unwrap();
    let asking = bed.guest.run(move || {
        let socket = UdpSocket::bind("10.78.1.7:0").unwrap();
        socket.connect(at).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    });
    asking.send(b"question").unwrap();
    let (length, from) = echo.recv_from(&mut [0; 16]).unwrap();
    echo.send_to(b"answer", from).unwrap();
    assert_eq!((length, asking.recv(&mut [0; 16]).unwrap()), (8, 6));
    running.stop();
}

/// How long each figure is measured.
const MEASURED: Duration = Duration::from_secs(2);

/// Megabytes a second to the server and from it, and connections a second that are made, used for a byte each way, and
/// ended.
fn measure(client: &Namespace, server: SocketAddr) -> io::Result<[f64; 3]> {
    client.run(move || {
        let connect = move || {
            let stream = TcpStream::connect_timeout(&server, Duration::from_secs(10))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            Ok::<_, io::Error>(stream)
        };
        let mut buffer = vec![b'S'; 256 << 10];
        let (mut stream, started) = (connect()?, Instant::now());
        let mut sent = 0;
        while started.elapsed() < MEASURED {
            sent += stream.write(&buffer)?;
        }
        stream.shutdown(Shutdown::Write)?;
        let mut counted = [0; 8];
        stream.read_exact(&mut counted)?;
        let up = figures::rate(sent, started) / 1e6;
        assert_eq!(u64::from_be_bytes(counted), sent as u64 - 1, "the first byte says what to do");
        let (mut stream, started) = (connect()?, Instant::now());
        stream.write_all(b"D")?;
        let mut received = 0;
        while started.elapsed() < MEASURED {
            received += stream.read(&mut buffer)?;
        }
        let down = figures::rate(received, started) / 1e6;
        drop(stream);
        let started = Instant::now();
        let one_after_another = move || {
            let mut count = 0;
            while started.elapsed() < MEASURED {
                let mut stream = connect()?;
                stream.write_all(b"C")?;
                stream.read_exact(&mut [0])?;
                count += 1;
            }
            Ok::<_, io::Error>(count)
        };
        let clients: Vec<_> = (0..4).map(|_| std::thread::spawn(one_after_another)).collect();
        let mut connections = 0;
        for client in clients {
            connections += client.join().unwrap()?;
        }
        Ok([up, down, figures::rate(connections, started)])
    })
}

/// A program that gives `namespace` a network by `host`'s, until it is killed. `command` gets the namespace's file.
fn peer(host: &Namespace, namespace: &Namespace, command: &str) -> Peer {
    // One of them opens no file below /proc.
    let script = format!(
        "f=$(mktemp) && mount --bind /proc/{}/task/{}/ns/net $f && exec {command} $f {}",
        std::process::id(),
        namespace.id,
        if command.starts_with("slirp") { "tap0" } else { "" }
    );
    let peer = Peer(host.run(move || {
        let mut unshare = Command::new("unshare");
        unshare
            .args(["-m", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        unshare.spawn().unwrap()
    }));
    let started = Instant::now();
    let is_up = || {
        std::fs::read_to_string("/proc/thread-self/net/route").is_ok_and(|routes| routes.lines().count() > 1)
    };
    while !namespace.run(is_up) {
        assert!(started.elapsed() < Duration::from_secs(20), "{command} makes no network");
        std::thread::sleep(Duration::from_millis(50));
    }
    peer
}

#[test]
#[expect(clippy::print_stderr, reason = "scripts/bench prints the figures")]
fn speed_beside_the_host_itself_and_others() {
    if !wanted() || !figures::are_wanted() {
        return;
    }
    let bed = Bed::without_egress();
    // The server is on another host, behind the default route.
    let world = Namespace::new();
    bed.host.ip(format!(
        "link set wan0 netns {}\naddr flush dev wan\naddr add 192.0.2.1/24 dev wan\nroute add default via 192.0.2.9\n",
        world.id
    ));
    world.ip(
        "link set lo up\nlink set wan0 up\naddr add 192.0.2.9/24 dev wan0\naddr add 203.0.113.9/32 dev wan0\n\
         route add default via 192.0.2.1\n",
    );
    let server = serve(&world, "203.0.113.9");
    let started = Instant::now();
    while bed.host.run(move || TcpStream::connect_timeout(&server, Duration::from_millis(200)).is_err()) {
        assert!(started.elapsed() < Duration::from_secs(20), "the other host is not reached");
    }
    let running = Running::start(&bed, shared(), server, Some(network(&bed)));
    let (pasta, slirp) = (Namespace::new(), Namespace::new());
    let _peers = [
        peer(&bed.host, &pasta, "pasta -f -4 --config-net --runas 0 --netns-only --netns"),
        peer(&bed.host, &slirp, "slirp4netns --configure --mtu=65520 --netns-type=path"),
    ];
    let ways =
        [("the host itself", &bed.host), ("egress", &bed.guest), ("pasta", &pasta), ("slirp4netns", &slirp)];
    let mut rounds = vec![Vec::new(); ways.len()];
    for _ in 0..3 {
        for (way, (name, client)) in ways.iter().enumerate() {
            match measure(client, server) {
                Ok(figures) => rounds[way].push(figures),
                // Others' faults are theirs.
                Err(error) if way > 1 => eprintln!("figure: {name} failed: {error}"),
                Err(error) => panic!("{name}: {error}"),
            }
        }
    }
    for (way, (name, _)) in ways.iter().enumerate().filter(|(way, _)| !rounds[*way].is_empty()) {
        let [up, down, made] = figures::medians(&rounds[way]);
        eprintln!(
            "figure: to the outside by {name}: {up:.0} MB/s up, {down:.0} down, {made:.0} new connections a second"
        );
    }
    running.stop();
}
