//! Sessions: commands that the host runs in containers, and programs that it sends to take the supervisor's place.
//!
//! PID 1 holds the command's terminal or pipes itself, and keeps the command's output until the host has acknowledged it, so
//! that nothing is lost and nothing comes twice when the supervisor, which carries the bytes, dies. Bounded: a command whose
//! output nobody takes waits, as it would for a terminal that is stopped.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use i2kit_spec::control::{End, Ended, Message, Open, StreamState, Target, WINDOW};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitStatus};
use rustix::termios::Winsize;

use crate::container::{Container, Life, Role};
use crate::containers::Containers;
use crate::error::{Doing, Error};

/// The most commands under way.
const MAX_SESSIONS: usize = 64;

/// The most streams that are held with those that were refused: a host that opens more without closing any is not answered.
const MAX_STREAMS: usize = 2 * MAX_SESSIONS;

/// How many streams that are over are remembered. A supervisor that is started anew may get again what its predecessor
/// handled last, which are a few; numbers of streams grow, so that the lowest are the oldest.
const MAX_CLOSED: usize = 4096;

/// All commands under way.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// Of the host that began them; a new host ends them.
    epoch: u64,
    list: Vec<Session>,
    /// Streams that are over and must not begin again.
    closed: BTreeSet<u32>,
}

/// A command.
#[derive(Debug)]
pub(crate) struct Session {
    stream: u32,
    target: Target,
    process: Option<(Pid, OwnedFd)>,
    input: Input,
    outputs: Vec<Output>,
    /// How many bytes of input were acknowledged to the host; none before the first acknowledgement, with which the
    /// stream has begun for the host.
    acknowledged: Option<u64>,
    ended: Option<Ended>,
    /// Whether the host was sent the end.
    end_sent: bool,
}

#[derive(Debug, Default)]
struct Input {
    fd: Option<OwnedFd>,
    pending: VecDeque<u8>,
    /// How many bytes came, those that are pending among them.
    received: u64,
    /// No more come.
    eof: bool,
}

#[derive(Debug)]
struct Output {
    end: End,
    fd: Option<OwnedFd>,
    /// Bytes that the host has not acknowledged.
    kept: VecDeque<u8>,
    /// How many bytes came before that.
    start: u64,
    /// How many of the kept bytes were sent.
    sent: usize,
}

