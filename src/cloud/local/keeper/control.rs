//! The control loop: looks at every group, has the reconciler decide, saves what it decided, and does it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::inside::{Proxied, balanced};
use super::step::{Effect, Read, Stepped, Words};
use super::tracked::Edition;
use super::{Keeper, effects, fronts, inside, names};
use crate::cloud::CloudError;
use crate::cloud::local::blocking::blocking;
use crate::cloud::local::link::{console, log_reader};
use crate::cloud::local::machine::process;
use crate::cloud::local::mover::{ListenerId, NameServer, Route, Routes};
use crate::cloud::local::network::addresses;
use crate::cloud::local::network::wanted;
use crate::cloud::local::proxy::Front;
use crate::cloud::local::supervise::supervise;
use crate::manifest::api::{IpFamily, Name, Protocol};
use crate::plan::fleet::Listener;

/// Between two looks: the end of a VM, and every other change, is seen within this time.
const TICK: Duration = Duration::from_millis(200);

/// Between two rounds while nothing is under way and no look finds a change: a time that comes is acted on within this time.
const REST: Duration = Duration::from_secs(1);

/// The same while no time of some group comes, nobody watches, and nothing is to be tried again. Less than the pause that the
/// clock forgives, and short against what a scaler waits for.
const IDLE: Duration = Duration::from_secs(5);

/// Between two looks at the length of consoles.
const ROTATE: Duration = Duration::from_secs(10);

/// Lines of a VM's console that go into the reason of a failed refresh.
const REASON_LINES: usize = 12;

/// What the loop remembers from one round to the next, also when it fails in between.
#[derive(Debug, Default)]
struct Memory {
    /// When consoles were looked at last.
    rotated: Option<Instant>,
    /// Which records there were after the last round, where nothing was under way.
    rest: Option<Edition>,
    /// Networks that the front door does not carry in.
    missing: inside::Missing,
    /// The attempt to make a network, which may take seconds.
    choosing: Option<JoinHandle<()>>,
}

/// Runs until the process is to end. A round that fails, because nothing can be saved, is told by `status` and tried again
/// after a pause; what runs goes on meanwhile. A network that cannot be made what is wanted is told by `status` too, and
/// costs others no pause.
pub(in crate::cloud::local) async fn run(keeper: Arc<Keeper>) {
    let memory = Arc::new(Mutex::new(Memory::default()));
    let make = {
        let keeper = Arc::clone(&keeper);
        move || rounds(Arc::clone(&keeper), Arc::clone(&memory))
    };
    let (tasks, log) = (Arc::clone(&keeper.tasks), Arc::clone(&keeper.log));
    supervise(tasks, log, "control loop".to_owned(), keeper.ending.clone(), make).await;
}

async fn rounds(keeper: Arc<Keeper>, memory: Arc<Mutex<Memory>>) -> Result<(), CloudError> {
    let mut memory = memory.lock().await;
    loop {
        let is_settled = round(&keeper, &mut memory).await?;
        let (found, awaits_a_time) = {
            let state = keeper.state();
            (state.at_rest(), state.awaits_a_time())
        };
        // A round that changed something may be followed by one that has more to do. One that began with these records, and
        // left them, has none.
        let rest = found.filter(|found| memory.rest == Some(*found));
        let pause = if is_settled && !awaits_a_time { IDLE } else { REST };
        wait(&keeper, rest, pause, || keeper.mover.is_there()).await;
        memory.rest = found;
    }
}

/// Waits until the next round is due: after one tick, or, where the records are at `rest`, once something is found to have
/// changed, the front door is not there any more, and after `pause` at the latest. A change is never missed, whoever makes it:
/// each look compares the edition of the records with the one that a whole round has seen, and what is no record is told by a
/// notice that is kept until it is heard.
async fn wait(keeper: &Keeper, rest: Option<Edition>, pause: Duration, is_there: impl Fn() -> bool) {
    let since = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = keeper.changed.notified() => return,
        }
        // The clock is told of each look, else it would take the time between two rounds for a pause of this process.
        keeper.clock.tick();
        // Who watches sees what is no record, such as warnings, with the rounds.
        let pause = if keeper.rounds.receiver_count() > 0 { REST } else { pause };
        let goes_on = rest.is_some_and(|rest| since.elapsed() < pause && !keeper.state().has_changed(rest));
        if !goes_on || !is_there() {
            return;
        }
    }
}

