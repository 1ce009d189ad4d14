//! A thousand guests that were taken over: each says, in an order of its own, whatever might hurt the host. Whatever
//! comes, memory, files and work stay within their bounds, and nothing panics.

use std::fs;
use std::path::Path;
use std::time::Duration;

use i2kit_spec::control::{
    Clock, Decoder, End, Ended, GuestHello, LogHead, Logged, MAX_PAYLOAD, StreamState, VERSION, WINDOW,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::receiver::Receiver;
use super::refusal::STREAMS;
use super::state::{Link, OUT_BYTES};
use super::transport::CHUNK;
use super::*;
use crate::cloud::local::link::journal::JournalLimits;
use crate::cloud::local::link::log_writer::LogWriter;
use crate::cloud::local::log::Log;
use crate::cloud::local::machine::qemu;
use crate::cloud::local::socket;

/// How many guests.
const SEEDS: u64 = 1000;

/// Small enough that a guest meets them within the bytes that it sends here.
const LIMITS: JournalLimits = JournalLimits { file_bytes: 16 * 1024, vm_bytes: 96 * 1024, runs: 3 };

/// How many containers the pod has: `c0` and so on.
const CONTAINERS: usize = 8;

/// Bytes that a piece of the guest's words may have.
const PIECE: usize = 96 * 1024;

/// A generator of numbers that a seed determines (`SplitMix64`).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn length(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }

    /// A number that is often at an edge.
    fn edge(&mut self) -> u64 {
        match self.below(5) {
            0 => u64::MAX - self.below(3),
            1 => self.below(3),
            2 => WINDOW as u64 + self.below(3),
            3 => 1 << self.below(64),
            _ => self.below(1 << 20),
        }
    }

    fn bytes(&mut self, bound: usize) -> Vec<u8> {
        let length = self.length(bound);
        (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(length).collect()
    }

    fn stream(&mut self) -> u32 {
        u32::try_from(self.below(6)).unwrap()
    }

    fn end(&mut self) -> End {
        [End::Input, End::Output, End::Error][self.length(3)]
    }

    fn name(&mut self) -> String {
        match self.below(8) {
            0 => "../../../../etc".into(),
            1 => "a".repeat(self.length(70_000)),
            2 => format!("c{}", self.next()),
            3 => "\u{1b}]0;owned\u{7}\u{1b}[2J".into(),
            4 => ["_guest", ".", "..", "", "\0", "a/b", "CON", "logs"][self.length(8)].into(),
            _ => format!("c{}", self.below(10)),
        }
    }

    /// Lines, or what might be taken for them.
    fn lines(&mut self, count: &mut u64) -> Vec<u8> {
        let mut lines = Vec::new();
        for _ in 0..self.below(40) {
            *count += 1;
            let text = "x".repeat(self.length(2000));
            match self.below(10) {
                0 => lines.extend(self.bytes(500)),
                1 => lines.extend(format!("{} stdout F {text}\n", "9".repeat(self.length(40_000))).bytes()),
                2 => lines.extend(format!("2026 stdout P {text}\n").bytes()),
                3 => lines.extend(b"\x1b[2J\r\n\n\n"),
                _ => lines.extend(format!("2026-01-01T00:00:00.{count:09}Z stderr P {text}\n").bytes()),
            }
        }
        lines
    }

    fn message(&mut self, count: &mut u64) -> Message {
        match self.below(12) {
            0 => Message::GuestHello(GuestHello {
                version: if self.below(8) == 0 { u32::MAX } else { VERSION },
                epoch: self.edge(),
                answer: self.below(2) == 0,
                answers: None,
                program: "p".repeat(self.length(1000)),
                streams: (0..self.below(2000))
                    .map(|_| StreamState { stream: self.stream(), input: self.edge() })
                    .collect(),
                credits_open: self.below(2) == 0,
            }),
            1..=4 => {
                let (run, first, dropped) = (self.edge(), self.edge(), self.below(2) * self.edge());
                let head = LogHead { container: self.name(), run, first, dropped };
                Message::Log { head, lines: self.lines(count) }
            }
            5 | 6 => Message::Data {
                stream: self.stream(),
                end: self.end(),
                offset: if self.below(2) == 0 { 0 } else { self.edge() },
                bytes: self.bytes(Message::DATA),
            },
            7 => Message::Credit { stream: self.stream(), end: self.end(), taken: self.edge() },
            8 => {
                let code = [0, -1, 256, i32::MIN, i32::MAX][self.length(5)];
                let error = (self.below(2) == 0).then(|| "\u{1b}[31mé".repeat(self.length(6000)));
                Message::Ended { stream: self.stream(), ended: Ended { code, error } }
            }
            9 => Message::Clock(Clock { asked: self.edge(), now: self.edge() }),
            10 => Message::Logged(Logged { container: self.name(), next: self.edge(), ..Logged::default() }),
            _ => Message::Open {
                stream: self.stream(),
                open: Open { container: self.name(), ..Open::default() },
            },
        }
    }

    /// What the guest says next, as bytes.
    fn words(&mut self, count: &mut u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.below(8) {
            0 => bytes = self.bytes(4096),
            // Headers that promise frames.
            1 => {
                for _ in 0..self.below(3000) {
                    bytes.extend(b"i2k\xc1");
                    bytes.extend([u8::try_from(self.below(14)).unwrap(), 0, 0, 0, 1, 0, 0, 0]);
                    bytes.extend(u32::try_from(self.below(2 * MAX_PAYLOAD as u64)).unwrap().to_le_bytes());
                    bytes.extend([0; 4]);
                }
            }
            kind => {
                while bytes.len() < 40_000 && self.below(20) > 0 {
                    // What a guest cannot put into a frame it does not send.
                    let _ = self.message(count).encode(&mut bytes);
                }
                // A writer that died, or a bit that fell over.
                if kind == 2 {
                    bytes.truncate(self.length(bytes.len() + 1));
                }
                if kind == 3 && !bytes.is_empty() {
                    let at = self.length(bytes.len());
                    bytes[at] ^= 1 << self.below(8);
                }
            }
        }
        bytes.truncate(PIECE);
        bytes
    }
}

/// Bytes and number of the files below a folder, however deep.
fn files(folder: &Path) -> (u64, usize) {
    let (mut bytes, mut count) = (0, 0);
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let below = if metadata.is_dir() { files(&entry.path()) } else { (metadata.len(), 1) };
        bytes += below.0;
        count += below.1;
    }
    (bytes, count)
}

