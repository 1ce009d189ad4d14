//! One connection of the coordinator: a request, the streams of a program that it runs, and the answer. Runs in a thread of
//! its own, whose end the loop is told of whatever happens. What comes from the coordinator comes from a container: it is
//! bounded, and nothing is taken for granted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::Duration;

use i2kit_spec::replica::{MAX_POD_REQUEST, PodAnswer, PodRequest, ReplicaReport};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::link::{Link, Order, Pipe};

/// How long a request may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(10);

/// How long PID 1 may take to answer: longer than it gives an order.
const ANSWER: Duration = Duration::from_mins(1);

/// How long a client may take no bytes before it counts as gone.
const SILENCE: Duration = Duration::from_mins(1);

/// How often a program without output is looked after.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// How much of a stream is carried at once.
const PIECE: usize = 64 * 1024;

/// What a client asks of the loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Something about containers.
    Order { id: u64, order: Order, containers: Vec<String> },
    /// A program.
    Run { id: u64, container: String, command: Vec<String>, env: BTreeMap<String, String> },
    /// What the replica says of itself is kept.
    Report { id: u64, report: ReplicaReport },
    /// The end of that program.
    Kill { id: u64 },
    /// Nothing any more.
    Gone { id: u64 },
}

/// What comes of it.
#[derive(Debug)]
pub(crate) enum Reply {
    /// It is done, or is not, and why.
    Ordered(Option<String>),
    /// The program runs; an end of it.
    Piped(Pipe, OwnedFd),
    /// The program has ended with this code.
    Ran(i32),
}

/// Where a client's questions go; its end is told when this is dropped.
#[derive(Debug)]
pub(crate) struct Outbox {
    id: u64,
    asks: Sender<Ask>,
    ringer: Link,
}

impl Outbox {
    /// That of the client of this number.
    pub(crate) fn new(id: u64, asks: Sender<Ask>, ringer: Link) -> Self {
        Self { id, asks, ringer }
    }

    fn ask(&self, ask: Ask) {
        // Both fail only when the loop is gone, and the whole process with it; a bell that is full rings already.
        let _ = self.asks.send(ask);
        let _ = self.ringer.send(&self.id, None);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.ask(Ask::Gone { id: self.id });
    }
}

/// Serves a connection in a thread of its own.
pub(crate) fn spawn(stream: UnixStream, outbox: Outbox, inbox: Receiver<Reply>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(ARRIVAL))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let serve = move || {
        // A client that is gone needs no answer. Whatever still reads what it sends ends with this.
        let _ = serve(&stream, &outbox, &inbox);
        let _ = stream.shutdown(Shutdown::Both);
    };
    std::thread::Builder::new().name("pod-client".into()).spawn(serve).map(drop)
}

fn serve(stream: &UnixStream, outbox: &Outbox, inbox: &Receiver<Reply>) -> io::Result<()> {
    let request = match read_request(stream)? {
        Ok(request) => request,
        Err(why) => return answer(stream, &PodAnswer::Refused(why)),
    };
    let id = outbox.id;
    let asked = |order, containers| Ask::Order { id, order, containers };
    let ask = match request {
        PodRequest::Stop { containers } => asked(Order::Stop, containers),
        PodRequest::Start { containers } => asked(Order::Start, containers),
        PodRequest::Freeze { containers } => asked(Order::Freeze, containers),
        PodRequest::Thaw { containers } => asked(Order::Thaw, containers),
        PodRequest::Report { report } => Ask::Report { id, report },
        PodRequest::Run { container, command, env } => {
            outbox.ask(Ask::Run { id, container, command, env });
            return run(stream, outbox, inbox);
        }
    };
    outbox.ask(ask);
    let said = match inbox.recv_timeout(ANSWER) {
        Ok(Reply::Ordered(None)) => PodAnswer::Done,
        Ok(Reply::Ordered(Some(failure))) => PodAnswer::Refused(failure),
        Ok(_) => PodAnswer::Refused("PID 1 answered another question".into()),
        Err(_) => PodAnswer::Refused("PID 1 does not answer".into()),
    };
    answer(stream, &said)
}

