//! The link: messages between PID 1 and the supervisor, over a socket that keeps them apart.
//!
//! PID 1 never waits for the other side: what it cannot send now it keeps, and what it keeps is sent again to the next
//! supervisor when this one dies.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use i2kit_spec::control::{self, Message, StreamState};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The largest message. What a manifest may make large, such as a probe's command, is never in one: both sides have the pod.
const MESSAGE_BYTES: usize = 72 * 1024;

/// From PID 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ToSupervisor {
    /// A client of the health port, whose socket comes with the message. PID 1 keeps a copy until [`ToInit::Done`].
    Client {
        /// Its number.
        id: u64,
    },
    /// The record is newer than it was.
    Changed,
    /// The commands that run for somebody outside; how much input each has taken.
    Streams {
        /// All of them.
        streams: Vec<StreamState>,
    },
    /// The control channel's port, which comes with the message.
    Port {
        /// How often the supervisor was started.
        epoch: u64,
    },
    /// What rings when there are more lines in the journals; it comes with the message.
    Bell,
    /// The listening socket on which the coordinator of a replicated pod asks; it comes with the message.
    PodSocket,
    /// What [`ToInit::Order`] or [`ToInit::Run`] asked for is done, or is not.
    Ordered {
        /// Its number.
        id: u64,
        /// Why it was not done.
        failure: Option<String>,
    },
    /// A program that was asked for runs; this end of it comes with the message.
    Piped {
        /// Its number.
        id: u64,
        /// Which end.
        pipe: Pipe,
    },
    /// A program that was asked for has ended.
    Ran {
        /// Its number.
        id: u64,
        /// Its exit code, 128 and the signal's number after a signal.
        code: i32,
    },
    /// A command that was asked for has ended.
    Executed {
        /// Its number.
        id: u64,
        /// The run of the container that it was for.
        run: u64,
        /// Why it failed, if it did.
        failure: Option<String>,
    },
    /// Make the request of a container's hook. A supervisor that is started anew gets the request again.
    Request {
        /// The hook's number.
        number: u64,
        /// The container.
        container: String,
        /// Which hook of it.
        when: When,
        /// The time limit in seconds.
        seconds: u64,
    },
}

/// What is done with containers of a pod that is replicated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Order {
    /// End them at once, and keep them ended.
    Stop,
    /// Start those that were ended so, at once.
    Start,
    /// Have their processes stand still.
    Freeze,
    /// Let them go on.
    Thaw,
}

/// An end of a program that was run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Pipe {
    /// Where its standard input is written.
    Input,
    /// Where its standard output is read.
    Output,
}

/// Kubernetes' three probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProbeKind {
    /// Whether the container has come up.
    Startup,
    /// Whether it still works.
    Liveness,
    /// Whether it can take traffic.
    Readiness,
}

/// Kubernetes' two hooks: when in a container's life one is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum When {
    /// Its program has started.
    PostStart,
    /// It is being stopped.
    PreStop,
}

/// What the answers to a probe amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Enough successes.
    Healthy,
    /// Enough failures.
    Unhealthy,
    /// A failure, while it was never healthy and the threshold is not reached.
    Undecided,
}

/// From the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ToInit {
    /// The connection is over: the client was answered and asks no more, or went away.
    Done {
        /// Its number.
        id: u64,
    },
    /// The supervisor has taken over.
    Attached,
    /// A host has connected: the sessions of another one are void.
    Host {
        /// The host's number for itself.
        epoch: u64,
    },
    /// The host has the lines of a container before this one.
    Logged {
        /// The container.
        container: String,
        /// The number of the first line that it does not have.
        next: u64,
        /// How many of them were dropped before anybody took them.
        dropped: u64,
    },
    /// Run the command of a container's probe.
    Execute {
        /// The supervisor's number for it.
        id: u64,
        /// The container.
        container: String,
        /// Which run of it.
        run: u64,
        /// Which probe.
        kind: ProbeKind,
    },
    /// The coordinator of a replicated pod asks for something about containers. The answer is [`ToSupervisor::Ordered`].
    Order {
        /// The supervisor's number for it.
        id: u64,
        /// What is to be done.
        order: Order,
        /// With which containers.
        containers: Vec<String>,
    },
    /// It asks for a program to be run. The answer is [`ToSupervisor::Piped`] for both ends and then [`ToSupervisor::Ran`],
    /// or [`ToSupervisor::Ordered`] when it cannot be run.
    Run {
        /// The supervisor's number for it.
        id: u64,
        /// The container.
        container: String,
        /// Program and arguments.
        command: Vec<String>,
        /// More environment variables.
        env: BTreeMap<String, String>,
    },
    /// Nobody waits for that program any more.
    Kill {
        /// Its number.
        id: u64,
    },
    /// A request for a hook has its answer.
    Answered {
        /// The hook's number.
        number: u64,
        /// Why it failed, if it did.
        failure: Option<String>,
    },
    /// A probe has come to a verdict.
    Probed {
        /// The container.
        container: String,
        /// Which run of it.
        run: u64,
        /// Which probe.
        kind: ProbeKind,
        /// The verdict.
        verdict: Verdict,
        /// The last failure.
        message: String,
    },
}