/// One guest.
fn play(seed: u64, log: &Arc<Log>) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("vm");
    fs::create_dir(&folder).unwrap();
    let guest = Guest {
        id: format!("seed-{seed}"),
        folder: folder.clone(),
        containers: (0..CONTAINERS).map(|number| format!("c{number}")).collect(),
        tasks: Arc::default(),
        log: Arc::clone(log),
    };
    let shared = Arc::<Shared>::default();
    let channel = Channel { shared: Arc::clone(&shared) };
    let lines = LogWriter::open_with(&guest, LIMITS);
    shared.lock().connected(lines.logged());
    let mut receiver =
        Receiver { shared: Arc::clone(&shared), decoder: Decoder::default(), lines, has_more: false };
    // Commands whose tool does not read, and one whose tool does.
    let mut connections: Vec<Connection> = (0..4)
        .map(|_| channel.open(Open { command: vec!["sh".into()], ..Open::default() }).unwrap())
        .collect();
    let mut random = Random(seed);
    let (mut count, mut told) = (0, 0_u64);
    for _ in 0..random.below(12) {
        let words = random.words(&mut count);
        told += words.len() as u64;
        for part in words.chunks(random.length(CHUNK) + 1) {
            receiver.decode(part);
            // As the task does: nothing more is heard before the answers are gone.
            let mut rounds = 0;
            loop {
                let mut state = shared.lock();
                let most = OUT_BYTES + STREAMS * 2 * (MAX_PAYLOAD + WINDOW) + MAX_PAYLOAD;
                assert!(state.out.len() <= most, "seed {seed}: {} bytes wait for the guest", state.out.len());
                assert!(state.streams.values().all(|stream| stream.waiting() <= 3 * WINDOW), "seed {seed}");
                state.out.clear();
                drop(state);
                if !receiver.has_more {
                    break;
                }
                rounds += 1;
                assert!(rounds <= part.len() + MAX_PAYLOAD, "seed {seed}: it never comes to an end");
                receiver.decode(&[]);
            }
            assert!(receiver.decoder.pending() <= MAX_PAYLOAD + 64, "seed {seed}");
            assert!(receiver.decoder.examined() <= 9 * told + 5 * MAX_PAYLOAD as u64, "seed {seed}: work");
        }
        if let Some(connection) = connections.first_mut() {
            while let Ok(message) = connection.messages.try_recv() {
                if let Message::Data { end, offset, bytes, .. } = message {
                    let taken = offset + bytes.len() as u64;
                    connection.send(Message::Credit { stream: 0, end, taken });
                }
            }
        }
        for connection in &connections {
            // Each message has a byte of its own at least, but for the first credit and the end.
            assert!(connection.messages.len() <= 3 * WINDOW + 2, "seed {seed}");
        }
        let (bytes, files) = files(root.path());
        let most = LIMITS.vm_bytes + MAX_PAYLOAD as u64;
        assert!(bytes <= most, "seed {seed}: {bytes} bytes on the disk");
        assert!(files <= (CONTAINERS + 1) * 2 * LIMITS.runs, "seed {seed}: {files} files");
        assert!(!root.path().join("etc").exists() && fs::read_dir(root.path()).unwrap().count() == 1);
    }
    // What it says is understood afterwards, if it is right.
    let mut bytes = vec![0; MAX_PAYLOAD];
    Message::Clock(Clock { asked: 7, now: 0 }).encode(&mut bytes).unwrap();
    receiver.decode(&bytes);
    let mut decoder = Decoder::default();
    decoder.push(&shared.lock().out);
    assert!(decoder.any(|m| matches!(m, Message::Clock(clock) if clock.asked == 7)), "seed {seed}");
}

