//! The table that the processes of the front door share: a file in memory that says what each descriptor is for.
//!
//! The processes share one table of descriptors, so that none is closed when one of them is killed. What a descriptor is
//! for has to outlive the process too: it is written here. A record's fields are written before its state, and a
//! descriptor that is about to be closed loses its mark first, so that a successor never takes one for what it is not.

mod fd;
mod member;
mod slot;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};

pub(crate) use self::fd::Fd;
use self::fd::{NONE, load_fd, store_fd};
pub(crate) use self::member::Member;
pub(crate) use self::slot::{NO_LISTENER, Side, Slot, SlotState};
use crate::cloud::local::network::sys;
use crate::oci::Digest;

/// The version of this layout. A newer program with another one does not take connections over.
pub(crate) const LAYOUT: u64 = 2;

/// Connections and sessions at most, of all processes.
pub(crate) const SLOTS: u32 = 16_384;

/// Listeners at most.
pub(crate) const LISTENERS: usize = 2048;

/// Processes at most: the guardian, and one that carries for the host and each network.
pub(crate) const MEMBERS: usize = 64;

/// Descriptors at most; the limit of the processes is set to that.
pub(crate) const DESCRIPTORS: usize = 1 << 17;

/// The longest path of a program, in bytes.
const PATH: usize = 4096;

const MEMBER_WORDS: usize = 8;
const LISTENER_WORDS: usize = 32;
const SLOT_WORDS: usize = 16;
const NETWORK_WORDS: usize = 8;

const HEAD: usize = 32;
const MEMBERS_AT: usize = HEAD;
const PATH_AT: usize = MEMBERS_AT + MEMBERS * MEMBER_WORDS;
const LISTENERS_AT: usize = PATH_AT + PATH / 8;
const SLOTS_AT: usize = LISTENERS_AT + LISTENERS * LISTENER_WORDS;
const NETWORKS_AT: usize = SLOTS_AT + SLOTS as usize * SLOT_WORDS;
const OWNERS_AT: usize = NETWORKS_AT + MEMBERS * NETWORK_WORDS;
const WORDS: usize = OWNERS_AT + DESCRIPTORS;

/// A short name of a text that is the same in every process.
pub(crate) fn key(text: &str) -> u64 {
    let digest = Digest::of(text.as_bytes());
    digest.as_bytes().iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte))
}

/// Descriptors of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// This table.
    Table = 4,
    /// The file in memory with the wanted state.
    Wanted = 5,
    /// The listener of the control socket.
    Control = 7,
    /// The lock that makes these processes the front door.
    Lock = 8,
    /// The log.
    Log = 9,
}

/// What the processes are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Carry.
    Carry,
    /// Wait until a newer program has taken over.
    Park,
    /// End.
    Stop,
}

const MAGIC_AT: usize = 0;
const LAYOUT_AT: usize = 1;
const PHASE_AT: usize = 2;
const READY_AT: usize = 3;
const TOP_AT: usize = 10;
const RESTARTS_AT: usize = 11;
const LISTENERS_TOP_AT: usize = 12;

/// "i2kitdor".
const MAGIC: u64 = 0x6932_6b69_7464_6f72;

/// Whose a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nobody's, or that of a record.
    Nobody,
    /// All processes'.
    All,
    /// That of the process of this index alone: its successor closes it.
    Member(usize),
}

impl Owner {
    fn word(self) -> u64 {
        match self {
            Self::Nobody => 0,
            Self::All => 1,
            Self::Member(index) => 2 + index as u64,
        }
    }
}

/// The shared table.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    words: &'static [AtomicU64],
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

