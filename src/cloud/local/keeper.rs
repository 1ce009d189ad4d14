//! The keeper: the one owner of the local cloud's state. Acts of clients and decisions of its control loop change the
//! state, the database keeps it, and what follows is done to machines.
//!
//! [`state`] is what the lock guards, [`step`] decides on a copy (with the pure engine), [`control`] is the loop, and
//! [`effects`] carries out what was decided and saved (with [`start`], [`templates`] and [`telling`]), [`watch`] looks after
//! machines, and [`adoption`] takes over those that run already. [`template_making`] makes templates of further ones.
//! [`tracked`] knows whether records may have changed.

mod addresses;
mod adoption;
mod certificates;
mod control;
mod effects;
#[cfg(test)]
mod faults;
mod fronts;
mod inside;
mod names;
mod start;
mod state;
mod step;
mod telling;
mod template_making;
mod template_state;
mod templates;
mod tracked;
mod watch;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

pub(super) use self::adoption::adopt;
use self::certificates::Certificates;
pub(super) use self::control::run;
pub(super) use self::inside::keep_holders;
pub(super) use self::state::{Life, State};
pub(super) use self::template_making::make_templates;
use self::template_state::Templates;
use super::acme::{Acme, Parts};
use super::clock::Clock;
use super::home::Home;
use super::log::Log;
use super::lost;
use super::machine::accelerator;
use super::mover::{Counted, ListenerId, Mover, Report};
use super::network::own::{Network, Networks};
use super::proxy::{Bound, Front, Proxy};
use super::store::{Environments, Store};
use super::supervise::Tasks;
use super::volumes;
use crate::cloud::engine::environment::Environment;
use crate::cloud::local::blocking::blocking;
use crate::cloud::{CloudError, Scope};
use crate::manifest::api::{IpFamily, Name};
use crate::plan::fleet::{Accelerator, BalancerSpec, Fleet, Listener};

/// Why there is no network where none is wanted, and the way out.
const UNWANTED: &str = "the local cloud was started with I2KIT_LOCAL_NETWORK=user; end its process, which ends no machine, \
                        and run a verb without that";

/// VMs that are started at once.
const STARTS: usize = 16;

/// How long answers that name addresses wait for the first round.
const FIRST_ROUND: Duration = Duration::from_secs(2);

/// The local cloud's process, as all its parts see it.
#[derive(Debug)]
pub(super) struct Keeper {
    /// Folders.
    pub(super) home: Home,
    /// The log file.
    pub(super) log: Arc<Log>,
    /// Long tasks that fail at present.
    pub(super) tasks: Arc<Tasks>,
    /// What carries traffic.
    pub(super) mover: Mover,
    /// The networks of environments.
    pub(super) networks: Networks,
    /// What serves Ingresses, and ports of Services that end TLS.
    pub(super) proxy: Arc<Proxy>,
    /// Told after every change, so that the control loop need not wait for its next tick.
    pub(super) changed: Notify,
    /// Sent after every round of the control loop, which follows every commit: who watches looks then.
    pub(super) rounds: tokio::sync::watch::Sender<()>,
    /// Cancelled by the end of the first round.
    begun: CancellationToken,
    /// Cancelled when the process is to end.
    pub(super) ending: CancellationToken,
    /// Held while images are put or swept, so that none is swept before its environment names it.
    pub(super) images: tokio::sync::Mutex<()>,
    /// Held while an act changes files of disks.
    pub(super) disks: tokio::sync::Mutex<()>,
    /// The clock that decides.
    pub(super) clock: Arc<Clock>,
    accelerator: OnceLock<Accelerator>,
    /// Snapshots from which VMs start.
    templates: Templates,
    /// Starts of VMs that may be under way at once: each takes a thread of the runtime's pool, and there are others who
    /// need one.
    starts: Semaphore,
    certificates: Certificates,
    acme: Acme,
    state: Mutex<State>,
}

