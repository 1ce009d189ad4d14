//! What a replica does all the time: it forwards, proposes, asks for read indexes, and compares digests.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use i2kit_spec::replica::Integrity;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::command::{Batch, Command};
use crate::lock::lock;
use crate::machine::digests::Claim;
use crate::node::{Node, ReadQuestion};
use crate::order::handle::ViewRole;
use crate::order::messages::Message;
use crate::wire::frame::Kind;
use crate::wire::link::Link;

/// Commands that are forwarded at once take at most about this.
const FORWARDED: usize = 1 << 20;

/// Between two comparisons of digests.
const COMPARES: Duration = Duration::from_millis(100);

/// A leader proposes nothing while so many bytes wait for its own disk.
const MAX_PENDING: usize = 8 << 20;

/// Between two looks whether they are written.
const PENDING_PAUSE: Duration = Duration::from_millis(5);

/// Between two attempts to hand over of a leader in quarantine, or whose disk is full.
pub(crate) const HANDS_OVER: Duration = Duration::from_secs(5);

/// After so long without a commit a leader makes sure that a majority is there before it proposes: what is in its log may be
/// committed later, when the clients were told otherwise.
const CONFIRMED: Duration = Duration::from_millis(10);

/// A batch of which nothing is heard for so long is left alone: a later one may go.
const BATCH_PATIENCE: Duration = Duration::from_secs(10);

impl Node {
    /// Sends commands to the leader, and again when it changed, when its connection was made anew, or when they were not executed for
    /// long.
    pub(crate) async fn forward(self: Arc<Self>, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut view = self.order.view();
        let mut ticks = tokio::time::interval(self.timing.heartbeat);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = None;
        loop {
            tokio::select! {
                command = commands.recv() => {
                    let Some(command) = command else { return };
                    let mut gathered = vec![command];
                    let mut bytes = gathered[0].encoded_len();
                    while bytes < FORWARDED && let Ok(command) = commands.try_recv() {
                        bytes += command.encoded_len();
                        gathered.push(command);
                    }
                    self.send(gathered);
                }
                changed = view.changed() => if changed.is_err() { return },
                _ = ticks.tick() => {}
            }
            let leader = view.borrow_and_update().leader.map(|(id, slot)| (id, self.generation(slot)));
            let is_new = leader != last
                && leader.is_some_and(|(id, generation)| id == self.log.id() || generation > 0);
            last = leader;
            let due = self.shared.waiting.due(is_new);
            if !due.is_empty() {
                self.send(due);
            }
        }
    }

    /// Which connection to `slot` is up; 0 when none is.
    fn generation(&self, slot: u32) -> u64 {
        let link = self.slots.bulk.get(slot as usize).and_then(Option::as_ref);
        link.and_then(Link::connected).map_or(0, |connected| connected.generation)
    }

    /// Sends to the leader. Without one they are sent again later.
    fn send(&self, commands: Vec<Command>) {
        let leader = self.order.view().borrow().leader;
        let Some((id, slot)) = leader else { return };
        if id == self.log.id() {
            for command in commands {
                self.queue.push(command);
            }
            return;
        }
        let Some(Some(link)) = self.slots.bulk.get(slot as usize) else { return };
        let mut out = BytesMut::new();
        for command in commands {
            if !out.is_empty() && out.len() + command.encoded_len() > FORWARDED {
                link.send(Kind::Forward, out.split().freeze());
            }
            command.encode(&mut out);
        }
        link.send(Kind::Forward, out.freeze());
    }

    /// The leader's batches: one is under way, and the next leaves when it is committed.
    pub(crate) async fn propose(self: Arc<Self>) {
        let mut view = self.order.view();
        let mut number = 0;
        let mut confirmed: Option<Instant> = None;
        loop {
            let commands = self.queue.next(self.settings.deadline()).await;
            while self.leads()
                && (confirmed.is_none_or(|at| at.elapsed() > CONFIRMED)
                    || !self.has_quorum(&view.borrow().members))
            {
                if self.order.read_index(self.timing.round()).await.is_some() {
                    confirmed = Some(Instant::now());
                } else {
                    tokio::time::sleep(self.timing.heartbeat).await;
                }
            }
            if !self.leads() {
                // Who waits for them sends them to the next leader.
                self.queue.clear();
                continue;
            }
            // Followers may commit faster than this disk writes.
            while self.log.pending() > MAX_PENDING {
                tokio::time::sleep(PENDING_PAUSE).await;
            }
            if self.log_is_full() {
                // Who has a client says why, or the deadline does.
                self.queue.clear();
                continue;
            }
            number += 1;
            let claim = lock(&self.shared.digests).claims()[0].unwrap_or_default();
            self.metrics.proposed(commands.len() as u64);
            let proposer = self.shared.waiting.origin();
            let batch =
                Batch { time: self.shared.waiting.time(self.now_ms()), claim, proposer, number, commands };
            let Ok(committed) = self.order.propose(batch.encode()).await else { return };
            drop(batch);
            view.mark_unchanged();
            let deposed = async {
                while view.changed().await.is_ok() {
                    if view.borrow_and_update().role != ViewRole::Leader {
                        return;
                    }
                }
            };
            confirmed = tokio::select! {
                () = committed => Some(Instant::now()),
                () = deposed => None,
                () = tokio::time::sleep(BATCH_PATIENCE) => None,
            };
        }
    }

