//! The guardian: waits for the ends of the other processes and starts them again. It carries nothing, so that nothing
//! but a signal ends it; and the process that carries starts it again.

use std::collections::HashMap;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::FdFlags;

use super::member::{Family, Next, POLL, Role, VERB, become_member, end, open_descriptors, reap};
use super::places::{GUARDIAN, HOST, has_ended, is_alive, watch};
use super::table::{Fd, Kept, MEMBERS, Owner, Phase, Table};
use crate::cloud::local::machine::descriptors;
use crate::cloud::local::network::sys;

/// How long the others may take to stop for a newer program.
const PARK: Duration = Duration::from_secs(5);

/// The longest wait between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// A process that runs for this long works: it is started again at once when it ends.
const PROVEN: Duration = Duration::from_millis(200);

/// The pause before a process that ended soon is started again; doubled each time, up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Connections wait meanwhile: even one that fails over and over costs little at this pause.
const MAX_PAUSE: Duration = Duration::from_millis(300);

/// A process that is looked after.
#[derive(Debug)]
struct Ward {
    watched: Option<Fd>,
    since: Instant,
    pause: Duration,
    due: Instant,
}

/// What a round of looking after the others has come to.
enum Looked {
    /// This process has just been started.
    Become(Role),
    /// All are looked after.
    Fine,
}

/// Looks after the others until all is to end.
pub(super) fn run(family: &Family, before: u32) -> Next {
    let table = family.shared.table;
    if !become_member(&table, GUARDIAN, before, c"i2kit-guardian") {
        return Next::End;
    }
    let this = table.member(GUARDIAN);
    let signals = sys::terminations().map(Fd::from_owned).ok();
    if let Some(signals) = signals {
        table.own(signals, Owner::Member(GUARDIAN));
    }
    // A newer program: the processes of the older one wait until each has a successor.
    let mut parked: HashMap<usize, u32> = HashMap::new();
    let resumes = before == std::process::id();
    if resumes {
        parked.extend(places(&table).map(|index| (index, table.member(index).pid())));
    }
    let mut wards: HashMap<usize, Ward> = HashMap::new();
    loop {
        match table.phase() {
            Phase::Stop => return Next::End,
            Phase::Park if parked.is_empty() => replace(family),
            Phase::Park | Phase::Carry => {}
        }
        wards.retain(|index, ward| {
            let is_wanted = places(&table).any(|place| place == *index);
            if let (false, Some(watched)) = (is_wanted, ward.watched) {
                table.close(watched);
            }
            is_wanted
        });
        for index in places(&table) {
            wards.entry(index).or_insert_with(Ward::new);
        }
        for (index, ward) in &mut wards {
            if let Looked::Become(role) = look_after(family, *index, ward, &parked) {
                return Next::Become(role);
            }
        }
        if !parked.is_empty() && succeeded(family, &parked) {
            parked.clear();
            table.set_phase(Phase::Carry);
            family.shared.log.write(format_args!("a newer program carries on, process {}", this.pid()));
        }
        this.rests();
        let signalled = wait(&wards, this.news(), signals, !parked.is_empty());
        this.works();
        if signalled {
            end(&table);
            return Next::End;
        }
        for ward in wards.values_mut() {
            ward.look(&table);
        }
        reap();
    }
}

/// The places of processes that carry: for the host, and in each network.
fn places(table: &Table) -> impl Iterator<Item = usize> {
    let table = *table;
    (HOST..MEMBERS).filter(move |index| *index == HOST || table.network(*index).exists())
}

impl Ward {
    fn new() -> Self {
        Self { watched: None, since: Instant::now(), pause: FIRST_PAUSE, due: Instant::now() }
    }

    /// Takes note of its end.
    fn look(&mut self, table: &Table) {
        let Some(watched) = self.watched.filter(|fd| has_ended(*fd)) else { return };
        table.close(watched);
        self.watched = None;
        self.pause =
            if self.since.elapsed() >= PROVEN { FIRST_PAUSE } else { (self.pause * 2).min(MAX_PAUSE) };
        self.due = if self.pause == FIRST_PAUSE { Instant::now() } else { Instant::now() + self.pause };
    }
}

