//! The output of VMs as a stream of JSON lines.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures::stream;

use crate::cloud::local::clock;
use crate::cloud::local::home::Home;
use crate::cloud::local::keeper::Keeper;
use crate::cloud::local::link::console::{self, Follower};
use crate::cloud::local::link::journal;
use crate::cloud::local::link::log_reader::{self, LogReader};
use crate::cloud::local::wire::{Console, Logs};
use crate::cloud::{CloudError, LogLine, LogQuery};

/// How often files are read for more.
const POLL: Duration = Duration::from_millis(200);

/// How many bytes of lines are read at once of a VM.
const BATCH: usize = 256 * 1024;

/// Where a VM's lines come from.
enum Source {
    /// The files that its channel keeps.
    Files(LogReader),
    /// Its console, after lines that it has said already: a VM whose guest has no channel, or did not come so far.
    Console(Vec<LogLine>, Follower),
}

/// What the stream goes on from.
struct Progress {
    keeper: Arc<Keeper>,
    logs: Logs,
    /// No older line is wanted.
    since: Option<String>,
    /// VMs whose lines so far come first, one VM after the other.
    begun: VecDeque<Source>,
    /// VMs that are followed, those that have ended among them.
    sources: Vec<Source>,
    ready: VecDeque<LogLine>,
}

/// The body of the answer. Lines that there are come first, VM by VM in the order of their start.
pub(super) async fn stream(keeper: Arc<Keeper>, logs: Logs) -> Result<Body, CloudError> {
    let found = instances(&keeper, &logs)?;
    if let Some(instance) = &logs.query.instance
        && !found.contains_key(instance)
    {
        return Err(CloudError::not_found("VM", instance));
    }
    let since = logs
        .query
        .since_seconds
        .map(|seconds| clock::rfc3339(clock::wall().saturating_sub(seconds.saturating_mul(1000))));
    let (begun, sources, ready) = (VecDeque::new(), Vec::new(), VecDeque::new());
    let mut progress = Progress { keeper, logs, since, begun, sources, ready };
    let progress = blocking(move || {
        let mut by_start: Vec<(&String, &u64)> = found.iter().collect();
        by_start.sort_by_key(|(_, started)| **started);
        for (id, _) in by_start {
            progress.begin(id)?;
        }
        Ok(progress)
    });
    let progress = progress.await.unwrap_or_else(|panic| Err(CloudError::Store { message: panic }))?;
    Ok(Body::from_stream(stream::unfold(progress, |mut progress| async move {
        let line = progress.next().await?;
        let mut json = serde_json::to_vec(&line).expect("a line has only strings");
        json.push(b'\n');
        Some((Ok::<_, std::convert::Infallible>(json), progress))
    })))
}

/// Reads files away from the threads that answer. An error is a panic there.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|panic| panic.to_string())
}

/// VMs that are asked for: when each started.
fn instances(keeper: &Keeper, logs: &Logs) -> Result<BTreeMap<String, u64>, CloudError> {
    let state = keeper.state();
    let group = state
        .environments
        .get(&logs.environment)
        .and_then(|environment| environment.groups.get(&logs.query.group))
        .ok_or_else(|| CloudError::not_found("group", &logs.query.group))?;
    let asked = |id: &str| logs.query.instance.as_deref().is_none_or(|instance| instance == id);
    let instances = group.instances.values().filter(|record| asked(&record.id));
    Ok(instances.map(|record| (record.id.to_string(), record.started)).collect())
}

/// The runs whose lines are wanted, by container; none means all.
fn runs(folder: &Path, query: &LogQuery) -> Option<BTreeMap<String, u64>> {
    if !query.previous {
        return None;
    }
    let folder = folder.join(journal::FOLDER);
    let entries = std::fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok);
    let before = entries.filter_map(|entry| {
        let runs = journal::runs(&entry.path());
        let previous = runs.len().checked_sub(2)?;
        Some((entry.file_name().into_string().ok()?, runs[previous]))
    });
    Some(before.collect())
}

impl Progress {
    fn begin(&mut self, id: &str) -> Result<(), CloudError> {
        let folder = self.keeper.home.instance(id);
        let query = &self.logs.query;
        let source = if log_reader::exist(&folder) {
            let wanted = runs(&folder, query);
            if let Some(wanted) = &wanted
                && let Some(container) = &query.container
                && !wanted.contains_key(container)
            {
                return Err(CloudError::not_found("earlier run of", &format!("{container} in {id}")));
            }
            let reader = LogReader::new(&folder, id).only(query.container.clone(), wanted);
            Source::Files(match query.tail {
                Some(tail) => reader.tail(tail),
                None => reader,
            })
        } else {
            // Where to go on is noted before what is there is read: a line may come twice, but none is lost.
            let follower = Follower::new(folder.clone(), id.to_owned(), false);
            let mut lines = console::lines(&folder, id);
            lines.retain(|line| self.wants(line));
            let skipped = query.tail.map_or(0, |tail| lines.len().saturating_sub(tail));
            Source::Console(lines.split_off(skipped), follower)
        };
        self.begun.push_back(source);
        Ok(())
    }

