//! The life of the process that carries for the host: it takes its predecessor's place, carries, starts the guardian
//! again, and stops for a newer program.

use std::fs;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::carrier::{Carrier, Left};
use super::member::{Family, LOCK, Next, POLL, Role, become_member, end, reap};
use super::places::{GUARDIAN, HOST, has_ended, kill, watch};
use super::poll::Token;
use super::processes;
use super::protocol::SOCKET;
use super::suspects::Suspects;
use super::table::{Fd, Kept, Owner, Phase};
use crate::cloud::local::network::sys;
use crate::cloud::local::socket;

/// How often it is looked whether the folder and the socket are still there.
const LOOK: Duration = Duration::from_secs(1);

/// How often it is looked whether a descriptor without a record is somebody's.
const LOOK_CLOSELY: Duration = Duration::from_millis(20);

/// Looks in a row that find no folder, after which the processes end: nobody can reach them any more.
const MISSED: u32 = 3;

/// What became of a wait for a newer program.
pub(super) enum Parked {
    /// The newer one carries.
    Replaced,
    /// This one carries on.
    Resumed,
}

/// How long another program's process may take, with what others wait for, before it is ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is in the place of the lock that makes these processes the front door of their folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// That lock.
    Held,
    /// Another one: the folder was removed and made again, and another front door may be in it.
    Taken,
    /// Nothing.
    Gone,
    /// It cannot be looked at.
    Unknown,
}

/// Carries until all is to end, or another process has taken over.
pub(super) fn run(family: &Family, before: u32) -> Next {
    let (table, log) = (family.shared.table, family.shared.log);
    if table.phase() == Phase::Park
        && let Err(error) = Carrier::rehearse(family.shared, HOST)
    {
        log.write(format_args!("a newer program cannot carry: {error}"));
        return Next::End;
    }
    if !become_member(&table, HOST, before, c"i2kit-door") {
        return Next::End;
    }
    let guardian = watch(table.member(GUARDIAN).pid());
    wait_for_older(family, HOST, before, guardian);
    let Ok(mut carrier) = Carrier::new(family.shared, HOST) else { return Next::End };
    let mut suspects = Suspects::find(&table, HOST);
    carrier.recover();
    let adopted = suspects.offer(|fd| carrier.adopt(fd));
    let count = carrier.engine.all();
    if before != 0 {
        log.write(format_args!(
            "process {} carries {count} connections on, {adopted} of them without a record",
            std::process::id()
        ));
    }
    for (kept, token) in
        [(table.kept(Kept::Control), Token::Control), (table.member(HOST).news(), Token::News)]
    {
        if let Some(fd) = kept {
            carrier.attend(fd, token);
        }
    }
    if let Ok(signals) = sys::terminations() {
        let signals = Fd::from_owned(signals);
        carrier.own(signals);
        carrier.attend(signals, Token::Signals);
    }
    let mut life = Life { family, guardian: None, suspects, missed: 0 };
    life.guard(&carrier, guardian);
    table.set_ready();
    life.lead(&mut carrier)
}

/// A newer program's process waits until the older one's has ended: at no time do two carry in one place.
pub(super) fn wait_for_older(family: &Family, index: usize, before: u32, guardian: Option<Fd>) {
    let table = family.shared.table;
    // Another program may have the number of one that ended long ago.
    let is_older = before != std::process::id() && processes::is_one(before, &family.state);
    if let Some(older) = is_older.then(|| watch(before)).flatten() {
        table.own(older, Owner::Member(index));
        table.member(index).wake();
        let given_up = Instant::now() + PATIENCE;
        while !has_ended(older) {
            if Instant::now() > given_up {
                kill(older);
            }
            std::thread::sleep(POLL);
        }
        table.close(older);
    }
    while family.shared.table.phase() == Phase::Park {
        if guardian.is_none_or(has_ended) {
            family.shared.table.set_phase(Phase::Carry);
        }
        std::thread::sleep(POLL);
    }
}

/// Carries nothing until a newer program has taken over, or will not: the `guardian`, which lives when this begins, ends
/// then.
pub(super) fn park(family: &Family, index: usize, guardian: Option<Fd>) -> Parked {
    let table = family.shared.table;
    let this = table.member(index);
    this.set_parked(true);
    // The other processes have the same to do.
    for (_, member) in table.members() {
        member.wake();
    }
    let given_up = Instant::now() + PATIENCE;
    let mut is_told = false;
    loop {
        if !this.is_this_process() {
            return Parked::Replaced;
        }
        match guardian {
            Some(guardian) if !has_ended(guardian) => {
                if Instant::now() > given_up {
                    if !std::mem::replace(&mut is_told, true) {
                        family
                            .shared
                            .log
                            .write(format_args!("a newer program does not take over: it takes too long"));
                    }
                    kill(guardian);
                }
            }
            _ => table.set_phase(Phase::Carry),
        }
        match table.phase() {
            Phase::Park => std::thread::sleep(POLL),
            Phase::Carry | Phase::Stop => {
                // It may have been replaced since.
                if !this.is_this_process() {
                    return Parked::Replaced;
                }
                this.set_parked(false);
                return Parked::Resumed;
            }
        }
    }
}

