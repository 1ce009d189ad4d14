//! The one task that executes: it reads committed entries from the log, gives their commands to the application in order, and
//! captures and restores its state. When the application's place in the order is not known, it begins anew from the last snapshot
//! and reads the log again.
//!
//! The order says by [`Handle::commit`] how far it may go, and [`Progress`] says how far it is. Neither waits for the other.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use i2kit_spec::replica::{Integrity, ReplicaConfig};
use tokio::sync::{mpsc, oneshot, watch};
use xxhash_rust::xxh3::Xxh3;

use super::connection::{Broken, Connection, Prepared};
use super::digests::{Chain, Digests};
use super::snapshot::{self, Head, Snapshot};
use super::stall::Stall;
use super::tables::Verdict;
use super::waiting::{Done, Waiting};
use crate::command::{Batch, Command};
use crate::front::{Agreed, Framer, Outcome, Reply, ReplyError};
use crate::log::{Damage, Entry, EntryId, Log, Members, Options, Payload};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::state::{Application, StateError};

/// Entries that are read from the log at a time take at most about this.
const READ: usize = 512 << 10;

/// The shortest and the longest pause before an application that failed is started again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How far this replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    /// Index of the first entry that is not executed.
    pub(crate) next: u64,
    /// Counts the lives of the application; while it is started anew, there is none.
    pub(crate) life: Option<u64>,
}

/// Why the executor cannot go on; the process ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecutorError {
    /// The log.
    #[error(transparent)]
    Log(#[from] Damage),
    /// An entry of another version.
    #[error("entry {0} of the log cannot be read: {1}")]
    Entry(u64, crate::command::CommandError),
    /// The volume of the state.
    #[error(transparent)]
    State(StateError),
    /// The snapshot.
    #[error("{0}; replace this slot's disk, the replica joins anew")]
    Snapshot(#[from] std::io::Error),
}

/// What the executor is asked.
enum Message {
    Capture(oneshot::Sender<std::io::Result<Snapshot>>),
    Restore(oneshot::Sender<()>),
}

/// How the order speaks to the executor.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    committed: Arc<watch::Sender<u64>>,
    messages: mpsc::UnboundedSender<Message>,
    /// How far it is.
    pub(crate) progress: watch::Receiver<Progress>,
    /// The snapshot.
    pub(crate) snapshot: Arc<snapshot::Current>,
}

impl Handle {
    /// Entries before `end` may be executed.
    pub(crate) fn commit(&self, end: u64) {
        self.committed.send_if_modified(|committed| {
            let is_more = end > *committed;
            *committed = end.max(*committed);
            is_more
        });
    }

    /// Captures the state where it is now.
    pub(crate) async fn capture(&self) -> std::io::Result<Snapshot> {
        let (sender, receiver) = oneshot::channel();
        drop(self.messages.send(Message::Capture(sender)));
        receiver.await.unwrap_or_else(|_| Err(std::io::Error::other("the executor has ended")))
    }

    /// Begins anew from the snapshot on disk, which another replica made; returns when no older entry is read any more.
    pub(crate) async fn restore(&self) -> std::io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        drop(self.messages.send(Message::Restore(sender)));
        receiver.await.map_err(|_| std::io::Error::other("the executor has ended"))
    }
}

/// The parts of a replica that the executor shares with others.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    /// Its clients.
    pub(crate) waiting: Arc<Waiting>,
    /// Its digests, and the others'.
    pub(crate) digests: Arc<Mutex<Digests>>,
    /// What it counts.
    pub(crate) metrics: Arc<Metrics>,
    /// What it waits for.
    pub(crate) stall: Arc<Stall>,
    /// Replies on their way to its clients.
    pub(crate) memory: Memory,
}

/// The task.
pub(crate) struct Executor {
    log: Log,
    config: Arc<ReplicaConfig>,
    framer: Framer,
    application: Application,
    connection: Connection,
    shared: Shared,
    folder: PathBuf,
    snapshot: Arc<snapshot::Current>,
    messages: mpsc::UnboundedReceiver<Message>,
    committed: watch::Receiver<u64>,
    progress: watch::Sender<Progress>,
    /// The state of the machine after the last entry that was executed.
    head: Head,
    next: u64,
    life: u64,
    pause: Duration,
}

/// A command of an entry that is under way.
struct Step {
    index: u64,
    /// None at the end of an entry.
    command: Option<(Command, Verdict)>,
}

