//! Descriptors without a record: whose they may be, and when they are closed.

use std::collections::HashSet;

use super::member::open_descriptors;
use super::places::is_alive;
use super::table::{Fd, MEMBERS, Owner, Side, SlotState, Table};

/// Descriptors that nobody is known to have: of a process that was killed between two steps, or of one that works and
/// has not recorded them yet. They are closed once every process that worked has rested.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    found: Vec<Suspect>,
}

#[derive(Debug)]
struct Suspect {
    fd: Fd,
    inode: u64,
    /// Processes that worked when it was found, each with its number of rounds.
    working: Vec<(usize, u64)>,
}

impl Suspects {
    /// The descriptors without a mark and a record.
    pub(super) fn find(table: &Table, this: usize) -> Self {
        let recorded = recorded(table);
        let found = open_descriptors()
            .into_iter()
            .filter(|fd| table.is_of(*fd, Owner::Nobody) && !recorded.contains(fd));
        let found: Vec<Fd> = found.collect();
        let others = (0..MEMBERS).filter(|index| *index != this && is_alive(table.member(*index).pid()));
        let working: Vec<(usize, u64)> = others
            .filter_map(|index| {
                let (rounds, rests) = table.member(index).rounds();
                (!rests).then_some((index, rounds))
            })
            .collect();
        let suspect = |fd: Fd| Suspect { fd, inode: fd.inode(), working: working.clone() };
        Self { found: found.into_iter().map(suspect).collect() }
    }

    /// Hands each to `adopt`, which gives back what it does not take.
    pub(super) fn offer(&mut self, mut adopt: impl FnMut(Fd) -> Option<Fd>) -> usize {
        let before = self.found.len();
        // A number that was closed meanwhile may be another file's, one that was just taken on among them.
        self.found.retain(|suspect| suspect.fd.inode() == suspect.inode && adopt(suspect.fd).is_some());
        before - self.found.len()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Closes those that are nobody's for certain.
    pub(super) fn close(&mut self, table: &Table) {
        for suspect in &mut self.found {
            suspect.working.retain(|(index, rounds)| {
                let member = table.member(*index);
                let (now, rests) = member.rounds();
                !rests && now == *rounds && is_alive(member.pid())
            });
        }
        let (certain, uncertain): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.found).into_iter().partition(|suspect| suspect.working.is_empty());
        self.found = uncertain;
        if certain.is_empty() {
            return;
        }
        // After that: who has worked since may have recorded it in its last round.
        let recorded = recorded(table);
        for suspect in certain {
            let is_known = recorded.contains(&suspect.fd) || !table.is_of(suspect.fd, Owner::Nobody);
            if !is_known && suspect.fd.inode() == suspect.inode {
                suspect.fd.close();
            }
        }
    }
}

/// Descriptors that are in a record. One that is being closed is so by whoever has the record: a second close would hit whatever
/// has its number by then.
fn recorded(table: &Table) -> HashSet<Fd> {
    let mut found = HashSet::new();
    for number in 0..table.top() {
        let slot = table.slot(number);
        if matches!(slot.state().0, SlotState::Free | SlotState::Claimed) {
            continue;
        }
        for side in [Side::Client, Side::Server] {
            found.extend(slot.side(side));
            found.extend(slot.pipe(side).into_iter().flat_map(|(read, write)| [read, write]));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_its_process_is_closing_is_closed_by_nobody_else() {
        let table = Table::create().unwrap();
        let (client, _other) = rustix::pipe::pipe().unwrap();
        let client = Fd::from_owned(client);
        assert!(table.claim(0, 5));
        let slot = table.slot(0);
        slot.fill(client, 3);
        let is_suspect = || Suspects::find(&table, 1).found.iter().any(|suspect| suspect.fd == client);
        for state in [SlotState::Connecting, SlotState::Carrying, SlotState::Session, SlotState::Closing] {
            slot.set_state(state);
            assert!(!is_suspect(), "{state:?}");
        }
        slot.set_state(SlotState::Free);
        assert!(is_suspect());
        client.close();
    }
}