#[test]
fn a_thousand_hostile_guests_stay_within_their_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let log = Arc::new(Log::open(&folder.path().join("cloud.log")).unwrap());
    for seed in 0..SEEDS {
        play(seed, &log);
    }
}

/// Over a socket, with a guest that reads slowly, or not at all, and leaves when it likes: the task ends or goes on,
/// and comes to its end when the VM is gone.
#[tokio::test]
async fn a_hostile_guest_comes_and_goes() {
    for seed in 0..20 {
        let root = tempfile::tempdir().unwrap();
        let listener = socket::listen(root.path(), qemu::CONTROL).unwrap();
        let (channel, _tasks, gone) = super::tests::start(root.path());
        let _connection = channel.open(Open::default()).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (mut reader, mut writer) = stream.into_split();
        let mut random = Random(seed);
        let reads = random.below(2) == 0;
        let reading = tokio::spawn(async move {
            let mut buffer = vec![0; 700];
            while reads && matches!(reader.read(&mut buffer).await, Ok(length) if length > 0) {}
            reader
        });
        let mut count = 0;
        for _ in 0..random.below(20) {
            let words = random.words(&mut count);
            // A host that has heard enough of one that does not listen stops reading.
            let sent = tokio::time::timeout(Duration::from_millis(50), writer.write_all(&words)).await;
            if sent.is_err() {
                break;
            }
        }
        let waiting = channel.shared.lock().out.len();
        assert!(waiting <= OUT_BYTES + STREAMS * 2 * (MAX_PAYLOAD + WINDOW) + MAX_PAYLOAD, "seed {seed}");
        gone.cancel();
        drop(writer);
        reading.abort();
        drop(reading.await);
        while channel.shared.lock().link != Link::Ended {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
