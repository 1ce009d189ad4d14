//! The local cloud's client of the HTTP proxy: starts it, applies what is wanted, polls its report.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::control::Client;
use super::process;
use super::wanted::{Bound, Call, Report, Wanted};
use crate::cloud::local::home::Home;
use crate::cloud::local::wire::Hello;
use crate::plan::fleet::{HttpTraffic, Traffic};

/// How often the proxy is asked for a report.
const ASK: Duration = Duration::from_millis(200);

/// How long one that was started may take until it listens.
const START: Duration = Duration::from_secs(10);

/// Between two attempts to reach it.
const POLL: Duration = Duration::from_millis(20);

/// After a program that did not take over it is tried again.
const AGAIN: Duration = Duration::from_mins(1);

/// How long the addresses of machines that run already may take to be known. Until then what the proxy serves since
/// before is better than what is known.
const SETTLING: Duration = Duration::from_secs(10);

/// What the proxy has counted, by front.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Requests of Ingresses, by Service.
    pub(crate) requests: BTreeMap<String, Vec<HttpTraffic>>,
    /// Connections of ports of Services.
    pub(crate) connections: BTreeMap<String, Traffic>,
}

/// The proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// `None` until it is known.
    wanted: watch::Sender<Option<Wanted>>,
    report: Mutex<Report>,
    /// The machines that it may send requests to; `None` until it is known what an earlier process has it serve.
    served: Mutex<Option<BTreeSet<String>>>,
    since: Instant,
    /// The process that was asked last to go on as this program, and when.
    replaced: Mutex<Option<(u32, Instant)>>,
}

impl Proxy {
    /// Nothing is known to be wanted yet: one that runs serves what it did.
    pub(crate) fn new() -> Self {
        Self {
            wanted: watch::Sender::new(None),
            report: Mutex::default(),
            served: Mutex::default(),
            since: Instant::now(),
            replaced: Mutex::default(),
        }
    }

    /// Whether addresses of machines may not be known yet.
    pub(crate) fn is_settling(&self) -> bool {
        self.since.elapsed() < SETTLING
    }

    fn locked(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was counted; nothing where the proxy does not answer, or is not there.
    pub(crate) async fn counted(&self, home: &Home) -> Counters {
        let is_there = self.wanted.borrow().as_ref().is_some_and(|wanted| !wanted.0.is_empty());
        if !is_there {
            return Counters::default();
        }
        let Ok(mut client) = Client::connect(&home.state).await else { return Counters::default() };
        let Ok(Report { counted, carried, .. }) = client.call(&Call::Count).await else {
            return Counters::default();
        };
        Counters { requests: counted, connections: carried }
    }

    /// The ports that a front is bound to, by the last report.
    pub(crate) fn bound(&self, front: &str) -> Bound {
        self.locked().bound.get(front).copied().unwrap_or_default()
    }

    /// Has this served from now on.
    pub(crate) fn want(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|now| {
            let is_new = now.as_ref() != Some(&wanted);
            *now = Some(wanted);
            is_new
        });
    }

    /// The last report.
    pub(crate) fn report(&self) -> Report {
        self.locked().clone()
    }