/// A message of the link's own, or one of the control channel that the supervisor carries.
#[derive(Debug)]
pub enum Any<T> {
    /// Of the link.
    Own(T),
    /// Of the control channel.
    Control(Message),
}

/// One end.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
}

impl Link {
    /// Both ends. Neither blocks.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self { socket: ours }, theirs))
    }

    /// The end that is this socket.
    pub fn over(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Another handle on the same end.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()? })
    }

    /// Sends a message, with a descriptor or without. `WouldBlock` when the other side does not read, `InvalidInput` when the
    /// message is larger than the other side takes.
    pub fn send(&self, message: &impl Serialize, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send_bytes(&serde_json::to_vec(message)?, fd)
    }

    /// Sends a message of the control channel as it is there; no message of this link begins like one.
    pub fn forward(&self, message: &Message) -> io::Result<()> {
        let mut bytes = vec![];
        message.encode(&mut bytes).map_err(io::Error::other)?;
        self.send_bytes(&bytes, None)
    }

    fn send_bytes(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        if bytes.len() > MESSAGE_BYTES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, flags)?;
        Ok(())
    }

    /// The next message. `WouldBlock` when there is none, `InvalidData` for one that is none of this link's or too large,
    /// `UnexpectedEof` only when the other side is gone.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<(T, Option<OwnedFd>)> {
        let (bytes, fd) = self.receive_bytes()?;
        Ok((parse(&bytes)?, fd))
    }

    /// As [`Self::receive`], where messages of the control channel may come too.
    pub fn receive_any<T: DeserializeOwned>(&self) -> io::Result<(Any<T>, Option<OwnedFd>)> {
        let (bytes, fd) = self.receive_bytes()?;
        match control::decode(&bytes) {
            Some(message) => Ok((Any::Control(message), fd)),
            None => Ok((Any::Own(parse(&bytes)?), fd)),
        }
    }

    fn receive_bytes(&self) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
        let mut bytes = vec![0; MESSAGE_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received =
            rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a message larger than this link carries",
            ));
        }
        bytes.truncate(received.bytes);
        Ok((bytes, fd))
    }
}

/// The message of these bytes. Whatever is wrong with them is the message's fault, and not the end of the link.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn messages_carry_descriptors() {
        let (ours, theirs) = Link::pair().unwrap();
        let theirs = Link::over(theirs);
        let file = std::fs::File::open("/dev/zero").unwrap();
        ours.send(&ToSupervisor::Client { id: 7 }, Some(file.as_fd())).unwrap();
        ours.send(&ToSupervisor::Client { id: 8 }, None).unwrap();
        let (message, fd) = theirs.receive::<ToSupervisor>().unwrap();
        assert_eq!(message, ToSupervisor::Client { id: 7 });
        let mut byte = [1];
        std::fs::File::from(fd.unwrap()).read_exact(&mut byte).unwrap();
        assert_eq!(byte, [0]);
        assert_eq!(theirs.receive::<ToSupervisor>().unwrap().0, ToSupervisor::Client { id: 8 });
        assert_eq!(theirs.receive::<ToSupervisor>().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(ours);
        assert_eq!(theirs.receive::<ToSupervisor>().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_message_that_is_too_large_does_not_end_the_link() {
        let (ours, theirs) = Link::pair().unwrap();
        let answered = |failure: String| ToInit::Answered { number: 1, failure: Some(failure) };
        let large = answered("x".repeat(80_000));
        assert_eq!(ours.send(&large, None).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        // Whatever the other side is, it may send what it likes.
        let bytes = [serde_json::to_vec(&large).unwrap(), br#"{"answered":{"num"#.to_vec()];
        for bytes in bytes {
            rustix::io::write(&ours, &bytes).unwrap();
        }
        ours.send(&answered("x".repeat(70_000)), None).unwrap();
        let theirs = Link::over(theirs);
        for _ in 0..2 {
            assert_eq!(theirs.receive_any::<ToInit>().unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        assert!(matches!(theirs.receive::<ToInit>(), Ok((ToInit::Answered { number: 1, .. }, None))));
    }

    #[test]
    fn a_reader_that_sleeps_does_not_block_the_writer() {
        let (ours, _theirs) = Link::pair().unwrap();
        let error = (0..1_000_000).find_map(|id| ours.send(&ToSupervisor::Client { id }, None).err());
        assert_eq!(error.unwrap().kind(), io::ErrorKind::WouldBlock);
    }
}
