//! The holder: a process of one thread in an environment's namespaces, the child of the local cloud. It makes or joins them,
//! hands up what it opened ([`Handles`]), and opens further descriptors there on request, until the local cloud closes its
//! socket. It may end at any time: the namespaces live on by the machines and by the descriptors.
//!
//! Requests and answers are JSON, one a packet, over a socket that is the holder's standard input; descriptors come with an
//! answer.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::namespace::{self, Handles, Join, MOST, NamespaceError, NamespaceStep};
use super::sys::{self, Virtual};
use super::wanted;
use crate::cloud::local::machine::process;

/// The hidden verb of this program that is a holder.
pub(crate) const VERB: &str = "local-network";

/// The longest packet, in bytes.
const PACKET: usize = 4096;

/// How long a holder may take for an answer: it opens a descriptor.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How long it may take to make or join a network: 40 ms on an idle host; on a slow one that has just been started the kernel
/// first loads a dozen modules for it, each by a process of its own.
const MAKING: Duration = Duration::from_mins(1);

/// A request for a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Request {
    /// The interface of a machine.
    Tap { machine: Ipv4Addr },
    /// Sockets of TCP, as many as come with a message, which are connected to nothing yet.
    Sockets,
}

/// The answer. With it come the descriptors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Answer {
    /// The network is there.
    #[serde(rename_all = "camelCase")]
    Opened {
        /// Whether it has IPv6.
        has_ipv6: bool,
    },
    /// Done.
    Done,
    /// Not done.
    Refused {
        /// The step of the network's making.
        step: Option<NamespaceStep>,
        /// The error's number, where it has one.
        code: Option<i32>,
        /// The error.
        message: String,
    },
}

impl Answer {
    fn refused(step: Option<NamespaceStep>, error: &io::Error) -> Self {
        Self::Refused { step, code: error.raw_os_error(), message: error.to_string() }
    }
}

/// The error that was told.
fn told(code: Option<i32>, message: String) -> io::Error {
    code.map_or_else(|| io::Error::other(message), io::Error::from_raw_os_error)
}

// ---------------------------------------------------------------- in the holder's process

/// Is a holder until the other side closes the socket, which is standard input.
pub(crate) fn serve(join: &Join) -> io::Result<()> {
    let socket = rustix::stdio::stdin();
    let (has_ipv6, opened) = match namespace::open(join) {
        Ok(handles) => (handles.has_ipv6, handles.into_descriptors()),
        Err(NamespaceError { step, error }) => {
            return send(socket, &Answer::refused(Some(step), &error), &[]);
        }
    };
    let borrowed: Vec<BorrowedFd<'_>> = opened.iter().map(AsFd::as_fd).collect();
    send(socket, &Answer::Opened { has_ipv6 }, &borrowed)?;
    // Others have them now: the exclusive ones must be free when they end.
    drop(opened);
    while let Some((request, _)) = receive::<Request>(socket)? {
        match answer(&request) {
            Ok(made) => {
                let borrowed: Vec<BorrowedFd<'_>> = made.iter().map(AsFd::as_fd).collect();
                send(socket, &Answer::Done, &borrowed)?;
            }
            Err(error) => send(socket, &Answer::refused(None, &error), &[])?,
        }
    }
    Ok(())
}

fn answer(request: &Request) -> io::Result<Vec<OwnedFd>> {
    match request {
        Request::Tap { machine } => {
            let name = wanted::tap(*machine);
            Ok(vec![sys::interface(Path::new(namespace::DEVICE), &name, Virtual::Frames)?])
        }
        Request::Sockets => (0..MOST).map(|_| namespace::socket(SocketType::STREAM, None)).collect(),
    }
}

// ---------------------------------------------------------------- on both sides

fn send(socket: BorrowedFd<'_>, message: &impl Serialize, with: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !with.is_empty() && !control.push(SendAncillaryMessage::ScmRights(with)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A message and the descriptors with it; nothing when the other side has closed the socket.
fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = [0; PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut into = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&bytes[..received.bytes])?, descriptors)))
}

// ---------------------------------------------------------------- on the local cloud's side

/// A holder, as the local cloud has it. It ends with this value.
#[derive(Debug)]
pub(crate) struct Holder {
    socket: Mutex<OwnedFd>,
    child: Mutex<Child>,
    /// Whether a question has no answer: a late one would be taken for that of the next question.
    is_behind: AtomicBool,
}

/// No answer at this socket may take longer.
fn answers_within(socket: &OwnedFd, patience: Duration) -> io::Result<()> {
    for timeout in [Timeout::Recv, Timeout::Send] {
        sockopt::set_socket_timeout(socket, timeout, Some(patience))?;
    }
    Ok(())
}