impl Executor {
    /// The task and its handle.
    pub(crate) fn new(
        log: Log,
        config: Arc<ReplicaConfig>,
        application: Application,
        shared: Shared,
        folder: PathBuf,
    ) -> (Self, Handle) {
        let framer = Framer::new(config.protocol, &config.volatile);
        let connection =
            Connection::new(config.app_port, framer.clone(), config.limits.clone(), config.depth);
        let (sender, messages) = mpsc::unbounded_channel();
        let (committed_sender, committed) = watch::channel(0);
        let (progress, progress_receiver) = watch::channel(Progress::default());
        let snapshot = Arc::new(snapshot::Current::new(&folder));
        let handle = Handle {
            committed: Arc::new(committed_sender),
            messages: sender,
            progress: progress_receiver,
            snapshot: snapshot.clone(),
        };
        let executor = Self {
            log,
            config,
            framer,
            application,
            connection,
            shared,
            folder,
            snapshot,
            messages,
            committed,
            progress,
            head: Head::default(),
            next: 0,
            life: 0,
            pause: PAUSES.0,
        };
        (executor, handle)
    }

    /// Executes until nobody asks any more.
    pub(crate) async fn run(mut self) -> Result<(), ExecutorError> {
        let mut ready = false;
        loop {
            if !ready {
                self.begin_anew().await?;
                ready = true;
            }
            let end = *self.committed.borrow_and_update();
            if self.next < end {
                match self.execute(end).await? {
                    Ok(()) => self.pause = PAUSES.0,
                    Err(broken) => {
                        crate::report!(
                            "at entry {} of the log: {broken}; the application begins anew",
                            self.next
                        );
                        ready = false;
                    }
                }
                if let Ok(message) = self.messages.try_recv() {
                    ready = self.answer(message).await && ready;
                }
                continue;
            }
            tokio::select! {
                changed = self.committed.changed() => if changed.is_err() { return Ok(()) },
                message = self.messages.recv() => match message {
                    Some(message) => ready = self.answer(message).await,
                    None => return Ok(()),
                },
                rested = self.connection.rests() => if let Err(broken) = rested {
                    crate::report!("after entry {} of the log: {broken}; the application begins anew", self.next);
                    ready = false;
                },
            }
        }
    }

    /// Answers, and says whether the application is still where it should be.
    async fn answer(&mut self, message: Message) -> bool {
        match message {
            Message::Capture(sender) => self.capture(sender).await,
            Message::Restore(sender) => {
                // Nothing older is read from here on: the next step is the snapshot.
                self.progress.send_replace(Progress { next: 0, life: None });
                let _ = sender.send(());
                false
            }
        }
    }

    /// Captures the state, and says whether the application goes on; syncing it to the disk does not hold commands up.
    async fn capture(&mut self, sender: oneshot::Sender<std::io::Result<Snapshot>>) -> bool {
        let begun = Instant::now();
        let mut goes_on = true;
        let file = match self.capture_now(&mut goes_on).await {
            Ok(file) => file,
            Err(error) => {
                snapshot::discard(&self.folder);
                drop(sender.send(Err(error)));
                return goes_on;
            }
        };
        let (current, head, metrics) =
            (self.snapshot.clone(), self.head.clone(), self.shared.metrics.clone());
        let spare = Options::spare(self.config.limits.log_bytes.0);
        tokio::task::spawn_blocking(move || {
            let made = current.finish(file, &head, spare);
            metrics.captured(begun.elapsed());
            drop(sender.send(made));
        });
        goes_on
    }

    async fn capture_now(&mut self, goes_on: &mut bool) -> std::io::Result<File> {
        if self.next == 0 {
            return Err(std::io::Error::other("nothing is executed yet"));
        }
        // It will be about as long as the one before.
        let before = std::fs::metadata(snapshot::path(&self.folder)).map_or(0, |metadata| metadata.len());
        snapshot::has_room(&self.folder, before, Options::spare(self.config.limits.log_bytes.0))?;
        self.head.kind = snapshot::kind(&self.config.state);
        let mut file = snapshot::begin(&self.folder, &self.head)?;
        let stall = self.shared.stall.clone();
        let captured =
            stall.watch(self.next, "the snapshot before it is not done", self.application.capture(&mut file));
        captured.await.map_err(|error| {
            // It stands, and would do so for ever: it begins anew.
            *goes_on = !matches!(error, StateError::Frozen(_));
            std::io::Error::other(error)
        })?;
        Ok(file)
    }

