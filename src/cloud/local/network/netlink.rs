//! Netlink: messages to the kernel as bytes, and its answers. A batch of messages is one datagram; the caller reads either
//! that the last one was done, or which one failed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Length of `struct nlmsghdr`: length, type, flags, sequence number, port.
const HEADER: usize = 16;

/// Where the flags and the sequence number are in it.
const FLAGS: usize = 6;
const SEQUENCE: usize = 8;

const NLM_F_REQUEST: u16 = 0x1;
pub(super) const NLM_F_ACK: u16 = 0x4;
pub(super) const NLM_F_REPLACE: u16 = 0x100;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// The bit of an attribute's type that marks others within it.
pub(super) const NLA_F_NESTED: u16 = 0x8000;

/// The bits of an attribute's type that are its type.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Room for answers, in bytes: a thousand of them may wait.
const RECEIVE_BYTES: usize = 8 << 20;

/// The largest datagram of answers that the kernel sends, in bytes.
const ANSWER_BYTES: usize = 256 << 10;

/// How long the kernel may take for an answer; it answers while the request is sent.
const PATIENCE: Duration = Duration::from_secs(5);

/// The body of a message under construction.
#[derive(Debug, Default)]
pub(super) struct Body {
    bytes: Vec<u8>,
    /// Whether some attribute is longer than its length field holds.
    is_too_long: bool,
}

impl Body {
    /// Appends bytes of the fixed part, and zeros up to a multiple of four.
    pub(super) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Appends an attribute.
    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = self.length(value.len() + 4);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.put(value)
    }

    /// Appends an attribute that is a text with its final zero.
    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Appends a number as `nf_tables` has it: in the network's order.
    pub(super) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Appends a number as rtnetlink has it: in this machine's order.
    pub(super) fn ne32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Appends an attribute that holds those that `fill` appends.
    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::default();
        fill(&mut inner);
        self.nested(kind, &inner)
    }

    /// Appends an attribute that holds those of `inner`.
    pub(super) fn nested(&mut self, kind: u16, inner: &Self) -> &mut Self {
        self.is_too_long |= inner.is_too_long;
        self.attribute(kind | NLA_F_NESTED, &inner.bytes)
    }

    fn length(&mut self, bytes: usize) -> u16 {
        u16::try_from(bytes).unwrap_or_else(|_| {
            self.is_too_long = true;
            u16::MAX
        })
    }
}

/// Messages that are sent as one datagram.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// Where the last message begins.
    last: usize,
    /// What each message is for, in the order of their sequence numbers, which begin at one.
    purposes: Vec<String>,
    is_too_long: bool,
    /// Whether what a message deletes may be gone already.
    may_be_gone: bool,
}

/// How many messages were sent: each has a number of its own, by which its answer is told from a late one of an earlier
/// request.
static SENT: AtomicU32 = AtomicU32::new(0);

impl Batch {
    /// Appends a message of type `kind`; `purpose` is what an error names.
    pub(super) fn message(
        &mut self,
        (kind, flags): (u16, u16),
        purpose: impl Into<String>,
        fill: impl FnOnce(&mut Body),
    ) -> &mut Self {
        let mut body = Body::default();
        fill(&mut body);
        self.purposes.push(purpose.into());
        let length = u32::try_from(HEADER + body.bytes.len());
        let sequence = u32::try_from(self.purposes.len());
        self.is_too_long |= body.is_too_long || length.is_err() || sequence.is_err();
        self.last = self.bytes.len();
        self.bytes.extend_from_slice(&length.unwrap_or_default().to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.unwrap_or_default().to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&body.bytes);
        self
    }

    /// The number of messages, which is the sequence number of the last one.
    pub(super) fn len(&self) -> usize {
        self.purposes.len()
    }

    /// The bytes of all messages.
    pub(super) fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Has the last message answered.
    pub(super) fn ask(&mut self) {
        if let Some(flags) = self.bytes.get_mut(self.last + FLAGS..).and_then(|bytes| bytes.first_chunk_mut())
        {
            *flags = (u16::from_ne_bytes(*flags) | NLM_F_ACK).to_ne_bytes();
        }
    }

    /// Takes what its messages delete, and what is not there, for deleted.
    pub(super) fn delete_if_there(&mut self) {
        self.may_be_gone = true;
    }