impl Sessions {
    /// Takes the epoch of a host. Sessions of another host are ended.
    pub(crate) fn set_host(&mut self, epoch: u64) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.list.drain(..).for_each(Session::kill);
            self.closed.clear();
        }
    }

    /// How much input each has taken.
    pub(crate) fn states(&self) -> Vec<StreamState> {
        let state = |session: &Session| StreamState { stream: session.stream, input: session.input.taken() };
        self.list.iter().map(state).collect()
    }

    /// Has everything sent again that may not have arrived: the supervisor that carried it is gone.
    pub(crate) fn rewind(&mut self) {
        for session in &mut self.list {
            session.end_sent = false;
            session.acknowledged = None;
            session.outputs.iter_mut().for_each(|output| output.sent = 0);
        }
    }

    /// Handles a message of the host.
    pub(crate) fn handle(&mut self, message: Message, containers: &Containers) {
        match message {
            Message::Open { stream, open } => self.open(stream, &open, containers),
            Message::Close { stream } => {
                self.closed.insert(stream);
                if self.closed.len() > MAX_CLOSED {
                    self.closed.pop_first();
                }
                if let Some(index) = self.list.iter().position(|session| session.stream == stream) {
                    self.list.remove(index).kill();
                }
            }
            Message::Data { stream, offset, bytes, .. } => {
                if let Some(session) = self.session(stream) {
                    session.input.take(offset, &bytes);
                    session.feed();
                }
            }
            Message::Eof { stream, .. } => {
                if let Some(session) = self.session(stream) {
                    session.input.eof = true;
                    session.feed();
                }
            }
            Message::Credit { stream, end, taken } => {
                if let Some(session) = self.session(stream) {
                    session.acknowledge(end, taken);
                    session.read();
                }
            }
            Message::Resize { stream, rows, columns } => {
                if let Some(terminal) =
                    self.session(stream).and_then(|session| session.outputs.first()?.fd.as_ref())
                {
                    resize(terminal, rows, columns);
                }
            }
            _ => {}
        }
    }

    fn session(&mut self, stream: u32) -> Option<&mut Session> {
        self.list.iter_mut().find(|session| session.stream == stream)
    }

    fn open(&mut self, stream: u32, open: &Open, containers: &Containers) {
        if self.closed.contains(&stream) || self.session(stream).is_some() || self.list.len() >= MAX_STREAMS {
            return;
        }
        let session = if self.list.len() < MAX_SESSIONS {
            Session::start(stream, open, containers)
        } else {
            Err(Error::TooMany { limit: MAX_SESSIONS })
        };
        self.list.push(session.unwrap_or_else(|error| {
            let mut session = Session::new(stream, open.target);
            session.ended = Some(Ended::failed(error.exit_code(), error.to_string()));
            session
        }));
    }

    /// Descriptors to wait for, each with its session's index and whether it is an output of the command.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>, bool)> {
        self.list.iter().enumerate().flat_map(|(index, session)| {
            let input = session.input.fd.as_ref().filter(|_| !session.input.pending.is_empty());
            let outputs = session.outputs.iter().filter(|output| output.kept.len() < WINDOW);
            let outputs = outputs.filter_map(|output| output.fd.as_ref());
            let input = input.map(|fd| (index, fd.as_fd(), false));
            input.into_iter().chain(outputs.map(move |fd| (index, fd.as_fd(), true)))
        })
    }

    /// Reads the output of a session, or feeds its input, whose descriptor is ready.
    pub(crate) fn advance(&mut self, index: usize, output: bool) {
        if let Some(session) = self.list.get_mut(index) {
            if output {
                session.read();
            } else {
                session.feed();
            }
        }
    }

    /// Takes the end of a process. Returns whether it was a session's.
    pub(crate) fn reaped(&mut self, pid: Pid, status: WaitStatus) -> bool {
        let found =
            self.list.iter_mut().find(|session| session.process.as_ref().is_some_and(|(p, _)| *p == pid));
        let Some(session) = found else { return false };
        let signal = status.terminating_signal().map(|signal| 128 + signal);
        let code = status.exit_status().or(signal).unwrap_or(255);
        session.process = None;
        session.ended = Some(Ended { code, error: None });
        session.input.fd = None;
        session.input.pending.clear();
        session.read();
        true
    }

    /// Takes a program that has arrived as a whole, to be the supervisor.
    pub(crate) fn take_program(&mut self) -> Option<OwnedFd> {
        let session = self.list.iter_mut().find(|session| {
            session.target == Target::Supervisor
                && session.input.eof
                && session.input.pending.is_empty()
                && session.ended.is_none()
        })?;
        session.ended = Some(Ended::default());
        session.input.fd.take()
    }

    /// Sends what is pending, until `send` takes no more.
    pub(crate) fn send_pending(&mut self, mut send: impl FnMut(&Message) -> bool) {
        for session in &mut self.list {
            while let Some(message) = session.next() {
                if !send(&message) {
                    return;
                }
                session.sent(&message);
            }
        }
    }

    /// Whether something is to be sent.
    pub(crate) fn has_pending(&self) -> bool {
        self.list.iter().any(|session| session.next().is_some())
    }
}

impl Session {
    fn new(stream: u32, target: Target) -> Self {
        Self {
            stream,
            target,
            process: None,
            input: Input::default(),
            outputs: vec![],
            acknowledged: None,
            ended: None,
            end_sent: false,
        }
    }

    fn start(stream: u32, open: &Open, containers: &Containers) -> Result<Self, Error> {
        let mut session = Self::new(stream, open.target);
        if open.target != Target::Command {
            let program = rustix::fs::memfd_create("program", MemfdFlags::CLOEXEC);
            session.input.fd = Some(program.doing(|| "make room for a program".into())?);
            return Ok(session);
        }
        let container = find(containers.list(), &open.container)?;
        let Life::Running(process) = &container.life else {
            return Err(Error::NotRunning { container: container.name().into() });
        };
        let target = (process.pid, process.pidfd());
        let started = i2kit_container::execute_attached(&container.spec, containers.sandbox(), target, open)?;
        if let Some(terminal) = started.terminal {
            resize(&terminal, open.rows, open.columns);
            session.input.fd = Some(terminal.try_clone().doing(|| "share the terminal".into())?);
            session.outputs.push(Output::new(End::Output, terminal));
        } else {
            session.input.fd = started.stdin;
            let pipes = [(End::Output, started.stdout), (End::Error, started.stderr)];
            session.outputs.extend(pipes.into_iter().filter_map(|(end, fd)| Some(Output::new(end, fd?))));
        }
        session.process = Some((started.pid, started.pidfd));
        Ok(session)
    }

