//! The control loop: looks at every group, has the reconciler decide, stores what it decided, and does it.

mod acts;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use self::acts::Job;
pub(super) use self::acts::adopt;
use super::balancer::{self, Key, Wanted};
use super::keeper::{Keeper, Life, State};
use super::names::full_name;
use super::names::message::Zone;
use super::{console, lines, vm};
use crate::cloud::Moment;
use crate::cloud::environment::{Environment, Facts};
use crate::cloud::reconcile::{Act, Decision, decide};
use crate::manifest::api::Name;
use crate::plan::fleet::InstanceState;

/// Between two looks when nothing happens: the end of a VM is seen within this time.
const TICK: Duration = Duration::from_millis(200);

/// Consoles are looked at for their length every so many ticks.
const ROTATE_TICKS: u64 = 50;

/// Lines of a VM's console that go into the reason of a failed refresh.
const REASON_LINES: usize = 12;

/// Runs until the process is to end.
pub(super) async fn run(keeper: Arc<Keeper>) {
    let mut ticks = 0_u64;
    let mut told = BTreeMap::new();
    loop {
        // Before VMs are started, which are told where to ask.
        names(&keeper).await;
        tick(&keeper);
        route(&keeper, &mut told).await;
        if ticks.is_multiple_of(ROTATE_TICKS) {
            rotate(&keeper);
        }
        ticks += 1;
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = keeper.changed.notified() => {}
            () = keeper.ending.cancelled() => return,
        }
    }
}

/// Decides about every group once. What is decided is stored before it is done.
fn tick(keeper: &Arc<Keeper>) {
    let now = keeper.clock.tick();
    let mut jobs = Vec::new();
    let mut state = keeper.state();
    let facts = state.facts();
    let facts = |id: &str| facts.get(id).cloned().unwrap_or_default();
    let names: Vec<(String, Name)> = state
        .environments
        .iter()
        .flat_map(|(environment, found)| {
            found.groups.keys().map(move |name| (environment.clone(), name.clone()))
        })
        .collect();
    for (environment, name) in names {
        group(keeper, &mut state, (&environment, &name), &facts, now, &mut jobs);
    }
    if let Err(error) = state.save() {
        // Without a record nothing is started; what runs goes on.
        keeper.log.say(format_args!("{error}"));
        jobs.retain(|job| !matches!(job, Job::Launch { .. }));
    }
    drop(state);
    for job in jobs {
        acts::spawn(keeper, job);
    }
}

fn group(
    keeper: &Keeper,
    state: &mut State,
    (environment_name, name): (&str, &Name),
    facts: &impl Fn(&str) -> Facts,
    now: Moment,
    jobs: &mut Vec<Job>,
) {
    let Some(environment) = state.environments.get_mut(environment_name) else { return };
    let Some(record) = environment.groups.get(name) else { return };
    let mut view = record.view(facts);
    if view.settings.job.is_some() {
        for vm in view.vms.iter_mut().filter(|vm| vm.state == InstanceState::Running && !vm.alive) {
            vm.succeeded = console::end(&keeper.home.instance(&vm.id)).is_some_and(|end| end.succeeded);
        }
    }
    let mut decision = decide(&view, now.steady);
    let ended = decision.blame.as_deref().filter(|id| !facts(id).alive).map(|id| ending(keeper, state, id));
    let Some(environment) = state.environments.get_mut(environment_name) else { return };
    let Some(record) = environment.groups.get(name) else { return };
    if let Some(refresh) = &mut decision.memory.refresh
        && let (Some(reason), Some(id)) = (&mut refresh.reason, &decision.blame)
        && let Some(blamed) = record.instances.get(id)
    {
        let words = blamed.complaint(ended.as_deref());
        let tail = lines::tail(&keeper.home.instance(id), REASON_LINES);
        *reason = format!("{reason}: {id} is {words}\n{}", tail.join("\n"));
    }
    say(keeper, name, &record.memory, &decision);
    environment.remember(name, &decision, now);
    for act in &decision.acts {
        acts::record(keeper, state, (environment_name, name), act, now, jobs);
    }
    let Some(environment) = state.environments.get_mut(environment_name) else { return };
    if environment.groups.get(name).is_some_and(|g| g.memory.deleting && g.instances.is_empty()) {
        environment.groups.remove(name);
        return;
    }
    let Some(record) = environment.groups.get(name) else { return };
    for instance in record.instances.values().filter(|instance| instance.state == InstanceState::Running) {
        let Some(revision) = record.revision(instance.revision) else { continue };
        let Some(vm) = state.vms.get_mut(&instance.id) else { continue };
        for port in environment.ports(name, &revision.launch) {
            // A VM that was just started is asked once it is there.
            let missing = !vm.forwards.is_empty() && vm.endpoint(port.0, port.1).is_none();
            if missing && vm.asked.insert(port) {
                jobs.push(Job::Forward { id: instance.id.clone(), port });
            }
        }
    }
}