    /// The messages with numbers that no other ones have: those in the batch, and what was added to them.
    fn numbered(&self) -> (Vec<u8>, u32) {
        let added = SENT.fetch_add(u32::try_from(self.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
        let (mut bytes, mut at) = (self.bytes.clone(), 0);
        while let Some(header) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<HEADER>) {
            let [a, b, c, d, ..] = *header;
            if let Some(number) = header[SEQUENCE..].first_chunk_mut() {
                *number = u32::from_ne_bytes(*number).wrapping_add(added).to_ne_bytes();
            }
            let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            at = at.saturating_add(length.next_multiple_of(4).max(HEADER));
        }
        (bytes, added)
    }

    /// Sends the messages. What an earlier request has left is no answer to them, and is thrown away. Returns what was added
    /// to their numbers.
    fn send(&self, socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<u32> {
        loop {
            match rustix::net::recv(socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((length, _)) if length > 0 => {}
                // Some were lost for want of room, and others may be there.
                Err(Errno::NOBUFS | Errno::INTR) => {}
                _ => break,
            }
        }
        let (bytes, added) = self.numbered();
        rustix::net::send(socket, &bytes, SendFlags::empty())?;
        Ok(added)
    }

    /// The messages as bytes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the message of that sequence number is for.
    fn purpose(&self, sequence: u32) -> &str {
        let index = usize::try_from(sequence).ok().and_then(|sequence| sequence.checked_sub(1));
        index.and_then(|index| self.purposes.get(index)).map_or("an unknown message", String::as_str)
    }
}

/// A message that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{purpose}: {error}")]
pub(super) struct Refusal {
    /// What the message is for.
    pub(super) purpose: String,
    /// Why it was refused.
    #[source]
    pub(super) error: io::Error,
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.error.kind(), refusal)
    }
}

/// The number of an error, that of a [`Refusal`]'s reason too: some have no kind of their own.
pub(super) fn number(error: &io::Error) -> Option<i32> {
    error.raw_os_error().or_else(|| error.get_ref()?.downcast_ref::<Refusal>()?.error.raw_os_error())
}

/// Opens a socket of this protocol, rtnetlink without one, that is told of these groups.
pub(super) fn open(protocol: Option<Protocol>, groups: u32) -> io::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    // Refused, the kernel's own size stays: fewer answers may wait.
    let _ = sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BYTES);
    sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// Sends a batch and waits until the message with the sequence number `last`, which asks for an answer, was done.
///
/// # Errors
/// The first message that the kernel refused, or what kept the batch from being sent.
pub(super) fn request(socket: impl AsFd, batch: &Batch, last: usize) -> Result<(), Refusal> {
    let socket = socket.as_fd();
    let failed = |error: io::Error| Refusal { purpose: "netlink".to_owned(), error };
    if batch.is_too_long {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    let mut buffer = vec![0; ANSWER_BYTES];
    let added = batch.send(socket, &mut buffer).map_err(failed)?;
    let mut refused: Option<Refusal> = None;
    loop {
        // Behind the first refusal only what is there already is read.
        let flags = if refused.is_some() { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
        let length = match rustix::net::recv(socket, &mut *buffer, flags) {
            Ok((length, _)) => length,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(refused.unwrap_or_else(|| failed(error.into()))),
        };
        for message in messages(&buffer[..length]).filter(|message| message.kind == NLMSG_ERROR) {
            let number = message.sequence.wrapping_sub(added);
            let Some(index) = usize::try_from(number).ok().filter(|index| (1..=batch.len()).contains(index))
            else {
                continue;
            };
            match outcome(message.body) {
                Err(error) if !(batch.may_be_gone && error.kind() == io::ErrorKind::NotFound) => {
                    let purpose = batch.purpose(number).to_owned();
                    refused.get_or_insert(Refusal { purpose, error });
                }
                _ if index == last => return refused.map_or(Ok(()), Err),
                _ => {}
            }
        }
    }
}

/// Sends a batch of one message that asks for a list, and gives each entry's type and body to `entry`.
pub(super) fn dump(socket: impl AsFd, batch: &Batch, mut entry: impl FnMut(u16, &[u8])) -> io::Result<()> {
    let socket = socket.as_fd();
    let mut buffer = vec![0; ANSWER_BYTES];
    let added = batch.send(socket, &mut buffer)?;
    loop {
        let length = match rustix::net::recv(socket, &mut *buffer, RecvFlags::empty()) {
            Ok((length, _)) => length,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        for message in messages(&buffer[..length]) {
            if message.sequence.wrapping_sub(added) != 1 {
                continue;
            }
            match message.kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return outcome(message.body),
                kind => entry(kind, message.body),
            }
        }
    }
}

/// The result in the body of an answer (`struct nlmsgerr`): zero, or an error's number, negated.
fn outcome(body: &[u8]) -> io::Result<()> {
    let number = body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
    match number {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(number.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A message of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message<'b> {
    /// Its type.
    pub(super) kind: u16,
    /// The number of the request that it answers.
    pub(super) sequence: u32,
    /// What is behind the header.
    pub(super) body: &'b [u8],
}

/// The messages of a datagram. What does not have the form of one ends the list.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<HEADER>()?;
        let [a, b, c, d, kind @ .., _, _, _, _, _, _, _, _, _, _] = *header;
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok()?;
        let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        let message = Message { kind: u16::from_ne_bytes(kind), sequence, body: bytes.get(HEADER..length)? };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in `bytes`: type and value. What does not have the form of one ends the list.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d] = *bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & NLA_TYPE_MASK, value))
    })
}

