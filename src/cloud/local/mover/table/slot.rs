//! The record of a connection or session: its state, its sockets and pipes, and who is at both ends.

use std::sync::atomic::{AtomicU64, Ordering};

use super::fd::{Fd, NONE, load_fd, store_fd};

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotState {
    /// Nothing.
    Free = 0,
    /// A connection whose client is there and whose server is being connected to.
    Connecting = 1,
    /// A connection that is carried.
    Carrying = 2,
    /// A session of UDP.
    Session = 3,
    /// Being filled in.
    Claimed = 4,
    /// Being closed: descriptors are closed already, or not.
    Closing = 5,
}

/// The record of a connection or session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(super) words: &'static [AtomicU64],
}

/// A side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Who connected. Of a session: its socket to the backend.
    Client = 0,
    /// Who is connected to.
    Server = 1,
}

impl Side {
    /// The other one.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What stands for no listener.
pub(crate) const NO_LISTENER: u64 = u64::MAX;

impl Slot {
    pub(super) const STATE: usize = 0;
    const SIDES: usize = 1;
    const PIPES: usize = 3;
    const INODES: usize = 7;
    const LISTENER: usize = 9;
    const MACHINE: usize = 10;
    const CLIENT: usize = 11;
    const CUT: usize = 15;

    /// What it is, and whose.
    pub(crate) fn state(&self) -> (SlotState, usize) {
        let word = self.words[Self::STATE].load(Ordering::Acquire);
        let state = match word & 0xff {
            1 => SlotState::Connecting,
            2 => SlotState::Carrying,
            3 => SlotState::Session,
            4 => SlotState::Claimed,
            5 => SlotState::Closing,
            _ => SlotState::Free,
        };
        (state, usize::try_from(word >> 8).unwrap_or(0))
    }

    /// Makes it something else; its member stays.
    pub(crate) fn set_state(&self, state: SlotState) {
        let word = &self.words[Self::STATE];
        let member = word.load(Ordering::Relaxed) & !0xff;
        word.store(if state == SlotState::Free { 0 } else { member | state as u64 }, Ordering::Release);
    }

    /// Whether the peers are to learn that something was cut, once it is closed.
    pub(crate) fn is_cut(&self) -> bool {
        self.words[Self::CUT].load(Ordering::Relaxed) != 0
    }

    /// See [`Slot::is_cut`].
    pub(crate) fn set_cut(&self, cut: bool) {
        self.words[Self::CUT].store(u64::from(cut), Ordering::Relaxed);
    }

    /// Fills in a claimed record, all but its state.
    pub(crate) fn fill(&self, client: Fd, listener: u64) {
        for at in Self::PIPES..Self::INODES {
            self.words[at].store(NONE, Ordering::Relaxed);
        }
        self.set_side(Side::Server, None);
        self.set_side(Side::Client, Some(client));
        self.words[Self::LISTENER].store(listener, Ordering::Relaxed);
        self.set_machine(0);
    }

    /// The socket of a side.
    pub(crate) fn side(&self, side: Side) -> Option<Fd> {
        load_fd(&self.words[Self::SIDES + side as usize])
    }

    /// See [`Slot::side`].
    pub(crate) fn set_side(&self, side: Side, fd: Option<Fd>) {
        self.words[Self::INODES + side as usize].store(fd.map_or(0, Fd::inode), Ordering::Relaxed);
        store_fd(&self.words[Self::SIDES + side as usize], fd);
    }

    /// Whether the socket of a side is what it was when it was recorded.
    pub(crate) fn is_same(&self, side: Side) -> bool {
        let inode = self.words[Self::INODES + side as usize].load(Ordering::Acquire);
        self.side(side).is_some_and(|fd| inode != 0 && fd.inode() == inode)
    }

    /// The pipe that bytes of a side go through: its end to read and its end to write.
    pub(crate) fn pipe(&self, from: Side) -> Option<(Fd, Fd)> {
        let [read, write] = self.pipe_words(from).map(load_fd);
        Some((read?, write?))
    }

    /// See [`Slot::pipe`]. The end to read goes last, and is what counts.
    pub(crate) fn set_pipe(&self, from: Side, pipe: Option<(Fd, Fd)>) {
        let [read, write] = self.pipe_words(from);
        if let Some((from, to)) = pipe {
            store_fd(write, Some(to));
            store_fd(read, Some(from));
        } else {
            store_fd(read, None);
            store_fd(write, None);
        }
    }

    fn pipe_words(&self, from: Side) -> [&AtomicU64; 2] {
        let at = Self::PIPES + 2 * from as usize;
        [&self.words[at], &self.words[at + 1]]
    }

    /// The index of its listener's record, or [`NO_LISTENER`].
    pub(crate) fn listener(&self) -> u64 {
        self.words[Self::LISTENER].load(Ordering::Acquire)
    }

    /// The key of its machine; 0 is none.
    pub(crate) fn machine(&self) -> u64 {
        self.words[Self::MACHINE].load(Ordering::Acquire)
    }

    /// See [`Slot::machine`].
    pub(crate) fn set_machine(&self, machine: u64) {
        self.words[Self::MACHINE].store(machine, Ordering::Release);
    }

    /// The client of a session.
    pub(crate) fn client(&self) -> std::net::SocketAddr {
        let word = |at: usize| self.words[Self::CLIENT + at].load(Ordering::Acquire);
        let address = std::net::Ipv6Addr::from(u128::from(word(0)) << 64 | u128::from(word(1)));
        let port = u16::try_from(word(2)).unwrap_or(0);
        match address.to_ipv4_mapped() {
            Some(address) => (address, port).into(),
            None => (address, port).into(),
        }
    }

    /// See [`Slot::client`].
    pub(crate) fn set_client(&self, client: std::net::SocketAddr) {
        let address = match client.ip() {
            std::net::IpAddr::V4(address) => address.to_ipv6_mapped(),
            std::net::IpAddr::V6(address) => address,
        };
        let [high, low] = [u128::from(address) >> 64, u128::from(address) & u128::from(u64::MAX)];
        for (at, part) in [high, low, u128::from(client.port())].into_iter().enumerate() {
            self.words[Self::CLIENT + at].store(u64::try_from(part).unwrap_or(0), Ordering::Relaxed);
        }
    }
}