/// Looks at everything once; whether all is as it should be, and nothing is to be tried again soon.
async fn round(keeper: &Arc<Keeper>, memory: &mut Memory) -> Result<bool, CloudError> {
    let lacks_network = keeper.lacks_network();
    if lacks_network && memory.choosing.as_ref().is_none_or(JoinHandle::is_finished) {
        let keeper = Arc::clone(keeper);
        // Meanwhile machines that run are looked after.
        memory.choosing = Some(tokio::task::spawn_blocking(move || keeper.choose_network()));
    }
    // Which ports are left to the proxy is decided by what it has now.
    let had_ports = !keeper.proxy.report().bound.is_empty();
    // Before VMs are started: each is given the address of a name server that answers.
    carry(keeper).await;
    let ticked = blocking(|| tick(keeper));
    let carried = carry(keeper).await;
    let ruled = blocking(|| inside::rule(keeper));
    let joined = inside::join(keeper, &mut memory.missing).await;
    let wanted = blocking(|| fronts::wanted(keeper));
    // What a proxy reports, for as long as it serves or has ports, is acted on by rounds alone.
    let has_proxy = had_ports || wanted.as_ref().is_none_or(|wanted| !wanted.0.is_empty());
    if let Some(wanted) = wanted {
        keeper.proxy.want(wanted);
    }
    if memory.rotated.is_none_or(|rotated| rotated.elapsed() >= ROTATE) {
        memory.rotated = Some(Instant::now());
        rotate(keeper);
    }
    keeper.rounds.send_replace(());
    keeper.begun.cancel();
    if blocking(|| keeper.state().mend())? {
        keeper.log.write(format_args!("{} was gone and is written anew", keeper.home.database().display()));
    }
    if carried == Carried::Untold {
        // What it carries is older than the records: the next round comes after one tick.
        memory.rest = None;
    }
    let is_settled = carried == Carried::All
        && !has_proxy
        && !lacks_network
        && memory.missing.is_empty()
        && ruled.is_ok()
        && joined.is_ok();
    keeper.tasks.tell(&keeper.log, "rules of networks", ruled);
    keeper.tasks.tell(&keeper.log, "networks at the front door", joined);
    ticked.map(|()| is_settled)
}

/// What came of having the front door carry what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carried {
    /// It carries all of that.
    All,
    /// It was told, and a name server is not where it should be.
    Partly,
    /// It was not told, or has not answered yet.
    Untold,
}

/// Has the front door carry what is wanted now, in a task of its own: decisions go on while it does not answer.
async fn carry(keeper: &Arc<Keeper>) -> Carried {
    let routes = routes(keeper);
    let servers: Vec<String> = routes.name_servers.keys().cloned().collect();
    let patience = keeper.mover.patience(&routes);
    let this = Arc::clone(keeper);
    let task = tokio::spawn(async move {
        tokio::select! {
            biased;
            () = this.ending.cancelled() => false,
            is_told = this.mover.apply(routes) => is_told,
        }
    });
    // One that goes on is asked for its report with a later round.
    if !matches!(tokio::time::timeout(patience, task).await, Ok(Ok(true))) {
        return Carried::Untold;
    }
    let report = keeper.mover.report();
    let is_all = servers.iter().all(|server| report.name_servers.contains_key(server));
    if is_all { Carried::All } else { Carried::Partly }
}

/// Decides about every group once. What is decided is saved before it is done.
fn tick(keeper: &Arc<Keeper>) -> Result<(), CloudError> {
    let now = keeper.clock.tick();
    let mut connections = keeper.carried().connections;
    connections.extend(inside::connections(keeper));
    let mut read = Read::new();
    let (decided, log) = loop {
        let mut state = keeper.state();
        keeper.proxy.count_served(&mut connections, state.machines.keys());
        // Under the lock of the step: `status` sets those that it shows.
        state.set_connections(&connections);
        match state.step(&read, now)? {
            // Without the lock: there may be much to read.
            Stepped::Unread(ids) => {
                drop(state);
                read.extend(ids.into_iter().map(|(id, death)| {
                    let words = words(&keeper.home.instance(&id), death);
                    (id, words)
                }));
            }
            Stepped::Decided(decided, log) => {
                let effects: Vec<Effect> =
                    decided.into_iter().filter_map(|effect| state.begin(effect)).collect();
                break (effects, log);
            }
        }
    };
    for line in log {
        keeper.log.write(format_args!("{line}"));
    }
    for effect in decided {
        effects::spawn(keeper, effect);
    }
    Ok(())
}