impl Table {
    /// A new table without anything.
    pub(crate) fn create() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("i2kit-door", flags)?;
        rustix::fs::ftruncate(&file, (WORDS * 8) as u64)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let table = Self { words: sys::map_shared(&file, WORDS)? };
        for at in 0..HEAD {
            table.words[at].store(0, Ordering::Relaxed);
        }
        for kept in [Kept::Table, Kept::Wanted, Kept::Control, Kept::Lock, Kept::Log] {
            table.words[kept as usize].store(NONE, Ordering::Relaxed);
        }
        for listener in table.listeners() {
            listener.words[ListenerRecord::FD].store(NONE, Ordering::Relaxed);
        }
        for word in &table.words[NETWORKS_AT..OWNERS_AT] {
            word.store(NONE, Ordering::Relaxed);
        }
        table.words[LAYOUT_AT].store(LAYOUT, Ordering::Relaxed);
        table.words[MAGIC_AT].store(MAGIC, Ordering::Release);
        table.keep(Kept::Table, Fd::from_owned(file));
        Ok(table)
    }

    /// The table in the file of that number, as the program before left it.
    pub(crate) fn resume(file: Fd) -> io::Result<Self> {
        let table = Self { words: sys::map_shared(file, WORDS)? };
        let head = [MAGIC_AT, LAYOUT_AT].map(|at| table.words[at].load(Ordering::Acquire));
        if head != [MAGIC, LAYOUT] {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the table has another layout"));
        }
        Ok(table)
    }

    fn word(&self, at: usize) -> &'static AtomicU64 {
        &self.words[at]
    }

    /// The descriptor of the head.
    pub(crate) fn kept(&self, kept: Kept) -> Option<Fd> {
        load_fd(self.word(kept as usize))
    }

    /// Keeps a descriptor for all processes, and closes the one that it replaces.
    pub(crate) fn keep(&self, kept: Kept, fd: Fd) {
        let before = self.kept(kept);
        self.own(fd, Owner::All);
        store_fd(self.word(kept as usize), Some(fd));
        if let Some(before) = before {
            self.close(before);
        }
    }

    /// What the processes are to do.
    pub(crate) fn phase(&self) -> Phase {
        match self.word(PHASE_AT).load(Ordering::Acquire) {
            0 => Phase::Carry,
            1 => Phase::Park,
            _ => Phase::Stop,
        }
    }

    /// Has the processes do that once they look; [`Member::wake`] makes them look.
    pub(crate) fn set_phase(&self, phase: Phase) {
        self.word(PHASE_AT).store(phase as u64, Ordering::Release);
    }

    /// Whether the process that carries for the host has begun.
    pub(crate) fn is_ready(&self) -> bool {
        self.word(READY_AT).load(Ordering::Acquire) != 0
    }

    /// Takes note that it has begun.
    pub(crate) fn set_ready(&self) {
        self.word(READY_AT).store(1, Ordering::Release);
    }

    /// How often a process was started again.
    pub(crate) fn restarts(&self) -> &'static AtomicU64 {
        self.word(RESTARTS_AT)
    }

    /// The program that is to take over.
    pub(crate) fn set_program(&self, path: &[u8]) -> bool {
        if path.len() >= PATH {
            return false;
        }
        let mut bytes = path.to_vec();
        bytes.resize(PATH, 0);
        for (at, chunk) in bytes.chunks_exact(8).enumerate() {
            let word = chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
            self.word(PATH_AT + at).store(word, Ordering::Relaxed);
        }
        true
    }

    /// See [`Table::set_program`].
    pub(crate) fn program(&self) -> Vec<u8> {
        let words = (0..PATH / 8).map(|at| self.word(PATH_AT + at).load(Ordering::Relaxed));
        let mut bytes: Vec<u8> = words.flat_map(u64::to_be_bytes).collect();
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        bytes.truncate(end);
        bytes
    }

    /// Says whose a descriptor is.
    pub(crate) fn own(&self, fd: Fd, owner: Owner) {
        if let Some(word) = self.owner_word(fd) {
            word.store(owner.word(), Ordering::Release);
        }
    }

    /// Whose a descriptor is.
    pub(crate) fn is_of(&self, fd: Fd, owner: Owner) -> bool {
        self.owner_word(fd).is_some_and(|word| word.load(Ordering::Acquire) == owner.word())
    }

    fn owner_word(&self, fd: Fd) -> Option<&'static AtomicU64> {
        let number = usize::try_from(fd.number()).ok().filter(|number| *number < DESCRIPTORS)?;
        Some(self.word(OWNERS_AT + number))
    }

    /// Closes a descriptor that has a mark. The mark goes first: its number may be another file's at once.
    pub(crate) fn close(&self, fd: Fd) {
        self.own(fd, Owner::Nobody);
        fd.close();
    }

    /// Closes descriptors that nobody wants.
    pub(crate) fn close_all(&self, fds: &[Fd]) {
        for fd in fds {
            self.close(*fd);
        }
    }

    /// The process of that index; 0 is the guardian.
    pub(crate) fn member(&self, index: usize) -> Member {
        let start = MEMBERS_AT + index * MEMBER_WORDS;
        Member { words: &self.words[start..start + MEMBER_WORDS] }
    }

    /// All places of processes.
    pub(crate) fn members(&self) -> impl Iterator<Item = (usize, Member)> {
        let table = *self;
        (0..MEMBERS).map(move |index| (index, table.member(index)))
    }

    /// The network in which the process of that place carries.
    pub(crate) fn network(&self, index: usize) -> Network {
        let start = NETWORKS_AT + index * NETWORK_WORDS;
        Network { words: &self.words[start..start + NETWORK_WORDS] }
    }

    /// The record of a listener.
    pub(crate) fn listener(&self, index: usize) -> ListenerRecord {
        let start = LISTENERS_AT + index * LISTENER_WORDS;
        ListenerRecord { words: &self.words[start..start + LISTENER_WORDS] }
    }

    /// All places of listeners that were ever used, and the next one.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = ListenerRecord> {
        let table = *self;
        (0..LISTENERS).map(move |index| table.listener(index))
    }

    /// A place for a listener.
    pub(crate) fn free_listener(&self) -> Option<usize> {
        let found = (0..LISTENERS).find(|index| self.listener(*index).fd().is_none())?;
        self.word(LISTENERS_TOP_AT).fetch_max(found as u64 + 1, Ordering::Relaxed);
        Some(found)
    }

    /// The number of places of listeners that were ever used.
    pub(crate) fn listeners_top(&self) -> usize {
        usize::try_from(self.word(LISTENERS_TOP_AT).load(Ordering::Acquire)).unwrap_or(0).min(LISTENERS)
    }

    /// The record of a connection.
    pub(crate) fn slot(&self, index: u32) -> Slot {
        let start = SLOTS_AT + index as usize * SLOT_WORDS;
        Slot { words: &self.words[start..start + SLOT_WORDS] }
    }

    /// The number of records that were ever used.
    pub(crate) fn top(&self) -> u32 {
        let top = self.word(TOP_AT).load(Ordering::Acquire);
        u32::try_from(top).unwrap_or(0).min(SLOTS)
    }

    /// Claims a free record for a process. Nothing of it is valid yet.
    pub(crate) fn claim(&self, index: u32, member: usize) -> bool {
        let claimed = SlotState::Claimed as u64 | (member as u64) << 8;
        let word = &self.slot(index).words[Slot::STATE];
        self.word(TOP_AT).fetch_max(u64::from(index) + 1, Ordering::AcqRel);
        word.compare_exchange(0, claimed, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// A network of its own, and what was opened in it. The process of the same place carries there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Network {
    words: &'static [AtomicU64],
}

/// A descriptor of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    /// The user namespace; none where it is the host's.
    User = 1,
    /// The network namespace. A network without it is none.
    Net = 2,
    /// The interface to outside.
    Tun = 3,
    /// The TCP listener of connections to outside.
    Egress = 4,
    /// The same of IPv6.
    Egress6 = 5,
}

