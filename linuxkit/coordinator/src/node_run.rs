//! How a replica begins and ends.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use i2kit_spec::replica::ReplicaConfig;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::config::Settings;
use crate::front::{self, Framer};
use crate::log::{Log, Members, Options};
use crate::machine::digests::Digests;
use crate::machine::executor::{Executor, ExecutorError, Shared};
use crate::machine::stall::Stall;
use crate::machine::waiting::Waiting;
use crate::member::era;
use crate::member::fence::Fence;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::node::{Node, random};
use crate::node_service::Peers;
use crate::node_snapshots::clean;
use crate::order::handle::Order;
use crate::order::propose::Queue;
use crate::order::raft::{KEPT_ENTRIES, Slots};
use crate::order::timing::Timing;
use crate::state::Application;
use crate::wire::link::Link;
use crate::wire::service;
use crate::wire::tls::Identity;
use crate::{admin, control, machine};

/// How long a leader that ends waits for the next one.
const HAND_OVER: Duration = Duration::from_secs(1);

/// Between two looks whether the other slots said who they are.
const GREET_LOOKS: Duration = Duration::from_millis(5);

/// Why a replica ended, in words for the log.
pub(crate) type Failure = String;

fn failed(error: impl std::fmt::Display) -> Failure {
    error.to_string()
}

/// Runs the replica until `ends` is ready.
pub(crate) async fn run(
    settings: Settings,
    timing: Timing,
    ends: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let place = &settings.place;
    let bind = |address| async move {
        TcpListener::bind(address).await.map_err(|error| format!("{address} cannot be listened on: {error}"))
    };
    let listeners = (
        bind(place.front).await?,
        bind(place.peer).await?,
        bind(place.admin).await?,
        bind(place.control).await?,
    );
    let identity = Identity::load(&place.identity).map_err(failed)?;
    let metrics = Arc::new(Metrics::new());
    let options = Options::for_limit(settings.config.limits.log_bytes.0);
    let fresh_id = random().map_err(failed)?;
    let log = Log::open(&place.log, fresh_id, options, metrics.clone()).map_err(failed)?;
    clean(&place.log);
    let era = era::open(&place.log, &log, settings.slot).await.map_err(failed)?;
    in_time(era.number, settings.recoveries, log.is_empty())?;
    let fence = Arc::new(Fence::new(settings.clone(), log.clone(), era));
    let mut fenced = fence.ends();
    let (front_listener, peer_listener, admin_listener, control_listener) = listeners;
    let (known, unknown) = watch::channel(None);
    let peers = Arc::new(Peers { fence: fence.clone(), node: unknown });
    tokio::spawn(service::serve(peer_listener, identity.clone(), peers));
    let slots = links(&settings, &fence, &identity);
    greet(&slots, &timing, &mut fenced).await?;
    fence.open();
    let (node, executor, channels) = assemble((settings, timing), log, fence, slots, metrics).await?;
    known.send_replace(Some(node.clone()));
    let (drain, is_draining) = watch::channel(false);
    spawn_tasks(&node, channels);
    tokio::spawn(control::serve(control_listener, node.clone()));
    let status = node.clone();
    tokio::spawn(admin::serve(
        admin_listener,
        Arc::new(move || status.status()),
        node.reads.clone(),
        node.metrics.clone(),
    ));
    let limits = node.settings.config.limits.clone();
    let clients = front::serve(front_listener, node.framer.clone(), limits, node.clone(), is_draining);
    let mut clients = tokio::spawn(clients);
    let mut view = node.order.view();
    let order_ended = async { while view.changed().await.is_ok() {} };
    tokio::select! {
        ended = executor => return Err(ended.map_or_else(failed, |ended| ended.err().map_or_else(|| "the executor has ended".into(), failed))),
        () = order_ended => return Err(node.order.ended()),
        why = ended(&mut fenced) => return Err(why),
        () = ends => {}
    }
    node.end(&drain, &mut clients).await;
    Ok(())
}

/// Returns when the replica has to end, and why.
async fn ended(fenced: &mut watch::Receiver<Option<String>>) -> Failure {
    let why = fenced.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
    why.unwrap_or_else(|| "its fence is gone".into())
}

