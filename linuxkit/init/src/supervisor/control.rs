//! The guest's end of the control channel: frames on the virtio-serial port. Carries what PID 1's commands say and
//! hear, and ships the journals. Holds nothing that matters: whoever comes next asks PID 1 and the host again.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use i2kit_spec::control::{Decoder, GuestHello, HostHello, Message, StreamState, VERSION};
use rustix::event::PollFlags;
use rustix::io::Errno;

use super::shipper::Shipper;
use super::time::{self, Timekeeper};
use crate::link::ToInit;

/// How much may wait for the port before nothing more is read for it.
const OUT_BYTES: usize = 128 * 1024;

/// How often a port without a host is looked at. The kernel reports such a port as ready all the time.
const ABSENT: Duration = Duration::from_millis(200);

/// The channel, as far as this supervisor has it.
#[derive(Debug, Default)]
pub(super) struct Control {
    port: Option<OwnedFd>,
    bell: Option<OwnedFd>,
    decoder: Decoder,
    out: VecDeque<u8>,
    shipper: Shipper,
    time: Timekeeper,
    /// Whether the host has said hello, so that lines may be shipped.
    greeted: bool,
    epoch: u64,
    streams: Vec<StreamState>,
    /// When a port without a host is looked at again.
    absent_until: Option<Instant>,
}

/// What PID 1 must hear.
#[derive(Debug)]
pub(super) enum News {
    Own(ToInit),
    Control(Message),
}

impl Control {
    /// What PID 1 says of its commands.
    pub(super) fn streams(&mut self, streams: Vec<StreamState>) {
        self.streams = streams;
    }

    /// The port. The host learns that somebody new speaks.
    pub(super) fn port(&mut self, port: OwnedFd, epoch: u64) {
        self.port = Some(port);
        self.epoch = epoch;
        self.hello(None);
    }

    /// What rings when there are more lines.
    pub(super) fn bell(&mut self, bell: OwnedFd) {
        self.bell = Some(bell);
    }

    /// Says hello, of itself or as the answer to the host's hello of that epoch.
    fn hello(&mut self, answers: Option<u64>) {
        let program = crate::program_version().to_owned();
        let streams = self.streams.clone();
        self.send(&Message::GuestHello(GuestHello {
            version: VERSION,
            epoch: self.epoch,
            answer: answers.is_some(),
            answers,
            program,
            streams,
            credits_open: true,
        }));
    }

    /// Queues a message for the host.
    pub(super) fn send(&mut self, message: &Message) {
        let mut bytes = vec![];
        // What the guest says is bounded where it comes from; what a host would not take is not said.
        if message.encode(&mut bytes).is_ok() {
            self.out.extend(bytes);
        }
    }

    /// Whether more can be queued.
    pub(super) fn has_room(&self) -> bool {
        self.out.len() < OUT_BYTES
    }

    /// The descriptors to wait for.
    pub(super) fn wants(&self, now: Instant) -> [Option<(BorrowedFd<'_>, PollFlags)>; 2] {
        let present = self.absent_until.is_none_or(|until| until <= now);
        let room = if self.out.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let port = self.port.as_ref().filter(|_| present).map(|port| (port.as_fd(), PollFlags::IN | room));
        let bell = self.bell.as_ref().filter(|_| self.greeted).map(|bell| (bell.as_fd(), PollFlags::IN));
        [port, bell]
    }

    /// How long until the port is to be looked at, whatever happens.
    pub(super) fn timeout(&self, now: Instant) -> Option<Duration> {
        let due = self.absent_until.or(self.time.due()).filter(|_| self.port.is_some());
        due.map(|due| due.saturating_duration_since(now))
    }

    /// Reads and writes what can be without waiting. Returns what PID 1 must hear.
    pub(super) fn advance(&mut self, now: Instant) -> io::Result<Vec<News>> {
        let mut news = vec![];
        if let Some(bell) = &self.bell {
            let mut buffer = [0; 8];
            // It has not rung.
            let _ = rustix::io::read(bell, &mut buffer);
        }
        if self.absent_until.is_none_or(|until| until <= now) {
            self.read(now, &mut news)?;
            self.ask_for_time(now);
            self.ship();
            self.write();
        }
        Ok(news)
    }

    fn read(&mut self, now: Instant, news: &mut Vec<News>) -> io::Result<()> {
        self.absent_until = None;
        let Some(port) = &self.port else { return Ok(()) };
        let mut buffer = vec![0; 32 * 1024];
        loop {
            match rustix::io::read(port, &mut buffer) {
                Ok(0) => {
                    self.absent_until = Some(now + ABSENT);
                    break;
                }
                Ok(length) => self.decoder.push(&buffer[..length]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        while let Some(message) = self.decoder.next() {
            match message {
                Message::HostHello(hello) => {
                    self.time.begin(now);
                    self.greet(&hello, news);
                }
                Message::Clock(answer) => time::correct(answer),
                Message::Logged(logged) => {
                    self.shipper.taken(logged.bytes);
                    news.push(News::Own(ToInit::Logged {
                        container: logged.container,
                        next: logged.next,
                        dropped: logged.dropped,
                    }));
                }
                message => news.push(News::Control(message)),
            }
        }
        Ok(())
    }

    fn greet(&mut self, hello: &HostHello, news: &mut Vec<News>) {
        // Streams of another host are void, and this one has none yet.
        self.streams.clear();
        news.push(News::Own(ToInit::Host { epoch: hello.epoch }));
        self.shipper.begin(&hello.logged);
        self.greeted = true;
        if !hello.answer {
            self.hello(Some(hello.epoch));
        }
    }

    /// Asks the host what time it is, when that is due. Without a host questions do not pile up.
    fn ask_for_time(&mut self, now: Instant) {
        if let Some(question) = self.time.question(now)
            && self.has_room()
        {
            self.send(&Message::Clock(question));
        }
    }

    fn ship(&mut self) {
        while self.greeted && self.has_room() {
            let Some(message) = self.shipper.next() else { return };
            self.send(&message);
        }
    }

    fn write(&mut self) {
        let Some(port) = &self.port else { return };
        while !self.out.is_empty() {
            match rustix::io::write(port, self.out.as_slices().0) {
                Ok(written) => drop(self.out.drain(..written)),
                Err(Errno::INTR) => {}
                // Without a host, or with one that is busy; what waits is bounded.
                Err(_) => return,
            }
        }
    }
}
