//! ACME in the local cloud's process: which hosts have which CA, what is served for them, and the task that asks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::files;
use super::order::{self, World};
use super::record::{Failure, HOSTS, Record, Want};
use super::shown::{Asked, Found};
use crate::cloud::CloudError;
use crate::cloud::local::clock;
use crate::cloud::local::home::Home;
use crate::cloud::local::log::Log;
use crate::cloud::local::proxy::{Challenge, Proxy};

/// Between two looks at the wall clock, which somebody may set while a task sleeps.
const LOOK: Duration = Duration::from_mins(1);

/// How long the proxy may take to answer a challenge.
const ANSWERS: Duration = Duration::from_secs(30);

/// Between two looks whether it does.
const POLL: Duration = Duration::from_millis(50);

/// Challenges that are answered at a time: each front is given all of them.
pub(super) const CHALLENGES: usize = 100;

/// What is known of all hosts.
#[derive(Debug)]
pub(in crate::cloud::local) struct Acme {
    /// By [`Want::id`]; `None` until the keeper has said so.
    wanted: watch::Sender<Option<BTreeMap<String, Want>>>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    records: BTreeMap<String, Record>,
    /// Whether the files were read.
    is_loaded: bool,
    /// Records that could not be written, and why. They are what counts until they can be.
    unsaved: BTreeMap<String, String>,
    /// Hosts whose file is there and cannot be read, and why: no CA is asked for them until it can be, since the file may
    /// hold a certificate.
    unread: BTreeMap<String, String>,
    /// The host that the CA is asked for now.
    asking: Option<String>,
}