/// The line with the request, or what is wrong with it. Reads no byte beyond the line: what follows is the input of a program.
fn read_request(mut stream: impl Read) -> io::Result<Result<PodRequest, String>> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) if line.len() + 1 >= MAX_POD_REQUEST => {
                return Ok(Err(format!("a request has at most {MAX_POD_REQUEST} bytes")));
            }
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(serde_json::from_slice(&line).map_err(|error| format!("that is no request: {error}")))
}

fn answer(mut stream: &UnixStream, said: &PodAnswer) -> io::Result<()> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Carries the streams of a program until it has ended.
fn run(stream: &UnixStream, outbox: &Outbox, inbox: &Receiver<Reply>) -> io::Result<()> {
    let (mut input, mut output) = (None, None);
    while input.is_none() || output.is_none() {
        match inbox.recv_timeout(ANSWER) {
            Ok(Reply::Piped(Pipe::Input, fd)) => input = Some(fd),
            Ok(Reply::Piped(Pipe::Output, fd)) => output = Some(fd),
            Ok(Reply::Ordered(failure)) => {
                let why = failure.unwrap_or_else(|| "the program does not run".into());
                return answer(stream, &PodAnswer::Refused(why));
            }
            Ok(Reply::Ran(code)) => {
                return end_of_output(stream).and_then(|()| answer(stream, &PodAnswer::Exit(code)));
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                outbox.ask(Ask::Kill { id: outbox.id });
                return answer(stream, &PodAnswer::Refused("PID 1 does not answer".into()));
            }
        }
    }
    let (Some(input), Some(output)) = (input, output) else { return Ok(()) };
    let carried = carry(stream, (input, output), inbox);
    if carried.is_err() {
        outbox.ask(Ask::Kill { id: outbox.id });
    }
    answer(stream, &PodAnswer::Exit(carried?))
}

/// Carries the client's input in a thread, and the program's output here. Returns the exit code.
fn carry(
    stream: &UnixStream,
    (input, output): (OwnedFd, OwnedFd),
    inbox: &Receiver<Reply>,
) -> io::Result<i32> {
    // A program may be silent for as long as it likes, and so may its client.
    stream.set_read_timeout(None)?;
    rustix::io::ioctl_fionbio(&input, false)?;
    let from = stream.try_clone()?;
    let feed = move || {
        // The program wants no more, or the client is gone, which is seen at its output.
        let _ = feed(from, File::from(input));
    };
    std::thread::Builder::new().name("pod-input".into()).spawn(feed)?;
    let mut output = File::from(output);
    let mut buffer = vec![0; PIECE];
    let (mut code, mut is_open) = (None, true);
    while is_open || code.is_none() {
        match inbox.try_recv() {
            Ok(Reply::Ran(ended)) => code = Some(ended),
            Ok(_) | Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Err(ErrorKind::ConnectionAborted.into()),
        }
        if is_open {
            match output.read(&mut buffer) {
                Ok(0) => is_open = false,
                Ok(length) => {
                    frame(stream, &buffer[..length])?;
                    continue;
                }
                // What the program left running may hold the pipe; the program itself writes no more.
                Err(error) if error.kind() == ErrorKind::WouldBlock => is_open = code.is_none(),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
        }
        if is_open || code.is_none() {
            let mut fds = vec![PollFd::new(stream, PollFlags::empty())];
            fds.extend(is_open.then(|| PollFd::new(&output, PollFlags::IN)));
            match rustix::event::poll(&mut fds, Some(&LOOK)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
                return Err(ErrorKind::BrokenPipe.into());
            }
        }
    }
    end_of_output(stream)?;
    Ok(code.unwrap_or(255))
}

fn frame(mut stream: &UnixStream, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(bytes)
}

fn end_of_output(stream: &UnixStream) -> io::Result<()> {
    frame(stream, &[])
}

/// Gives a program what comes in frames, up to the empty one. A frame may be of any length: it is carried in pieces.
fn feed(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let mut left = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
        if left == 0 {
            return Ok(());
        }
        while left > 0 {
            let piece = left.min(buffer.len());
            match from.read(&mut buffer[..piece]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    to.write_all(&buffer[..read])?;
                    left -= read;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
#[path = "pod_client/tests.rs"]
mod tests;
