//! The output of VMs as a stream of JSON lines.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures::stream;

use crate::cloud::local::console::{self, Follower};
use crate::cloud::local::keeper::Keeper;
use crate::cloud::local::lines::{self, Reader, Run};
use crate::cloud::local::wire::{Console, Logs};
use crate::cloud::local::{channel, clock};
use crate::cloud::{CloudError, LogLine, LogQuery};
use crate::plan::fleet::InstanceState;

/// How often files are read for more.
const POLL: Duration = Duration::from_millis(200);

/// Where a VM's lines come from.
enum Source {
    /// The files that its channel keeps.
    Files(Reader),
    /// Its console: a VM whose guest has no channel, or did not come so far.
    Console(Follower),
}

/// What the stream goes on from.
struct Progress {
    keeper: Arc<Keeper>,
    logs: Logs,
    /// No older line is wanted.
    since: Option<String>,
    sources: Vec<Source>,
    ready: VecDeque<LogLine>,
}

/// The body of the answer. Lines that there are come first, VM by VM in the order of their start.
pub(super) fn stream(keeper: Arc<Keeper>, logs: Logs) -> Result<Body, CloudError> {
    let found = instances(&keeper, &logs)?;
    if let Some(instance) = &logs.query.instance
        && !found.contains_key(instance)
    {
        return Err(CloudError::not_found("VM", instance));
    }
    let since =
        logs.query.since_seconds.map(|seconds| clock::rfc3339(clock::wall().saturating_sub(seconds * 1000)));
    let mut progress = Progress { keeper, logs, since, sources: Vec::new(), ready: VecDeque::new() };
    let mut by_start: Vec<(&String, &(u64, bool))> = found.iter().collect();
    by_start.sort_by_key(|(_, (started, _))| *started);
    for (id, (_, running)) in by_start {
        progress.begin(id, *running)?;
    }
    Ok(Body::from_stream(stream::unfold(progress, |mut progress| async move {
        let line = progress.next().await?;
        let mut json = serde_json::to_vec(&line).expect("a line has only strings");
        json.push(b'\n');
        Some((Ok::<_, std::convert::Infallible>(json), progress))
    })))
}

/// VMs that are asked for: when each started, and whether it may still say something.
fn instances(keeper: &Keeper, logs: &Logs) -> Result<BTreeMap<String, (u64, bool)>, CloudError> {
    let state = keeper.state();
    let group = state
        .environments
        .get(&logs.environment)
        .and_then(|environment| environment.groups.get(&logs.query.group))
        .ok_or_else(|| CloudError::not_found("group", &logs.query.group))?;
    let asked = |id: &str| logs.query.instance.as_deref().is_none_or(|instance| instance == id);
    let instances = group.instances.values().filter(|record| asked(&record.id));
    Ok(instances
        .map(|record| (record.id.clone(), (record.started, record.state != InstanceState::Ended)))
        .collect())
}

/// The runs whose lines are wanted, by container; none means all.
fn runs(folder: &Path, query: &LogQuery) -> Option<BTreeMap<String, u64>> {
    if !query.previous {
        return None;
    }
    let folder = folder.join(channel::FOLDER);
    let entries = std::fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok);
    let before = entries.filter_map(|entry| {
        let runs = channel::runs(&entry.path());
        let previous = runs.len().checked_sub(2)?;
        Some((entry.file_name().into_string().ok()?, runs[previous]))
    });
    Some(before.collect())
}

impl Progress {
    fn begin(&mut self, id: &str, running: bool) -> Result<(), CloudError> {
        let folder = self.keeper.home.instance(id);
        let query = &self.logs.query;
        let mut lines = if lines::exist(&folder) {
            let mut reader = Reader::new(&folder, id);
            let wanted = runs(&folder, query);
            if let Some(wanted) = &wanted
                && let Some(container) = &query.container
                && !wanted.contains_key(container)
            {
                return Err(CloudError::not_found("earlier run of", &format!("{container} in {id}")));
            }
            let runs = reader.more();
            if running {
                self.sources.push(Source::Files(reader));
            }
            let is_wanted = |(run, line): &Run| match (&wanted, &line.container) {
                (None, _) => true,
                (Some(wanted), Some(container)) => wanted.get(container) == Some(run),
                (Some(_), None) => false,
            };
            runs.into_iter().filter(is_wanted).map(|(_, line)| line).collect()
        } else {
            // Where to go on is noted before what is there is read: a line may come twice, but none is lost.
            if running {
                self.sources.push(Source::Console(Follower::new(folder.clone(), id.to_owned(), false)));
            }
            console::lines(&folder, id)
        };
        lines.retain(|line| self.wants(line));
        let skipped = self.logs.query.tail.map_or(0, |tail| lines.len().saturating_sub(tail));
        self.ready.extend(lines.into_iter().skip(skipped));
        Ok(())
    }

    fn wants(&self, line: &LogLine) -> bool {
        let query = &self.logs.query;
        (query.container.is_none() || query.container == line.container)
            && (self.since.is_none() || line.time.is_none() || line.time >= self.since)
    }

    async fn next(&mut self) -> Option<LogLine> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if !self.logs.query.follow || self.keeper.ending.is_cancelled() {
                return None;
            }
            tokio::time::sleep(POLL).await;
            // The group may go while it is followed: then there is nothing more to come.
            let found = instances(&self.keeper, &self.logs).ok()?;
            self.look(&found);
        }
    }

    fn look(&mut self, found: &BTreeMap<String, (u64, bool)>) {
        for id in found.keys() {
            let folder = self.keeper.home.instance(id);
            let source = self.sources.iter_mut().find(|source| source.instance() == id);
            match source {
                Some(Source::Files(_)) => {}
                // The guest has come so far that it speaks over its channel.
                Some(source) if lines::exist(&folder) => *source = Source::Files(Reader::new(&folder, id)),
                Some(Source::Console(_)) => {}
                None => self.sources.push(Source::Files(Reader::new(&folder, id))),
            }
        }
        let mut lines = Vec::new();
        for source in &mut self.sources {
            match source {
                Source::Files(reader) => lines.extend(reader.more().into_iter().map(|(_, line)| line)),
                // A console that cannot be read any more belongs to a VM that went.
                Source::Console(follower) => lines.extend(follower.more().unwrap_or_default()),
            }
        }
        lines.retain(|line| self.wants(line));
        self.ready.extend(lines);
        self.sources.retain(|source| found.contains_key(source.instance()));
    }
}

impl Source {
    fn instance(&self) -> &str {
        match self {
            Self::Files(reader) => reader.instance(),
            Self::Console(follower) => follower.instance(),
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
    let start = (keeper, console::Bytes::new(&folder), asked.instance.clone());
    Ok(Body::from_stream(stream::unfold(start, move |(keeper, mut bytes, id)| async move {
        loop {
            let goes_on = alive(&keeper, &id) && !keeper.ending.is_cancelled();
            let more = bytes.more().unwrap_or_default();
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