/// Waits until each other slot has said who it is, or cannot be reached: a replica that a recovery left out hears of it before it votes
/// or leads. One whose machine is gone without a word is waited for a moment only.
async fn greet(
    slots: &Slots,
    timing: &Timing,
    fenced: &mut watch::Receiver<Option<String>>,
) -> Result<(), Failure> {
    let until = tokio::time::Instant::now() + timing.greeting();
    let all_were_tried = async {
        while !slots.order.iter().flatten().all(Link::was_tried) {
            tokio::time::sleep(GREET_LOOKS).await;
        }
    };
    tokio::select! {
        // Who has just heard that it is out does not go on, whatever else is known.
        biased;
        why = ended(fenced) => Err(why),
        _ = tokio::time::timeout_at(until, all_were_tried) => fenced.borrow().clone().map_or(Ok(()), Err),
    }
}

/// Receivers of what clients and replicas ask.
struct Channels {
    outgoing: mpsc::UnboundedReceiver<crate::command::Command>,
    reads: mpsc::UnboundedReceiver<crate::node::ReadQuestion>,
    gate: mpsc::UnboundedReceiver<crate::node::ReadQuestion>,
}

type Running = tokio::task::JoinHandle<Result<(), ExecutorError>>;

/// Makes the parts of a replica. The executor runs already.
async fn assemble(
    (settings, timing): (Settings, Timing),
    log: Log,
    fence: Arc<Fence>,
    slots: Slots,
    metrics: Arc<Metrics>,
) -> Result<(Arc<Node>, Running, Channels), Failure> {
    let config: Arc<ReplicaConfig> = Arc::new(settings.config.clone());
    let place = &settings.place;
    let snapshot = machine::snapshot::path(&place.log);
    if log.is_empty() && snapshot.exists() {
        return Err("there is a snapshot and no log: replace this slot's disk, the replica joins anew".into());
    }
    let application = Application::new(&config, &place.socket, &place.state, &place.log);
    let waiting = Arc::new(Waiting::new(random().map_err(failed)?, timing.resend()));
    let digests = Arc::new(Mutex::new(Digests::new(config.members.len(), config.revision)));
    let stall = Arc::new(Stall::new(settings.deadline()));
    let memory = Memory::new(config.limits.reply_bytes.0);
    let shared = Shared { waiting, digests, metrics: metrics.clone(), stall, memory };
    let (executor, handle) =
        Executor::new(log.clone(), config.clone(), application, shared.clone(), place.log.clone());
    let order = Order::start(log.clone(), slots.clone(), handle.clone(), &timing).await.map_err(failed)?;
    within(&order.view().borrow().members, config.members.len())?;
    let snapshot_at = AtomicU64::new(log.purged().map_or(0, |purged| purged.index + KEPT_ENTRIES));
    let (outgoing, outgoing_receiver) = mpsc::unbounded_channel();
    let (reads, reads_receiver) = mpsc::unbounded_channel();
    let (gate, gate_receiver) = mpsc::unbounded_channel();
    let node = Arc::new(Node {
        framer: Framer::new(config.protocol, &config.volatile),
        settings,
        timing,
        log,
        fence,
        order,
        slots,
        executor: handle,
        shared,
        metrics,
        queue: Queue::default(),
        outgoing,
        reads,
        gate,
        joining: Mutex::new(Some("the other slots of its group".to_owned())),
        changes: tokio::sync::Mutex::default(),
        ends: AtomicBool::new(false),
        snapshot_at,
        captures_fail: AtomicBool::new(false),
        disk_is_full: AtomicBool::new(false),
        incoming: tokio::sync::Mutex::default(),
        idle: Mutex::default(),
    });
    let channels = Channels { outgoing: outgoing_receiver, reads: reads_receiver, gate: gate_receiver };
    Ok((node, tokio::spawn(executor.run()), channels))
}

/// Refuses a log of before the last recovery that the host knows of, before it votes: the recovered replica may not be reachable yet. An
/// empty one joins.
fn in_time(own: u64, known: u64, is_empty: bool) -> Result<(), Failure> {
    if is_empty || own >= known {
        return Ok(());
    }
    Err(format!(
        "the group was recovered without this replica ({known} times so far, and its log knows of {own}): replace this slot's disk, the replica joins anew"
    ))
}