/// What an operator wants to read afterwards.
fn say(keeper: &Keeper, name: &Name, before: &crate::cloud::reconcile::Memory, decision: &Decision) {
    for act in &decision.acts {
        if !matches!(act, Act::Forget { .. }) {
            keeper.log.say(format_args!("{name}: {act:?}"));
        }
    }
    if let Some(refresh) = &decision.memory.refresh
        && before.refresh.as_ref().is_none_or(|before| before.status != refresh.status)
    {
        let reason = refresh.reason.as_deref().unwrap_or_default();
        keeper
            .log
            .say(format_args!("{name}: refresh to revision {} {} {reason}", refresh.to, refresh.status));
    }
}

/// Hands the balancers what they should be.
async fn route(keeper: &Keeper, told: &mut BTreeMap<Key, String>) {
    let failed = keeper.balancers.apply(listeners(keeper)).await;
    let failed: BTreeMap<Key, String> =
        failed.into_iter().map(|(key, error)| (key, error.to_string())).collect();
    for (key, error) in failed.iter().filter(|(key, error)| told.get(*key) != Some(*error)) {
        keeper.log.say(format_args!("{} cannot be bound: {error}", balancer::words(key)));
    }
    *told = failed;
}

/// What the listeners of all balancers should be.
fn listeners(keeper: &Keeper) -> BTreeMap<Key, Wanted> {
    let state = keeper.state();
    let mut wanted = BTreeMap::new();
    for (environment_name, environment) in &state.environments {
        for (name, balancer) in &environment.balancers {
            let Ok(host) = balancer.host.parse::<Ipv4Addr>() else { continue };
            for listener in &balancer.spec.listeners {
                let backends = listener
                    .targets
                    .iter()
                    .flat_map(|target| {
                        state.backends(environment, &target.group, (target.port, listener.protocol))
                    })
                    .collect();
                let key = (environment_name.clone(), name.clone(), listener.port, listener.protocol);
                wanted.insert(key, Wanted { host, backends });
            }
        }
    }
    wanted
}

/// Hands the servers of names what they should know.
async fn names(keeper: &Keeper) {
    for environment in keeper.names.apply(zones(keeper)).await {
        keeper.log.say(format_args!("{}", keeper.names.failure(&environment).unwrap_or_default()));
    }
}

/// The names of each environment's balancers.
fn zones(keeper: &Keeper) -> BTreeMap<String, Zone> {
    let state = keeper.state();
    let zone = |environment: &Environment| {
        let balancers =
            environment.balancers.iter().filter(|(_, balancer)| !balancer.spec.listeners.is_empty());
        balancers
            .filter_map(|(name, balancer)| Some((full_name(name), balancer.host.parse().ok()?)))
            .collect()
    };
    state.environments.iter().map(|(name, found)| (name.clone(), zone(found))).collect()
}

fn rotate(keeper: &Keeper) {
    let ids: Vec<String> = keeper.state().vms.keys().cloned().collect();
    let (home, log) = (keeper.home.clone(), Arc::clone(&keeper.log));
    // Megabytes are copied, which is nothing for a thread that others wait for.
    tokio::task::spawn_blocking(move || {
        for id in ids {
            if let Err(error) = console::rotate(&home.instance(&id)) {
                log.say(format_args!("the console of {id} cannot be cut: {error}"));
            }
        }
    });
}

/// Why a VM that runs no more ended, in one line.
fn ending(keeper: &Keeper, state: &mut State, id: &str) -> String {
    match state.vms.get_mut(id).map(|vm| &mut vm.life) {
        Some(Life::Failed(reason)) => return reason.clone(),
        Some(Life::Started(process)) => {
            if let Some(signal) = process.killed_by() {
                return format!("the VM's process was killed by signal {signal}");
            }
        }
        _ => {}
    }
    let folder = keeper.home.instance(id);
    if let Some(end) = console::end(&folder) {
        return end.to_string();
    }
    if let Some(words) = vm::last_words(&folder) {
        return format!("the VM ended: {words}");
    }
    match console::tail(&folder, 1).pop() {
        Some(line) => format!("the VM ended; its last line was: {line}"),
        None => "the VM ended before it said anything".to_owned(),
    }
}