    fn kill(self) {
        if let Some((_, pidfd)) = self.process {
            // It may have ended meanwhile.
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }

    /// Gives the command what is pending of its input.
    fn feed(&mut self) {
        if let Some(fd) = &self.input.fd {
            while !self.input.pending.is_empty() {
                match rustix::io::write(fd, self.input.pending.as_slices().0) {
                    Ok(written) => drop(self.input.pending.drain(..written)),
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => break,
                    // The command wants no more input.
                    Err(_) => {
                        self.input.fd = None;
                        break;
                    }
                }
            }
        }
        if self.input.fd.is_none() {
            self.input.pending.clear();
        }
        if self.input.eof && self.input.pending.is_empty() && self.target == Target::Command {
            // A pipe ends by this; a terminal does not, its end-of-file is a key.
            self.input.fd = None;
        }
    }

    fn read(&mut self) {
        let ended = self.ended.is_some();
        let mut buffer = vec![0; Message::DATA];
        for output in &mut self.outputs {
            while let Some(fd) = &output.fd {
                let room = WINDOW.saturating_sub(output.kept.len()).min(buffer.len());
                if room == 0 {
                    break;
                }
                match rustix::io::read(fd, &mut buffer[..room]) {
                    Ok(length) if length > 0 => output.kept.extend(&buffer[..length]),
                    Err(Errno::INTR) => {}
                    // What the command left running may hold the pipe or the terminal; the command itself writes no more.
                    Err(Errno::AGAIN) if !ended || self.target != Target::Command => break,
                    // The end; for a terminal it is an error.
                    _ => output.fd = None,
                }
            }
        }
    }

    fn acknowledge(&mut self, end: End, taken: u64) {
        if let Some(output) = self.outputs.iter_mut().find(|output| output.end == end) {
            let bytes = usize::try_from(taken.saturating_sub(output.start)).unwrap_or(usize::MAX);
            let bytes = bytes.min(output.kept.len());
            output.kept.drain(..bytes);
            output.start += bytes as u64;
            output.sent = output.sent.saturating_sub(bytes);
        }
    }

    /// The message to send next.
    fn next(&self) -> Option<Message> {
        let stream = self.stream;
        let taken = self.input.taken();
        // The first credit means that the command has begun, also when it takes no input and writes nothing.
        if self.acknowledged.map_or(self.ended.is_none() || taken > 0, |known| known < taken) {
            return Some(Message::Credit { stream, end: End::Input, taken });
        }
        for Output { end, kept, start, sent, .. } in &self.outputs {
            if *sent < kept.len() {
                let bytes: Vec<u8> = kept.iter().skip(*sent).take(Message::DATA).copied().collect();
                return Some(Message::Data { stream, end: *end, offset: start + *sent as u64, bytes });
            }
        }
        let complete = self.outputs.iter().all(|output| output.fd.is_none());
        let ended = self.ended.as_ref().filter(|_| complete && !self.end_sent)?;
        Some(Message::Ended { stream, ended: ended.clone() })
    }

    fn sent(&mut self, message: &Message) {
        match message {
            Message::Credit { taken, .. } => self.acknowledged = Some(*taken),
            Message::Data { end, bytes, .. } => {
                if let Some(output) = self.outputs.iter_mut().find(|output| output.end == *end) {
                    output.sent += bytes.len();
                }
            }
            _ => self.end_sent = true,
        }
    }
}

impl Input {
    /// How many bytes the command took.
    fn taken(&self) -> u64 {
        self.received - self.pending.len() as u64
    }

    /// Takes bytes that come next; others were lost on the way and come again.
    fn take(&mut self, offset: u64, bytes: &[u8]) {
        let known = self.received.checked_sub(offset).and_then(|known| usize::try_from(known).ok());
        if let Some(new) = known.and_then(|known| bytes.get(known..))
            && self.pending.len() + new.len() <= WINDOW
        {
            self.pending.extend(new);
            self.received += new.len() as u64;
        }
    }
}

impl Output {
    fn new(end: End, fd: OwnedFd) -> Self {
        Self { end, fd: Some(fd), kept: VecDeque::new(), start: 0, sent: 0 }
    }
}

fn find<'c>(containers: &'c [Container], name: &str) -> Result<&'c Container, Error> {
    let names = || containers.iter().map(Container::name).collect::<Vec<_>>().join(", ");
    let found = if name.is_empty() {
        // The pod's first container, as kubectl takes it.
        containers.iter().find(|container| container.role == Role::Service)
    } else {
        containers.iter().find(|container| container.name() == name)
    };
    found.ok_or_else(|| Error::NoContainer { name: name.to_owned(), names: names() })
}

fn resize(terminal: &OwnedFd, rows: u16, columns: u16) {
    if rows > 0 && columns > 0 {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // A pipe has no size.
        let _ = rustix::termios::tcsetwinsize(terminal, size);
    }
}