/// Sees to it that a process runs.
fn look_after(family: &Family, index: usize, ward: &mut Ward, parked: &HashMap<usize, u32>) -> Looked {
    let table = family.shared.table;
    if ward.watched.is_some() || ward.due > Instant::now() {
        return Looked::Fine;
    }
    let before = table.member(index).pid();
    let is_parked = parked.get(&index) == Some(&before);
    // One that lives already is kept: it may have started this guardian.
    let mut found = if is_parked { None } else { watch(before) };
    if found.is_none() {
        match sys::clone_files() {
            Ok(None) if index == HOST => return Looked::Become(Role::Host { before }),
            Ok(None) => return Looked::Become(Role::Inside { index, before }),
            Ok(Some(child)) => {
                if before != 0 && !is_parked {
                    table.restarts().fetch_add(1, Ordering::Relaxed);
                    family.shared.log.write(format_args!("process {before} ended and is replaced"));
                }
                found = u32::try_from(child.as_raw_nonzero().get()).ok().and_then(watch);
            }
            Err(error) => {
                family.shared.log.write(format_args!("a process cannot be started: {error}"));
            }
        }
    }
    ward.since = Instant::now();
    ward.watched = found;
    match found {
        Some(fd) => table.own(fd, Owner::Member(GUARDIAN)),
        None => ward.due = Instant::now() + ward.pause,
    }
    Looked::Fine
}

/// Whether every process of the older program has a successor, and has ended.
fn succeeded(family: &Family, parked: &HashMap<usize, u32>) -> bool {
    parked.iter().all(|(index, old)| family.shared.table.member(*index).pid() != *old && !is_alive(*old))
}

/// Waits until something happens. Returns whether a signal came.
fn wait(wards: &HashMap<usize, Ward>, news: Option<Fd>, signals: Option<Fd>, hurries: bool) -> bool {
    let watched: Vec<Fd> = wards.values().filter_map(|ward| ward.watched).collect();
    let all: Vec<Fd> = signals.into_iter().chain(news).chain(watched).collect();
    let mut polled: Vec<PollFd> = all.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    let starts = wards.values().filter(|ward| ward.watched.is_none());
    let due = starts.map(|ward| ward.due.saturating_duration_since(Instant::now())).min();
    let longest = if hurries { POLL } else { LOOK };
    let timeout = Timespec::try_from(due.unwrap_or(longest).min(longest)).ok();
    let _ = rustix::event::poll(&mut polled, timeout.as_ref());
    let signalled = signals.is_some() && polled.first().is_some_and(|first| !first.revents().is_empty());
    if let Some(news) = news {
        // It may say nothing: then it does not block either.
        let _ = rustix::io::read(news, &mut [0_u8; 8]);
    }
    signalled
}

/// Becomes the newer program, with everything that is open. Returns when that failed: then all goes on as it was.
fn replace(family: &Family) {
    let (table, log) = (family.shared.table, family.shared.log);
    let program = std::ffi::OsString::from_vec(table.program());
    let works = |index: &usize| {
        let member = table.member(*index);
        is_alive(member.pid()) && !member.is_parked()
    };
    let given_up = Instant::now() + PARK;
    while places(&table).any(|index| works(&index)) && Instant::now() < given_up {
        std::thread::sleep(POLL);
    }
    let mut why = "a process that carries does not stop".to_owned();
    if !places(&table).any(|index| works(&index)) {
        for fd in open_descriptors().into_iter().filter(|fd| !table.is_of(*fd, Owner::Member(GUARDIAN))) {
            let _ = rustix::io::fcntl_setfd(fd, FdFlags::empty());
        }
        let number = table.kept(Kept::Table).map_or(-1, Fd::number).to_string();
        let mut command = Command::new(&program);
        command.arg(VERB).arg(&family.state).args(["--resume", &number]);
        why = command.exec().to_string();
        descriptors::close_on_exec();
        // The attempt has set both to what a new program begins with.
        sys::ignore_broken_pipes();
        drop(sys::terminations());
    }
    log.write(format_args!("{} does not take over: {why}", program.display()));
    table.set_phase(Phase::Carry);
}
