//! Carrying: bytes go from socket to pipe to socket by splice(2), so that each is in the kernel at every moment and a
//! process that is killed takes none along.
//!
//! A connection has a pipe for a direction only for as long as bytes are stuck in it. Who may connect whom is not
//! decided here.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::net::sockopt;
use rustix::pipe::{PipeFlags, SpliceFlags};

use super::poll::{EventFlags, GENERATIONS, Poll, Token};
use super::table::{Count, Fd, NO_LISTENER, Owner, SLOTS, Side, SlotState, Table};

/// Bytes that a pipe holds. Where the user's pipes have no more room, the kernel gives smaller ones.
const PIPE: usize = 256 << 10;

/// Bytes that a connection carries before others have their turn.
const BUDGET: usize = 1 << 20;

/// A read below this has emptied the socket in all likelihood: it is not asked again.
const PROBABLY_ALL: usize = 32 << 10;

/// Empty pipes that are kept for the next connection.
const POOL: usize = 64;

/// Who a connection is counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    /// The index of the listener's record, or [`NO_LISTENER`].
    pub(crate) listener: u64,
    /// The key of the machine; 0 is none.
    pub(crate) machine: u64,
}

/// What only this process knows of a connection; a successor finds it out again.
#[derive(Debug, Clone, Copy, Default)]
struct Local {
    /// Bytes in the pipe, by the side that they come from.
    piped: [usize; 2],
    /// Whether those are in all likelihood all that the side has said so far.
    is_all: [bool; 2],
    /// Whether a side has said all, and the other one was told.
    ended: [bool; 2],
    /// What is waited for of a side.
    armed: [Option<EventFlags>; 2],
    queued: bool,
    generation: u32,
}

/// What became of a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pumped {
    /// The connection goes on.
    Open,
    /// It is closed.
    Closed,
}

/// The connections that this process carries.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) table: Table,
    pub(super) poll: Poll,
    pub(super) member: usize,
    free: Vec<u32>,
    local: Vec<Local>,
    /// Connections that have used up their turn.
    ready: VecDeque<u32>,
    /// What was taken from sockets by the events of this round, each with the generation of its record: it is sent after the last one.
    /// A process that receives wakes on another processor, and one that is woken for each message sleeps between two.
    taken: Vec<(u32, u32, Side)>,
    pool: Vec<(Fd, Fd)>,
    /// Connections and sessions of each machine.
    machines: HashMap<u64, u32>,
    /// Those of each listener.
    listeners: HashMap<u64, u32>,
    /// Those of this process.
    count: u32,
}

impl Engine {
    /// Carries nothing yet.
    pub(super) fn new(table: Table, member: usize) -> io::Result<Self> {
        Ok(Self {
            table,
            poll: Poll::new(&table, member)?,
            member,
            free: Vec::new(),
            local: vec![Local::default(); SLOTS as usize],
            ready: VecDeque::new(),
            taken: Vec::new(),
            pool: Vec::new(),
            machines: HashMap::new(),
            listeners: HashMap::new(),
            count: 0,
        })
    }

    /// Takes over what the process of this place had before. Returns the records that are not carried: connections that
    /// were being made, and sessions.
    pub(super) fn recover(&mut self) -> Vec<(u32, SlotState)> {
        let mut others = Vec::new();
        // The process before may have ended between a record and its count.
        self.set_count(0);
        for index in 0..self.table.top() {
            let slot = self.table.slot(index);
            let (state, member) = slot.state();
            if state == SlotState::Free || member != self.member {
                continue;
            }
            match state {
                SlotState::Free | SlotState::Claimed => slot.set_state(SlotState::Free),
                SlotState::Closing => {
                    for side in [Side::Client, Side::Server] {
                        if let Some(fd) = slot.side(side).filter(|_| slot.is_same(side)) {
                            if slot.is_cut() {
                                let _ = sockopt::set_socket_linger(fd, Some(Duration::ZERO));
                            }
                            fd.close();
                        }
                    }
                    slot.set_state(SlotState::Free);
                }
                SlotState::Connecting | SlotState::Session => {
                    self.count_in(index);
                    others.push((index, state));
                }
                SlotState::Carrying => {
                    self.count_in(index);
                    self.recover_pipes(index);
                    self.arm(index);
                    self.queue(index);
                }
            }
        }
        others
    }