impl Network {
    const ENVIRONMENT: usize = 0;

    /// The descriptors, the namespace's last: without it there is no network.
    const ALL: [Opened; 5] = [Opened::User, Opened::Tun, Opened::Egress, Opened::Egress6, Opened::Net];

    /// The key of its environment.
    pub(crate) fn environment(&self) -> u64 {
        self.words[Self::ENVIRONMENT].load(Ordering::Acquire)
    }

    /// A descriptor of it.
    pub(crate) fn opened(&self, opened: Opened) -> Option<Fd> {
        load_fd(&self.words[opened as usize])
    }

    /// Whether there is one.
    pub(crate) fn exists(&self) -> bool {
        self.opened(Opened::Net).is_some()
    }

    /// Records it, in the place of the one before. Exclusive descriptors that are not given again stay.
    pub(crate) fn record(&self, table: &Table, environment: u64, opened: &[(Opened, Fd)]) {
        let is_whole = opened.iter().any(|(opened, _)| *opened == Opened::Tun);
        for before in Self::ALL.into_iter().rev() {
            if is_whole || !matches!(before, Opened::Tun | Opened::Egress | Opened::Egress6) {
                self.forget(table, before);
            }
        }
        self.words[Self::ENVIRONMENT].store(environment, Ordering::Relaxed);
        for wanted in Self::ALL {
            for (_, fd) in opened.iter().filter(|(opened, _)| *opened == wanted) {
                table.own(*fd, Owner::All);
                store_fd(&self.words[wanted as usize], Some(*fd));
            }
        }
    }

