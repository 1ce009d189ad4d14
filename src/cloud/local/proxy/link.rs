//! The link between guardian and carrier: a socket pair over which each passes its descriptors to the other
//! (`SCM_RIGHTS`), so that either can be started anew with all of them.
//!
//! A message is a line: `keep NAME` with a descriptor, `forget NAME`, `all` once everything was handed over, `leave` from
//! a carrier in whose place another one is to be started, `ready` or `unready` from that one (the guardian passes `ready`
//! on to the one before), `end` from one after which nothing is to be started.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// The longest message: a name has an environment and an Ingress in it.
const LONGEST: usize = 1024;

/// How long the other side may leave messages unread.
const PATIENCE: Duration = Duration::from_secs(2);

/// A message.
#[derive(Debug)]
pub(super) enum Word {
    /// Hold this descriptor under this name.
    Keep(String, OwnedFd),
    /// Close it.
    Forget(String),
    /// Everything was handed over.
    All,
    /// Start another carrier, which is to take over from this one.
    Leave,
    /// From a carrier: it serves what it was handed. From a guardian, to the carrier before: another one does.
    Ready,
    /// From a carrier: it cannot read what it is to serve.
    Unready,
    /// Close everything and end.
    End,
}

/// Both ends of a link.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    for end in [&ours, &theirs] {
        rustix::net::sockopt::set_socket_timeout(end, rustix::net::sockopt::Timeout::Send, Some(PATIENCE))?;
    }
    Ok((ours, theirs))
}

/// Has [`receive`] fail when nothing comes within `patience`; `None` waits for ever.
pub(super) fn wait_for(link: BorrowedFd<'_>, patience: Option<Duration>) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_timeout(link, rustix::net::sockopt::Timeout::Recv, patience)?)
}

/// Sends a line, with a descriptor.
pub(super) fn send(link: BorrowedFd<'_>, text: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(link, &[IoSlice::new(text.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// Hands everything over.
pub(super) fn send_all(link: BorrowedFd<'_>, kept: &BTreeMap<String, OwnedFd>) -> io::Result<()> {
    for (name, descriptor) in kept {
        send(link, &format!("keep {name}"), Some(descriptor.as_fd()))?;
    }
    send(link, "all", None)
}

/// Waits for a message; `None` when the other side has ended.
pub(super) fn receive(link: BorrowedFd<'_>) -> io::Result<Option<Word>> {
    loop {
        let mut bytes = [0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            link,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        );
        let length = match received {
            Err(rustix::io::Errno::INTR) => continue,
            // It ended with messages of ours unread.
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            received => received?.bytes,
        };
        let mut descriptor = None;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                descriptor = descriptors.last();
            }
        }
        if length == 0 {
            return Ok(None);
        }
        if let Some(word) = word(&bytes[..length], descriptor) {
            return Ok(Some(word));
        }
    }
}

/// Reads a line; `None` for one of a newer program.
fn word(line: &[u8], descriptor: Option<OwnedFd>) -> Option<Word> {
    let line = std::str::from_utf8(line).ok()?;
    let (verb, name) = line.split_once(' ').unwrap_or((line, ""));
    match verb {
        "keep" => Some(Word::Keep(name.to_owned(), descriptor?)),
        "forget" => Some(Word::Forget(name.to_owned())),
        "all" => Some(Word::All),
        "leave" => Some(Word::Leave),
        "ready" => Some(Word::Ready),
        "unready" => Some(Word::Unready),
        "end" => Some(Word::End),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;

    #[test]
    fn descriptors_and_words_pass_and_an_end_is_seen() {
        let (ours, theirs) = pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"held").unwrap();
        let kept = [("state of x".to_owned(), OwnedFd::from(file))].into();
        send_all(ours.as_fd(), &kept).unwrap();
        send(ours.as_fd(), "a word of another time", None).unwrap();
        send(ours.as_fd(), "forget state of x", None).unwrap();
        let Some(Word::Keep(name, held)) = receive(theirs.as_fd()).unwrap() else { panic!("a descriptor") };
        drop(kept);
        assert_eq!(name, "state of x");
        let (mut text, mut held) = (String::new(), File::from(held));
        held.rewind().unwrap();
        held.read_to_string(&mut text).unwrap();
        assert_eq!(text, "held");
        assert!(matches!(receive(theirs.as_fd()).unwrap(), Some(Word::All)));
        assert!(matches!(receive(theirs.as_fd()).unwrap(), Some(Word::Forget(name)) if name == "state of x"));
        drop(ours);
        assert!(receive(theirs.as_fd()).unwrap().is_none());
        assert!(send(theirs.as_fd(), "all", None).is_err());
    }
}
