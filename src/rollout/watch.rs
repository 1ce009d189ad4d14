//! Waiting for a group: follows its cloud's updates, reports what changed, and ends when the group is what it should be
//! or will not become it.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use super::RolloutError;
use crate::cloud::{Cloud, CloudError, Scope, Update, Updates};
use crate::manifest::api::Name;
use crate::plan::fleet::{Change, InstanceGroup, Refresh, RefreshStatus, count};
use crate::report::{Event, Events};

/// What is waited for.
pub(super) struct Goal<'p> {
    pub(super) group: &'p Name,
    pub(super) revision: u32,
    pub(super) replicas: u32,
    pub(super) deadline: Duration,
    /// How long looks at the cloud may fail, one after the other, before the wait fails.
    pub(super) patience: Duration,
    /// Whether this run started the refresh: then its end, however early, is this run's result.
    pub(super) started_here: bool,
}

/// The pause after a look at the cloud that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// Waits until the group has exactly the wanted VMs, all healthy.
pub(super) async fn until_settled(
    goal: &Goal<'_>,
    cloud: &dyn Cloud,
    events: &Events,
) -> Result<(), RolloutError> {
    let mut sight = Sight::new(goal, cloud);
    let mut ours = goal.started_here;
    let mut nearness = Nearness::new();
    let mut refreshing = true;
    let mut group: Option<InstanceGroup> = None;
    loop {
        // A refresh under way has a deadline of its own, which the cloud keeps.
        let next = if refreshing {
            Ok(sight.next(events).await)
        } else {
            timeout_at(nearness.since + goal.deadline, sight.next(events)).await
        };
        if let Ok(update) = next {
            let Update { fleet, changes } = update?;
            changes.into_iter().filter_map(event).for_each(|event| events.emit(event));
            let Some(found) = fleet.groups.into_iter().next() else {
                return Err(RolloutError::Deleted { group: goal.group.clone() });
            };
            nearness.update(&found, goal.replicas);
            let verdict = judge(goal, &found, ours)?;
            if verdict == Verdict::Settled {
                return Ok(());
            }
            refreshing = verdict == Verdict::Refreshing;
            ours |= refreshing;
            if refreshing {
                nearness = Nearness::new();
            }
            group = Some(found);
        }
        if let Some(group) = &group
            && !refreshing
            && nearness.since.elapsed() >= goal.deadline
        {
            return Err(RolloutError::TimedOut {
                group: goal.group.clone(),
                healthy: group.healthy(),
                replicas: goal.replicas,
                seconds: u32::try_from(goal.deadline.as_secs()).unwrap_or(u32::MAX),
                reason: group.complaints() + &causes(cloud, goal.group).await,
            });
        }
    }
}

/// The updates of the group. Looks that fail are passed over for a while: a wait of minutes does not end with one of them.
struct Sight<'s> {
    goal: &'s Goal<'s>,
    cloud: &'s dyn Cloud,
    updates: Updates<'s>,
    /// When the first of the looks failed that have failed since the last update.
    failing: Option<Instant>,
}

impl<'s> Sight<'s> {
    fn new(goal: &'s Goal<'s>, cloud: &'s dyn Cloud) -> Self {
        let updates = cloud.watch(&Scope::Group(goal.group.clone()));
        Self { goal, cloud, updates, failing: None }
    }