/// Starts a holder by `command`, this program with its own arguments, and waits for what it opened. No later answer of it may
/// take longer than `patience`.
pub(crate) fn start(
    mut command: Command,
    join: &Join,
    patience: Duration,
) -> Result<(Holder, Handles), NamespaceError> {
    let failed = |step: NamespaceStep| move |error: io::Error| NamespaceError { step, error };
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| failed(NamespaceStep::Sockets)(error.into()))?;
    answers_within(&ours, patience.max(MAKING)).map_err(failed(NamespaceStep::Sockets))?;
    command.arg(VERB);
    for (option, path) in [("--user", &join.user), ("--net", &join.net)] {
        command.args(path.iter().flat_map(|path| [option.as_ref(), path.as_os_str()]));
    }
    let child = process::spawn_apart(command.stdin(theirs).stdout(Stdio::null()));
    let child = child.map_err(failed(NamespaceStep::Sockets))?;
    // With it goes the other end of the socket, so that a holder that ends is heard.
    drop(command);
    let holder = Holder::new(ours, child);
    let (descriptors, has_ipv6) = holder.receive(patience)?;
    let wrong = || failed(NamespaceStep::Sockets)(io::ErrorKind::InvalidData.into());
    let handles = Handles::from_descriptors(descriptors, has_ipv6).ok_or_else(wrong)?;
    Ok((holder, handles))
}

impl Holder {
    /// The holder that is this process, at the other end of this socket.
    pub(super) fn new(socket: OwnedFd, child: Child) -> Self {
        Self { socket: Mutex::new(socket), child: Mutex::new(child), is_behind: AtomicBool::new(false) }
    }

    /// The answer that is on its way: what was opened, and whether the network has IPv6. Later ones may take `patience`.
    fn receive(&self, patience: Duration) -> Result<(Vec<OwnedFd>, bool), NamespaceError> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |error| NamespaceError { step: NamespaceStep::Sockets, error };
        let answer = receive::<Answer>(socket.as_fd()).map_err(failed)?;
        answers_within(&socket, patience).map_err(failed)?;
        match answer {
            Some((Answer::Opened { has_ipv6 }, descriptors)) => Ok((descriptors, has_ipv6)),
            Some((Answer::Done, _)) => Err(failed(io::ErrorKind::InvalidData.into())),
            Some((Answer::Refused { step, code, message }, _)) => Err(NamespaceError {
                step: step.unwrap_or(NamespaceStep::Sockets),
                error: told(code, message),
            }),
            None => Err(failed(ended())),
        }
    }

    fn ask(&self, request: &Request) -> io::Result<Vec<OwnedFd>> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever waited for the socket while another question got no answer.
        if self.is_behind.load(Ordering::Acquire) {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the holder of the network has not answered",
            ));
        }
        let asked = send(socket.as_fd(), request, &[]).and_then(|()| receive::<Answer>(socket.as_fd()));
        match asked {
            Ok(Some((Answer::Done, descriptors))) => Ok(descriptors),
            Ok(Some((Answer::Refused { code, message, .. }, _))) => Err(told(code, message)),
            Ok(Some((Answer::Opened { .. }, _))) => Err(io::ErrorKind::InvalidData.into()),
            // It has ended, though its process may run for a moment still, or its answer is late.
            unheard => {
                self.is_behind.store(true, Ordering::Release);
                Err(unheard.err().unwrap_or_else(ended))
            }
        }
    }

    /// Makes the interface of a machine.
    pub(crate) fn tap(&self, machine: Ipv4Addr) -> io::Result<OwnedFd> {
        self.ask(&Request::Tap { machine })?.pop().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Some sockets of TCP in the network that do not block and are connected to nothing yet.
    pub(crate) fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        self.ask(&Request::Sockets)
    }

    /// Whether its process runs, and has answered every question.
    pub(crate) fn is_usable(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        !self.is_behind.load(Ordering::Acquire) && matches!(child.try_wait(), Ok(None))
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the holder of the network ended")
}

impl Drop for Holder {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // It owns nothing that must be brought to an end.
        let _ = child.kill().and_then(|()| child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_that_answers_late_is_not_asked_again() {
        let pair = || {
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap()
        };
        let child = || Command::new("sleep").arg("60").spawn().unwrap();
        let (ours, theirs) = pair();
        sockopt::set_socket_timeout(&ours, Timeout::Recv, Some(Duration::from_millis(20))).unwrap();
        let holder = Holder::new(ours, child());
        assert!(holder.is_usable());
        // What is refused is an answer.
        send(theirs.as_fd(), &Answer::refused(None, &Errno::NETUNREACH.into()), &[]).unwrap();
        let refused = holder.sockets().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::NETUNREACH.raw_os_error()));
        assert!(holder.is_usable());
        // Silence is none, and the late answer is nobody's.
        assert_eq!(holder.sockets().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        send(theirs.as_fd(), &Answer::Done, &[theirs.as_fd()]).unwrap();
        assert!(!holder.is_usable());
        assert_eq!(holder.sockets().unwrap_err().kind(), io::ErrorKind::TimedOut);
        // One that has closed its end is gone, though its process has not ended yet.
        let (ours, theirs) = pair();
        let holder = Holder::new(ours, child());
        drop(theirs);
        assert!(holder.sockets().is_err());
        assert!(!holder.is_usable());
    }
}
