//! Clients of a group: one request of HTTP/1.1 on a connection that is kept, and many clients that write and read until they are
//! told to end, with their history.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::history::{NEVER, Operation};

/// How long a client waits for an answer: the group's own deadline is shorter.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a client waits for a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// Registers that the clients share.
const REGISTERS: u64 = 16;

/// An answer: its status, the value of `I2kit-Outcome`, and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) outcome: String,
    pub(crate) body: String,
}

/// A connection to one port.
pub(crate) struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(port: u16) -> Option<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, CONNECT).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Self { reader: BufReader::new(stream) })
    }

    /// Asks; none when the connection breaks before the whole answer.
    pub(crate) fn ask(&mut self, request: &str) -> Option<Answer> {
        self.reader.get_mut().write_all(request.as_bytes()).ok()?;
        let mut line = String::new();
        self.reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let (mut length, mut outcome) = (0, String::new());
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            let line = line.trim_end().to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", value)) => length = value.parse().ok()?,
                Some(("i2kit-outcome", value)) => value.clone_into(&mut outcome),
                _ if line.is_empty() => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).ok()?;
        Some(Answer { status, outcome, body: String::from_utf8(body).ok()? })
    }
}

/// A write of a register. With a key it is executed once, however often it is sent.
pub(crate) fn put(register: &str, value: &str, key: Option<&str>) -> String {
    let key = key.map(|key| format!("Idempotency-Key: {key}\r\n")).unwrap_or_default();
    let length = value.len();
    format!("PUT /kv/{register} HTTP/1.1\r\nHost: a\r\n{key}Content-Length: {length}\r\n\r\n{value}")
}

/// A read of something.
pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// One request on a connection of its own.
pub(crate) fn once(port: u16, request: &str) -> Option<Answer> {
    Connection::open(port)?.ask(request)
}

/// What many clients do at one time.
pub(crate) struct Load {
    pub(crate) ends: AtomicBool,
    /// Whether clients begin nothing new for the time being.
    pub(crate) rests: AtomicBool,
    started: Instant,
    /// The latest beginning of a write that was acknowledged, in microseconds since the start.
    pub(crate) acknowledged: AtomicU64,
}

impl Load {
    pub(crate) fn new() -> Self {
        Self {
            ends: AtomicBool::new(false),
            rests: AtomicBool::new(false),
            started: Instant::now(),
            acknowledged: AtomicU64::new(0),
        }
    }

    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap()
    }

    /// One client, which goes on until it is told to end and knows of each of its writes that it was done. `reads` of a hundred
    /// requests are reads; a read that fails is left out.
    pub(crate) fn client(&self, number: usize, ports: &[u16], reads: u64) -> Vec<Operation> {
        let mut random = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut history = Vec::new();
        let mut place = number;
        let mut connection = None;
        for count in 0.. {
            while self.rests.load(Ordering::Relaxed) && !self.ends.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
            if self.ends.load(Ordering::Relaxed) {
                break;
            }
            // xorshift (Marsaglia 2003, with 13, 7 and 17).
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let is_write = random % 100 >= reads;
            let register = format!("r{}", (random >> 16) % REGISTERS);
            let value = format!("{number}.{count}");
            let begin = self.now();
            let request = if is_write {
                put(&register, &value, Some(&format!("{number}-{count}")))
            } else {
                get(&format!("/kv/{register}"))
            };
            let answer = loop {
                let port = ports[place % ports.len()];
                connection = connection.or_else(|| Connection::open(port));
                let answer =
                    connection.as_mut().and_then(|connection: &mut Connection| connection.ask(&request));
                if answer.as_ref().is_some_and(|answer| answer.status < 500) {
                    break answer;
                }
                // It may have been done, or not: with its key it is sent again, to another replica.
                connection = None;
                place += 1;
                if !is_write {
                    break None;
                }
                let waited = Duration::from_micros(self.now() - begin);
                assert!(waited < crate::eventually::PATIENCE, "{value} was never acknowledged: {answer:?}");
                std::thread::sleep(Duration::from_millis(5));
            };
            let Some(answer) = answer else { continue };
            let end = self.now();
            let value = if is_write { value } else { answer.body };
            if is_write {
                assert_eq!(answer.status, 200, "the application takes every write");
                self.acknowledged.fetch_max(begin, Ordering::Relaxed);
            }
            assert!(end < NEVER);
            history.push(Operation { register, is_write, value, begin, end });
        }
        history
    }

    /// So many clients until `work` ends; what it gives, and the history of all.
    pub(crate) fn around<T>(
        &self,
        clients: usize,
        ports: &[u16],
        reads: u64,
        work: impl FnOnce() -> T,
    ) -> (T, Vec<Operation>) {
        std::thread::scope(|scope| {
            let started: Vec<_> =
                (0..clients).map(|number| scope.spawn(move || self.client(number, ports, reads))).collect();
            // Clients end also when the work fails, so that the test does.
            let end = Ends(&self.ends);
            let result = work();
            drop(end);
            (result, started.into_iter().flat_map(|client| client.join().unwrap()).collect())
        })
    }
}

pub(crate) struct Ends<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
