//! The output of VMs as a stream of JSON lines.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures::stream;

use crate::cloud::local::console::{self, Follower};
use crate::cloud::local::keeper::Keeper;
use crate::cloud::local::wire::Logs;
use crate::cloud::{CloudError, LogLine};
use crate::plan::fleet::InstanceState;

/// How often consoles are read for more.
const POLL: Duration = Duration::from_millis(200);

/// What the stream goes on from.
struct Progress {
    keeper: Arc<Keeper>,
    logs: Logs,
    followers: Vec<Follower>,
    ready: VecDeque<LogLine>,
}

/// The body of the answer. Lines that there are come first, VM by VM in the order of their start.
pub(super) fn stream(keeper: Arc<Keeper>, logs: Logs) -> Result<Body, CloudError> {
    let query = &logs.query;
    let found = instances(&keeper, &logs)?;
    if let Some(instance) = &query.instance
        && !found.contains_key(instance)
    {
        return Err(CloudError::not_found("VM", instance));
    }
    let mut ready = VecDeque::new();
    let mut followers = Vec::new();
    let mut by_start: Vec<(&String, &(u64, bool))> = found.iter().collect();
    by_start.sort_by_key(|(_, (started, _))| *started);
    for (id, (_, running)) in by_start {
        let folder = keeper.home.instance(id);
        // Where to go on is noted before what is there is read: a line may come twice, but none is lost.
        if query.follow && *running {
            followers.push(Follower::new(folder.clone(), id.clone(), false));
        }
        let mut lines = console::lines(&folder, id);
        lines.retain(|line| wanted(&logs, line));
        let skipped = query.tail.map_or(0, |tail| lines.len().saturating_sub(tail));
        ready.extend(lines.into_iter().skip(skipped));
    }
    let progress = Progress { keeper, logs, followers, ready };
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

fn wanted(logs: &Logs, line: &LogLine) -> bool {
    logs.query.container.is_none() || logs.query.container == line.container
}

impl Progress {
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
            for id in found.keys() {
                if self.followers.iter().all(|follower| follower.instance() != id) {
                    let folder = self.keeper.home.instance(id);
                    self.followers.push(Follower::new(folder, id.clone(), true));
                }
            }
            for follower in &mut self.followers {
                // A console that cannot be read any more belongs to a VM that went.
                let lines = follower.more().unwrap_or_default();
                self.ready.extend(lines.into_iter().filter(|line| wanted(&self.logs, line)));
            }
            self.followers.retain(|follower| found.contains_key(follower.instance()));
        }
    }
}