    /// Forgets it, and closes what it had.
    pub(crate) fn release(&self, table: &Table) {
        for opened in Self::ALL.into_iter().rev() {
            self.forget(table, opened);
        }
    }

    fn forget(&self, table: &Table, opened: Opened) {
        if let Some(fd) = self.opened(opened) {
            store_fd(&self.words[opened as usize], None);
            table.close(fd);
        }
    }
}

/// What a listener does with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Connections of a Service.
    Tcp = 1,
    /// Datagrams of a Service.
    Udp = 2,
    /// Questions for names in datagrams.
    DnsUdp = 3,
    /// Questions for names over connections.
    DnsTcp = 4,
}

/// The record of a listener, with what was counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListenerRecord {
    words: &'static [AtomicU64],
}

/// What is counted for a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    /// Connections, or sessions of UDP, that were accepted.
    Accepted = 8,
    /// Bytes of clients.
    Received = 9,
    /// Bytes of machines.
    Sent = 10,
    /// Connections that no backend took, or that ended by a reset.
    Failed = 11,
    /// Microseconds of connecting, added up.
    ConnectMicros = 12,
    /// The first number of the histogram of connecting.
    Connect = 13,
    /// Clients that may not connect: connections of TCP, datagrams of UDP.
    Refused = 24,
}

/// Upper bounds of the histogram of connecting, in microseconds; what takes longer is in one more number.
pub(crate) const CONNECT_BOUNDS: [u64; 10] =
    [50, 100, 250, 500, 1000, 2500, 10_000, 100_000, 1_000_000, 2_500_000];

impl ListenerRecord {
    const FD: usize = 0;
    const KEY: usize = 1;
    const KIND: usize = 2;
    const PORT: usize = 3;
    const MEMBER: usize = 4;

    /// Its socket; none when the record is free.
    pub(crate) fn fd(&self) -> Option<Fd> {
        load_fd(&self.words[Self::FD])
    }

    /// The key of what it is for.
    pub(crate) fn key(&self) -> u64 {
        self.words[Self::KEY].load(Ordering::Acquire)
    }

    /// The port that it is bound to.
    pub(crate) fn port(&self) -> u16 {
        u16::try_from(self.words[Self::PORT].load(Ordering::Acquire)).unwrap_or(0)
    }

    /// The process that accepts.
    pub(crate) fn member(&self) -> usize {
        usize::try_from(self.words[Self::MEMBER].load(Ordering::Acquire)).unwrap_or(0)
    }

    /// What it does.
    pub(crate) fn kind(&self) -> Kind {
        match self.words[Self::KIND].load(Ordering::Acquire) {
            2 => Kind::Udp,
            3 => Kind::DnsUdp,
            4 => Kind::DnsTcp,
            _ => Kind::Tcp,
        }
    }

    /// Records a socket.
    pub(crate) fn record(&self, table: &Table, fd: Fd, kind: Kind, key: u64, (port, member): (u16, usize)) {
        for word in &self.words[Count::Accepted as usize..] {
            word.store(0, Ordering::Relaxed);
        }
        self.words[Self::KEY].store(key, Ordering::Relaxed);
        self.words[Self::KIND].store(kind as u64, Ordering::Relaxed);
        self.words[Self::MEMBER].store(member as u64, Ordering::Relaxed);
        self.replace(table, fd, port);
    }

