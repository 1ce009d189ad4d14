//! The front door against a direct connection: whatever two ends do, both find the same.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::door::{Door, PATIENCE, times};
use super::traffic::Random;

/// How long an end waits in the middle for bytes that may not come: the other one may wait as well.
const MOMENT: Duration = Duration::from_millis(20);

/// What an end does.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Sends so many bytes.
    Send(usize),
    /// Reads at most so many bytes of those that come soon, in small pieces.
    Read(usize),
    /// Says that it sends no more.
    Finish,
    /// Does nothing for a moment.
    Pause,
    /// Cuts the connection.
    Reset,
}

/// What an end has found.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// A sum over what came, in its order, and how much.
    sum: u64,
    length: usize,
    /// Whether it came to its end; otherwise it was cut.
    is_whole: bool,
    /// How it was cut.
    cut: Option<std::io::ErrorKind>,
}

impl Found {
    fn read(&mut self, stream: &mut TcpStream, most: usize) -> bool {
        let mut buffer = vec![0; most.min(4096)];
        let mut left = most;
        while left > 0 {
            let piece = left.min(buffer.len());
            match stream.read(&mut buffer[..piece]) {
                Ok(0) => {
                    self.is_whole = true;
                    return false;
                }
                Ok(length) => {
                    for byte in &buffer[..length] {
                        self.sum = self.sum.wrapping_mul(31).wrapping_add(u64::from(*byte) + 1);
                    }
                    self.length += length;
                    left -= length;
                }
                // A call with a time limit is not begun again by the kernel.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // It says nothing now; the rest is read at the end.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
                Err(error) => {
                    self.cut = Some(error.kind());
                    return false;
                }
            }
        }
        true
    }
}

fn act(mut stream: TcpStream, steps: &[Step], seed: u64) -> Found {
    stream.set_read_timeout(Some(MOMENT)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut found = Found { sum: 0, length: 0, is_whole: false, cut: None };
    let mut random = Random(seed);
    let mut reads = true;
    let mut reader = stream.try_clone().unwrap();
    for step in steps {
        match step {
            Step::Send(length) => {
                let bytes: Vec<u8> = (0..*length).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
                let _ = stream.write_all(&bytes);
            }
            Step::Read(most) => reads = reads && found.read(&mut reader, *most),
            Step::Finish => drop(stream.shutdown(Shutdown::Write)),
            Step::Pause => std::thread::sleep(Duration::from_millis(random.below(20))),
            Step::Reset => {
                let _ = rustix::net::sockopt::set_socket_linger(stream.as_fd(), Some(Duration::ZERO));
                return found;
            }
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    if reads {
        found.read(&mut reader, usize::MAX);
    }
    found
}

/// Steps without an order. Sends stay so small that they fit into buffers of the kernel: an end that only sends waits
/// for nobody.
fn steps(random: &mut Random, resets: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut finished = false;
    for _ in 0..random.below(7) {
        steps.push(match random.below(if resets { 7 } else { 6 }) {
            0 | 1 if !finished => Step::Send(usize::try_from(random.below(40_000)).unwrap()),
            2 | 3 => Step::Read(usize::try_from(random.below(30_000)).unwrap()),
            4 if random.below(3) == 0 => {
                finished = true;
                Step::Finish
            }
            6 => Step::Reset,
            _ => Step::Pause,
        });
    }
    steps
}

/// Both ends of a conversation.
fn converse(
    to: SocketAddr,
    listener: &TcpListener,
    (client, server): (&[Step], &[Step]),
    seed: u64,
) -> (Found, Found) {
    let stream = TcpStream::connect(to).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let (sender, receiver) = channel();
    let server = server.to_vec();
    std::thread::spawn(move || drop(sender.send(act(accepted, &server, seed + 1))));
    let of_client = act(stream, client, seed);
    (of_client, receiver.recv_timeout(PATIENCE).expect("the server's end ends"))
}

#[test]
fn both_ends_find_what_they_find_without_it() {
    let door = Door::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let direct = listener.local_addr().unwrap();
    door.carry(&[direct]);
    let mut random = Random(4);
    for number in 0..times(60, 3000) {
        let steps = (steps(&mut random, false), steps(&mut random, false));
        let seed = random.below(1 << 30);
        let expected = converse(direct, &listener, (&steps.0, &steps.1), seed);
        let killed = (number % 3 == 0).then(|| {
            let pid = door.process("i2kit-door");
            let pause = Duration::from_millis(random.below(30));
            std::thread::spawn(move || {
                std::thread::sleep(pause);
                Door::signal(pid, "-KILL");
            })
        });
        let found = converse(door.address(), &listener, (&steps.0, &steps.1), seed);
        assert_eq!(found, expected, "{number}: {steps:?}");
        if let Some(killed) = killed {
            killed.join().unwrap();
        }
    }
}

#[test]
fn a_reset_of_one_end_ends_the_other_and_changes_no_byte() {
    let door = Door::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    door.carry(&[listener.local_addr().unwrap()]);
    let mut random = Random(5);
    for number in 0..times(60, 3000) {
        let sent = usize::try_from(random.below(40_000)).unwrap();
        let one = [Step::Send(sent), Step::Pause, Step::Reset];
        let seed = random.below(1 << 30);
        let (client, server): (&[Step], &[Step]) = if number % 2 == 0 { (&one, &[]) } else { (&[], &one) };
        let found = converse(door.address(), &listener, (client, server), seed);
        let other = if number % 2 == 0 { found.1 } else { found.0 };
        // What was under way may be cut, as it may without a front door.
        assert!(other.length <= sent, "{number}: {other:?} of {sent}");
    }
}