/// What the mover should carry: the listeners of all balancers, and a name server for each environment.
fn routes(keeper: &Keeper) -> Routes {
    let state = keeper.state();
    let mut routes = Routes::default();
    // Those that have disks alone need nothing carried.
    let busy = state.environments.iter().filter(|(_, environment)| !environment.is_idle());
    for (environment_name, environment) in busy {
        let families = state.addresses.families(environment_name, environment);
        let is_inside = !families.is_empty();
        let has_ipv6 = families.contains(&IpFamily::V6);
        for (service, balancer) in balanced(environment) {
            let Ok(host) = balancer.host.parse::<Ipv4Addr>() else { continue };
            let carried = |listener: &&Listener| !is_of_proxy(keeper, (environment_name, service), listener);
            for listener in balancer.spec.listeners.iter().filter(carried) {
                let affinity_seconds = balancer.spec.sticky_clients.then_some(balancer.spec.sticky_seconds);
                let backends = listener.targets.iter().flat_map(|target| {
                    if is_inside && affinity_seconds.is_some() {
                        // The kernel would take all clients of this host for one.
                        return inside::backends(environment, target);
                    }
                    state.backends(environment, &target.group, (target.port, listener.protocol))
                });
                let id = ListenerId::of(environment_name, service, listener);
                let family = balancer.spec.families.there(has_ipv6).into_iter().min().unwrap_or(IpFamily::V4);
                let address = wanted::service_address(host, family);
                let inside = is_inside.then(|| SocketAddr::new(address, listener.port));
                let source_ranges = balancer.spec.source_ranges.clone();
                let backends = backends.collect();
                routes
                    .listeners
                    .insert(id, Route { host, backends, inside, source_ranges, affinity_seconds });
            }
        }
        for Proxied { id, host, inside, .. } in inside::proxy_targets(environment)
            .flat_map(|target| inside::proxied(environment_name, environment, target))
        {
            routes.listeners.insert(id, Route { inside: Some(inside.into()), ..Route::new(host) });
        }
        let address = addresses::name_server(environment_name);
        let server = NameServer { address, zone: names::zone(environment, &families), inside: is_inside };
        routes.name_servers.insert(environment_name.clone(), server);
    }
    routes
}

/// Whether a port of a Service is the HTTP proxy's: it ends TLS, or did so until now and is not free yet.
fn is_of_proxy(keeper: &Keeper, (environment, service): (&str, &Name), listener: &Listener) -> bool {
    let front = || Front::port_id(environment, service, listener.port);
    let is_held = || keeper.proxy.bound(&front()).https.is_some();
    listener.tls.is_some() || listener.protocol == Protocol::Tcp && is_held()
}

/// Cuts consoles that are too long.
fn rotate(keeper: &Keeper) {
    let ids: Vec<String> = keeper.state().machines.keys().cloned().collect();
    let (home, log) = (keeper.home.clone(), Arc::clone(&keeper.log));
    // Megabytes are copied, which is nothing for a thread that others wait for.
    tokio::task::spawn_blocking(move || {
        for id in ids {
            if let Err(error) = console::rotate(&home.instance(&id)) {
                log.write(format_args!("the console of {id} cannot be cut: {error}"));
            }
        }
    });
}

