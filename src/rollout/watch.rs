//! Waiting for a group: follows its cloud's updates, reports what changed, and ends when the group is what it should be
//! or will not become it.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use super::RolloutError;
use crate::cloud::{Cloud, CloudError, Scope, Update, Updates};
use crate::manifest::api::{JobRules, Name};
use crate::plan::fleet::{Change, InstanceGroup, JobRun, Refresh, RefreshStatus, count};
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
    /// Whether the group is removed some time after its end: then one that is gone has ended.
    pub(super) expires: bool,
}

/// The pause after a look at the cloud that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// Waits until the group has exactly the wanted VMs, all healthy.
pub(super) async fn until_settled(
    goal: &Goal<'_>,
    cloud: &dyn Cloud,
    events: &Events,
) -> Result<(), RolloutError> {
    let mut sight = Sight::new(goal.group, goal.patience, cloud);
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
                return gone(goal, events);
            };
            // A scaler may have changed the size since.
            let replicas = if found.settings.scaling.is_some() { found.replicas } else { goal.replicas };
            nearness.update(&found, replicas);
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

/// The result for a group that is there no longer.
fn gone(goal: &Goal<'_>, events: &Events) -> Result<(), RolloutError> {
    let group = goal.group;
    if !goal.expires {
        return Err(RolloutError::Deleted { group: group.clone() });
    }
    events.note(format!(
        "{group} has ended, and was removed by its ttlSecondsAfterFinished before its result was seen; `i2kit events` has what \
         is known of it"
    ));
    Ok(())
}

/// The updates of a group. Looks that fail are passed over for a while: a wait of minutes does not end with one of them.
struct Sight<'s> {
    group: &'s Name,
    patience: Duration,
    cloud: &'s dyn Cloud,
    updates: Updates<'s>,
    /// When the first of the looks failed that have failed since the last update.
    failing: Option<Instant>,
}

impl<'s> Sight<'s> {
    fn new(group: &'s Name, patience: Duration, cloud: &'s dyn Cloud) -> Self {
        let updates = cloud.watch(&Scope::Group(group.clone()));
        Self { group, patience, cloud, updates, failing: None }
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
                    self.updates = self.cloud.watch(&Scope::Group(self.group.clone()));
                    CloudError::Unreachable { message: "its updates ended".into() }
                }
            };
            let since = self.failing.unwrap_or_else(Instant::now);
            if !error.is_transient() || since.elapsed() >= self.patience {
                return Err(RolloutError::Cloud { step: format!("wait for {}", self.group), source: error });
            }
            if self.failing.replace(since).is_none() {
                events.warn(format!("{} is still waited for: {error}", self.group));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Waits for the end of the run of `group` that this command started: the first one that no schedule started and whose
/// number is larger than `after`. A run that rests is not waited for.
pub(super) async fn until_run_ended(
    group: &Name,
    after: u32,
    patience: Duration,
    cloud: &dyn Cloud,
    events: &Events,
) -> Result<(), RolloutError> {
    let mut sight = Sight::new(group, patience, cloud);
    let mut number: Option<u32> = None;
    loop {
        let Update { fleet, changes } = sight.next(events).await?;
        changes.into_iter().filter_map(event).for_each(|event| events.emit(event));
        let Some(found) = fleet.groups.into_iter().next() else {
            return Err(RolloutError::Deleted { group: group.clone() });
        };
        let is_ours = |run: &JobRun| match number {
            Some(number) => run.number == number,
            None => run.scheduled.is_none() && run.number > after,
        };
        // It was started before the first look: one that is not there was removed.
        let Some(run) = found.runs.into_iter().find(is_ours) else {
            return Err(RolloutError::RunRemoved { group: group.clone() });
        };
        number = Some(run.number);
        let (group, revision) = (group.clone(), run.revision);
        match run.status {
            RefreshStatus::Successful => return Ok(()),
            status if status.is_active() => {
                if found.settings.job.as_ref().is_some_and(JobRules::rests) {
                    events.note(format!(
                        "run {} of {group} rests, because of `suspend: true` or `parallelism: 0`: it is not waited for, and \
                         goes on once a deployment changes that",
                        run.number
                    ));
                    return Ok(());
                }
            }
            RefreshStatus::Cancelled => {
                return Err(RolloutError::Superseded { group, revision, what: "cancelled".into() });
            }
            _ => {
                let reason = run.reason.unwrap_or_else(|| "the cloud gave no reason".to_owned());
                return Err(RolloutError::Failed { group, revision, reason });
            }
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
    // A scaler may change the size meanwhile.
    let is_scaled = group.settings.scaling.as_ref().is_some_and(|scaling| scaling.allows(group.replicas));
    let is_sized = group.replicas == goal.replicas || is_scaled;
    // A Job that rests is what it should be, and its run is under way.
    if is_sized && group.is_settled_at(goal.revision) {
        return Ok(Verdict::Settled);
    }
    if let Some(refresh) = group.active_refresh() {
        let returning = refresh.status == RefreshStatus::RollingBack && refresh.from == Some(goal.revision);
        return if refresh.to == goal.revision || returning {
            Ok(Verdict::Refreshing)
        } else {
            Err(superseded("replaced"))
        };
    }
    let elsewhere = group.current != Some(goal.revision);
    // What a Job shows is its newest run: one that failed is not tried again by itself.
    let is_result = ours || elsewhere || group.settings.job.is_some();
    match group.refresh.as_ref().filter(|refresh| refresh.to == goal.revision && is_result) {
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
        _ if elsewhere || !is_sized => Err(superseded("replaced")),
        _ => Ok(Verdict::Waiting),
    }
}

fn reason(refresh: &Refresh) -> String {
    refresh.reason.clone().unwrap_or_else(|| "the cloud gave no reason".to_owned())
}

/// A change as the tool reports it; the others are not about the group.
pub fn event(change: Change) -> Option<Event> {
    match change {
        Change::Instance { group, instance, revision, state } => {
            Some(Event::InstanceChanged { group: group.to_string(), instance, revision, state })
        }
        Change::Refresh { group, job, refresh } => Some(Event::RefreshProgress {
            group: group.to_string(),
            job,
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