    /// One round of the leader serves all reads that came before it.
    pub(crate) async fn answer_reads(self: Arc<Self>, mut questions: mpsc::UnboundedReceiver<ReadQuestion>) {
        while let Some(gathered) = gather(&mut questions).await {
            let index = if self.leads() { self.order.read_index(self.timing.round()).await } else { None };
            answer(gathered, index);
        }
    }

    /// One question to the leader serves all reads of this replica that came before it.
    pub(crate) async fn ask_reads(self: Arc<Self>, mut questions: mpsc::UnboundedReceiver<ReadQuestion>) {
        while let Some(gathered) = gather(&mut questions).await {
            let index = self.ask_leader().await;
            answer(gathered, index);
        }
    }

    async fn ask_leader(&self) -> Option<u64> {
        let (id, slot) = self.order.view().borrow().leader?;
        if id == self.log.id() {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            self.gate.send(sender).ok()?;
            return receiver.await.ok()?;
        }
        let link = self.slots.order.get(slot as usize)?.as_ref()?;
        let answer = link.call(Kind::ReadIndex, Bytes::new(), self.timing.round() * 2).await.ok()?;
        let (is_known, index) = <(u64, u64)>::decode(answer).ok()?;
        (is_known == 1).then_some(index)
    }

    /// Tells the other replicas this one's digests, and leaves the lead when they differ.
    pub(crate) async fn compare(self: Arc<Self>) {
        let integrity = self.settings.config.integrity;
        if integrity == Integrity::Off {
            return;
        }
        let mut progress = self.executor.progress.clone();
        let mut told = [None; 2];
        let (mut reported, mut reported_undecided) = (false, false);
        let mut handed_over = None;
        loop {
            if integrity == Integrity::Compare {
                tokio::time::sleep(COMPARES).await;
            } else {
                // Replies wait for it; a tick repeats what was lost.
                drop(tokio::time::timeout(COMPARES, progress.changed()).await);
                told = [None; 2];
            }
            let (claims, undecided) = {
                let digests = lock(&self.shared.digests);
                (digests.claims(), digests.undecided_at())
            };
            self.tell(claims.iter().filter(|claim| !told.contains(claim)).flatten());
            self.answer_digests();
            told = claims;
            if let Some(at) = undecided.filter(|_| !reported_undecided) {
                crate::report!(
                    "at entry {at} no majority of the replicas has the same replies: the application is not deterministic, or answers with something that                      differs by its nature; see i2kit.dev/replicated-volatile and i2kit.dev/replicated-integrity, and do not replace disks"
                );
                reported_undecided = true;
            }
            let Some(at) = self.diverged_at() else { continue };
            if !reported {
                crate::report!(
                    "the replies at entry {at} differ from those of a majority: this replica is quarantined; replace this slot's disk, and it joins anew"
                );
                reported = true;
            }
            if self.leads() && handed_over.is_none_or(|at: Instant| at.elapsed() > HANDS_OVER) {
                handed_over = Some(Instant::now());
                let is_right = |id| lock(&self.shared.digests).is_right(id);
                drop(self.order.hand_over(self.log.id(), is_right).await);
            }
        }
    }

    /// Tells all other replicas this one's digests.
    fn tell<'a>(&self, claims: impl Iterator<Item = &'a Claim>) {
        for claim in claims {
            let body = claim.encode();
            let links = self.slots.bulk.iter().flatten();
            links.for_each(|link| link.send(Kind::Digest, body.clone()));
        }
    }

    /// Where another replica differs, all are told what this one has there: so they find out who is the odd one.
    pub(crate) fn answer_digests(&self) {
        let answers = lock(&self.shared.digests).answers();
        self.tell(answers.iter());
    }
}

/// Answers all questions. Who does not wait any more is no concern here.
fn answer(questions: Vec<ReadQuestion>, index: Option<u64>) {
    for question in questions {
        let _ = question.send(index);
    }
}

/// All questions that wait; waits for the first. None when nobody can ask any more.
async fn gather(questions: &mut mpsc::UnboundedReceiver<ReadQuestion>) -> Option<Vec<ReadQuestion>> {
    let mut gathered = vec![questions.recv().await?];
    while let Ok(question) = questions.try_recv() {
        gathered.push(question);
    }
    Some(gathered)
}
