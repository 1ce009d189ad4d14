//! The guest's end of the control channel: frames on the virtio-serial port. Carries the input and output of PID 1's
//! sessions, and ships the journals. Holds nothing that matters: a successor gets the same from PID 1 and the host again.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use i2kit_spec::control::{Decoder, GuestHello, HostHello, Message, StreamState, VERSION};
use rustix::event::PollFlags;
use rustix::io::Errno;

use crate::link::ToInit;
use crate::shipper::Shipper;
use crate::time::{self, Timekeeper};

/// How much may wait for the port before nothing more is read for it.
const OUT_BYTES: usize = 128 * 1024;

/// How often a port without a host is looked at. The kernel reports such a port as ready all the time.
const ABSENT: Duration = Duration::from_millis(200);

/// The channel, as far as this supervisor has it.
#[derive(Debug, Default)]
pub(crate) struct Control {
    port: Option<OwnedFd>,
    bell: Option<OwnedFd>,
    decoder: Decoder,
    out: VecDeque<u8>,
    shipper: Shipper,
    time: Timekeeper,
    /// Whether a host has said hello, so that lines may be shipped.
    connected: bool,
    epoch: u64,
    streams: Vec<StreamState>,
    /// When a port without a host is looked at again.
    absent_until: Option<Instant>,
}

/// A message for PID 1: of the link, or of the control channel.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Own(ToInit),
    Control(Message),
}

impl Control {
    /// Takes the state of PID 1's sessions.
    pub(crate) fn streams(&mut self, streams: Vec<StreamState>) {
        self.streams = streams;
    }

    /// Takes the port, and says hello to the host.
    pub(crate) fn port(&mut self, port: OwnedFd, epoch: u64) {
        self.port = Some(port);
        self.epoch = epoch;
        self.hello(None);
    }

    /// Takes the eventfd that is readable when the journals have more lines.
    pub(crate) fn bell(&mut self, bell: OwnedFd) {
        self.bell = Some(bell);
    }

    /// Says hello, of itself or as the answer to the host's hello of that epoch.
    fn hello(&mut self, answers: Option<u64>) {
        let program = crate::version::program().to_owned();
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
    pub(crate) fn send(&mut self, message: &Message) {
        let mut bytes = vec![];
        // Messages are bounded where they come from; one that a host would not take is dropped.
        if message.encode(&mut bytes).is_ok() {
            self.out.extend(bytes);
        }
    }

    /// Whether more can be queued.
    pub(crate) fn has_room(&self) -> bool {
        self.out.len() < OUT_BYTES
    }

    /// The descriptors to wait for.
    pub(crate) fn descriptors(&self, now: Instant) -> [Option<(BorrowedFd<'_>, PollFlags)>; 2] {
        let present = self.absent_until.is_none_or(|until| until <= now);
        let room = if self.out.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let port = self.port.as_ref().filter(|_| present).map(|port| (port.as_fd(), PollFlags::IN | room));
        let bell = self.bell.as_ref().filter(|_| self.connected).map(|bell| (bell.as_fd(), PollFlags::IN));
        [port, bell]
    }

    /// How long until the port is to be looked at, whatever happens.
    pub(crate) fn timeout(&self, now: Instant) -> Option<Duration> {
        let due = self.absent_until.or(self.time.due()).filter(|_| self.port.is_some());
        due.map(|due| due.saturating_duration_since(now))
    }

    /// Reads and writes what can be without waiting. Returns the messages for PID 1.
    pub(crate) fn advance(&mut self, now: Instant) -> io::Result<Vec<Outgoing>> {
        let mut outgoing = vec![];
        if let Some(bell) = &self.bell {
            let mut buffer = [0; 8];
            // It fails when there is nothing new.
            let _ = rustix::io::read(bell, &mut buffer);
        }
        if self.absent_until.is_none_or(|until| until <= now) {
            self.read(now, &mut outgoing)?;
            self.query_time(now);
            self.ship();
            self.write();
        }
        Ok(outgoing)
    }

    fn read(&mut self, now: Instant, outgoing: &mut Vec<Outgoing>) -> io::Result<()> {
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
                    self.accept_host(&hello, outgoing);
                }
                Message::Clock(answer) => time::correct(answer),
                Message::Logged(logged) => {
                    self.shipper.taken(logged.bytes);
                    outgoing.push(Outgoing::Own(ToInit::Logged {
                        container: logged.container,
                        next: logged.next,
                        dropped: logged.dropped,
                    }));
                }
                message => outgoing.push(Outgoing::Control(message)),
            }
        }
        Ok(())
    }

    fn accept_host(&mut self, hello: &HostHello, outgoing: &mut Vec<Outgoing>) {
        // Streams of another host are void, and this one has none yet.
        self.streams.clear();
        outgoing.push(Outgoing::Own(ToInit::Host { epoch: hello.epoch }));
        self.shipper.begin(&hello.logged);
        self.connected = true;
        if !hello.answer {
            self.hello(Some(hello.epoch));
        }
    }

    /// Asks the host for its time, when that is due. Without a host questions do not pile up.
    fn query_time(&mut self, now: Instant) {
        if let Some(question) = self.time.question(now)
            && self.has_room()
        {
            self.send(&Message::Clock(question));
        }
    }

    fn ship(&mut self) {
        while self.connected && self.has_room() {
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
