//! Just enough netlink: build a request, send it, read the kernel's answer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Length of `struct nlmsghdr`: length, type, flags, sequence number, port.
const HEADER: usize = 16;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;

/// A request under construction.
#[derive(Debug)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// An empty request of this type.
    pub(crate) fn new(kind: u16) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE).to_ne_bytes());
        Self { bytes }
    }

    /// Appends bytes of the fixed part; its length must be a multiple of four in the end.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends an attribute.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).expect("an attribute is at most a few bytes long");
        self.put(&length.to_ne_bytes()).put(&kind.to_ne_bytes()).put(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("a request is at most a few hundred bytes long");
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// A netlink socket of one protocol.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens a socket of this protocol; none means rtnetlink, whose number is zero.
    pub(crate) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends a request and waits for the acknowledgement. Returns the messages that come before it.
    pub(crate) fn request(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        rustix::net::send(&self.fd, &message.finish(self.sequence), SendFlags::empty())?;
        let mut answers = Vec::new();
        loop {
            for message in self.receive(RecvFlags::empty())? {
                match error_code(&message) {
                    Some(0) => return Ok(answers),
                    Some(code) => return Err(io::Error::from_raw_os_error(-code)),
                    None => answers.push(message),
                }
            }
        }
    }

    /// Reads the messages of one datagram, headers included.
    pub(crate) fn receive(&self, flags: RecvFlags) -> io::Result<Vec<Vec<u8>>> {
        let mut buffer = vec![0; 8192];
        let (length, _) = rustix::net::recv(&self.fd, &mut buffer[..], flags)?;
        Ok(split(&buffer[..length]))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The messages of a datagram; whatever does not hold a whole message is left out.
pub(crate) fn split(mut datagram: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some(length) = datagram.first_chunk::<4>() {
        let length = u32::from_ne_bytes(*length) as usize;
        let Some(message) = datagram.get(..length).filter(|message| message.len() >= HEADER) else { break };
        messages.push(message.to_vec());
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}

/// The code of an error message (zero for an acknowledgement), or nothing for any other message.
fn error_code(message: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes([message[4], message[5]]);
    let code = message.get(HEADER..)?.first_chunk::<4>()?;
    (kind == NLMSG_ERROR).then(|| i32::from_ne_bytes(*code))
}

/// The payload of an attribute in a run of attributes.
pub(crate) fn find_attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    while let [l0, l1, k0, k1, rest @ ..] = attributes {
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        // The two highest bits of the kind are flags.
        let found = u16::from_ne_bytes([*k0, *k1]) & 0x3fff;
        let value = rest.get(..length.checked_sub(4)?)?;
        if found == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

/// What follows the header of a message.
pub(crate) fn payload(message: &[u8]) -> &[u8] {
    message.get(HEADER..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_its_length_and_padded_attributes() {
        let mut message = Message::new(16);
        message.put(&[1, 2, 3, 4]).attribute(7, b"abc");
        let bytes = message.finish(9);
        assert_eq!(bytes.len(), HEADER + 4 + 8);
        assert_eq!(split(&bytes), std::slice::from_ref(&bytes));
        assert_eq!(find_attribute(&bytes[HEADER + 4..], 7), Some(&b"abc"[..]));
        assert_eq!(find_attribute(&bytes[HEADER + 4..], 8), None);
    }

    #[test]
    fn broken_datagrams_are_left_out() {
        assert!(split(&[3, 0, 0]).is_empty());
        assert!(split(&[255; 20]).is_empty());
        assert!(split(&[4, 0, 0, 0, 0, 0]).is_empty());
        assert_eq!(find_attribute(&[2, 0, 1, 0], 1), None);
    }
}