impl Keeper {
    /// Opens the database. One that is not there, or is empty, is a new one only where nothing tells of VMs.
    pub(super) fn open(home: Home) -> Result<Self, CloudError> {
        let log = Arc::new(Log::open(&home.log())?);
        let tasks = Arc::<Tasks>::default();
        let (store, environments) = Store::open(&home.database(), || lost::nothing(&home))?;
        if environments.is_empty() {
            // A database without rows that was made in the place of a lost one, and a kill before they were written.
            lost::none_runs(&home)?;
        }
        let environment = home.environment.clone();
        let acme = Acme::open(&home, &log);
        Ok(Self {
            mover: Mover::new(&home, &tasks, &log),
            home,
            networks: Networks::new(environment, Arc::clone(&log)),
            proxy: Arc::new(Proxy::new()),
            certificates: Certificates::default(),
            acme,
            log,
            tasks,
            changed: Notify::new(),
            rounds: tokio::sync::watch::Sender::new(()),
            begun: CancellationToken::new(),
            ending: CancellationToken::new(),
            images: tokio::sync::Mutex::new(()),
            disks: tokio::sync::Mutex::new(()),
            clock: Arc::clone(store.clock()),
            accelerator: OnceLock::new(),
            templates: Templates::default(),
            starts: Semaphore::new(STARTS),
            state: Mutex::new(State::new(store, environments)),
        })
    }

    /// Waits for the first round, which asks what carries: before that Services have no addresses to be told of. One that takes longer
    /// than [`FIRST_ROUND`] is not waited for.
    pub(super) async fn begun(&self) {
        tokio::select! {
            () = self.begun.cancelled() => {}
            () = self.ending.cancelled() => {}
            () = tokio::time::sleep(FIRST_ROUND) => {}
        }
    }