/// The value of an attribute below others.
pub(super) fn find<'b>(bytes: &'b [u8], path: &[u16]) -> Option<&'b [u8]> {
    path.iter().try_fold(bytes, |bytes, wanted| {
        attributes(bytes).find(|(kind, _)| kind == wanted).map(|(_, value)| value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_are_padded_and_read_back() {
        let mut batch = Batch::default();
        batch.message((20, NLM_F_CREATE), "first", |body| {
            body.put(&[2, 32, 0, 0]).text(1, "lo").nest(4, |inner| {
                inner.be32(1, 7).attribute(2, &[9]);
            });
        });
        batch.message((21, NLM_F_ACK), "second", |_| {});
        assert_eq!(batch.bytes().len() % 4, 0);
        let read: Vec<Message> = messages(batch.bytes()).collect();
        assert_eq!(read.iter().map(|m| (m.kind, m.sequence)).collect::<Vec<_>>(), [(20, 1), (21, 2)]);
        assert_eq!(read[1].body, b"");
        let outer: Vec<(u16, &[u8])> = attributes(&read[0].body[4..]).collect();
        assert_eq!(outer[0], (1, &b"lo\0"[..]));
        let inner: Vec<(u16, &[u8])> = attributes(outer[1].1).collect();
        assert_eq!((outer[1].0, inner), (4, vec![(1, &[0, 0, 0, 7][..]), (2, &[9][..])]));
        assert_eq!(
            (batch.purpose(2), batch.purpose(0), batch.purpose(9)),
            ("second", "an unknown message", "an unknown message")
        );
    }

    #[test]
    fn no_two_requests_have_a_number_in_common() {
        let mut batch = Batch::default();
        batch.message((18, NLM_F_DUMP), "list links", |body| {
            body.put(&[0; 16]);
        });
        batch.message((21, NLM_F_ACK), "second", |_| {});
        let numbers = |(bytes, added): (Vec<u8>, u32)| -> Vec<u32> {
            let all: Vec<u32> = messages(&bytes).map(|message| message.sequence).collect();
            assert_eq!(all, [added + 1, added + 2]);
            all
        };
        let (first, second) = (numbers(batch.numbered()), numbers(batch.numbered()));
        assert!(first.iter().all(|number| !second.contains(number)), "{first:?} {second:?}");
    }

    #[test]
    fn what_an_earlier_request_has_left_is_no_answer_to_the_next() {
        let socket = open(None, 0).unwrap();
        let list = |kind| {
            let mut batch = Batch::default();
            batch.message((kind, NLM_F_DUMP), "list", |body| {
                body.put(&[0; 16]);
            });
            batch
        };
        // Links (18, answered with 16), which nobody reads: they are there before and, of the second, after the next is sent.
        let links = list(18);
        rustix::net::send(&socket, &links.numbered().0, SendFlags::empty()).unwrap();
        let mut kinds = Vec::new();
        dump(&socket, &list(22), |kind, _| kinds.push(kind)).unwrap();
        assert!(!kinds.is_empty() && kinds.iter().all(|kind| *kind == 20), "addresses alone: {kinds:?}");
        // A refusal that nobody reads: there is no such message.
        let mut unknown = Batch::default();
        unknown.message((4000, NLM_F_ACK), "unknown", |_| {});
        rustix::net::send(&socket, &unknown.numbered().0, SendFlags::empty()).unwrap();
        let mut count = 0;
        dump(&socket, &links, |_, _| count += 1).unwrap();
        assert!(count > 0);
    }

    #[test]
    fn what_is_no_message_ends_the_list() {
        for bytes in [&[][..], &[0; 15], &[0; 16], &[255; 64], &[3, 0, 1, 0]] {
            assert_eq!(messages(bytes).count(), 0, "{bytes:?}");
        }
        for bytes in [&[][..], &[3, 0, 1, 0], &[255; 8], &[0; 8]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
        assert!(outcome(&[]).is_err() && outcome(&i32::MIN.to_ne_bytes()).is_err());
        assert_eq!(outcome(&(-2_i32).to_ne_bytes()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_attribute_that_is_too_long_is_refused_and_not_cut() {
        let mut batch = Batch::default();
        batch.message((1, 0), "large", |body| {
            body.nest(1, |inner| {
                inner.attribute(2, &vec![0; 70_000]);
            });
        });
        let socket = open(None, 0).unwrap();
        assert_eq!(request(&socket, &batch, 1).unwrap_err().error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn the_kernel_lists_the_loopback_interface_and_names_what_it_refuses() {
        let socket = open(None, 0).unwrap();
        let mut links = Batch::default();
        links.message((18, NLM_F_DUMP), "list links", |body| {
            body.put(&[0; 16]);
        });
        let mut names = Vec::new();
        dump(&socket, &links, |_, body| {
            let name = attributes(&body[16..]).find(|(kind, _)| *kind == 3);
            names.extend(name.map(|(_, name)| String::from_utf8_lossy(name).into_owned()));
        })
        .unwrap();
        assert!(names.contains(&"lo\0".to_owned()), "{names:?}");
        let mut wrong = Batch::default();
        wrong.message((20, NLM_F_ACK), "an address of no interface", |body| {
            body.put(&[2, 32, 0, 0, 0, 0, 0, 0]);
        });
        let refusal = request(&socket, &wrong, 1).unwrap_err();
        assert_eq!(refusal.purpose, "an address of no interface");
    }
}