    /// Records another socket in the place of the one before, which is returned without a mark.
    pub(crate) fn replace(&self, table: &Table, fd: Fd, port: u16) -> Option<Fd> {
        let before = self.fd();
        table.own(fd, Owner::All);
        self.words[Self::PORT].store(u64::from(port), Ordering::Relaxed);
        store_fd(&self.words[Self::FD], Some(fd));
        if let Some(before) = before {
            table.own(before, Owner::Nobody);
        }
        before
    }

    /// Forgets the socket, and closes it.
    pub(crate) fn release(&self, table: &Table) {
        if let Some(fd) = self.fd() {
            store_fd(&self.words[Self::FD], None);
            table.close(fd);
        }
    }

    /// Adds to what is counted.
    pub(crate) fn count(&self, count: Count, number: u64) {
        self.words[count as usize].fetch_add(number, Ordering::Relaxed);
    }

    /// What was counted.
    pub(crate) fn counted(&self, count: Count) -> u64 {
        self.words[count as usize].load(Ordering::Relaxed)
    }

    /// Adds a connection that took so many microseconds to connect.
    pub(crate) fn connected(&self, micros: u64) {
        let bucket = CONNECT_BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(CONNECT_BOUNDS.len());
        self.words[Count::Connect as usize + bucket].fetch_add(1, Ordering::Relaxed);
        self.count(Count::ConnectMicros, micros);
    }

    /// The histogram: a number for each bound, and one for what took longer.
    pub(crate) fn histogram(&self) -> [u64; CONNECT_BOUNDS.len() + 1] {
        std::array::from_fn(|bucket| self.words[Count::Connect as usize + bucket].load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_found_again_as_it_was_left() {
        let table = Table::create().unwrap();
        assert!(table.claim(7, 1) && !table.claim(7, 2), "one process has a record");
        let (client, _other) = rustix::pipe::pipe().unwrap();
        let client = Fd::from_owned(client);
        let slot = table.slot(7);
        slot.fill(client, 3);
        slot.set_machine(key("web-1"));
        let address = "192.0.2.1:7".parse().unwrap();
        slot.set_client(address);
        slot.set_state(SlotState::Session);
        table.own(client, Owner::Member(5));
        assert!(table.set_program(b"/usr/bin/i2kit") && !table.set_program(&[b'x'; PATH]));
        let again = Table::resume(table.kept(Kept::Table).unwrap()).unwrap();
        let found = again.slot(7);
        assert_eq!((again.top(), found.state()), (8, (SlotState::Session, 1)));
        assert_eq!((found.listener(), found.machine(), found.client()), (3, key("web-1"), address));
        assert!(found.is_same(Side::Client) && !found.is_same(Side::Server));
        assert!(again.is_of(client, Owner::Member(5)) && !again.is_of(client, Owner::Nobody));
        assert_eq!(again.program(), b"/usr/bin/i2kit");
        again.close(client);
        assert!(!found.is_same(Side::Client), "its number is not its file any more");
        assert!(table.is_of(client, Owner::Nobody));
    }

    #[test]
    fn another_file_is_no_table() {
        let file = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
        assert!(Table::resume(Fd::from_owned(file)).is_err(), "it is too short");
        let file = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, (WORDS * 8) as u64).unwrap();
        assert!(Table::resume(Fd::from_owned(file)).is_err(), "it says nothing");
    }

    #[test]
    fn times_of_connecting_are_counted_by_their_bounds() {
        let listener = Table::create().unwrap().listener(0);
        for micros in [0, 50, 51, 3_000_000] {
            listener.connected(micros);
        }
        let histogram = listener.histogram();
        assert_eq!((histogram[0], histogram[1], histogram[CONNECT_BOUNDS.len()]), (2, 1, 1));
        assert_eq!(listener.counted(Count::ConnectMicros), 3_000_101);
    }
}