#[cfg(test)]
mod tests {
    use i2kit_container::Sandbox;
    use i2kit_spec::RestartPolicy;
    use rustix::pty::OpenptFlags;

    use super::*;

    fn output(kept: &[u8]) -> (Session, OwnedFd) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&read, true).unwrap();
        let mut session = Session::new(1, Target::Command);
        session.outputs.push(Output::new(End::Output, read));
        rustix::io::write(&write, kept).unwrap();
        (session, write)
    }

    #[test]
    fn output_is_kept_until_the_host_has_it() {
        let (mut session, write) = output(b"hello");
        session.read();
        let begun = session.next().unwrap();
        assert_eq!(begun, Message::Credit { stream: 1, end: End::Input, taken: 0 }, "it has begun");
        session.sent(&begun);
        let first = session.next().unwrap();
        assert_eq!(first, Message::Data { stream: 1, end: End::Output, offset: 0, bytes: b"hello".into() });
        session.sent(&first);
        assert_eq!(session.next(), None);
        session.acknowledge(End::Output, 2);
        // The supervisor died.
        session.outputs[0].sent = 0;
        let again = session.next().unwrap();
        assert_eq!(again, Message::Data { stream: 1, end: End::Output, offset: 2, bytes: b"llo".into() });
        session.sent(&again);
        rustix::io::write(&write, b"!").unwrap();
        session.ended = Some(Ended { code: 3, error: None });
        session.read();
        assert!(matches!(session.next(), Some(Message::Data { offset: 5, .. })));
        session.sent(&session.next().unwrap());
        assert!(matches!(session.next(), Some(Message::Ended { ended: Ended { code: 3, .. }, .. })));
    }

    #[test]
    fn what_a_command_leaves_running_keeps_no_terminal_open() {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = rustix::pty::openpt(flags).unwrap();
        rustix::io::ioctl_fionbio(&terminal, true).unwrap();
        rustix::pty::unlockpt(&terminal).unwrap();
        let left_running = rustix::pty::ioctl_tiocgptpeer(&terminal, flags).unwrap();
        let mut session = Session::new(1, Target::Command);
        session.outputs.push(Output::new(End::Output, terminal));
        session.acknowledged = Some(0);
        rustix::io::write(&left_running, b"last words").unwrap();
        session.ended = Some(Ended { code: 0, error: None });
        session.read();
        assert!(session.outputs[0].fd.is_none());
        let last = session.next().unwrap();
        let Message::Data { bytes, .. } = &last else { panic!("{last:?}") };
        assert_eq!(bytes, b"last words");
        session.sent(&last);
        assert!(matches!(session.next(), Some(Message::Ended { .. })));
        drop(left_running);
    }

    #[test]
    fn a_host_that_opens_and_closes_without_end_takes_bounded_memory() {
        let mut sessions = Sessions::default();
        let none = Containers::new(vec![], Sandbox::default(), RestartPolicy::Always);
        let open = |stream| Message::Open { stream, open: Open::default() };
        for stream in 0..10_000 {
            sessions.handle(open(stream), &none);
        }
        assert_eq!(sessions.list.len(), MAX_STREAMS);
        for stream in 0..10_000 {
            sessions.handle(Message::Close { stream }, &none);
        }
        assert_eq!((sessions.list.len(), sessions.closed.len()), (0, MAX_CLOSED));
        sessions.handle(open(9_999), &none);
        assert!(sessions.list.is_empty(), "it is over");
        sessions.handle(open(10_000), &none);
        assert_eq!(sessions.list.len(), 1);
    }

    #[test]
    fn input_that_came_twice_counts_once_and_a_gap_is_refused() {
        let mut input = Input::default();
        input.take(0, b"abc");
        input.take(1, b"bcd");
        input.take(9, b"lost");
        input.take(0, b"ab");
        assert_eq!(input.pending, b"abcd");
        assert_eq!(input.received, 4);
    }

    #[test]
    fn a_stream_that_is_over_does_not_begin_again() {
        let mut sessions = Sessions::default();
        let open = || Message::Open { stream: 4, open: Open::default() };
        let none = Containers::new(vec![], Sandbox::default(), RestartPolicy::Always);
        sessions.handle(open(), &none);
        assert_eq!(sessions.states().len(), 1);
        assert!(matches!(sessions.list[0].next(), Some(Message::Ended { .. })));
        sessions.handle(Message::Close { stream: 4 }, &none);
        sessions.handle(open(), &none);
        assert!(sessions.states().is_empty());
    }
}
