//! What the rest of the program asks of the consensus library, in its own words.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug, Display};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::{Instant as _, WatchReceiver};
use openraft::impls::ProgressResponder;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use openraft::{ChangeMembers, Config, ReadPolicy, ServerState, SnapshotPolicy};
use tokio::sync::watch;

use super::messages::{Append, Appended, Ballot, Message, Transfer};
use super::raft::{
    Applier, CLOSE, Encoded, KEPT_ENTRIES, Raft, Slots, Store, Types, entry_in, id_in, id_out, members_out,
    vote_in, vote_out, whole,
};
use super::timing::Timing;
use crate::log::{Log, Members, Vote};
use crate::machine::executor::Handle;
use crate::machine::snapshot::Snapshot;
use crate::wire::frame::Kind;

/// Between two looks at a replica that gets the log.
const JOIN_LOOKS: Duration = Duration::from_millis(100);

/// A replica that took nothing for so long is given up: others want to join.
const JOIN_SILENCE: Duration = Duration::from_mins(1);

/// What a replica is in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ViewRole {
    /// Without a vote.
    Learner,
    /// With one.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It orders.
    Leader,
}

/// The order as this replica sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// What it is itself.
    pub(crate) role: ViewRole,
    /// Raft's term.
    pub(crate) term: u64,
    /// The leader and its slot, when they are known.
    pub(crate) leader: Option<(u64, u32)>,
    /// The members.
    pub(crate) members: Members,
}

/// Why the order cannot do something.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct OrderError(String);

fn failed(error: impl Display) -> OrderError {
    OrderError(error.to_string())
}

/// The order of a group.
#[derive(Clone)]
pub(crate) struct Order {
    raft: Raft,
    view: watch::Receiver<View>,
    heard: Arc<Heard>,
    /// Counts the parts of snapshots that other replicas took.
    parts: Arc<AtomicU64>,
    /// Whether this replica sends no heartbeats though it may lead.
    is_silent: Arc<AtomicBool>,
}

/// What leaders said since this replica started. The vote on disk names a leader too, who may be gone for long.
#[derive(Debug, Default)]
struct Heard {
    /// Whether one said anything.
    any: AtomicBool,
    /// The highest index that one said to be committed.
    committed: AtomicU64,
}

impl Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order").finish_non_exhaustive()
    }
}

fn config(timing: &Timing) -> Result<Arc<Config>, OrderError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "i2kit".into(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election.0),
        election_timeout_max: millis(timing.election.1),
        install_snapshot_timeout: millis(Duration::from_hours(24)),
        replication_lag_threshold: CLOSE,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        // Its channels are made whole at start: the defaults take megabytes.
        api_channel_size: Some(1024),
        notification_channel_size: Some(1024),
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    Ok(Arc::new(config.validate().map_err(failed)?))
}

impl Order {
    /// Starts with the log and the snapshot that are there.
    pub(crate) async fn start(
        log: Log,
        slots: Slots,
        executor: Handle,
        timing: &Timing,
    ) -> Result<Self, OrderError> {
        let applier = Applier::start(executor).await.map_err(failed)?;
        let (id, parts) = (log.id(), slots.parts.clone());
        let raft = Raft::new(id, config(timing)?, slots, Store(log), applier).await.map_err(failed)?;
        let metrics = raft.metrics();
        let first = view(&metrics.borrow_watched());
        let (sender, receiver) = watch::channel(first);
        let order = Self { raft, view: receiver, heard: Arc::default(), parts, is_silent: Arc::default() };
        let mut metrics = order.raft.metrics();
        tokio::spawn(async move {
            while metrics.changed().await.is_ok() {
                let now = view(&metrics.borrow_watched());
                sender.send_if_modified(|before| {
                    let is_new = *before != now;
                    *before = now;
                    is_new
                });
            }
        });
        Ok(order)
    }