    fn wants(&self, line: &LogLine) -> bool {
        let query = &self.logs.query;
        (query.container.is_none() || query.container == line.container)
            && (self.since.is_none() || line.time.is_none() || line.time >= self.since)
    }

    fn take(&mut self, lines: Vec<LogLine>) {
        let wanted: Vec<LogLine> = lines.into_iter().filter(|line| self.wants(line)).collect();
        self.ready.extend(wanted);
    }

    async fn next(&mut self) -> Option<LogLine> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if let Some(mut source) = self.begun.pop_front() {
                let read = blocking(move || {
                    let lines = source.more();
                    (source, lines)
                });
                let (source, lines) = read.await.ok()?;
                if !lines.is_empty() {
                    self.begun.push_front(source);
                    self.take(lines);
                } else if self.logs.query.follow {
                    self.sources.push(source);
                }
                continue;
            }
            if !self.logs.query.follow || self.keeper.ending.is_cancelled() {
                return None;
            }
            // The group may go while it is followed: then there is nothing more to come.
            let found = instances(&self.keeper, &self.logs).ok()?;
            let (sources, home) = (std::mem::take(&mut self.sources), self.keeper.home.clone());
            let container = self.logs.query.container.clone();
            let read = blocking(move || look(sources, &home, &found, container.as_ref()));
            let (sources, lines) = read.await.ok()?;
            self.sources = sources;
            if lines.is_empty() {
                tokio::time::sleep(POLL).await;
            }
            self.take(lines);
        }
    }
}

/// What the VMs said since the last look.
fn look(
    mut sources: Vec<Source>,
    home: &Home,
    found: &BTreeMap<String, u64>,
    container: Option<&String>,
) -> (Vec<Source>, Vec<LogLine>) {
    for id in found.keys() {
        let folder = home.instance(id);
        let files = || Source::Files(LogReader::new(&folder, id).only(container.cloned(), None));
        let source = sources.iter_mut().find(|source| source.instance() == id);
        match source {
            Some(Source::Files(_)) => {}
            // The guest has come so far that it speaks over its channel.
            Some(source) if log_reader::exist(&folder) => *source = files(),
            Some(Source::Console(..)) => {}
            None => sources.push(files()),
        }
    }
    let lines = sources.iter_mut().flat_map(Source::more).collect();
    sources.retain(|source| found.contains_key(source.instance()));
    (sources, lines)
}

impl Source {
    /// Lines that come next; none when there are no more at present.
    fn more(&mut self) -> Vec<LogLine> {
        match self {
            Self::Files(reader) => reader.more(BATCH),
            Self::Console(lines, _) if !lines.is_empty() => std::mem::take(lines),
            // A console that cannot be read any more belongs to a VM that went.
            Self::Console(_, follower) => follower.more().unwrap_or_default(),
        }
    }

    fn instance(&self) -> &str {
        match self {
            Self::Files(reader) => reader.instance(),
            Self::Console(_, follower) => follower.instance(),
        }
    }
}

/// What a VM's console said, and says until the VM is gone.
pub(super) fn console(keeper: Arc<Keeper>, asked: &Console) -> Result<Body, CloudError> {
    let folder = keeper.home.instance(&asked.instance);
    let alive =
        move |keeper: &Keeper, id: &str| keeper.state().facts().get(id).is_some_and(|facts| facts.alive);
    if !keeper.state().knows(&asked.environment, &asked.instance) {
        return Err(CloudError::not_found("VM", &asked.instance));
    }
    let start = (keeper, console::ConsoleBytes::new(&folder), asked.instance.clone());
    Ok(Body::from_stream(stream::unfold(start, move |(keeper, mut bytes, id)| async move {
        loop {
            let goes_on = alive(&keeper, &id) && !keeper.ending.is_cancelled();
            let read = blocking(move || {
                let more = bytes.more().unwrap_or_default();
                (bytes, more)
            });
            let more;
            (bytes, more) = read.await.ok()?;
            if !more.is_empty() {
                return Some((Ok::<_, std::convert::Infallible>(more), (keeper, bytes, id)));
            }
            if !goes_on {
                return None;
            }
            tokio::time::sleep(POLL).await;
        }
    })))
}