    /// The next update.
    async fn next(&mut self, events: &Events) -> Result<Update, RolloutError> {
        loop {
            let error = match self.updates.next().await {
                Some(Ok(update)) => {
                    self.failing = None;
                    return Ok(update);
                }
                Some(Err(error)) => error,
                // A cloud that cannot go on with a watch begins another one.
                None => {
                    self.updates = self.cloud.watch(&Scope::Group(self.goal.group.clone()));
                    CloudError::Unreachable { message: "its updates ended".into() }
                }
            };
            let since = self.failing.unwrap_or_else(Instant::now);
            if !error.is_transient() || since.elapsed() >= self.goal.patience {
                return Err(failed_to_watch(self.goal, error));
            }
            if self.failing.replace(since).is_none() {
                events.warn(format!("{} is still waited for: {error}", self.goal.group));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// How near a group ever came to what it should be, and when it last came nearer. VMs that fail and are replaced, over
/// and over, do not bring it nearer.
struct Nearness {
    best: Option<(u32, u32)>,
    since: Instant,
}

impl Nearness {
    fn new() -> Self {
        Self { best: None, since: Instant::now() }
    }

    /// VMs that are not healthy count first, then those that are missing or too many.
    fn update(&mut self, group: &InstanceGroup, replicas: u32) {
        let members = count(group.members());
        let now = (replicas.saturating_sub(group.healthy()), members.abs_diff(replicas));
        if self.best.is_none_or(|best| now < best) {
            *self = Self { best: Some(now), since: Instant::now() };
        }
    }
}

/// What the cloud knows of why the group's VMs do not become healthy: a line each, each after a line feed.
async fn causes(cloud: &dyn Cloud, group: &Name) -> String {
    // There is an error to report already: what cannot be found out is left out.
    let fleet = cloud.inspect(&Scope::Detailed).await.unwrap_or_default();
    let causes = fleet.group(group).map(|group| group.causes.as_slice()).unwrap_or_default();
    causes.iter().flat_map(|cause| ["\n", cause]).collect()
}

fn failed_to_watch(goal: &Goal<'_>, source: CloudError) -> RolloutError {
    RolloutError::Cloud { step: format!("wait for {}", goal.group), source }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Settled,
    Refreshing,
    Waiting,
}

fn judge(goal: &Goal<'_>, group: &InstanceGroup, ours: bool) -> Result<Verdict, RolloutError> {
    let superseded = |what: &str| RolloutError::Superseded {
        group: goal.group.clone(),
        revision: goal.revision,
        what: what.to_owned(),
    };
    if let Some(refresh) = group.active_refresh() {
        let returning = refresh.status == RefreshStatus::RollingBack && refresh.from == Some(goal.revision);
        return if refresh.to == goal.revision || returning {
            Ok(Verdict::Refreshing)
        } else {
            Err(superseded("replaced"))
        };
    }
    if group.replicas == goal.replicas && group.is_settled_at(goal.revision) {
        return Ok(Verdict::Settled);
    }
    let elsewhere = group.current != Some(goal.revision);
    match group.refresh.as_ref().filter(|refresh| refresh.to == goal.revision && (ours || elsewhere)) {
        Some(refresh) if refresh.status == RefreshStatus::Cancelled => Err(superseded("cancelled")),
        Some(refresh) if refresh.status == RefreshStatus::RolledBack => Err(RolloutError::RolledBack {
            group: goal.group.clone(),
            revision: goal.revision,
            back: refresh.from,
            reason: reason(refresh),
        }),
        Some(refresh) if refresh.status == RefreshStatus::Failed => Err(RolloutError::Failed {
            group: goal.group.clone(),
            revision: goal.revision,
            reason: reason(refresh),
        }),
        _ if elsewhere || group.replicas != goal.replicas => Err(superseded("replaced")),
        _ => Ok(Verdict::Waiting),
    }
}

fn reason(refresh: &Refresh) -> String {
    refresh.reason.clone().unwrap_or_else(|| "the cloud gave no reason".to_owned())
}

/// A change as the tool reports it; the others are not about the group.
fn event(change: Change) -> Option<Event> {
    match change {
        Change::Instance { group, instance, revision, state } => {
            Some(Event::InstanceChanged { group: group.to_string(), instance, revision, state })
        }
        Change::Refresh { group, refresh } => Some(Event::RefreshProgress {
            group: group.to_string(),
            status: refresh.status.to_string(),
            from: refresh.from,
            to: refresh.to,
            updated: refresh.updated,
            available: refresh.available,
            total: refresh.total,
            reason: refresh.reason,
        }),
        Change::GroupGone { .. } | Change::Bound { .. } | Change::Warning { .. } => None,
    }
}