    /// The state. Nothing that may panic is done while it is locked; if something did, the state is still whole.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // A save may be under way: who waits for it must not keep a thread that carries traffic.
            Err(TryLockError::WouldBlock) => {
                blocking(|| self.state.lock().unwrap_or_else(PoisonError::into_inner))
            }
        }
    }

    /// Whether it holds nothing but disks at rest, as far as that is known without waiting: who holds the lock has something to do.
    pub(super) fn is_idle(&self) -> bool {
        let state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        // An act about disks may take longer than anybody asks.
        state.is_idle() && state.machines.is_empty() && self.disks.try_lock().is_ok()
    }

    /// Has CAs give certificates to public hosts, for as long as it is polled.
    pub(super) async fn drive_acme(&self) -> Result<(), CloudError> {
        let Self { home, log, proxy, changed, .. } = self;
        self.acme.drive(&Parts { home, log, proxy, changed }).await
    }

    /// Changes environments and stores the change. After an error nothing was changed.
    pub(super) fn change_all<T>(
        &self,
        change: impl FnOnce(&mut Environments) -> Result<T, CloudError>,
    ) -> Result<T, CloudError> {
        let result = blocking(|| self.state().change(change))?;
        self.changed.notify_one();
        Ok(result)
    }

    /// What is carried now, by the mover and the proxy.
    pub(super) fn carried(&self) -> Report {
        let mut report = self.mover.report();
        let proxied = self.proxy.report();
        for (machine, requests) in proxied.active {
            *report.connections.entry(machine).or_default() += requests;
        }
        for (environment, warnings) in proxied.warnings {
            report.warnings.entry(environment).or_default().extend(warnings);
        }
        report
    }

    /// The ports of a balancer: of an Ingress that without TLS and that with it, of a Service one a listener. `carried` is
    /// what the front door reports.
    pub(super) fn bound(
        &self,
        environment: &str,
        balancer: &BalancerSpec,
        carried: &Report,
    ) -> Vec<Option<u16>> {
        let name = &balancer.name;
        if let Some(http) = &balancer.http {
            let Bound { http: plain, https } = self.proxy.bound(&Front::id(environment, name));
            return if http.has_tls() { vec![plain, https] } else { vec![plain] };
        }
        let port = |listener: &Listener| {
            if listener.tls.is_some() {
                return self.proxy.bound(&Front::port_id(environment, name, listener.port)).https;
            }
            carried.bound.get(&ListenerId::of(environment, name, listener)).copied()
        };
        balancer.listeners.iter().map(port).collect()
    }

    /// The fleet of an environment, as far as `scope` asks.
    pub(super) fn fleet(&self, name: &str, scope: &Scope) -> Fleet {
        let mut report = self.carried();
        let certificates = self.certificates.warnings(name);
        let mut state = self.state();
        state.set_connections(&report.connections);
        let facts = state.facts();
        let empty = Environment::default();
        let environment = state.environments.get(name).unwrap_or(&empty);
        let bound = |balancer: &Name| {
            let found = environment.balancers.get(balancer);
            found.map_or_else(Vec::new, |found| self.bound(name, &found.spec, &report))
        };
        let facts = |id: &str| facts.get(id).cloned().unwrap_or_default();
        let mut fleet = environment.fleet(name, &facts, &bound, self.clock.now());
        for balancer in &mut fleet.balancers {
            balancer.certificates = self.certificates.served(name, &balancer.spec.name);
        }
        fleet.warnings.extend(report.warnings.remove(name).unwrap_or_default());
        fleet.warnings.extend(certificates);
        fleet.warnings.extend(self.tasks.failing());
        let refused = self.networks.are_wanted().then(|| self.networks.refusal()).flatten();
        fleet.warnings.extend(refused);
        if *scope != Scope::Detailed {
            fleet.groups.iter_mut().for_each(|group| group.events.clear());
        }
        let unmade: BTreeSet<Name> =
            environment.disks.iter().filter(|(_, disk)| !disk.made).map(|(name, _)| name.clone()).collect();
        drop(state);
        for disk in &mut fleet.disks {
            disk.used = volumes::used(&volumes::path(&self.home, name, &disk.spec.name));
            if disk.used.is_none() && !unmade.contains(&disk.spec.name) {
                fleet.warnings.push(format!("the file of disk {} is gone", disk.spec.name));
            }
        }
        if let Scope::Group(name) = scope { fleet.only(name) } else { fleet }
    }

    /// Finds out whether new VMs get addresses in their environment's network. Blocks for as long as it takes to make one.
    pub(super) fn choose_network(&self) {
        let refusal =
            if self.networks.are_wanted() { self.networks.refused() } else { Some(UNWANTED.to_owned()) };
        let has_ipv6 = refusal.is_none() && self.networks.have_ipv6();
        let mut state = self.state();
        state.addresses.have_ipv6 = has_ipv6;
        state.addresses.are_given = refusal.is_none();
        state.addresses.refusal = refusal;
    }

    /// Whether some environment needs a network and this host, which was to give one, did not when it was tried last.
    pub(super) fn lacks_network(&self) -> bool {
        let state = self.state();
        self.networks.are_wanted()
            && !state.addresses.are_given
            && state.environments.values().any(addresses::needs_network)
    }

    /// Refuses what does not work without addresses of machines, `what`, in an environment whose machines have none.
    pub(super) fn require_network(&self, environment: &str, what: &str) -> Result<(), CloudError> {
        let empty = Environment::default();
        let is_there = || {
            let state = self.state();
            state.addresses.are_in(state.environments.get(environment).unwrap_or(&empty))
        };
        if is_there() {
            return Ok(());
        }
        if self.networks.are_wanted() {
            // What was in the way may be gone.
            blocking(|| self.choose_network());
            if is_there() {
                return Ok(());
            }
        }
        let advice = self.state().addresses.refusal.clone().unwrap_or_else(|| {
            "its machines were started without one: `i2kit destroy --all`, then deploy again".to_owned()
        });
        let what = format!("{what} without a network of the environment's own");
        Err(CloudError::Unsupported { what, advice })
    }

    /// Refuses a Service that must have an address of IPv6 in an environment whose machines have none.
    pub(super) fn require_ipv6(&self, environment: &str, spec: &BalancerSpec) -> Result<(), CloudError> {
        if !spec.families.requires_ipv6() {
            return Ok(());
        }
        self.require_network(environment, "a Service with an address of IPv6")?;
        let state = self.state();
        let empty = Environment::default();
        let found = state.environments.get(environment).unwrap_or(&empty);
        if state.addresses.families(environment, found).contains(&IpFamily::V6) {
            return Ok(());
        }
        let advice = if state.addresses.have_ipv6 {
            "its machines were started without it: `i2kit destroy --all`, then deploy again"
        } else {
            "this host's kernel has no IPv6, or not all that its packet filter needs for it; write `ipFamilyPolicy: \
             PreferDualStack`, which has IPv4 alone then"
        };
        let what = "a Service with an address of IPv6 on this host".to_owned();
        Err(CloudError::Unsupported { what, advice: advice.to_owned() })
    }

    /// The network of an environment: the one in which its VMs run, or a new one. Blocks for as long as it takes.
    pub(super) fn network(&self, environment: &str) -> Result<Arc<Network>, CloudError> {
        let is_known = self.networks.find(environment).is_some();
        let processes = self.state().processes(environment);
        let found = self.networks.get(environment, &processes);
        self.note_networks();
        if !is_known && found.is_ok() {
            // The front door is given it by the next round.
            self.changed.notify_one();
        }
        found.map_err(|message| CloudError::Program { program: "the network".into(), message })
    }

    /// Takes note of the networks that there are: a machine that comes into one gets what that has, whatever this host would
    /// give a new one.
    pub(super) fn note_networks(&self) {
        let networks = self.networks.all().into_iter();
        let have_ipv6 = networks.map(|(name, network)| (name, network.has_ipv6())).collect();
        self.state().addresses.networks_have_ipv6 = have_ipv6;
    }

    /// The fleet of an environment with the traffic of its balancers and the use of its machines, which change without end
    /// and so are not watched.
    pub(super) async fn counted_fleet(&self, name: &str, scope: &Scope) -> Fleet {
        let Counted(counted) = self.mover.traffic().await;
        let mut proxied = self.proxy.counted(&self.home).await;
        let mut fleet = self.fleet(name, scope);
        for balancer in &mut fleet.balancers {
            let service = &balancer.spec.name;
            let of = |listener: &Listener| {
                if listener.tls.is_some() {
                    return proxied.connections.get(&Front::port_id(name, service, listener.port)).cloned();
                }
                counted.get(&ListenerId::of(name, service, listener)).cloned()
            };
            balancer.traffic = balancer.spec.listeners.iter().map(of).collect();
            balancer.requests = proxied.requests.remove(&Front::id(name, service)).unwrap_or_default();
        }
        self.state().measure(name, &mut fleet, self.clock.now().steady);
        fleet
    }

    /// What VMs run on. Blocks for as long as it takes to find out.
    pub(super) fn accelerator(&self) -> Accelerator {
        *self.accelerator.get_or_init(|| {
            let found = accelerator::find(&self.home);
            self.log.write(format_args!("VMs run on {found}"));
            found
        })
    }

    /// Versions of Secrets that some revision or some Ingress names.
    pub(super) fn secret_versions(&self) -> BTreeSet<String> {
        let state = self.state();
        let groups = state.environments.values().flat_map(|environment| environment.groups.values());
        let launches = groups.flat_map(|group| &group.revisions).map(|revision| &revision.launch);
        let balancers = state.environments.values().flat_map(|environment| environment.balancers.values());
        let certificates = balancers.filter_map(|balancer| balancer.spec.http.as_ref());
        let certificates = certificates.flat_map(|http| &http.secrets).map(|secret| &secret.version);
        launches.flat_map(|launch| launch.secrets.values().flatten()).chain(certificates).cloned().collect()
    }

    /// Where an image lies, for every image that some environment names.
    pub(super) fn image_folders(&self) -> BTreeSet<PathBuf> {
        let state = self.state();
        let images = state.environments.values().flat_map(|environment| &environment.images);
        images.map(|image| self.home.image(*image)).collect()
    }
}
