//! The wait of a process for its descriptors: epoll, and what an event is about.

use std::io;
use std::time::Duration;

use rustix::event::epoll;
pub(super) use rustix::event::epoll::EventFlags;
use rustix::event::{EventfdFlags, Timespec};
use rustix::io::Errno;

use super::table::{Fd, Owner, Side, Table};

/// Events that are taken at a time.
const EVENTS: usize = 512;

/// The pause after an accept that failed for want of descriptors.
const PAUSE: Duration = Duration::from_millis(2);

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// A side of a connection: its record, and which use of it.
    Connection { slot: u32, generation: u32, side: Side },
    /// A listener, by the index of its record.
    Listener(u32),
    /// A connection of the control socket, by its number.
    Caller(u32),
    /// A connection to a name server, by its number.
    Asker(u32),
    /// A relayed question, by its number.
    Relayed(u32),
    /// A descriptor of egress, by its number.
    Outside(u32),
    /// The control socket.
    Control,
    /// Something in the table has changed.
    News,
    /// A signal came.
    Signals,
    /// The guardian has ended.
    Guardian,
}

/// The part of a generation that an event carries.
pub(super) const GENERATIONS: u32 = (1 << 23) - 1;

impl Token {
    fn word(self) -> u64 {
        let word = |kind: u64, number: u32| kind << 56 | u64::from(number);
        match self {
            Self::Connection { slot, generation, side } => {
                u64::from(generation & GENERATIONS) << 33 | u64::from(slot) << 1 | side as u64
            }
            Self::Listener(index) => word(1, index),
            Self::Caller(number) => word(2, number),
            Self::Asker(number) => word(3, number),
            Self::Relayed(number) => word(4, number),
            Self::Control => word(5, 0),
            Self::News => word(6, 0),
            Self::Signals => word(7, 0),
            Self::Guardian => word(8, 0),
            Self::Outside(number) => word(9, number),
        }
    }

    fn read(word: u64) -> Self {
        let low = |word: u64| u32::try_from(word & u64::from(u32::MAX)).unwrap_or(0);
        match word >> 56 {
            0 => Self::Connection {
                slot: low(word >> 1),
                generation: low(word >> 33) & GENERATIONS,
                side: if word & 1 == 0 { Side::Client } else { Side::Server },
            },
            1 => Self::Listener(low(word)),
            2 => Self::Caller(low(word)),
            3 => Self::Asker(low(word)),
            4 => Self::Relayed(low(word)),
            5 => Self::Control,
            6 => Self::News,
            7 => Self::Signals,
            9 => Self::Outside(low(word)),
            _ => Self::Guardian,
        }
    }
}

/// The descriptors that a process waits for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Poll {
    epoll: Fd,
}

impl Poll {
    /// Waits for nothing yet. It is the member's own.
    pub(super) fn new(table: &Table, member: usize) -> io::Result<Self> {
        let epoll = Fd::from_owned(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        table.own(epoll, Owner::Member(member));
        Ok(Self { epoll })
    }

    /// Begins to wait for `flags` of a descriptor.
    pub(super) fn add(self, fd: Fd, token: Token, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(self.epoll, fd, epoll::EventData::new_u64(token.word()), flags)?)
    }

    /// Waits for other `flags`.
    pub(super) fn change(self, fd: Fd, token: Token, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(self.epoll, fd, epoll::EventData::new_u64(token.word()), flags)?)
    }

    /// Waits for the descriptor no more.
    pub(super) fn delete(self, fd: Fd) {
        // One that was never added is not waited for either.
        let _ = epoll::delete(self.epoll, fd);
    }

    /// Waits for events, at most for `timeout`.
    pub(super) fn wait(self, timeout: Option<Duration>, found: &mut Vec<(Token, EventFlags)>) {
        let mut events = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        found.clear();
        // A signal interrupts it: it is waited for again with the next round.
        if let Ok((events, _)) = epoll::wait(self.epoll, &mut events, timeout.as_ref()) {
            found.extend(events.iter().map(|event| (Token::read(event.data.u64()), event.flags)));
        }
    }

    /// Closes it. A process that carries leaves it to its successor.
    pub(super) fn close(self, table: &Table) {
        table.close(self.epoll);
    }
}

/// Waits for a moment where an accept failed for want of descriptors: it would be tried again without end.
pub(super) fn pause_without_descriptors(error: Errno) {
    if matches!(error, Errno::MFILE | Errno::NFILE) {
        std::thread::sleep(PAUSE);
    }
}

/// A descriptor by which a member is woken.
pub(super) fn news() -> io::Result<Fd> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    Ok(Fd::from_owned(rustix::event::eventfd(0, flags)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_says_what_it_is_about() {
        let connection = |slot, generation, side| Token::Connection { slot, generation, side };
        let tokens = [
            connection(0, 0, Side::Client),
            connection(16_383, GENERATIONS, Side::Server),
            Token::Listener(2047),
            Token::Caller(u32::MAX),
            Token::Asker(3),
            Token::Relayed(4),
            Token::Control,
            Token::News,
            Token::Signals,
            Token::Guardian,
            Token::Outside(9),
        ];
        for token in tokens {
            assert_eq!(Token::read(token.word()), token);
        }
    }
}
