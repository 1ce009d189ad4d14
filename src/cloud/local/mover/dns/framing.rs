//! Messages over TCP: each has its length in front ([RFC 1035], 4.2.2).
//!
//! [RFC 1035]: https://www.rfc-editor.org/rfc/rfc1035

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::cloud::local::mover::table::Fd;

/// The longest message with its length.
const LONGEST: usize = 2 + u16::MAX as usize;

/// What has come of a connection and was not taken yet, and what is to be sent.
#[derive(Debug, Default)]
pub(super) struct Framed {
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Framed {
    /// Adds a message to what is to be sent.
    pub(super) fn push(&mut self, message: &[u8]) {
        // A longer one does not exist: it came in a datagram or with a length of 16 bits.
        let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
        self.output.extend(length.to_be_bytes());
        self.output.extend(&message[..usize::from(length)]);
    }

    /// Whether something is still to be sent.
    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Sends what can be sent now. Returns whether that is all.
    pub(super) fn write(&mut self, socket: Fd) -> rustix::io::Result<bool> {
        while self.has_output() {
            match rustix::net::send(socket, &self.output, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(length) => drop(self.output.drain(..length)),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Reads what has come, up to a whole message. Returns whether the other side may say more.
    pub(super) fn read(&mut self, socket: Fd) -> rustix::io::Result<bool> {
        let mut buffer = [0; 4096];
        while self.input.len() < LONGEST {
            match rustix::net::recv(socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Ok(false),
                Ok((length, _)) => self.input.extend(&buffer[..length]),
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Takes the next message out of what has come.
    pub(super) fn message(&mut self) -> Option<Vec<u8>> {
        let length = usize::from(u16::from_be_bytes(*self.input.first_chunk()?));
        let message = self.input.get(2..2 + length)?.to_vec();
        self.input.drain(..2 + length);
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_taken_once_it_is_whole() {
        let mut framed = Framed { input: vec![0, 3, 1, 2], output: Vec::new() };
        assert_eq!(framed.message(), None);
        framed.input.extend([3, 0, 0, 0]);
        assert_eq!(framed.message(), Some(vec![1, 2, 3]));
        assert_eq!(framed.message(), Some(vec![]));
        assert_eq!(framed.message(), None);
        framed.push(&[7; 3]);
        assert_eq!(framed.output, [0, 3, 7, 7, 7]);
    }
}
