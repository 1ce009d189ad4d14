//! The VM's console, a serial port. It is slow, and a container must never wait for it: lines go through a bounded queue.
//! When the queue is full, the oldest lines are dropped and counted, and a line with the count follows as soon as there is
//! room again.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use i2kit_container::one_line;

/// How much may wait for the serial port: at 115200 baud, about 20 seconds of it.
const QUEUE_BYTES: usize = 256 * 1024;

/// A bounded queue of lines in front of a device that must not block us.
#[derive(Debug)]
pub(crate) struct Console {
    device: OwnedFd,
    queue: Queue,
}

impl Console {
    /// Opens the console device; `/dev` must be mounted.
    pub(crate) fn open() -> io::Result<Self> {
        let flags = (rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK).bits().cast_signed();
        let device = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/console")?;
        Ok(Self { device: device.into(), queue: Queue::new(QUEUE_BYTES) })
    }

    /// Queues a line of the guest itself and writes what the device takes.
    pub(crate) fn log(&mut self, text: &str) {
        // Parts of it may be foreign: a line feed in them would begin a line that seems to be PID 1's own.
        self.queue.push(i2kit_spec::console::GUEST_PREFIX, one_line(text).as_bytes());
        self.write();
    }

    /// Queues a line of a container, behind the container's name.
    pub(crate) fn container_line(&mut self, container: &str, line: &[u8]) {
        self.queue.push(&format!("{container}{}", i2kit_spec::console::SEPARATOR), line);
    }

    /// The descriptor to poll for room, when something waits for it.
    pub(crate) fn wants_room(&self) -> Option<BorrowedFd<'_>> {
        (!self.queue.is_empty()).then(|| self.device.as_fd())
    }

    /// Writes what the device takes without waiting.
    pub(crate) fn write(&mut self) {
        while let Some(bytes) = self.queue.front() {
            match rustix::io::write(&self.device, bytes) {
                Ok(written) => self.queue.advance(written),
                Err(rustix::io::Errno::INTR) => {}
                // Also when the console is broken: there is no other place for an error.
                Err(_) => return,
            }
        }
    }

    /// Waits until everything is written, for a bounded time: before power off nothing else is left to do.
    pub(crate) fn drain(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.write();
        while !self.queue.is_empty() && Instant::now() < deadline {
            let mut fds = [PollFd::new(&self.device, PollFlags::OUT)];
            let step = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            if rustix::event::poll(&mut fds, Some(&step)).is_err() {
                return;
            }
            self.write();
        }
    }

    /// How many lines were dropped since boot.
    pub(crate) fn dropped(&self) -> u64 {
        self.queue.dropped
    }
}

/// The bounded queue of rendered lines.
#[derive(Debug)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    limit: usize,
    /// How much of the first line is written already; such a line is not dropped any more.
    written: usize,
    dropped: u64,
    unsaid: u64,
}

impl Queue {
    fn new(limit: usize) -> Self {
        Self { lines: VecDeque::new(), bytes: 0, limit, written: 0, dropped: 0, unsaid: 0 }
    }

    fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn push(&mut self, prefix: &str, line: &[u8]) {
        let mut rendered = Vec::with_capacity(prefix.len() + line.len() + 1);
        rendered.extend_from_slice(prefix.as_bytes());
        rendered.extend_from_slice(line);
        rendered.push(b'\n');
        let keep = usize::from(self.written > 0);
        while self.bytes + rendered.len() > self.limit && self.lines.len() > keep {
            if let Some(oldest) = self.lines.remove(keep) {
                self.bytes -= oldest.len();
                self.dropped += 1;
                self.unsaid += 1;
            }
        }
        self.bytes += rendered.len();
        self.lines.push_back(rendered);
    }

    fn front(&self) -> Option<&[u8]> {
        self.lines.front().map(|line| &line[self.written..])
    }

    fn advance(&mut self, written: usize) {
        self.written += written;
        if self.lines.front().is_some_and(|line| line.len() == self.written) {
            self.bytes -= self.written;
            self.written = 0;
            self.lines.pop_front();
            if self.unsaid > 0 {
                let note = format!("i2kit: {} lines were dropped, the console is too slow\n", self.unsaid);
                self.unsaid = 0;
                self.bytes += note.len();
                self.lines.push_front(note.into_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(queue: &mut Queue) -> String {
        let mut text = Vec::new();
        while let Some(bytes) = queue.front() {
            // Seven at a time, as a device that takes little.
            let part = bytes[..bytes.len().min(7)].to_vec();
            queue.advance(part.len());
            text.extend(part);
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_full_queue_drops_the_oldest_and_says_so() {
        let mut queue = Queue::new(30);
        for number in 0..5 {
            queue.push("web | ", format!("line {number}").as_bytes());
        }
        assert_eq!(queue.dropped, 3);
        assert_eq!(
            written(&mut queue),
            "web | line 3\ni2kit: 3 lines were dropped, the console is too slow\nweb | line 4\n"
        );
        assert_eq!(queue.bytes, 0);
    }

    #[test]
    fn a_line_that_is_half_written_stays() {
        let mut queue = Queue::new(20);
        queue.push("", b"0123456789");
        queue.advance(4);
        queue.push("", b"abcdefghi");
        queue.push("", b"ABCDEFGHI");
        assert_eq!(queue.front(), Some(&b"456789\n"[..]));
        assert_eq!(queue.dropped, 1);
    }
}
