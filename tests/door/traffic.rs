//! Clients and servers that know every byte of a conversation: what is lost or changed is counted.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::door::times;
use super::pace::{Pace, RATE};

/// Newcomers at once.
const NEWCOMERS: u32 = 10;

/// A megabyte.
const BULK: u32 = 1 << 20;

/// The byte at a place of an answer: no two neighbouring megabytes are the same.
fn byte(seed: u32, at: usize) -> u8 {
    let at = u64::try_from(at).unwrap();
    let mixed = (at ^ u64::from(seed) << 17).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes()[0]
}

/// A server: a question is a seed and a length, its answer that many bytes.
pub(crate) fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    serve(listener);
    address
}

/// Answers what comes at a listener.
pub(crate) fn serve(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            std::thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                let mut question = [0; 8];
                while stream.read_exact(&mut question).is_ok() {
                    let number = |at: usize| {
                        u32::from_be_bytes(*question[at..].first_chunk().expect("a question has two numbers"))
                    };
                    let (seed, length) = (number(0), usize::try_from(number(4)).unwrap());
                    let answer: Vec<u8> = (0..length).map(|at| byte(seed, at)).collect();
                    if stream.write_all(&answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// What clients have found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) answers: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) corrupt: AtomicU64,
    pub(crate) lost: AtomicU64,
    /// Why, for the message of a test that fails.
    pub(crate) why: Mutex<Vec<String>>,
}

impl Found {
    /// A connection, with one question or many.
    fn visit(&self, address: SocketAddr, kind: Kind, seed: &mut u32, end: &AtomicBool) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = converse(address, kind, seed, self, end) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            self.why.lock().unwrap().push(format!("{kind:?}: {error}"));
        }
    }
}

/// Clients that ask until they are told to end.
pub(crate) struct Clients {
    found: Arc<Found>,
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    pace: Arc<Pace>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Many questions over one connection.
    KeepAlive,
    /// A connection a question.
    New,
    /// A megabyte a question.
    Bulk,
}

impl Clients {
    fn none() -> Self {
        let (found, end) = (Arc::new(Found::default()), Arc::new(AtomicBool::new(false)));
        Self { found, end, threads: Vec::new(), pace: Arc::new(Pace::new()) }
    }

    /// Starts clients of each kind, which ask without a pause.
    pub(crate) fn start(address: SocketAddr) -> Self {
        let kinds = [(Kind::KeepAlive, 5), (Kind::New, 3), (Kind::Bulk, 2)];
        let mut clients = Self::none();
        for (kind, count) in kinds {
            for number in 0..count {
                let (found, end) = (Arc::clone(&clients.found), Arc::clone(&clients.end));
                clients.threads.push(std::thread::spawn(move || {
                    let mut seed = number;
                    while !end.load(Ordering::Relaxed) {
                        found.visit(address, kind, &mut seed, &end);
                    }
                }));
            }
        }
        clients
    }

    /// Starts clients that come, ask once and go: [`RATE`] a second, each with a connection of its own. Who comes late, since
    /// one before had to wait, comes all the same.
    pub(crate) fn newcomers(address: SocketAddr) -> Self {
        let mut clients = Self::none();
        for number in 0..NEWCOMERS {
            let (found, end) = (Arc::clone(&clients.found), Arc::clone(&clients.end));
            let pace = Arc::clone(&clients.pace);
            clients.threads.push(std::thread::spawn(move || {
                let mut seed = number;
                while !end.load(Ordering::Relaxed) {
                    pace.wait();
                    found.visit(address, Kind::New, &mut seed, &end);
                }
            }));
        }
        clients
    }

    /// New connections a second until now.
    pub(crate) fn rate(&self) -> u64 {
        self.pace.rate(self.found.connections.load(Ordering::Relaxed))
    }

    /// Answers until now.
    pub(crate) fn answers(&self) -> u64 {
        self.found.answers.load(Ordering::Relaxed)
    }

    /// Ends them, and fails the test when an answer was lost or changed.
    pub(crate) fn assert_whole(self) -> Found {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let found = Arc::into_inner(self.found).unwrap();
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        assert!(number(&found.lost) == 0 && number(&found.corrupt) == 0, "{found:?}");
        assert!(number(&found.answers) > 0, "nobody was answered");
        found
    }
}

/// Fails a soak test, which has the host for itself, where newcomers did not come as often as they were to.
pub(crate) fn assert_held(rate: u64) {
    let wanted = u64::from(times(0, RATE)) * 19 / 20;
    assert!(rate >= wanted, "{rate} new connections a second instead of {RATE}");
}

/// Prints what was asked and answered while `what` happened.
#[expect(clippy::print_stderr, reason = "scripts/bench prints these figures")]
pub(crate) fn report(what: &str, rate: u64, found: &Found) {
    eprintln!(
        "figure: {what}: of {:?} connections, {rate} new ones a second, none lost, and none of {:?} answers",
        found.connections, found.answers
    );
}

fn converse(
    address: SocketAddr,
    kind: Kind,
    seed: &mut u32,
    found: &Found,
    end: &AtomicBool,
) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(super::door::PATIENCE))?;
    loop {
        *seed = seed.wrapping_add(7);
        let length = if matches!(kind, Kind::Bulk) { BULK } else { 100 + *seed % 1000 };
        stream.write_all(&[seed.to_be_bytes(), length.to_be_bytes()].concat())?;
        let mut answer = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut answer)?;
        if answer.iter().enumerate().any(|(at, found)| *found != byte(*seed, at)) {
            found.corrupt.fetch_add(1, Ordering::Relaxed);
        }
        found.answers.fetch_add(1, Ordering::Relaxed);
        if matches!(kind, Kind::New) || end.load(Ordering::Relaxed) {
            return Ok(());
        }
        // Others have the processor too.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Numbers without an order, the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