impl Acme {
    /// What an earlier process knew. Files that cannot be read now are tried again by [`Acme::drive`].
    pub(in crate::cloud::local) fn open(home: &Home, log: &Log) -> Self {
        let acme = Self { wanted: watch::Sender::new(None), known: Mutex::default() };
        // Before anything is served: what was a CA's certificate must not become another one for a moment.
        if let Err(error) = acme.load(home, log) {
            log.write(format_args!("ACME: {error}"));
        }
        acme
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has certificates of these hosts from now on, and of no others. Where there are too many, those that were asked for
    /// before go first.
    pub(in crate::cloud::local) fn want(&self, wants: impl IntoIterator<Item = Want>) {
        let named = wants.into_iter().map(|want| (want.id(), want));
        let (known, new): (Vec<_>, Vec<_>) = {
            let known = self.known();
            named.partition(|(id, _)| known.records.contains_key(id))
        };
        let mut wants = BTreeMap::new();
        for (id, want) in known.into_iter().chain(new) {
            if wants.len() < HOSTS {
                wants.entry(id).or_insert(want);
            }
        }
        self.wanted.send_if_modified(|now| {
            let is_new = now.as_ref() != Some(&wants);
            *now = Some(wants);
            is_new
        });
    }

    /// What every front is to answer: of the attempts that began last where there are too many.
    pub(in crate::cloud::local) fn challenges(&self) -> Vec<Challenge> {
        let known = self.known();
        let mut answers: Vec<(bool, u64, &Challenge)> = Vec::new();
        for (id, record) in &known.records {
            let challenge = record.order.as_ref().and_then(|order| order.challenge.as_ref());
            let is_asking = known.asking.as_ref() == Some(id);
            answers.extend(challenge.map(|challenge| (is_asking, record.since, challenge)));
        }
        answers.sort_by_key(|(is_asking, since, _)| Reverse((*is_asking, *since)));
        answers.into_iter().take(CHALLENGES).map(|(_, _, challenge)| challenge.clone()).collect()
    }

    /// The certificate of a host, as far as there is one.
    pub(in crate::cloud::local) fn find(&self, want: &Want) -> Found {
        let id = want.id();
        if self.wanted.borrow().as_ref().is_some_and(|wanted| !wanted.contains_key(&id)) {
            return Found::left_out();
        }
        let known = self.known();
        let record = known.records.get(&id);
        // Until another CA has given one, that of the CA before it is good.
        let issued = record.filter(|record| record.issued.is_some()).or_else(|| {
            let others = known.records.values().filter(|other| other.want.host == want.host);
            others.filter(|other| other.issued.is_some()).max_by_key(|other| other.expires())
        });
        let asked = Asked {
            want,
            record,
            issued,
            unsaved: known.unsaved.get(&id).map(String::as_str),
            unread: known.unread.get(&id).map(String::as_str),
            is_asking: known.asking.as_ref() == Some(&id),
            now: clock::wall(),
        };
        asked.found(known.is_loaded)
    }

    /// Asks CAs for what is wanted, for as long as it is polled. An error is one of this computer's files.
    pub(in crate::cloud::local) async fn drive(&self, parts: &Parts<'_>) -> Result<(), CloudError> {
        let mut wants = self.wanted.subscribe();
        if !self.known().is_loaded {
            self.load(parts.home, parts.log)?;
            parts.changed.notify_one();
        }
        loop {
            let wanted = wants.borrow_and_update().clone();
            self.catch_up(parts);
            let wait = match wanted {
                None => LOOK,
                Some(wanted) => {
                    self.sweep(parts, &wanted);
                    match self.next(&wanted) {
                        Next::Now(want) => {
                            self.ask(parts, want).await;
                            continue;
                        }
                        Next::After(wait) => wait.min(LOOK),
                    }
                }
            };
            tokio::select! {
                changed = wants.changed() => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Reads the files of an earlier process.
    fn load(&self, home: &Home, log: &Log) -> Result<(), CloudError> {
        let files::Loaded { mut records, told, .. } = files::load(home)?;
        for what in told {
            log.write(format_args!("ACME: {what}"));
        }
        for record in records.values_mut() {
            revive(record, log);
        }
        let mut known = self.known();
        known.records = records;
        known.is_loaded = true;
        Ok(())
    }

    /// Reads the file of a host that nothing is known of: it could not be read before, or was none. Whether nothing keeps
    /// another one from taking its place.
    fn reread(&self, parts: &Parts<'_>, id: &str) -> bool {
        let found = files::find(parts.home, id);
        let mut known = self.known();
        match found {
            Ok(found) => {
                known.unread.remove(id);
                let Some(mut record) = found else { return true };
                revive(&mut record, parts.log);
                known.records.insert(id.to_owned(), record);
                parts.changed.notify_one();
            }
            Err(error) => {
                let reason = error.to_string();
                if known.unread.insert(id.to_owned(), reason.clone()).as_ref() != Some(&reason) {
                    parts.log.write(format_args!("ACME: {reason}; no CA is asked until it can be read"));
                }
            }
        }
        false
    }

    /// Notices a clock that was set back, reads what could not be read, and writes what could not be written.
    pub(super) fn catch_up(&self, parts: &Parts<'_>) {
        let unread: Vec<String> = self.known().unread.keys().cloned().collect();
        for id in unread {
            self.reread(parts, &id);
        }
        let now = clock::wall();
        let mut changed = Vec::new();
        {
            let mut known = self.known();
            let Known { records, unsaved, .. } = &mut *known;
            for (id, record) in records {
                if record.turn_back(now) || unsaved.contains_key(id) {
                    changed.push(record.clone());
                }
            }
        }
        for record in changed {
            self.keep(parts, record);
        }
    }

    /// Takes a record as what is known of its host, and writes it.
    pub(super) fn keep(&self, parts: &Parts<'_>, record: Record) {
        let saved = files::save(parts.home, &record);
        let (id, host) = (record.want.id(), record.want.host.clone());
        let mut known = self.known();
        known.records.insert(id.clone(), record);
        let Err(error) = saved else {
            known.unsaved.remove(&id);
            return;
        };
        let reason = error.to_string();
        if known.unsaved.insert(id, reason.clone()).as_ref() != Some(&reason) {
            parts.log.write(format_args!("ACME: {host}: {reason}; it is tried again"));
        }
    }

    /// Removes what no Ingress asks for any more: but a certificate stays until its host has the one that takes its place.
    pub(super) fn sweep(&self, parts: &Parts<'_>, wanted: &BTreeMap<String, Want>) {
        let gone: Vec<String> = {
            let mut known = self.known();
            known.unread.retain(|id, _| wanted.contains_key(id));
            let waits: BTreeSet<&str> = wanted
                .iter()
                .filter(|(id, _)| known.records.get(*id).is_none_or(|record| record.issued.is_none()))
                .map(|(_, want)| want.host.as_str())
                .collect();
            let is_needed =
                |record: &Record| record.issued.is_some() && waits.contains(record.want.host.as_str());
            let unwanted = known.records.iter().filter(|(id, _)| !wanted.contains_key(*id));
            unwanted.filter(|(_, record)| !is_needed(record)).map(|(id, _)| id.clone()).collect()
        };
        for id in gone {
            if let Err(error) = files::forget(parts.home, &id) {
                parts.log.write(format_args!("ACME: {error}"));
            }
            let mut known = self.known();
            known.records.remove(&id);
            known.unsaved.remove(&id);
        }
    }

    /// What is to be done next: of what is due, that which has been for longest.
    pub(super) fn next(&self, wanted: &BTreeMap<String, Want>) -> Next {
        let known = self.known();
        let now = clock::wall();
        // Of all hosts of a CA.
        let mut shared: BTreeMap<&str, u64> = BTreeMap::new();
        for record in known.records.values() {
            let longest = shared.entry(&record.want.issuer.directory).or_default();
            *longest = record.shared_wait(now).max(*longest);
        }
        let mut shortest = Duration::MAX;
        let mut first: Option<(u64, &Want)> = None;
        for (id, want) in wanted {
            if known.unread.contains_key(id) {
                shortest = shortest.min(LOOK);
                continue;
            }
            let record = known.records.get(id);
            let own = record.map_or(0, |record| record.wait(now));
            let wait = shared.get(want.issuer.directory.as_str()).map_or(own, |shared| own.max(*shared));
            let due = record.map_or(0, Record::due);
            if wait > 0 {
                shortest = shortest.min(Duration::from_millis(wait));
            } else if first.is_none_or(|(earliest, _)| due < earliest) {
                first = Some((due, want));
            }
        }
        first.map_or(Next::After(shortest), |(_, want)| Next::Now(want.clone()))
    }

    /// One attempt.
    pub(super) async fn ask(&self, parts: &Parts<'_>, want: Want) {
        let id = want.id();
        let is_known = self.known().records.contains_key(&id);
        // What is read now has pauses of its own, or a certificate.
        if !is_known && !self.reread(parts, &id) {
            tokio::task::yield_now().await;
            return;
        }
        let mut record = self.known().records.get(&id).cloned().unwrap_or_else(|| Record::new(want.clone()));
        record.want = want;
        record.begin(clock::wall());
        let attempt = Attempt { acme: self, parts };
        let result = match attempt.save(&record) {
            Ok(()) => {
                self.known().asking = Some(id);
                order::attempt(&attempt, &mut record).await
            }
            Err(error) => {
                // The next host may be due already.
                tokio::task::yield_now().await;
                Err(Failure::local(&error))
            }
        };
        let host = record.want.host.clone();
        if let Err(failure) = result {
            if record.failure.as_ref() != Some(&failure.reason) {
                parts.log.write(format_args!("ACME: no certificate for {host}: {}", failure.reason));
            }
            record.fail(clock::wall(), failure);
        } else {
            let authority = record.want.authority();
            parts.log.write(format_args!("ACME: {host} has a certificate of {authority}"));
        }
        self.keep(parts, record);
    }
}

/// Has what was read of an earlier process gone on with.
fn revive(record: &mut Record, log: &Log) {
    record.resume();
    if let Some(reason) = record.mend(clock::wall()) {
        log.write(format_args!("ACME: {}: {reason}; the CA is asked anew", record.want.host));
    }
}

/// What is to be done next.
pub(super) enum Next {
    Now(Want),
    After(Duration),
}

/// What the task works with.
pub(in crate::cloud::local) struct Parts<'p> {
    /// The folders.
    pub(in crate::cloud::local) home: &'p Home,
    /// The log.
    pub(in crate::cloud::local) log: &'p Log,
    /// What answers challenges.
    pub(in crate::cloud::local) proxy: &'p Proxy,
    /// Told when there is something else to serve.
    pub(in crate::cloud::local) changed: &'p Notify,
}

impl fmt::Debug for Parts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parts({})", self.home.state.display())
    }
}

/// An attempt under way.
struct Attempt<'a> {
    acme: &'a Acme,
    parts: &'a Parts<'a>,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.acme.known().asking = None;
        self.parts.changed.notify_one();
    }
}

impl World for Attempt<'_> {
    fn home(&self) -> &Home {
        self.parts.home
    }

    fn save(&self, record: &Record) -> Result<(), CloudError> {
        files::save(self.parts.home, record)?;
        self.acme.known().records.insert(record.want.id(), record.clone());
        Ok(())
    }

    async fn answered(&self, token: &str) -> Result<(), String> {
        self.parts.changed.notify_one();
        let answers = async {
            while !self.parts.proxy.report().challenges.contains(token) {
                tokio::time::sleep(POLL).await;
            }
        };
        let answered = tokio::time::timeout(ANSWERS, answers).await;
        answered.map_err(|_| "the HTTP proxy does not answer the challenge".to_owned())
    }
}
