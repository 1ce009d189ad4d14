//! Which sockets listen on a port: what tells an application that goes on from one that ended, or was started again.
//!
//! The kernel gives each socket a number, the inode of `/proc/net/tcp` (proc(5), and `Documentation/networking/proc_net_tcp.rst` of
//! Linux). A socket that listens is there as long as a process has it open, and no other has its number meanwhile: the same
//! numbers mean that the application which listened then listens now.

use std::collections::BTreeSet;
use std::io;

/// The state of a socket that listens: `TCP_LISTEN` of Linux' `net/tcp_states.h`.
const LISTENS: &str = "0A";

/// The sockets that listen on one port, by their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Listeners(BTreeSet<u64>);

impl Listeners {
    /// Those of this network namespace on `port`, of either version of the protocol.
    ///
    /// # Errors
    /// The files cannot be read.
    pub(super) fn of(port: u16) -> io::Result<Self> {
        let mut found = read(&std::fs::read_to_string("/proc/net/tcp")?, port);
        match std::fs::read_to_string("/proc/net/tcp6") {
            Ok(text) => found.extend(read(&text, port)),
            // A kernel without IPv6 has no such file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Self(found))
    }

    /// Those that are in both.
    pub(super) fn and(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// Whether all of them are among others.
    pub(super) fn are_among(&self, others: &Self) -> bool {
        self.0.is_subset(&others.0)
    }

    /// Whether nobody listens.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The numbers of the sockets of one file that listen on `port`. The fields of a line are: number, local address and port, remote
/// ones, state, queues, timer, retransmits, user, timeout, inode, and more.
fn read(text: &str, port: u16) -> BTreeSet<u64> {
    let inode = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (local, state) = (fields.nth(1)?, fields.nth(1)?);
        let of = local.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok())?;
        let inode = fields.nth(5)?.parse().ok()?;
        (of == port && state == LISTENS).then_some(inode)
    };
    text.lines().skip(1).filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
        0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n   \
        1: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4 30 10 -1\n   \
        2: 00000000000000000000000000000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4713 1 0\n   \
        3: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4714 1 0 100 0 0 10 0\n";

    #[test]
    fn those_that_listen_on_the_port_are_found() {
        assert_eq!(read(FILE, 8080), BTreeSet::from([4711, 4713]));
        assert_eq!(read(FILE, 8082), BTreeSet::new());
    }

    #[test]
    fn a_listener_is_the_same_until_it_is_made_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let first = Listeners::of(port).unwrap();
        assert!(!first.is_empty());
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert_eq!(Listeners::of(port).unwrap(), first, "connections do not count");
        // The client's end first: it keeps the port's rest, not the server's side.
        drop((client, server, listener));
        assert!(Listeners::of(port).unwrap().is_empty());
        let again = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let other = Listeners::of(port).unwrap();
        assert!(!other.is_empty() && other != first);
        drop(again);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[0-9A-F: \n]{0,300}", port: u16, cut in 0..FILE.len()) {
            drop(read(&text, port));
            prop_assert!(read(&FILE[..cut], 8080).is_subset(&BTreeSet::from([4, 47, 471, 4711, 4713])));
        }
    }
}
