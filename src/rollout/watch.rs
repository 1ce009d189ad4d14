//! Waiting for a group: asks the cloud how far it is, says what changed, and ends when the group is what it should be
//! or will not become it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::RolloutError;
use crate::cloud::{Cloud, CloudError};
use crate::manifest::api::Name;
use crate::plan::fleet::{Health, Instance, InstanceGroup, InstanceState, Refresh, RefreshStatus, count};
use crate::report::{Event, Events};

/// What is waited for.
pub(super) struct Goal<'p> {
    pub(super) group: &'p Name,
    pub(super) revision: u32,
    pub(super) replicas: u32,
    pub(super) deadline: Duration,
    /// Whether this run started the refresh: then its end, however early, is this run's result.
    pub(super) started_here: bool,
}

/// Waits until the group has exactly the wanted VMs, all healthy.
pub(super) async fn until_settled(
    goal: &Goal<'_>,
    cloud: &dyn Cloud,
    events: &Events,
    poll: Duration,
) -> Result<(), RolloutError> {
    let mut seen = Seen::default();
    let mut ours = goal.started_here;
    let mut nearness = Nearness::new();
    let mut progress = Progress::new();
    loop {
        let found =
            cloud.observe_group(goal.group).await.map_err(|source| failed_to_observe(goal, source))?;
        let Some(group) = found else {
            return Err(failed_to_observe(goal, CloudError::not_found("group", goal.group)));
        };
        seen.report(&group, events);
        nearness.look(&group, goal.replicas);
        if !cloud.keeps_deadlines()
            && let Some(refresh) = group.active_refresh()
            && progress.stands_still(refresh, goal.deadline)
        {
            let reason = format!("no progress for {} s: {}", goal.deadline.as_secs(), complaints(&group));
            let back = cloud.roll_back(goal.group, &reason).await;
            back.map_err(|source| failed_to_observe(goal, source))?;
        }
        let verdict = judge(goal, &group, ours)?;
        if verdict == Verdict::Settled {
            return Ok(());
        }
        let refreshing = verdict == Verdict::Refreshing;
        ours |= refreshing;
        if refreshing {
            nearness = Nearness::new();
        }
        // A refresh under way has a deadline of its own, which the cloud keeps.
        if !refreshing && nearness.since.elapsed() >= goal.deadline {
            let causes = cloud.causes(goal.group).await.map(|causes| format!("\n{causes}"));
            return Err(RolloutError::TimedOut {
                group: goal.group.clone(),
                healthy: group.healthy(),
                replicas: goal.replicas,
                seconds: u32::try_from(goal.deadline.as_secs()).unwrap_or(u32::MAX),
                reason: complaints(&group) + &causes.unwrap_or_default(),
            });
        }
        tokio::time::sleep(poll).await;
    }
}

/// How far a refresh came, and when it last came further: more of its VMs healthy than ever before. VMs that fail and
/// are replaced come and go without that.
struct Progress {
    most: u32,
    since: Instant,
}

impl Progress {
    fn new() -> Self {
        Self { most: 0, since: Instant::now() }
    }

    /// Whether the refresh should be given up; one that is on its way back never is.
    fn stands_still(&mut self, refresh: &Refresh, deadline: Duration) -> bool {
        if refresh.available > self.most {
            *self = Self { most: refresh.available, since: Instant::now() };
        }
        refresh.status == RefreshStatus::InProgress && self.since.elapsed() >= deadline
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
    fn look(&mut self, group: &InstanceGroup, replicas: u32) {
        let members = count(group.members());
        let now = (replicas.saturating_sub(group.healthy()), members.abs_diff(replicas));
        if self.best.is_none_or(|best| now < best) {
            *self = Self { best: Some(now), since: Instant::now() };
        }
    }
}

fn failed_to_observe(goal: &Goal<'_>, source: CloudError) -> RolloutError {
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

/// What the VMs that are not healthy say.
fn complaints(group: &InstanceGroup) -> String {
    let lines: Vec<String> = group
        .members()
        .filter(|instance| instance.health != Health::Healthy)
        .map(|instance| format!("{} is {}", instance.id, instance.health))
        .collect();
    if lines.is_empty() { "VMs are missing".to_owned() } else { lines.join("; ") }
}

/// What was reported last, so that only changes are.
#[derive(Default)]
struct Seen {
    refresh: Option<Refresh>,
    instances: BTreeMap<String, String>,
}

impl Seen {
    /// Emits what changed.
    fn report(&mut self, group: &InstanceGroup, events: &Events) {
        let name = group.name.to_string();
        for instance in &group.instances {
            let state = describe(instance);
            if self.instances.get(&*instance.id) != Some(&state) {
                self.instances.insert(instance.id.to_string(), state.clone());
                events.emit(changed_event(&name, &instance.id, instance.revision, state));
            }
        }
        let gone: Vec<String> = self
            .instances
            .iter()
            .filter(|(id, state)| {
                *state != "gone" && group.instances.iter().all(|instance| *instance.id != ***id)
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            events.emit(changed_event(&name, &id, 0, "gone".to_owned()));
            self.instances.insert(id, "gone".to_owned());
        }
        if group.refresh != self.refresh {
            self.refresh.clone_from(&group.refresh);
            if let Some(refresh) = &group.refresh {
                events.emit(progress_event(&name, refresh));
            }
        }
    }
}

fn describe(instance: &Instance) -> String {
    match instance.state {
        // What a starting VM waits for changes with every answer of its health check: no event of its own.
        InstanceState::Running if matches!(instance.health, Health::Starting { .. }) => "starting".to_owned(),
        InstanceState::Running => instance.health.to_string(),
        InstanceState::Draining => "draining".to_owned(),
        InstanceState::Stopping => "stopping".to_owned(),
        InstanceState::Ended => format!("ended: {}", instance.health),
    }
}

fn changed_event(group: &str, instance: &str, revision: u32, state: String) -> Event {
    Event::InstanceChanged { group: group.to_owned(), instance: instance.to_owned(), revision, state }
}

fn progress_event(group: &str, refresh: &Refresh) -> Event {
    Event::RefreshProgress {
        group: group.to_owned(),
        status: refresh.status.to_string(),
        from: refresh.from,
        to: refresh.to,
        updated: refresh.updated,
        available: refresh.available,
        total: refresh.total,
        reason: refresh.reason.clone(),
    }
}