    /// The order as it is seen, and its changes. It ends when the library has ended: nothing may go on then.
    pub(crate) fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// The end of what is known to be committed, and, at the leader, of what each member has.
    pub(crate) fn progress(&self) -> (u64, BTreeMap<u64, u64>) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let committed = metrics.cluster_committed.max(metrics.local_committed).map_or(0, |id| id.index);
        let committed = committed.max(self.heard.committed.load(Ordering::Relaxed));
        let matched = metrics.replication.iter().flatten();
        let matched = matched.filter_map(|(id, matched)| matched.map(|matched| (*id, matched.index)));
        (committed, matched.collect())
    }

    /// Whether this replica leads, or a leader spoke to it since it started.
    pub(crate) fn is_in_touch(&self) -> bool {
        self.heard.any.load(Ordering::Relaxed) || self.view.borrow().role == ViewRole::Leader
    }

    /// Why the library has ended.
    pub(crate) fn ended(&self) -> String {
        let metrics = self.raft.metrics();
        let state = metrics.borrow_watched().running_state.clone();
        state.err().map_or_else(|| "the order has ended".into(), |error| error.to_string())
    }

    /// Answers another replica; none when what it says is not understood.
    pub(crate) async fn answer(&self, kind: Kind, body: Bytes) -> Option<Bytes> {
        match kind {
            Kind::Append => {
                let append = Append::decode(body).ok()?;
                let committed = append.committed.map_or(0, |id| id.index);
                let request = AppendEntriesRequest {
                    vote: vote_in(append.vote),
                    prev_log_id: append.before.map(id_in),
                    leader_commit: append.committed.map(id_in),
                    entries: append.entries.into_iter().map(entry_in).collect(),
                };
                let appended = match self.raft.append_entries(request).await.ok()? {
                    AppendEntriesResponse::Success => Appended::Success,
                    AppendEntriesResponse::PartialSuccess(id) => Appended::Partial(id.map(id_out)),
                    AppendEntriesResponse::Conflict => Appended::Conflict,
                    AppendEntriesResponse::HigherVote(vote) => Appended::HigherVote(vote_out(vote)),
                };
                if !matches!(appended, Appended::HigherVote(_)) {
                    self.heard.committed.fetch_max(committed, Ordering::Relaxed);
                    self.heard.any.store(true, Ordering::Relaxed);
                }
                Some(appended.encode())
            }
            Kind::Vote | Kind::PreVote => {
                let ballot = Ballot::decode(body).ok()?;
                let mut request = VoteRequest::new(vote_in(ballot.vote), ballot.last.map(id_in));
                request.leadership_transfer = ballot.flag;
                let answer = match kind {
                    Kind::Vote => self.raft.vote(request).await,
                    _ => self.raft.pre_vote(request).await,
                };
                let answer = answer.ok()?;
                let last = answer.last_log_id.map(id_out);
                Some(Ballot { vote: vote_out(answer.vote), flag: answer.vote_granted, last }.encode())
            }
            Kind::Transfer => {
                let transfer = Transfer::decode(body).ok()?;
                let request = TransferLeaderRequest::new(
                    vote_in(transfer.vote),
                    transfer.node,
                    transfer.last.map(id_in),
                );
                let taken = self.raft.handle_transfer_leader(request).await.ok()?.is_ok();
                Some((u64::from(taken), 0).encode())
            }
            _ => None,
        }
    }

    /// Takes a snapshot that another replica sent, and is in its place already.
    pub(crate) async fn install(&self, vote: Vote, snapshot: Snapshot) -> Option<Vote> {
        let answer = self.raft.install_full_snapshot(vote_in(vote), whole(snapshot)).await.ok()?;
        Some(vote_out(answer.vote))
    }

    /// Proposes a batch. What is given back is ready when the batch is committed, or never will be by this leader.
    pub(crate) async fn propose(&self, batch: Bytes) -> Result<impl Future<Output = ()> + use<>, OrderError> {
        let (responder, _, complete) = ProgressResponder::new();
        self.raft.client_write_ff(Encoded(batch), Some(responder)).await.map_err(failed)?;
        Ok(async move { drop(complete.await) })
    }

    /// The index up to which a read that begins now has to wait; none when this replica does not lead.
    pub(crate) async fn read_index(&self, patience: Duration) -> Option<u64> {
        if self.is_silent.load(Ordering::Relaxed) {
            return None;
        }
        let answer = tokio::time::timeout(patience, self.raft.get_read_log_id(ReadPolicy::ReadIndex)).await;
        answer.ok()?.ok().map(|(id, _)| id.index())
    }

    /// Founds the group with these members, when that was not done. Safe to repeat.
    pub(crate) async fn found(&self, members: Vec<(u64, u32)>) -> Result<(), OrderError> {
        if self.raft.is_initialized().await.map_err(failed)? {
            return Ok(());
        }
        let members: BTreeMap<u64, u32> = members.into_iter().collect();
        self.raft.initialize(members).await.map_err(failed)
    }

    /// Makes the replica `id` the one voter of `slot`, and returns when it is. It gets state and log before it has a vote. It is given
    /// up once `is_gone` says that another replica has the slot, or when it took nothing for long; others of the slot that have no
    /// vote are forgotten either way.
    pub(crate) async fn replace(
        &self,
        id: u64,
        slot: u32,
        is_gone: impl Fn() -> bool,
    ) -> Result<(), OrderError> {
        self.raft.add_learner(id, slot, false).await.map_err(failed)?;
        let caught_up = self.catches_up(id, is_gone).await;
        if caught_up.is_ok() {
            let members = self.view.borrow().members.clone();
            let mut voters: BTreeSet<u64> = members.configs.last().into_iter().flatten().copied().collect();
            voters.retain(|voter| members.slot(*voter).is_some_and(|of| of != slot));
            voters.insert(id);
            self.raft.change_membership(voters, false).await.map_err(failed)?;
        }
        self.forget_learners(slot).await?;
        caught_up
    }

    /// Returns when a replica has nearly all of the log.
    async fn catches_up(&self, id: u64, is_gone: impl Fn() -> bool) -> Result<(), OrderError> {
        let given_up = |text: &str| Err(OrderError(text.to_owned()));
        let (mut before, mut since) = (None, tokio::time::Instant::now());
        loop {
            let (committed, matched) = self.progress();
            let matched = matched.get(&id).copied();
            if matched.is_some_and(|matched| matched + CLOSE >= committed) {
                return Ok(());
            }
            if self.view.borrow().role != ViewRole::Leader {
                return given_up("another replica leads by now");
            }
            let now = Some((matched, self.parts.load(Ordering::Relaxed)));
            if now != before {
                (before, since) = (now, tokio::time::Instant::now());
            }
            if is_gone() {
                return given_up("the replica that asked is gone");
            }
            if since.elapsed() > JOIN_SILENCE {
                return given_up("the replica that asked took nothing for a minute");
            }
            tokio::time::sleep(JOIN_LOOKS).await;
        }
    }

    /// Takes the replicas of `slot` out of the group that have no vote.
    async fn forget_learners(&self, slot: u32) -> Result<(), OrderError> {
        let members = self.view.borrow().members.clone();
        let is_voter = |id: &u64| members.configs.iter().flatten().any(|voter| voter == id);
        let nodes = members.nodes.iter().filter(|node| node.1 == slot).map(|node| node.0);
        let learners: BTreeSet<u64> = nodes.filter(|id| !is_voter(id)).collect();
        if !learners.is_empty() {
            let change = ChangeMembers::RemoveNodes(learners);
            self.raft.change_membership(change, false).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Ends a change of members that a leader began and did not live to end.
    pub(crate) async fn end_change(&self) -> Result<(), OrderError> {
        let members = self.view.borrow().members.clone();
        let Some(last) = members.configs.last().filter(|_| members.configs.len() > 1) else { return Ok(()) };
        let voters: BTreeSet<u64> = last.iter().copied().collect();
        self.raft.change_membership(voters, false).await.map_err(failed)?;
        Ok(())
    }

    /// Hands the leadership to another voter, the one of those that `may` lead that has most of the log.
    pub(crate) async fn hand_over(&self, id: u64, may: impl Fn(u64) -> bool) -> Result<(), OrderError> {
        let (_, matched) = self.progress();
        let voters: BTreeSet<u64> = self.view.borrow().members.configs.iter().flatten().copied().collect();
        let others = voters.into_iter().filter(|voter| *voter != id && may(*voter));
        let next = others.max_by_key(|voter| matched.get(voter).copied());
        let Some(next) = next else { return Ok(()) };
        self.raft.trigger().transfer_leader(next).await.map_err(failed)
    }

    /// When a majority acknowledged this leader's entries or heartbeats last; none while it does not lead, or was never acknowledged.
    pub(crate) fn acknowledged(&self) -> Option<tokio::time::Instant> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let since = metrics.last_quorum_acked.as_ref()?.elapsed();
        tokio::time::Instant::now().checked_sub(since)
    }

    /// Has this replica send heartbeats while it leads, or none, so that others look for another leader: also none of those that a read
    /// asks for.
    pub(crate) fn beat(&self, beats: bool) {
        self.is_silent.store(!beats, Ordering::Relaxed);
        self.raft.runtime_config().heartbeat(beats);
    }

    /// Asks for votes: a leader whose hand-over came to nothing takes commands again only in a new term.
    pub(crate) async fn elect(&self) -> Result<(), OrderError> {
        self.raft.trigger().elect(true).await.map_err(failed)
    }

    /// Has a snapshot taken here.
    pub(crate) async fn snapshot(&self) -> Result<(), OrderError> {
        self.raft.trigger().snapshot().await.map_err(failed)
    }

    /// Lets entries up to `index` go, which a snapshot has.
    pub(crate) async fn purge(&self, index: u64) -> Result<(), OrderError> {
        self.raft.trigger().purge_log(index).await.map_err(failed)
    }

    /// Ends the library's tasks.
    pub(crate) async fn shutdown(&self) {
        drop(self.raft.shutdown().await);
    }
}

fn view(metrics: &openraft::RaftMetrics<Types>) -> View {
    let members = members_out(metrics.membership_config.membership());
    let role = match metrics.state {
        ServerState::Leader => ViewRole::Leader,
        ServerState::Candidate => ViewRole::Candidate,
        ServerState::Follower => ViewRole::Follower,
        ServerState::Learner | ServerState::Shutdown => ViewRole::Learner,
    };
    let leader = metrics.current_leader.and_then(|id| Some((id, members.slot(id)?)));
    View { role, term: metrics.current_term, leader, members }
}