    fn recover_pipes(&mut self, index: u32) {
        let slot = self.table.slot(index);
        for side in [Side::Client, Side::Server] {
            let Some((read, write)) = slot.pipe(side) else {
                slot.set_pipe(side, None);
                continue;
            };
            self.mark(read, write);
            let bytes = rustix::io::ioctl_fionread(read).unwrap_or(0);
            self.local[index as usize].piped[side as usize] = usize::try_from(bytes).unwrap_or(0);
        }
    }

    fn count_in(&mut self, index: u32) {
        let slot = self.table.slot(index);
        self.set_count(self.count + 1);
        *self.listeners.entry(slot.listener()).or_default() += 1;
        if slot.machine() != 0 {
            *self.machines.entry(slot.machine()).or_default() += 1;
        }
    }

    fn count_out(counts: &mut HashMap<u64, u32>, key: u64) {
        if let Some(count) = counts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&key);
            }
        }
    }

    /// Connections and sessions of a machine.
    pub(super) fn of_machine(&self, machine: u64) -> u32 {
        self.machines.get(&machine).copied().unwrap_or(0)
    }

    /// Those of every machine that has some.
    pub(super) fn machines(&self) -> &HashMap<u64, u32> {
        &self.machines
    }

    /// Those of a listener.
    pub(super) fn of_listener(&self, listener: u64) -> u32 {
        self.listeners.get(&listener).copied().unwrap_or(0)
    }

    /// All of this process.
    pub(super) fn all(&self) -> u32 {
        self.count
    }

    /// Those of all processes, which share one table of descriptors.
    pub(super) fn of_all(&self) -> usize {
        let counts = self.table.members().map(|(_, member)| member.carried());
        usize::try_from(counts.sum::<u64>()).unwrap_or(usize::MAX)
    }

    fn set_count(&mut self, count: u32) {
        self.count = count;
        self.table.member(self.member).set_carried(count);
    }

    /// Records a connection or session with its first socket; none where there is no place.
    pub(super) fn open(&mut self, client: Fd, listener: u64) -> Option<u32> {
        let index = self.claim()?;
        // A program that failed to take over may have left a mark at that number.
        self.table.own(client, Owner::Nobody);
        self.table.slot(index).fill(client, listener);
        let generation = self.local[index as usize].generation.wrapping_add(1) & GENERATIONS;
        self.local[index as usize] = Local { generation, ..Local::default() };
        self.count_in(index);
        Some(index)
    }

    fn claim(&mut self) -> Option<u32> {
        for again in [false, true] {
            while let Some(index) = self.free.pop() {
                if self.table.claim(index, self.member) {
                    return Some(index);
                }
            }
            if !again {
                let is_free = |index: &u32| self.table.slot(*index).state().0 == SlotState::Free;
                self.free = (0..SLOTS).rev().filter(is_free).collect();
            }
        }
        None
    }

    /// Counts a connection for another machine than before; 0 is none.
    pub(super) fn set_machine(&mut self, index: u32, machine: u64) {
        let slot = self.table.slot(index);
        Self::count_out(&mut self.machines, slot.machine());
        slot.set_machine(machine);
        if machine != 0 {
            *self.machines.entry(machine).or_default() += 1;
        }
    }

    /// Carries a connection between two sockets that are connected elsewhere. Both become this engine's; without a place
    /// for it they stay the caller's.
    pub(crate) fn adopt_pair(&mut self, client: Fd, server: Fd, meta: Meta) -> Option<u32> {
        let index = self.open(client, meta.listener)?;
        self.set_machine(index, meta.machine);
        let slot = self.table.slot(index);
        slot.set_side(Side::Server, Some(server));
        slot.set_state(SlotState::Carrying);
        for fd in [client, server] {
            self.table.own(fd, Owner::Nobody);
        }
        self.both(index);
        Some(index)
    }

    /// The event of a side of a connection.
    pub(super) fn token(&self, index: u32, side: Side) -> Token {
        Token::Connection { slot: index, generation: self.local[index as usize].generation, side }
    }

    /// Whether an event is about the present use of its record.
    pub(super) fn is_present(&self, index: u32, generation: u32) -> bool {
        self.local.get(index as usize).is_some_and(|local| local.generation == generation)
    }

    /// Waits for a side's socket, in the place of what was waited for.
    pub(super) fn interest(&mut self, index: u32, side: Side, flags: EventFlags) {
        // Without anything to wait for, errors are said once, not without end.
        let flags = if flags.is_empty() { EventFlags::ET } else { flags };
        let before = self.local[index as usize].armed[side as usize];
        let Some(fd) = self.table.slot(index).side(side).filter(|_| before != Some(flags)) else { return };
        let token = self.token(index, side);
        let done = match before {
            None => self.poll.add(fd, token, flags),
            Some(_) => self.poll.change(fd, token, flags),
        };
        self.local[index as usize].armed[side as usize] = done.is_ok().then_some(flags);
    }

    /// The side has another socket: nothing is waited for yet.
    pub(super) fn disarm(&mut self, index: u32, side: Side) {
        self.local[index as usize].armed[side as usize] = None;
    }

    /// Waits for what can be done next: bytes of a side whose pipe is empty, room on a side to which bytes are stuck.
    fn arm(&mut self, index: u32) {
        for side in [Side::Client, Side::Server] {
            let local = &self.local[index as usize];
            let mut flags = EventFlags::empty();
            flags.set(EventFlags::IN, local.piped[side as usize] == 0 && !local.ended[side as usize]);
            flags.set(EventFlags::OUT, local.piped[side.other() as usize] > 0);
            self.interest(index, side, flags);
        }
    }

    fn queue(&mut self, index: u32) {
        if !std::mem::replace(&mut self.local[index as usize].queued, true) {
            self.ready.push_back(index);
        }
    }

    /// Whether connections wait for their next turn.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Sends what the events of this round have taken, and gives each connection that waits for it a turn.
    pub(super) fn run_ready(&mut self) {
        let mut taken = std::mem::take(&mut self.taken);
        for (index, generation, side) in taken.drain(..) {
            let is_carried = self.table.slot(index).state() == (SlotState::Carrying, self.member);
            if is_carried && self.is_present(index, generation) && self.pump(index, side) == Pumped::Open {
                self.arm(index);
            }
        }
        self.taken = taken;
        for _ in 0..self.ready.len() {
            let Some(index) = self.ready.pop_front() else { return };
            self.local[index as usize].queued = false;
            if self.table.slot(index).state() == (SlotState::Carrying, self.member) {
                self.both(index);
            }
        }
    }

    /// Closes a connection or session. `reset`: the peers learn that something was cut.
    pub(super) fn close(&mut self, index: u32, reset: bool) {
        let slot = self.table.slot(index);
        slot.set_cut(reset);
        slot.set_state(SlotState::Closing);
        for side in [Side::Client, Side::Server] {
            if let Some(fd) = slot.side(side) {
                if reset {
                    let _ = sockopt::set_socket_linger(fd, Some(Duration::ZERO));
                }
                fd.close();
            }
            if let Some((read, write)) = slot.pipe(side) {
                let is_empty = self.local[index as usize].piped[side as usize] == 0;
                if is_empty {
                    self.give_back(index, side);
                } else {
                    slot.set_pipe(side, None);
                    self.table.close(read);
                    self.table.close(write);
                }
            }
        }
        self.set_count(self.count - 1);
        Self::count_out(&mut self.listeners, slot.listener());
        Self::count_out(&mut self.machines, slot.machine());
        let local = &mut self.local[index as usize];
        // What is still said of it is about nothing any more.
        *local = Local { generation: local.generation.wrapping_add(1) & GENERATIONS, ..Local::default() };
        slot.set_state(SlotState::Free);
        self.free.push(index);
    }

    /// Closes everything of a listener.
    pub(super) fn close_listener(&mut self, listener: u64) {
        for index in 0..self.table.top() {
            let slot = self.table.slot(index);
            let (state, member) = slot.state();
            let is_open = matches!(state, SlotState::Connecting | SlotState::Carrying | SlotState::Session);
            if is_open && member == self.member && slot.listener() == listener {
                self.close(index, true);
            }
        }
    }

    fn new_pipe(&self) -> io::Result<(Fd, Fd)> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let (read, write) = (Fd::from_owned(read), Fd::from_owned(write));
        self.mark(read, write);
        // A smaller one carries the same bytes.
        let _ = rustix::pipe::fcntl_setpipe_size(write, PIPE);
        Ok((read, write))
    }

    /// Takes a pipe for the bytes of a side.
    fn take_pipe(&mut self, index: u32, from: Side) -> io::Result<(Fd, Fd)> {
        let (read, write) = self.pool.pop().map_or_else(|| self.new_pipe(), Ok)?;
        self.table.slot(index).set_pipe(from, Some((read, write)));
        Ok((read, write))
    }

    /// Marks a pipe as this process' own, in a record or not. It goes in and out of records thousands of times a second: whoever
    /// looks first at the records and then at the marks, as suspects are found, must not take it for nobody's.
    fn mark(&self, read: Fd, write: Fd) {
        for fd in [read, write] {
            self.table.own(fd, Owner::Member(self.member));
        }
    }

    /// Puts the pipe back, in which nothing is.
    fn give_back(&mut self, index: u32, from: Side) {
        let slot = self.table.slot(index);
        let Some((read, write)) = slot.pipe(from) else { return };
        slot.set_pipe(from, None);
        if self.pool.len() < POOL {
            self.pool.push((read, write));
        } else {
            self.table.close(read);
            self.table.close(write);
        }
    }

    /// Carries both directions as far as it goes.
    pub(super) fn both(&mut self, index: u32) {
        let open = |pumped| pumped == Pumped::Open;
        if open(self.pump(index, Side::Client)) && open(self.pump(index, Side::Server)) {
            self.arm(index);
        }
    }

    /// Something happened to a side of a connection that is carried.
    pub(super) fn event(&mut self, index: u32, side: Side, flags: EventFlags) {
        if flags == EventFlags::IN && self.take(index, side) {
            return;
        }
        let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        let readable = flags.contains(EventFlags::IN) || gone;
        if readable && self.pump(index, side) == Pumped::Closed {
            return;
        }
        let writable = flags.contains(EventFlags::OUT) || gone;
        if writable && self.pump(index, side.other()) == Pumped::Closed {
            return;
        }
        let local = &self.local[index as usize];
        // It has said all, was reset after that, and nothing is under way to it: the other side learns it.
        if flags.contains(EventFlags::ERR) && local.ended[side as usize] {
            self.fail(index);
            return;
        }
        self.arm(index);
    }

    /// Takes what the side's socket has, to be sent once the events of this round were all looked at. Whether it did, or found that
    /// the connection was cut; whatever else there is about that side is left to [`Self::pump`].
    fn take(&mut self, index: u32, from: Side) -> bool {
        let (local, at) = (&self.local[index as usize], from as usize);
        let slot = self.table.slot(index);
        // As many at a time as the pool keeps pipes: to make one costs more than is saved.
        let is_due = self.taken.len() < POOL && local.piped[at] == 0 && !local.ended[at];
        let Some(source) = slot.side(from).filter(|_| is_due) else { return false };
        let Ok((_, write)) = slot.pipe(from).map_or_else(|| self.take_pipe(index, from), Ok) else {
            return false;
        };
        match splice(source, write, PIPE) {
            Ok(bytes @ 1..) => {
                let local = &mut self.local[index as usize];
                local.piped[at] = bytes;
                local.is_all[at] = bytes < PROBABLY_ALL;
                self.taken.push((index, local.generation, from));
                true
            }
            Ok(_) | Err(Errno::AGAIN) => false,
            // The kernel says it once: asked again, it would answer that the side has said all.
            Err(_) => {
                self.fail(index);
                true
            }
        }
    }

    /// Ends a connection that was cut by one of its sides.
    fn fail(&mut self, index: u32) {
        self.count_bytes(index, Count::Failed, 1);
        self.close(index, true);
    }

    fn count_bytes(&self, index: u32, count: Count, number: u64) {
        let listener = self.table.slot(index).listener();
        if listener != NO_LISTENER {
            self.table.listener(usize::try_from(listener).unwrap_or(0)).count(count, number);
        }
    }

    /// Carries what `from` has said to the other side, as far as it goes now.
    fn pump(&mut self, index: u32, from: Side) -> Pumped {
        let slot = self.table.slot(index);
        let (Some(source), Some(target)) = (slot.side(from), slot.side(from.other())) else {
            self.close(index, true);
            return Pumped::Closed;
        };
        let at = from as usize;
        let count = if from == Side::Client { Count::Received } else { Count::Sent };
        let (mut left, mut carried) = (BUDGET, 0);
        let pumped = loop {
            let piped = self.local[index as usize].piped[at];
            if piped > 0 {
                let Some((read, _)) = slot.pipe(from) else { break Err(Errno::PIPE) };
                match splice(read, target, piped) {
                    Ok(bytes) => {
                        self.local[index as usize].piped[at] -= bytes;
                        carried += bytes as u64;
                        left = left.saturating_sub(bytes);
                    }
                    Err(Errno::AGAIN) => break Ok(()),
                    Err(error) => break Err(error),
                }
                if self.local[index as usize].piped[at] > 0 {
                    continue;
                }
                if self.local[index as usize].is_all[at] || left == 0 {
                    self.give_back(index, from);
                    break Ok(());
                }
            }
            if self.local[index as usize].ended[at] {
                break Ok(());
            }
            let pipe = slot.pipe(from).map_or_else(|| self.take_pipe(index, from), Ok);
            let Ok((_, write)) = pipe else { break Err(Errno::MFILE) };
            match splice(source, write, PIPE) {
                Ok(0) => {
                    self.give_back(index, from);
                    self.local[index as usize].ended[at] = true;
                    let _ = rustix::net::shutdown(target, Shutdown::Write);
                    break Ok(());
                }
                Ok(bytes) => {
                    self.local[index as usize].piped[at] = bytes;
                    self.local[index as usize].is_all[at] = bytes < PROBABLY_ALL;
                }
                Err(Errno::AGAIN) => {
                    self.give_back(index, from);
                    break Ok(());
                }
                Err(error) => break Err(error),
            }
        };
        if carried > 0 {
            self.count_bytes(index, count, carried);
        }
        match pumped {
            Err(_) => {
                self.fail(index);
                Pumped::Closed
            }
            Ok(()) if self.local[index as usize].ended == [true, true] => {
                self.close(index, false);
                Pumped::Closed
            }
            Ok(()) => Pumped::Open,
        }
    }
}

fn splice(from: Fd, to: Fd, bytes: usize) -> rustix::io::Result<usize> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    loop {
        match rustix::pipe::splice(from, None, to, None, bytes, flags) {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}