    /// Starts the application from the last snapshot, or empty, again and again until it succeeds.
    async fn begin_anew(&mut self) -> Result<(), ExecutorError> {
        self.progress.send_replace(Progress { next: 0, life: None });
        self.connection.reset();
        self.shared.waiting.drop_held();
        loop {
            let path = snapshot::path(&self.folder);
            let started = if path.exists() {
                let opened = tokio::task::spawn_blocking(move || snapshot::open(&path)).await;
                let (snapshot, head) = opened.map_err(std::io::Error::other)??;
                self.next = head.id.index + 1;
                self.head = head;
                self.shared.waiting.agreed(self.head.time_ms);
                self.digests().members(voters(&self.head.members));
                let mut file = snapshot.file.try_clone()?;
                let (stall, next) = (self.shared.stall.clone(), self.next);
                stall
                    .watch(next, "the application does not listen", self.application.restart_from(&mut file))
                    .await
            } else {
                let chain = Chain::of(self.config.revision);
                (self.next, self.head) = (0, Head { chain, ..Head::default() });
                let stall = self.shared.stall.clone();
                stall.watch(0, "the application does not listen", self.application.restart_empty()).await
            };
            self.digests().restart();
            let error = match started {
                Ok(()) => match self.connection.connect().await {
                    Ok(()) => break,
                    Err(broken) => broken.to_string(),
                },
                // Only who runs the group can say what becomes of the files.
                Err(error @ StateError::NotOurs(_)) => return Err(ExecutorError::State(error)),
                Err(error) => error.to_string(),
            };
            crate::report!("the application does not begin anew: {error}; it is tried again");
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(PAUSES.1);
        }
        self.life += 1;
        // An application that a command kills is not started in a loop without a pause.
        if self.life > 1 {
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(PAUSES.1);
        }
        self.progress.send_replace(Progress { next: self.next, life: Some(self.life) });
        Ok(())
    }

    fn digests(&self) -> std::sync::MutexGuard<'_, Digests> {
        self.shared.digests.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Executes some of the entries before `end`.
    async fn execute(&mut self, end: u64) -> Result<Result<(), Broken>, ExecutorError> {
        let entries = self.log.fetch(self.next, end, READ).await?;
        match entries.first() {
            Some(first) if first.id.index == self.next => {}
            first => {
                let found = first.map_or(0, |entry| entry.id.index);
                return Err(Damage::Hole { wanted: self.next, found }.into());
            }
        }
        let (mut steps, mut prepared) = (Vec::new(), Vec::new());
        for entry in &entries {
            self.prepare(entry, &mut steps, &mut prepared)?;
        }
        let duplicates =
            steps.iter().filter(|step| matches!(step.command, Some((_, Verdict::Again | Verdict::Stored))));
        let duplicates = duplicates.count() as u64;
        let begun = Instant::now();
        let mut applying = Applying {
            steps: steps.into_iter(),
            head: &mut self.head,
            shared: &self.shared,
            framer: &self.framer,
            revision: self.config.revision,
            holds: self.config.integrity == Integrity::Quorum,
        };
        let count = prepared.len();
        if count > 0 {
            let (stall, first) = (self.shared.stall.clone(), applying.waits_for().unwrap_or(self.next));
            let run = self.connection.run(&prepared, |reply| applying.reply(reply));
            let run = stall.watch(first, "no reply of the application", run).await;
            if let Err(broken) = run {
                return Ok(Err(broken));
            }
        }
        applying.finish();
        if count > 0 {
            self.shared.metrics.answered(begun.elapsed());
        }
        self.shared.metrics.executed(count as u64, duplicates);
        if let Some(last) = entries.last() {
            self.head.id = last.id;
            self.next = last.id.index + 1;
        }
        if entries.iter().any(|entry| matches!(entry.payload, Payload::Batch(_))) {
            self.shared.waiting.agreed(self.head.time_ms);
        }
        self.progress.send_replace(Progress { next: self.next, life: Some(self.life) });
        Ok(Ok(()))
    }