/// Refuses a log of a group that had more slots than it has now: its majority may be in slots that nobody starts.
fn within(members: &Members, count: usize) -> Result<(), Failure> {
    let slots = members.nodes.iter().map(|node| node.1).filter(|slot| *slot != u32::MAX);
    match slots.max() {
        Some(last) if last as usize >= count => Err(format!(
            "the log is of a group with a slot {last}, and there are {count} now: give the group its earlier number of replicas, or destroy it with \
             its disks and deploy it anew"
        )),
        _ => Ok(()),
    }
}

/// Two connections to each other slot.
fn links(settings: &Settings, fence: &Arc<Fence>, identity: &Identity) -> Slots {
    let link = |(slot, address): (u32, &String)| {
        (slot != settings.slot).then(|| Link::start(address.clone(), identity, fence.clone()))
    };
    let all = || (0..).zip(&settings.place.peers).map(link).collect();
    Slots { order: all(), bulk: all(), parts: Arc::default() }
}

fn spawn_tasks(node: &Arc<Node>, channels: Channels) {
    tokio::spawn(node.clone().forward(channels.outgoing));
    tokio::spawn(node.clone().propose());
    tokio::spawn(node.clone().ask_reads(channels.reads));
    tokio::spawn(node.clone().answer_reads(channels.gate));
    tokio::spawn(node.clone().compare());
    tokio::spawn(node.clone().take_snapshots());
    tokio::spawn(node.clone().watch_disk());
    tokio::spawn(node.clone().end_changes());
    tokio::spawn(node.clone().watch_quorum());
    tokio::spawn(node.clone().become_member());
    tokio::spawn(node.clone().tell_pod());
}

impl Node {
    /// Hands the lead over, lets clients have the replies that they wait for, and ends.
    async fn end(&self, drain: &watch::Sender<bool>, clients: &mut tokio::task::JoinHandle<()>) {
        drain.send_replace(true);
        self.ends.store(true, Ordering::Relaxed);
        if self.leads() && self.settings.config.members.len() > 1 {
            if let Err(error) = self.order.hand_over(self.log.id(), |_| true).await {
                crate::report!("the lead is not handed over: {error}");
            }
            let mut view = self.order.view();
            let next = view.wait_for(|view| view.leader.is_some_and(|leader| leader.0 != self.log.id()));
            drop(tokio::time::timeout(HAND_OVER, next).await);
        }
        let patience = self.settings.deadline() + Duration::from_millis(500);
        if tokio::time::timeout(patience, clients).await.is_err() {
            crate::report!("some clients did not take their replies in time");
        }
        drop(tokio::time::timeout(HAND_OVER, self.order.shutdown()).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_of_before_a_recovery_that_the_host_knows_of_is_refused() {
        assert_eq!(in_time(0, 0, false), Ok(()));
        assert_eq!(in_time(2, 2, false), Ok(()));
        // The host hears of it after the replica did.
        assert_eq!(in_time(2, 1, false), Ok(()));
        assert_eq!(in_time(0, 1, true), Ok(()));
        assert!(in_time(1, 2, false).unwrap_err().contains("(2 times so far, and its log knows of 1)"));
    }

    #[test]
    fn a_log_with_slots_that_are_no_more_is_refused() {
        let members = |slots: &[u32]| {
            let nodes: Vec<(u64, u32)> = (1..).zip(slots.iter().copied()).collect();
            Members { configs: vec![nodes.iter().map(|node| node.0).collect()], nodes }
        };
        assert_eq!(within(&Members::default(), 1), Ok(()));
        assert_eq!(within(&members(&[0, 1, 2]), 3), Ok(()));
        assert_eq!(within(&members(&[0, 1, 2]), 5), Ok(()));
        let why = within(&members(&[0, 1, 2, 3, 4]), 3).unwrap_err();
        assert!(why.contains("a slot 4, and there are 3 now"), "{why}");
        assert!(within(&members(&[0, 1, 2]), 1).is_err());
    }
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod groups;
