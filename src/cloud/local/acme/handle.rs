//! ACME in the local cloud's process: which hosts have which CA, what is served for them, and the task that asks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::files;
use super::order::{self, World};
use super::record::{Issued, Record, Want};
use crate::cloud::CloudError;
use crate::cloud::local::clock;
use crate::cloud::local::home::Home;
use crate::cloud::local::log::Log;
use crate::cloud::local::proxy::{Certificate, Challenge, Proxy};
use crate::plan::fleet::ServedCertificate;

/// Between two looks at the wall clock, which somebody may set while a task sleeps.
const LOOK: Duration = Duration::from_mins(1);

/// How long the proxy may take to answer a challenge.
const ANSWERS: Duration = Duration::from_secs(30);

/// Between two looks whether it does.
const POLL: Duration = Duration::from_millis(50);

/// Hosts at most, so that no manifest makes work without end.
const HOSTS: usize = 1000;

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
    /// The host that the CA is asked for now.
    asking: Option<String>,
}

/// A certificate of a host, and what `status` says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cloud::local) struct Found {
    /// What is served; none while the first one is waited for.
    pub(in crate::cloud::local) certificate: Option<Certificate>,
    /// The same for people.
    pub(in crate::cloud::local) served: Option<ServedCertificate>,
    /// What is waited for, and why the last attempt failed.
    pub(in crate::cloud::local) warning: Option<String>,
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

    /// Has certificates of these hosts from now on, and of no others.
    pub(in crate::cloud::local) fn want(&self, wants: impl IntoIterator<Item = Want>) {
        let wants: BTreeMap<String, Want> =
            wants.into_iter().map(|want| (want.id(), want)).take(HOSTS).collect();
        self.wanted.send_if_modified(|now| {
            let is_new = now.as_ref() != Some(&wants);
            *now = Some(wants);
            is_new
        });
    }

    /// What every front is to answer.
    pub(in crate::cloud::local) fn challenges(&self) -> Vec<Challenge> {
        let known = self.known();
        let orders = known.records.values().filter_map(|record| record.order.as_ref());
        orders.filter_map(|order| order.challenge.clone()).collect()
    }

    /// The certificate of a host, as far as there is one.
    pub(in crate::cloud::local) fn find(&self, want: &Want) -> Found {
        let known = self.known();
        let id = want.id();
        let record = known.records.get(&id);
        // Until another CA has given one, that of the CA before it is good.
        let issued = record.filter(|record| record.issued.is_some()).or_else(|| {
            let others = known.records.values().filter(|other| other.want.host == want.host);
            others.filter(|other| other.issued.is_some()).max_by_key(|other| other.expires())
        });
        let now = clock::wall();
        let certificate = issued.and_then(|record| record.issued.as_ref()).map(|issued| {
            let Issued { chain, key, .. } = issued.clone();
            Certificate { hosts: vec![want.host.clone()], chain, key }
        });
        let is_asking = known.asking.as_ref() == Some(&id);
        let next = record.map(|record| (record.since + record.pause) / 1000);
        let served = issued.and_then(|issued| {
            let state = if is_asking {
                Some("is being renewed".to_owned())
            } else {
                next.filter(|_| issued.want.id() == id).map(|next| format!("renewal at {}", at(next)))
            };
            let (hosts, source) = (vec![want.host.clone()], issued.want.authority());
            Some(ServedCertificate { hosts, source, expires: issued.expires()?, state })
        });
        let warn = || warning(want, record, certificate.is_some(), is_asking, now);
        let warning = known.is_loaded.then(warn).flatten();
        Found { certificate, served, warning }
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
            let wait = match wanted {
                None => LOOK,
                Some(wanted) => {
                    self.sweep(parts, &wanted)?;
                    match self.next(&wanted) {
                        Next::Now(want) => {
                            self.ask(parts, want).await?;
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
        let (records, unreadable) = files::load(home)?;
        for error in unreadable {
            log.write(format_args!("ACME: {error}"));
        }
        let mut known = self.known();
        known.records = records;
        known.records.values_mut().for_each(Record::resume);
        known.is_loaded = true;
        Ok(())
    }

    /// Removes what no Ingress asks for any more: but a certificate stays until its host has the one that takes its place.
    fn sweep(&self, parts: &Parts<'_>, wanted: &BTreeMap<String, Want>) -> Result<(), CloudError> {
        let gone: Vec<String> = {
            let known = self.known();
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
            files::forget(parts.home, &id)?;
            self.known().records.remove(&id);
        }
        Ok(())
    }

    /// What is to be done next.
    fn next(&self, wanted: &BTreeMap<String, Want>) -> Next {
        let known = self.known();
        let now = clock::wall();
        let mut shortest = Duration::MAX;
        let shared = |want: &Want| {
            let same =
                known.records.values().filter(|other| other.want.issuer.directory == want.issuer.directory);
            same.map(|other| other.shared_wait(now)).max().unwrap_or(0)
        };
        for (id, want) in wanted {
            let own = known.records.get(id).map_or(0, |record| record.wait(now));
            let wait = own.max(shared(want));
            if wait == 0 {
                return Next::Now(want.clone());
            }
            shortest = shortest.min(Duration::from_millis(wait));
        }
        Next::After(shortest)
    }

    /// One attempt.
    async fn ask(&self, parts: &Parts<'_>, want: Want) -> Result<(), CloudError> {
        let id = want.id();
        let mut record = self.known().records.get(&id).cloned().unwrap_or_else(|| Record::new(want.clone()));
        record.want = want;
        record.begin(clock::wall());
        let attempt = Attempt { acme: self, parts };
        attempt.save(&record)?;
        self.known().asking = Some(id.clone());
        let host = record.want.host.clone();
        let result = order::attempt(&attempt, &mut record).await;
        match result {
            Ok(()) => {
                parts
                    .log
                    .write(format_args!("ACME: {host} has a certificate of {}", record.want.authority()));
            }
            Err(failure) => {
                parts.log.write(format_args!("ACME: no certificate for {host}: {}", failure.reason));
                record.fail(clock::wall(), failure);
                attempt.save(&record)?;
            }
        }
        Ok(())
    }
}

/// What `status` warns of.
fn warning(
    want: &Want,
    record: Option<&Record>,
    is_served: bool,
    is_asking: bool,
    now: u64,
) -> Option<String> {
    let Want { host, .. } = want;
    let failure = record.and_then(|record| record.failure.as_ref());
    let meanwhile = if is_served {
        "the last one is served meanwhile"
    } else {
        "one of the local authority is served meanwhile"
    };
    let again = match record {
        _ if is_asking => "it is tried just now".to_owned(),
        Some(record) => format!("it is tried again at {}", at((record.since + record.pause) / 1000)),
        None => "it is tried next".to_owned(),
    };
    match failure {
        Some(reason) => {
            Some(format!("no certificate by ACME for {host}: {reason}; {again}, and {meanwhile}"))
        }
        None if record.is_some_and(|record| record.issued.is_some()) => {
            let expired = record.and_then(Record::expires).is_some_and(|until| until * 1000 < now);
            expired.then(|| format!("the certificate of {host} has expired; {again}"))
        }
        None => {
            let authority = want.authority();
            Some(format!("a certificate for {host} is waited for from {authority}; {meanwhile}"))
        }
    }
}

/// A time as people read it, in UTC.
fn at(seconds: u64) -> String {
    let time = chrono::DateTime::from_timestamp(seconds.cast_signed(), 0).unwrap_or_default();
    time.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

enum Next {
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::super::record::Failure;
    use super::*;
    use crate::cloud::local::ca::Authority;
    use crate::cloud::local::proxy::PrivateKey;
    use crate::manifest::api::AcmeIssuer;

    struct Bed {
        root: tempfile::TempDir,
        home: Home,
        log: Arc<Log>,
        proxy: Proxy,
        changed: Notify,
    }

    impl Bed {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let home = Home::new(&root.path().join("i2kit"), root.path(), PathBuf::new());
            home.create().unwrap();
            let log = Arc::new(Log::open(&root.path().join("log")).unwrap());
            Self { root, home, log, proxy: Proxy::new(), changed: Notify::new() }
        }

        fn parts(&self) -> Parts<'_> {
            Parts { home: &self.home, log: &self.log, proxy: &self.proxy, changed: &self.changed }
        }

        fn issued(&self, want: &Want) -> Record {
            let (authority, _) = Authority::make(&self.home).unwrap();
            let signed = authority.sign(std::slice::from_ref(&want.host)).unwrap();
            let mut record = Record::new(want.clone());
            record.succeed(clock::wall(), signed.chain, PrivateKey(signed.key));
            record
        }
    }

    fn want(host: &str, directory: &str) -> Want {
        let issuer = AcmeIssuer { directory: directory.into(), email: None, ca_bundle: None };
        Want { host: host.into(), issuer }
    }

    fn wanted(wants: &[Want]) -> BTreeMap<String, Want> {
        wants.iter().map(|want| (want.id(), want.clone())).collect()
    }

    #[test]
    fn the_certificate_of_another_ca_is_served_until_the_new_one_has_given_its_own() {
        let bed = Bed::new();
        let (old, new) =
            (want("a.i2kit.dev", "https://old.ca/dir"), want("a.i2kit.dev", "https://new.ca/dir"));
        let gone = want("b.i2kit.dev", "https://old.ca/dir");
        for record in [bed.issued(&old), bed.issued(&gone)] {
            files::save(&bed.home, &record).unwrap();
        }
        // A write that was interrupted, and one that is no record.
        let folder = bed.home.acme().join("hosts");
        std::fs::write(folder.join(".new-1-x.json"), "half").unwrap();
        std::fs::write(folder.join("nonsense.json"), "{").unwrap();
        let acme = Acme::open(&bed.home, &bed.log);
        assert!(!folder.join(".new-1-x.json").exists());
        let wants = wanted(std::slice::from_ref(&new));
        acme.sweep(&bed.parts(), &wants).unwrap();
        let found = acme.find(&new);
        assert_eq!(found.served.unwrap().source, "old.ca");
        assert!(found.certificate.is_some());
        let warning = found.warning.unwrap();
        assert!(
            warning.contains("waited for from new.ca") && warning.contains("the last one is served"),
            "{warning}"
        );
        let files = || std::fs::read_dir(&folder).unwrap().count();
        assert_eq!(files(), 2, "the certificate of a host that is not wanted any more goes");
        let record = bed.issued(&new);
        files::save(&bed.home, &record).unwrap();
        acme.known().records.insert(new.id(), record);
        acme.sweep(&bed.parts(), &wants).unwrap();
        let found = acme.find(&new);
        assert_eq!((found.served.unwrap().source.as_str(), found.warning), ("new.ca", None));
        assert_eq!(files(), 2);
        acme.sweep(&bed.parts(), &BTreeMap::new()).unwrap();
        assert_eq!(acme.find(&new).certificate, None);
        assert!(bed.root.path().exists());
    }

    #[test]
    fn a_ca_that_refuses_for_the_number_of_requests_is_not_asked_for_other_hosts() {
        let bed = Bed::new();
        let acme = Acme::open(&bed.home, &bed.log);
        let (first, other) = (want("a.i2kit.dev", "https://ca/dir"), want("b.i2kit.dev", "https://ca/dir"));
        let elsewhere = want("c.i2kit.dev", "https://other.ca/dir");
        let both = wanted(&[first.clone(), other.clone()]);
        assert!(matches!(acme.next(&both), Next::Now(_)));
        let mut record = Record::new(first.clone());
        record.begin(clock::wall());
        let refused =
            Failure { reason: "too many".into(), is_final: false, limited: true, wish: Some(600_000) };
        record.fail(clock::wall(), refused);
        acme.known().records.insert(first.id(), record);
        let Next::After(wait) = acme.next(&both) else { panic!("the other host is asked for") };
        assert!(wait > Duration::from_mins(9) && wait <= Duration::from_mins(10), "{wait:?}");
        assert!(
            matches!(acme.next(&wanted(&[first, elsewhere])), Next::Now(next) if next.host == "c.i2kit.dev")
        );
    }
}
