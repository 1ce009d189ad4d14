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
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::node::{Node, hello, random};
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
use crate::{admin, machine};

/// How long a leader that ends waits for the next one.
const HAND_OVER: Duration = Duration::from_secs(1);

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
    let listeners = (bind(place.front).await?, bind(place.peer).await?, bind(place.admin).await?);
    let identity = Identity::load(&place.identity).map_err(failed)?;
    let metrics = Arc::new(Metrics::new());
    let options = Options::for_limit(settings.config.limits.log_bytes.0);
    let fresh_id = random().map_err(failed)?;
    let log = Log::open(&place.log, fresh_id, options, metrics.clone()).map_err(failed)?;
    clean(&place.log);
    let (node, executor, channels) = assemble(settings, timing, log, &identity, metrics).await?;
    let (drain, is_draining) = watch::channel(false);
    spawn_tasks(&node, channels);
    let (front_listener, peer_listener, admin_listener) = listeners;
    tokio::spawn(service::serve(peer_listener, identity, Arc::new(Peers(node.clone()))));
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
        () = ends => {}
    }
    node.end(&drain, &mut clients).await;
    Ok(())
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
    settings: Settings,
    timing: Timing,
    log: Log,
    identity: &Identity,
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
    let slots = links(&settings, &log, identity);
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
fn links(settings: &Settings, log: &Log, identity: &Identity) -> Slots {
    let (said, own_log) = (settings.clone(), log.clone());
    let me: Arc<dyn Fn() -> crate::wire::frame::Hello + Send + Sync> =
        Arc::new(move || hello(&said, &own_log));
    let link = |(slot, address): (u32, &String)| {
        (slot != settings.slot).then(|| Link::start(address.clone(), identity, me.clone()))
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
    tokio::spawn(node.clone().become_member());
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