    fn served(&self) -> MutexGuard<'_, Option<BTreeSet<String>>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one request at least for each of these `machines` that the proxy may send some to: until it has answered that
    /// it serves without a machine, its report says nothing about what comes after it.
    pub(crate) fn count_served<'m>(
        &self,
        counts: &mut BTreeMap<String, u32>,
        machines: impl IntoIterator<Item = &'m String>,
    ) {
        let served = self.served();
        for machine in machines {
            if served.as_ref().is_none_or(|served| served.contains(machine)) {
                let count = counts.entry(machine.clone()).or_default();
                *count = (*count).max(1);
            }
        }
    }

    /// Sees to it that what is wanted is served, for as long as it is polled. An error is what keeps it from that.
    pub(crate) async fn drive(&self, home: &Home) -> Result<(), String> {
        let mut changes = self.wanted.subscribe();
        loop {
            let wanted = changes.borrow_and_update().clone();
            match wanted {
                None => {}
                Some(wanted) if wanted.0.is_empty() => {
                    end(home).await.map_err(|error| error.to_string())?;
                    *self.locked() = Report::default();
                    *self.served() = Some(BTreeSet::new());
                }
                Some(wanted) => {
                    self.serve(home, wanted, &mut changes).await.map_err(|error| error.to_string())?;
                    continue;
                }
            }
            if changes.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// Whether the proxy is to go on as the program at the path of this one. That may be an older program than this one by
    /// now, and so may the successor be: it is left as it is.
    fn is_to_be_replaced(&self, report: &Report) -> bool {
        let is_older =
            report.hello.as_ref().is_some_and(|running| running.is_older_than(&Hello::of_this_program()));
        let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = replaced.is_none_or(|(pid, at)| pid == report.pid && at.elapsed() > AGAIN);
        if is_older && is_due {
            *replaced = Some((report.pid, Instant::now()));
        }
        is_older && is_due
    }

    /// Gives the proxy what is wanted, and asks for reports until something else is.
    async fn serve(
        &self,
        home: &Home,
        wanted: Wanted,
        changes: &mut watch::Receiver<Option<Wanted>>,
    ) -> io::Result<()> {
        let mut client = reach(home).await?;
        let machines = wanted.machines();
        // While it is on its way, those of before and these.
        if let Some(served) = &mut *self.served() {
            served.extend(machines.iter().cloned());
        }
        let mut report = client.call(&Call::Apply(wanted)).await?;
        *self.served() = Some(machines);
        if self.is_to_be_replaced(&report) {
            client.call(&Call::Replace(home.executable.clone())).await?;
            // Its successor listens on the same socket, and serves the same.
            return Ok(());
        }
        loop {
            *self.locked() = report;
            tokio::select! {
                _ = changes.changed() => return Ok(()),
                () = tokio::time::sleep(ASK) => {}
            }
            report = client.call(&Call::Report).await?;
        }
    }
}

/// Connects to the proxy, which is started when there is none.
async fn reach(home: &Home) -> io::Result<Client> {
    let given_up = Instant::now() + START;
    let mut started = false;
    loop {
        let error = match Client::connect(&home.state).await {
            Err(error) if is_absent(&error) => error,
            client => return client,
        };
        if !started {
            process::begin(home)?;
            started = true;
        } else if Instant::now() > given_up {
            let log = home.log();
            return Err(io::Error::other(format!(
                "it does not start ({error}); {} may have the reason",
                log.display()
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Ends the proxy, if there is one.
pub(crate) async fn end(home: &Home) -> io::Result<()> {
    match Client::connect(&home.state).await {
        Err(error) if is_absent(&error) => Ok(()),
        // It may be gone before its answer is.
        client => client?.call(&Call::End).await.map(drop).or(Ok(())),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::path::PathBuf;
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::super::control;
    use super::super::wanted::{Front, Pool, ServerAddress};
    use super::*;
    use crate::cloud::local::socket;

    fn wanted(machines: &[&str]) -> Wanted {
        let server = |machine: &&str| ServerAddress {
            machine: (*machine).to_owned(),
            address: (Ipv4Addr::LOCALHOST, 1).into(),
        };
        let servers = machines.iter().map(server).collect();
        let front = Front {
            environment: "e".into(),
            host: Ipv4Addr::LOCALHOST,
            source_ranges: vec![],
            certificates: vec![],
            tls: vec![],
            redirect: true,
            rules: vec![],
            default: Some(0),
            pools: vec![Pool { service: "web".into(), http2: false, servers }],
            challenges: vec![],
            tls_port: None,
        };
        Wanted(BTreeMap::from([("e/default/web".to_owned(), front)]))
    }

    /// The longest wait for anything.
    const PATIENCE: Duration = Duration::from_mins(1);

    async fn until(what: &str, is_so: impl Fn() -> bool) {
        let looks = async {
            while !is_so() {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(PATIENCE, looks).await.expect(what);
    }

    #[tokio::test]
    async fn a_machine_has_a_request_until_the_proxy_answers_that_it_serves_without_it() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(&root.path().join("i2kit"), root.path(), PathBuf::new());
        home.create().unwrap();
        let listener = socket::listen(&home.state, control::SOCKET).unwrap();
        let proxy = Arc::new(Proxy::new());
        let drained = || {
            let machines = ["a", "b"].map(str::to_owned);
            let mut counts = BTreeMap::from([("a".to_owned(), 3)]);
            proxy.count_served(&mut counts, &machines);
            machines.map(|machine| counts.get(&machine).copied())
        };
        // An earlier process may have had it serve anything.
        assert_eq!(drained(), [Some(3), Some(1)]);
        proxy.want(wanted(&["a", "b"]));
        let (late, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (driving, is_late, opens) = (Arc::clone(&proxy), Arc::clone(&late), Arc::clone(&gate));
        let driver = tokio::spawn(async move { driving.drive(&home).await });
        let server = tokio::spawn(async move {
            loop {
                let mut stream = listener.accept().await.unwrap().0;
                while let Ok(Some(call)) = control::read::<Call>(&mut stream).await {
                    if matches!(&call, Call::Apply(wanted) if !wanted.machines().contains("b")) {
                        is_late.notify_one();
                        opens.notified().await;
                    }
                    control::write(&mut stream, &Report::default()).await.unwrap();
                }
            }
        });
        until("the proxy serves", || proxy.served().is_some()).await;
        assert_eq!(drained(), [Some(3), Some(1)]);
        proxy.want(wanted(&["a"]));
        assert_eq!(drained(), [Some(3), Some(1)], "it still serves both");
        tokio::time::timeout(PATIENCE, late.notified()).await.expect("a call without b");
        assert_eq!(drained(), [Some(3), Some(1)], "its answer is late");
        gate.notify_one();
        until("b has no request", || drained() == [Some(3), None]).await;
        server.abort();
        driver.abort();
    }

    #[test]
    fn a_proxy_that_stays_older_is_replaced_once_and_one_that_stays_the_same_again_after_a_pause() {
        let proxy = Proxy::new();
        let report = |pid: u32, version: &str| {
            let hello = Hello { version: version.into(), pid, ..Hello::of_this_program() };
            Report { pid, hello: Some(hello), ..Report::default() }
        };
        let pause = || {
            let mut replaced = proxy.replaced.lock().unwrap();
            *replaced = replaced.and_then(|(pid, at)| Some((pid, at.checked_sub(AGAIN)?)));
        };
        assert!(!proxy.is_to_be_replaced(&report(1, env!("CARGO_PKG_VERSION"))));
        assert!(proxy.is_to_be_replaced(&report(1, "0.0.0")));
        assert!(!proxy.is_to_be_replaced(&report(1, "0.0.0")));
        pause();
        assert!(proxy.is_to_be_replaced(&report(1, "0.0.0")));
        // Its successor is older as well: so is the program at the path.
        assert!(!proxy.is_to_be_replaced(&report(2, "0.0.0")));
        pause();
        assert!(!proxy.is_to_be_replaced(&report(2, "0.0.0")));
    }
}
