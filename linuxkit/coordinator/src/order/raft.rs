//! The consensus library behind two files, this one and [`super::handle`]: nothing else in this program names it, and none of its types
//! reaches the disk or the wire. Here are its storage, its state machine and its network.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug, Display};
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::{EntryResponder, IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::type_config::alias::{
    EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf,
};
use openraft::vote::RaftLeaderId;
use openraft::{
    EntryPayload, LogState, Membership, OptionalSend, RaftLogReader, RaftNetworkFactory, RaftNetworkV2,
    RaftSnapshotBuilder,
};

use super::messages::{Append, Appended, Ballot, Message, Part, PartAnswer, Transfer};
use crate::log::{Entry, EntryId, Log, Members, Payload, Vote};
use crate::machine::executor::Handle;
use crate::machine::snapshot::Snapshot;
use crate::wire::frame::Kind;
use crate::wire::link::Link;

/// Entries that are read for a follower at a time take at most about this; one is at most a half of a frame.
const APPEND: usize = 2 << 20;

/// A part of a snapshot.
const PART: usize = 1 << 20;

/// How long a part of a snapshot may take, the last with its checks included.
const PART_PATIENCE: Duration = Duration::from_mins(1);

/// How long a follower may take for entries. A connection whose other end is gone breaks before.
const APPEND_PATIENCE: Duration = Duration::from_secs(10);

/// Entries that stay in the log though a snapshot has them, for followers that are a little behind.
pub(crate) const KEPT_ENTRIES: u64 = 1000;

/// A replica that is so many entries behind at most may become a voter.
pub(crate) const CLOSE: u64 = 100;

/// Commands of one entry, encoded.
#[derive(Clone)]
pub(crate) struct Encoded(pub(super) Bytes);

impl Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl Display for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

openraft::declare_raft_types!(pub(crate) Types: D = Encoded, R = (), NodeId = u64, Node = u32);

pub(super) type Raft = openraft::Raft<Types, Applier>;
type LeaderId = openraft::type_config::alias::LeaderIdOf<Types>;

pub(super) fn id_out(id: LogIdOf<Types>) -> EntryId {
    EntryId { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
}

pub(super) fn id_in(id: EntryId) -> LogIdOf<Types> {
    LogIdOf::<Types>::new(LeaderId::new(id.term, id.leader), id.index)
}

pub(super) fn vote_out(vote: VoteOf<Types>) -> Vote {
    Vote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

pub(super) fn vote_in(vote: Vote) -> VoteOf<Types> {
    let mut made = VoteOf::<Types>::new(vote.term, vote.node);
    made.committed = vote.committed;
    made
}

pub(super) fn members_out(membership: &Membership<u64, u32>) -> Members {
    let configs =
        membership.get_joint_config().iter().map(|config| config.iter().copied().collect()).collect();
    Members { configs, nodes: membership.nodes().map(|(id, slot)| (*id, *slot)).collect() }
}

fn members_in(members: &Members) -> Membership<u64, u32> {
    let configs: Vec<BTreeSet<u64>> =
        members.configs.iter().map(|config| config.iter().copied().collect()).collect();
    // A voter without a slot is nobody that is ever reached.
    let mut nodes: BTreeMap<u64, u32> = configs.iter().flatten().map(|id| (*id, u32::MAX)).collect();
    nodes.extend(members.nodes.iter().copied());
    Membership::new(configs, nodes).unwrap_or_default()
}

fn entry_out(entry: EntryOf<Types>) -> Entry {
    let payload = match entry.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Normal(Encoded(bytes)) => Payload::Batch(bytes),
        EntryPayload::Membership(membership) => Payload::Members(members_out(&membership)),
    };
    Entry { id: id_out(entry.log_id), payload }
}

pub(super) fn entry_in(entry: Entry) -> EntryOf<Types> {
    let payload = match entry.payload {
        Payload::Blank => EntryPayload::Blank,
        Payload::Batch(bytes) => EntryPayload::Normal(Encoded(bytes)),
        Payload::Members(members) => EntryPayload::Membership(members_in(&members)),
    };
    EntryOf::<Types> { log_id: id_in(entry.id), payload }
}

/// The log as the library wants it.
#[derive(Debug, Clone)]
pub(super) struct Store(pub(super) Log);

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<EntryOf<Types>>, io::Error> {
        let mut from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let mut entries = Vec::new();
        while from < to {
            let part = self.0.fetch(from, to, APPEND).await.map_err(io::Error::other)?;
            let Some(last) = part.last() else { break };
            from = last.id.index + 1;
            entries.extend(part.into_iter().map(entry_in));
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<EntryOf<Types>>, io::Error> {
        let entries = self.0.fetch(start, end, APPEND).await.map_err(io::Error::other)?;
        Ok(entries.into_iter().map(entry_in).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>, io::Error> {
        Ok(self.0.vote().map(vote_in))
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        Ok(LogState { last_purged_log_id: self.0.purged().map(id_in), last_log_id: self.0.last().map(id_in) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<(), io::Error> {
        self.0.save_vote(vote_out(*vote)).await
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        self.0.save_committed(committed.map(id_out));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<Types>>, io::Error> {
        Ok(self.0.committed().map(id_in))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(entry_out).collect();
        self.0.append(entries, Box::new(move || callback.io_completed(Ok(())))).map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        self.0.truncate(last.map_or(0, |last| last.index + 1)).await.map_err(io::Error::other)
    }

    async fn purge(&mut self, id: LogIdOf<Types>) -> Result<(), io::Error> {
        self.0.purge(id_out(id)).await
    }
}

/// The state machine as the library wants it. It only says how far execution may go: the executor reads the log by itself.
#[derive(Debug)]
pub(crate) struct Applier {
    executor: Handle,
    last: Option<LogIdOf<Types>>,
    membership: StoredMembershipOf<Types>,
}

fn meta(snapshot: &Snapshot) -> SnapshotMetaOf<Types> {
    let membership =
        StoredMembershipOf::<Types>::new(snapshot.members_id.map(id_in), members_in(&snapshot.members));
    SnapshotMetaOf::<Types> { last_log_id: Some(id_in(snapshot.id)), last_membership: membership }
}

pub(super) fn whole(snapshot: Snapshot) -> SnapshotOf<Types, Snapshot> {
    SnapshotOf::<Types, Snapshot> { meta: meta(&snapshot), snapshot }
}

/// Gives the library the snapshot that was captured before it asks: a capture that fails is no reason for it to end.
#[derive(Debug)]
pub(crate) struct Builder(Handle);

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Snapshot;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, Snapshot>, io::Error> {
        current(&self.0).await?.map(whole).ok_or_else(|| io::Error::other("there is no snapshot"))
    }
}

impl Applier {
    /// With the snapshot that is there.
    pub(super) async fn start(executor: Handle) -> io::Result<Self> {
        let found = current(&executor).await?;
        let mut applier = Self { executor, last: None, membership: StoredMembershipOf::<Types>::default() };
        if let Some(snapshot) = found {
            let meta = meta(&snapshot);
            (applier.last, applier.membership) = (meta.last_log_id, meta.last_membership);
            applier.executor.commit(snapshot.id.index + 1);
        }
        Ok(applier)
    }
}

impl RaftStateMachine<Types> for Applier {
    type SnapshotData = Snapshot;
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>), io::Error> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            self.last = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                self.membership = StoredMembershipOf::<Types>::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        self.executor.commit(self.last.map_or(0, |last| last.index + 1));
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(self.executor.clone())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types>,
        data: Snapshot,
    ) -> Result<(), io::Error> {
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        let current = self.executor.snapshot.clone();
        let install = tokio::task::spawn_blocking(move || current.install(&data.path));
        match install.await.map_err(io::Error::other)? {
            // It is there already, or a newer one of this replica's own.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            installed => drop(installed?),
        }
        self.executor.restore().await?;
        self.executor.commit(self.last.map_or(0, |last| last.index + 1));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, Snapshot>>, io::Error> {
        Ok(current(&self.executor).await?.map(whole))
    }
}

/// The snapshot on disk.
async fn current(executor: &Handle) -> io::Result<Option<Snapshot>> {
    let current = executor.snapshot.clone();
    tokio::task::spawn_blocking(move || current.get()).await.map_err(io::Error::other)?
}

/// Connections to the slots.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    /// For votes and appends; none at the own slot.
    pub(crate) order: Vec<Option<Link>>,
    /// For commands, digests and snapshots.
    pub(crate) bulk: Vec<Option<Link>>,
    /// Counts the parts of snapshots that other replicas took.
    pub(crate) parts: Arc<AtomicU64>,
}

impl RaftNetworkFactory<Types> for Slots {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, slot: &u32) -> Peer {
        let link = |links: &[Option<Link>]| links.get(*slot as usize).cloned().flatten();
        Peer { target, order: link(&self.order), bulk: link(&self.bulk), parts: self.parts.clone() }
    }
}

/// Another replica.
#[derive(Debug)]
pub(crate) struct Peer {
    target: u64,
    order: Option<Link>,
    bulk: Option<Link>,
    parts: Arc<AtomicU64>,
}

type Rpc<T> = Result<T, RPCError<Types>>;

fn unreachable(text: &str) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(&io::Error::other(text.to_owned())))
}

impl Peer {
    async fn call<M: Message>(
        &self,
        link: Option<&Link>,
        kind: Kind,
        body: Bytes,
        patience: Duration,
    ) -> Rpc<M> {
        let link = link.ok_or_else(|| unreachable("the slot is not one of the group"))?;
        // In the slot there may be another replica by now.
        if link.connected().is_none_or(|connected| connected.hello.id != self.target) {
            return Err(unreachable("the replica is not connected"));
        }
        let answer =
            link.call(kind, body, patience).await.map_err(|error| unreachable(&error.to_string()))?;
        M::decode(answer).map_err(|error| RPCError::Network(NetworkError::new(&io::Error::other(error))))
    }

    async fn order<M: Message>(&self, kind: Kind, body: Bytes, option: &RPCOption) -> Rpc<M> {
        // Entries wait for a disk, which may be slow without being dead; a vote that is late is worth nothing.
        let patience = if kind == Kind::Append { APPEND_PATIENCE } else { option.soft_ttl() };
        self.call(self.order.as_ref(), kind, body, patience).await
    }

    async fn ballot(
        &self,
        kind: Kind,
        request: VoteRequest<Types>,
        option: &RPCOption,
    ) -> Rpc<VoteResponse<Types>> {
        let last = request.last_log_id.map(id_out);
        let ballot = Ballot { vote: vote_out(request.vote), flag: request.leadership_transfer, last };
        let answer: Ballot = self.order(kind, ballot.encode(), option).await?;
        Ok(VoteResponse::new(vote_in(answer.vote), answer.last.map(id_in), answer.flag))
    }

    async fn send_snapshot(&self, vote: Vote, snapshot: &Snapshot) -> Rpc<Vote> {
        let mut offset = snapshot.len;
        // The first question has no bytes: the answer is from where on they are wanted.
        let mut bytes = Bytes::new();
        loop {
            let part = Part { vote, id: snapshot.id, len: snapshot.len, crc: snapshot.crc, offset, bytes };
            let answer =
                self.call(self.bulk.as_ref(), Kind::SnapshotPart, part.encode(), PART_PATIENCE).await?;
            self.parts.fetch_add(1, Ordering::Relaxed);
            match answer {
                PartAnswer::Installed(vote) => return Ok(vote),
                PartAnswer::Continue(wanted) => {
                    let (file, left) = (snapshot.file.clone(), snapshot.len.saturating_sub(wanted));
                    let len = usize::try_from(left).unwrap_or(PART).min(PART);
                    let read = tokio::task::spawn_blocking(move || {
                        let mut part = vec![0; len];
                        std::os::unix::fs::FileExt::read_exact_at(&*file, &mut part, wanted).map(|()| part)
                    });
                    let read = read.await.map_err(io::Error::other).and_then(|read| read);
                    bytes = read.map_err(|error| RPCError::Network(NetworkError::new(&error)))?.into();
                    offset = wanted;
                }
            }
        }
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Snapshot;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<Types>> {
        let append = Append {
            vote: vote_out(request.vote),
            before: request.prev_log_id.map(id_out),
            committed: request.leader_commit.map(id_out),
            entries: request.entries.into_iter().map(entry_out).collect(),
        };
        Ok(match self.order(Kind::Append, append.encode(), &option).await? {
            Appended::Success => AppendEntriesResponse::Success,
            Appended::Partial(id) => AppendEntriesResponse::PartialSuccess(id.map(id_in)),
            Appended::Conflict => AppendEntriesResponse::Conflict,
            Appended::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote_in(vote)),
        })
    }

    async fn vote(&mut self, request: VoteRequest<Types>, option: RPCOption) -> Rpc<VoteResponse<Types>> {
        self.ballot(Kind::Vote, request, &option).await
    }

    async fn pre_vote(&mut self, request: VoteRequest<Types>, option: RPCOption) -> Rpc<VoteResponse<Types>> {
        self.ballot(Kind::PreVote, request, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, Snapshot>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote_out(vote), &snapshot.snapshot) => Ok(SnapshotResponse::new(vote_in(sent?))),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<Types>> {
        let last = request.last_log_id().copied().map(id_out);
        let transfer = Transfer { vote: vote_out(*request.from_leader()), node: *request.to_node_id(), last };
        let (taken, _): (u64, u64) = self.order(Kind::Transfer, transfer.encode(), &option).await?;
        if taken == 1 {
            Ok(Ok(()))
        } else {
            Err(unreachable("the replica does not take the leadership over"))
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(Duration::from_millis(30))))
    }
}