/// What it looks after while it carries.
struct Life<'f> {
    family: &'f Family,
    guardian: Option<Fd>,
    suspects: Suspects,
    missed: u32,
}

impl Life<'_> {
    /// Watches the guardian of that descriptor.
    fn guard(&mut self, carrier: &Carrier, guardian: Option<Fd>) {
        if let Some(fd) = guardian {
            carrier.own(fd);
            carrier.attend(fd, Token::Guardian);
        }
        self.guardian = guardian;
    }

    fn lead(&mut self, carrier: &mut Carrier) -> Next {
        let table = self.family.shared.table;
        loop {
            if self.guardian.is_none_or(has_ended)
                && let next @ Next::Become(_) = self.start_guardian(carrier)
            {
                return next;
            }
            let pause = if self.suspects.is_empty() { LOOK } else { LOOK_CLOSELY };
            match carrier.run(Instant::now() + pause) {
                Left::Look => {
                    self.suspects.close(&table);
                    reap();
                    if !self.has_place(carrier) {
                        return self.leave();
                    }
                }
                Left::Guardian | Left::News => {}
                Left::Signal => return self.leave(),
                Left::Replaced => return Next::End,
                Left::Phase => match table.phase() {
                    Phase::Stop => return self.leave(),
                    Phase::Carry => {}
                    // The guardian's successor, which is started now, replaces the program.
                    Phase::Park if self.guardian.is_none_or(has_ended) => {}
                    Phase::Park => {
                        if let Parked::Replaced = park(self.family, HOST, self.guardian) {
                            return Next::End;
                        }
                    }
                },
            }
        }
    }

    /// Starts the guardian again.
    fn start_guardian(&mut self, carrier: &Carrier) -> Next {
        let table = self.family.shared.table;
        if let Some(ended) = self.guardian.take() {
            carrier.engine.poll.delete(ended);
            table.close(ended);
        }
        let before = table.member(GUARDIAN).pid();
        let mut found = watch(before);
        if found.is_none() {
            match sys::clone_files() {
                Ok(None) => return Next::Become(Role::Guardian { before }),
                Ok(Some(child)) => {
                    self.family.shared.log.write(format_args!("guardian {before} ended and is replaced"));
                    found = u32::try_from(child.as_raw_nonzero().get()).ok().and_then(watch);
                }
                Err(error) => {
                    self.family.shared.log.write(format_args!("no guardian can be started: {error}"));
                }
            }
        }
        self.guard(carrier, found);
        Next::End
    }

    /// Whether the folder is there. A socket that somebody removed is made anew.
    fn has_place(&mut self, carrier: &Carrier) -> bool {
        let (table, state) = (self.family.shared.table, &self.family.state);
        match self.place() {
            Place::Held => self.missed = 0,
            Place::Unknown => return true,
            Place::Gone => {
                self.missed += 1;
                return self.missed < MISSED;
            }
            Place::Taken => return false,
        }
        if !state.join(SOCKET).exists()
            && let Ok(listener) = socket::bind(state, SOCKET)
            && listener.set_nonblocking(true).is_ok()
        {
            self.family.shared.log.write(format_args!("{SOCKET} was gone and is made anew"));
            let fd = Fd::from_owned(listener.into());
            table.keep(Kept::Control, fd);
            carrier.attend(fd, Token::Control);
        }
        true
    }

    /// What is in the place of the lock that these processes hold.
    fn place(&self) -> Place {
        let held = self.family.shared.table.kept(Kept::Lock).and_then(|lock| rustix::fs::fstat(lock).ok());
        match (held, rustix::fs::stat(self.family.state.join(LOCK))) {
            (Some(held), Ok(found)) if (held.st_dev, held.st_ino) != (found.st_dev, found.st_ino) => {
                Place::Taken
            }
            (_, Ok(_)) => Place::Held,
            (_, Err(Errno::NOENT | Errno::NOTDIR)) => Place::Gone,
            (_, Err(_)) => Place::Unknown,
        }
    }

    /// Ends all processes.
    fn leave(&self) -> Next {
        let family = self.family;
        end(&family.shared.table);
        if self.place() == Place::Held {
            let _ = fs::remove_file(family.state.join(SOCKET));
        }
        family.shared.log.write(format_args!("ended"));
        Next::End
    }
}
