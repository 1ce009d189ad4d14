//! What an environment's network costs two machines that talk: beside two network namespaces that are joined by a bridge.
//! Both have cables of the kernel (veth), which copy nothing, so that the difference is routing and rules.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::super::sys;
use super::super::wanted::{self, Wanted};
use super::{Inside, Network, ip, network, runs, service, set_up, there};
use crate::cloud::local::figures;

/// How long each figure is measured, and how often.
const MEASURED: Duration = Duration::from_secs(2);
const ROUNDS: usize = 5;

/// The port of the server.
const PORT: u16 = 8080;

/// A namespace of its own, and the thread's number, by which others give it interfaces.
fn namespace() -> (Inside, i32) {
    Inside::new(|| {
        sys::unshare(false, true).unwrap();
        rustix::thread::gettid().as_raw_nonzero().get()
    })
}

impl Network {
    /// A stand-in of a machine whose interface is one end of a cable.
    fn cabled(&self, last: u8) -> (Inside, Ipv4Addr) {
        let address = Ipv4Addr::new(10, 78, 1, last);
        let (inside, thread) = namespace();
        let tap = wanted::tap(address);
        self.inside.run(move || ip(&format!("ip link add {tap} type veth peer name eth0 netns {thread}")));
        self.connect(address);
        inside.run(move || set_up(address));
        (inside, address)
    }
}

/// Two namespaces that a bridge in a third one joins.
fn bridged() -> (Inside, [Inside; 2]) {
    let (middle, _) = namespace();
    middle.run(|| ip("ip link add br0 type bridge"));
    middle.run(|| ip("ip link set br0 up"));
    let ends = [1, 2].map(|last| {
        let (end, thread) = namespace();
        middle.run(move || {
            ip(&format!("ip link add p{last} type veth peer name eth0 netns {thread}"));
            ip(&format!("ip link set p{last} master br0 up"));
        });
        end.run(move || {
            ip("ip link set eth0 up");
            ip(&format!("ip address add 10.78.1.{last}/24 dev eth0"));
        });
        end
    });
    (middle, ends)
}

/// Serves in a namespace: `S` counts bytes and says how many, `E` sends each byte back, `C` sends one and ends.
fn serve(inside: &Inside) {
    let listener = inside.run(|| TcpListener::bind(("0.0.0.0", PORT)).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                stream.set_nodelay(true).unwrap();
                let mut buffer = vec![0; 256 << 10];
                // A client that is gone has its figures.
                let Ok(1) = stream.read(&mut buffer[..1]) else { return };
                match buffer[0] {
                    b'S' => {
                        let mut total = 0_u64;
                        while let Ok(read @ 1..) = stream.read(&mut buffer) {
                            total += read as u64;
                        }
                        let _ = stream.write_all(&total.to_be_bytes());
                    }
                    b'E' => {
                        while let Ok(1) = stream.read(&mut buffer[..1]) {
                            let _ = stream.write_all(&buffer[..1]);
                        }
                    }
                    _ => drop(stream.write_all(b"!")),
                }
            });
        }
    });
}

fn connect(to: SocketAddr, what: u8) -> TcpStream {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(&[what]).unwrap();
    stream
}

/// Processor seconds of this process, in which both ends and, in their names, the kernel work.
fn cpu() -> f64 {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap().as_secs_f64()
}

/// Gigabytes a second, processor seconds a gigabyte, microseconds of a round trip in the middle and of the 99th of a hundred,
/// and connections a second that are made, used for a byte each way, and ended.
fn measure(client: &Inside, to: SocketAddr) -> [f64; 5] {
    client.run(move || {
        let (mut stream, started, before) = (connect(to, b'S'), Instant::now(), cpu());
        let buffer = vec![7; 256 << 10];
        while started.elapsed() < MEASURED {
            stream.write_all(&buffer).unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        let mut counted = [0; 8];
        stream.read_exact(&mut counted).unwrap();
        let rate = figures::rate(usize::try_from(u64::from_be_bytes(counted)).unwrap(), started) / 1e9;
        let cost = (cpu() - before) / (rate * started.elapsed().as_secs_f64());

        let (mut stream, started) = (connect(to, b'E'), Instant::now());
        let mut trips = Vec::new();
        while started.elapsed() < MEASURED {
            let sent = Instant::now();
            stream.write_all(b"?").unwrap();
            stream.read_exact(&mut [0]).unwrap();
            trips.push(sent.elapsed());
        }
        let [middle, last] = figures::percentiles(trips);

        let (started, mut made) = (Instant::now(), 0);
        while started.elapsed() < MEASURED {
            connect(to, b'C').read_exact(&mut [0]).unwrap();
            made += 1;
        }
        [rate, cost, middle, last, figures::rate(made, started)]
    })
}

#[test]
#[expect(clippy::print_stderr, reason = "scripts/bench prints the figures")]
fn speed_of_machines_that_talk_beside_a_bridge() {
    if !runs() || !figures::are_wanted() {
        return;
    }
    let network = network();
    let [(a, _), (b, address)] = [1, 2].map(|last| network.cabled(last));
    let machines = there(&[Ipv4Addr::new(10, 78, 1, 1), address]);
    let of_b = service(&[address]);
    let by_service = SocketAddr::new(of_b.address, of_b.port);
    network.write(&Wanted { machines, services: vec![of_b], policies: vec![] });
    let (_middle, [c, d]) = bridged();
    serve(&b);
    serve(&d);
    let to = SocketAddr::from((address, PORT));
    let ways = [("a bridge", &c, to), ("pod to pod", &a, to), ("pod to Service", &a, by_service)];
    let mut rounds = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        for (way, (_, client, to)) in ways.iter().enumerate() {
            rounds[way].push(measure(client, *to));
        }
    }
    let peer = figures::medians(&rounds[0]);
    for ((name, ..), rounds) in ways.iter().zip(&rounds) {
        let found = figures::medians(rounds);
        let [rate, cost, middle, last, made] = found;
        eprintln!(
            "figure: {name}: {rate:.2} GB/s, {cost:.2} s of a processor a GB, round trip {middle:.1} us (p99 {last:.1}), \
             {made:.0} new connections a second; beside a bridge {}",
            figures::ratios(found, peer)
        );
    }
}