/// What a VM left in its folder; `death` is why it ended, where that is known otherwise.
fn words(folder: &Path, death: Option<String>) -> Words {
    let end = console::end(folder);
    let said = || match (end.as_ref().map(ToString::to_string), process::last_message(folder)) {
        (Some(end), _) => end,
        (None, Some(words)) => format!("the VM ended: {words}"),
        (None, None) => match console::tail(folder, 1).pop() {
            Some(line) => format!("the VM ended; its last line was: {line}"),
            None => "the VM ended before it said anything".to_owned(),
        },
    };
    // A guest chose these texts; they are kept in the database and shown by `status`.
    let cut = |mut text: String| {
        i2kit_spec::status::cut(&mut text);
        text
    };
    let ending = cut(death.unwrap_or_else(said));
    Words { end, ending, tail: log_reader::tail(folder, REASON_LINES).into_iter().map(cut).collect() }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, BorrowedFd};
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::cloud::local::home::Home;
    use crate::cloud::local::keeper::state::{Life, MachineHandle, Running, State};
    use crate::cloud::local::store;
    use crate::plan::fleet::{Health, InstanceState};

    /// A process that is told to run or not, or whose end is seen by a descriptor: the other end of it is closed.
    #[derive(Debug)]
    struct Process(Arc<AtomicBool>, Option<UnixStream>);

    impl Running for Process {
        fn pid(&self) -> u32 {
            1
        }

        fn is_alive(&mut self) -> bool {
            self.0.load(Ordering::Relaxed)
        }

        fn descriptor(&self) -> Option<BorrowedFd<'_>> {
            self.1.as_ref().map(AsFd::as_fd)
        }

        fn killed_by(&mut self) -> Option<i32> {
            None
        }

        fn kill(&mut self) {}
    }

    /// A keeper of sample records, all of whose machines have this health.
    fn keeper(health: &Health) -> (tempfile::TempDir, Arc<Keeper>) {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(&root.path().join("state"), root.path(), PathBuf::new());
        home.create().unwrap();
        let keeper = Arc::new(Keeper::open(home).unwrap());
        *keeper.state().environments = store::sample();
        set(&mut keeper.state(), health);
        (root, keeper)
    }

    /// Gives all machines this health.
    fn set(state: &mut State, health: &Health) {
        for group in state.environments.values_mut().flat_map(|found| found.groups.values_mut()) {
            group.memory.refresh = None;
            for record in group.instances.values_mut() {
                (record.state, record.health) = (InstanceState::Running, health.clone());
            }
        }
    }

    fn start(state: &mut State, id: &str, process: Process) {
        state.machines.insert(id.to_owned(), MachineHandle::new(Life::Started(Box::new(process))));
    }

    #[test]
    fn there_is_rest_while_every_machine_serves_and_nothing_changes() {
        let (_root, keeper) = keeper(&Health::STARTING);
        let mut state = keeper.state();
        let is_alive = Arc::new(AtomicBool::new(true));
        start(&mut state, "web-1-a", Process(Arc::clone(&is_alive), None));
        assert_eq!(state.at_rest(), None, "a machine starts");
        set(&mut state, &Health::Healthy);
        let rest = state.at_rest().expect("rest");
        assert!(!state.has_changed(rest));
        set(&mut state, &Health::Unhealthy { reason: "it is told so".into() });
        assert!(state.at_rest().is_none() && state.has_changed(rest), "a check found something");
        set(&mut state, &Health::Healthy);
        assert!(state.has_changed(rest), "it is as it was, and was another one meanwhile");
        let rest = state.at_rest().expect("rest");
        // What is saved and is the same is of the same edition.
        let same = state.environments.clone();
        state.commit(same).unwrap();
        assert_eq!(state.at_rest(), Some(rest));
        let (end, other) = UnixStream::pair().unwrap();
        start(&mut state, "web-1-b", Process(Arc::clone(&is_alive), Some(end)));
        assert!(!state.has_changed(rest));
        drop(other);
        assert!(state.has_changed(rest), "a machine has ended, as its descriptor says");
        state.machines.remove("web-1-b");
        assert!(!state.has_changed(rest));
        is_alive.store(false, Ordering::Relaxed);
        assert!(state.has_changed(rest), "a machine has ended");
        state.machines.insert("web-1-b".to_owned(), MachineHandle::new(Life::Starting));
        assert_eq!(state.at_rest(), None, "another one is being started");
    }

    #[tokio::test]
    async fn a_change_ends_the_pause_whoever_makes_it_and_whenever() {
        const LONG: Duration = Duration::from_hours(1);
        let patience = Duration::from_mins(1);
        let (_root, keeper) = keeper(&Health::Healthy);
        let (end, other) = UnixStream::pair().unwrap();
        start(&mut keeper.state(), "web-1-a", Process(Arc::new(AtomicBool::new(true)), Some(end)));
        let rest = || keeper.state().at_rest();
        let paused = async |rest: Option<Edition>| wait(&keeper, rest, LONG, || true).await;
        let ends = async |what: &str, rest| {
            tokio::time::timeout(patience, paused(rest)).await.expect(what);
        };
        let quiet = tokio::time::timeout(TICK * 4, paused(rest())).await;
        assert!(quiet.is_err(), "nothing changes");
        ends("without rest", None).await;
        let before = rest();
        keeper.state().environments.clear();
        *keeper.state().environments = store::sample();
        set(&mut keeper.state(), &Health::Healthy);
        ends("a change of before the pause", before).await;
        keeper.changed.notify_one();
        ends("a notice of before the pause", rest()).await;
        let (before, later) = (rest(), Arc::clone(&keeper));
        let change = async move {
            tokio::time::sleep(TICK).await;
            set(&mut later.state(), &Health::Lost { reason: "a check found it".into() });
        };
        tokio::join!(ends("a change within the pause", before), change);
        set(&mut keeper.state(), &Health::Healthy);
        wait(&keeper, rest(), LONG, || false).await;
        wait(&keeper, rest(), Duration::ZERO, || true).await;
        let watching = keeper.rounds.subscribe();
        ends("somebody who watches", rest()).await;
        drop(watching);
        let before = rest();
        drop(other);
        ends("the end of a machine", before).await;
    }
}