    /// Decides on the commands of an entry.
    fn prepare(
        &mut self,
        entry: &Entry,
        steps: &mut Vec<Step>,
        prepared: &mut Vec<Prepared>,
    ) -> Result<(), ExecutorError> {
        let index = entry.id.index;
        match &entry.payload {
            Payload::Blank => {}
            Payload::Members(members) => {
                self.head.members = members.clone();
                self.digests().members(voters(members));
                self.head.members_id = Some(entry.id);
            }
            Payload::Batch(bytes) => {
                let batch =
                    Batch::decode(bytes.clone()).map_err(|error| ExecutorError::Entry(index, error))?;
                self.head.time_ms = self.head.time_ms.max(batch.time);
                if batch.claim.index > 0
                    && entry.id.leader != self.log.id()
                    && self.config.integrity != Integrity::Off
                {
                    self.digests().heard(entry.id.leader, batch.claim);
                }
                for (position, command) in (0..).zip(batch.commands) {
                    let fingerprint =
                        if command.key.is_empty() { 0 } else { self.framer.fingerprint(&command.payload) };
                    let verdict = self.head.tables.admit(&command, fingerprint, self.head.time_ms);
                    if verdict == Verdict::Run {
                        let agreed = self.agreed(entry.id, position);
                        let shape = self.framer.shape(&command.payload);
                        let bytes = self.framer.stamp(&command.payload, command.head, &agreed);
                        prepared.push(Prepared { bytes, shape });
                    }
                    steps.push(Step { index, command: Some((command, verdict)) });
                }
            }
        }
        steps.push(Step { index, command: None });
        Ok(())
    }

    /// What all replicas agree on about the command at `position` of an entry.
    fn agreed(&self, id: EntryId, position: u32) -> Agreed {
        let mut hash = Xxh3::new();
        hash.update(self.config.group.as_bytes());
        hash.update(&id.index.to_le_bytes());
        hash.update(&position.to_le_bytes());
        Agreed { time_ms: self.head.time_ms, index: id.index, position, seed: hash.digest() }
    }
}

/// Whose digests count: those who vote once a change of members is done.
fn voters(members: &Members) -> impl Iterator<Item = u64> + use<'_> {
    members.configs.last().into_iter().flatten().copied()
}

/// What happens as replies come in.
struct Applying<'a> {
    steps: std::vec::IntoIter<Step>,
    head: &'a mut Head,
    shared: &'a Shared,
    framer: &'a Framer,
    /// The application's.
    revision: u64,
    /// Whether replies wait for a majority.
    holds: bool,
}

impl Applying<'_> {
    /// The reply to the next command that was executed.
    fn reply(&mut self, reply: Result<Reply, ReplyError>) {
        while let Some(step) = self.steps.next() {
            if let Some((command, Verdict::Run)) = step.command {
                let (bytes, digest) = match reply {
                    Ok(reply) => (reply.bytes, reply.digest),
                    // It was executed, and no replica has a reply to it.
                    Err(error) => (self.framer.error(Outcome::Executed, &error.to_string()), u64::MAX),
                };
                self.head.chain.add(self.revision, step.index, digest);
                if !command.key.is_empty() {
                    self.head.tables.store(&command.key, &bytes);
                }
                self.done(step.index, &command, Done::Reply(bytes));
                self.shared.stall.step(self.waits_for().unwrap_or(step.index));
                return;
            }
            self.pass(&step);
        }
    }

    /// The entry whose reply is next.
    fn waits_for(&self) -> Option<u64> {
        let is_due = |step: &&Step| matches!(step.command, Some((_, Verdict::Run)));
        self.steps.as_slice().iter().find(is_due).map(|step| step.index)
    }

    /// All replies are in.
    fn finish(&mut self) {
        while let Some(step) = self.steps.next() {
            self.pass(&step);
        }
    }

    /// A step without a reply of its own.
    fn pass(&mut self, step: &Step) {
        match &step.command {
            None => {
                let claim = self.head.chain.claim(self.revision, step.index);
                let mut digests =
                    self.shared.digests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                digests.executed(claim);
                let agreed = digests.agreed();
                drop(digests);
                if self.holds {
                    self.shared.waiting.release(agreed);
                }
            }
            Some((command, Verdict::Late)) => self.done(step.index, command, Done::Late),
            Some((command, Verdict::Another)) => self.done(step.index, command, Done::Another),
            Some((command, Verdict::Stored)) => {
                let stored = self.head.tables.stored(&command.key);
                let lost = Done::Lost("its Idempotency-Key was seen before, and the reply is no longer kept");
                self.done(step.index, command, stored.map_or(lost, Done::Reply));
            }
            Some((_, Verdict::Again | Verdict::Run)) => {}
        }
    }

    fn done(&self, index: u64, command: &Command, done: Done) {
        if command.origin != self.shared.waiting.origin() {
            return;
        }
        let done = match done {
            Done::Reply(reply) => match self.shared.memory.keep(&reply) {
                Some(reply) => Done::Reply(reply),
                None => Done::Lost("too many long replies are on their way to clients that do not read them"),
            },
            done => done,
        };
        self.shared.waiting.done(index, command.seq, done, self.holds);
    }
}
