//! Carries a rollout plan out, step by step, on any cloud. Every act finds what exists first, so that a run that was
//! killed at any moment is made good by the next one. When somebody else's act came in between, the plan is made again on
//! what is there now, and carried on for as far as it was shown.

mod error;
mod record;
mod watch;

#[cfg(test)]
mod interleaving;
#[cfg(test)]
mod job_tests;
#[cfg(test)]
mod meanwhile;
#[cfg(test)]
mod restart_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

pub use self::error::RolloutError;
pub use self::record::RunRecord;
pub use self::watch::event;
use crate::cloud::{Cloud, CloudError, Materials, Scope};
use crate::manifest::api::Name;
use crate::plan::act::{Act, PlannedAct};
use crate::plan::fleet::Generation;
use crate::plan::rollout::{Intent, RolloutPlan, Step};
use crate::report::{Event, Events};

/// How often a plan is made again at most: each time somebody else has changed something.
const REPLANS: u32 = 20;

/// How long a wait goes on after the first of several looks at the cloud that failed one after the other. A client that
/// tries a call again by itself takes two minutes before it reports an error.
const PATIENCE: Duration = Duration::from_mins(3);

/// How a plan is carried out.
#[derive(Debug, Clone)]
pub struct RolloutOptions {
    /// Whether to wait until the groups are healthy. Otherwise what follows a successful refresh (its old revisions, and
    /// the images that they name) is left to a later run.
    pub wait: bool,
    /// Who carries it out, for those whom it gets in the way of.
    pub by: String,
}

impl Default for RolloutOptions {
    /// Waits.
    fn default() -> Self {
        Self { wait: true, by: "somebody".into() }
    }
}

/// Carries `plan` out on `cloud`, and returns the steps that are left because they need a wait that `options` do not ask
/// for. `materials` must have every image that [`RolloutPlan::images`] names. What was done is in `record` at any moment.
///
/// # Errors
/// The refusal of the first act that is refused. A group that does not become healthy is reported when all the others
/// have been waited for; nothing is deleted then. [`RolloutError::Overtaken`] when somebody else's acts make the rest of
/// the plan another one than was shown, or undo what this run did.
pub async fn execute(
    plan: &RolloutPlan,
    materials: &Materials,
    cloud: &dyn Cloud,
    events: &Events,
    options: &RolloutOptions,
    record: &RunRecord,
) -> Result<Vec<Step>, RolloutError> {
    let at = plan.generation;
    let mut run =
        Run { materials, cloud, events, options, record, at, started: BTreeSet::new(), tasks: 0, open: None };
    let mut current = plan.clone();
    let mut replans = 0;
    loop {
        let (step, message) = match run.pass(&current).await? {
            Passed::Ended(left) => return Ok(left),
            Passed::Outdated(step, message) => (step, message),
        };
        if replans == REPLANS {
            return Err(RolloutError::Cloud { step, source: CloudError::Outdated { message } });
        }
        let fleet =
            cloud.inspect(&scope(plan)).await.map_err(|source| RolloutError::Cloud { step, source })?;
        let overtaken = |why| RolloutError::Overtaken { what: message.clone(), why };
        current = plan.again(&fleet, &record.applied()).map_err(overtaken)?;
        run.at = current.generation;
        replans += 1;
        events.note(format!("{message}: the rest of the plan holds, and goes on"));
    }
}

/// What has to be looked at to make a plan again.
fn scope(plan: &RolloutPlan) -> Scope {
    match plan.intent {
        // It deletes leftovers, which nothing less shows.
        Intent::Collect => Scope::Detailed,
        _ => Scope::Environment,
    }
}

/// A plan that is being carried out.
struct Run<'r> {
    materials: &'r Materials,
    cloud: &'r dyn Cloud,
    events: &'r Events,
    options: &'r RolloutOptions,
    record: &'r RunRecord,
    /// The generation that the next act is planned on.
    at: Generation,
    /// Groups whose refresh this run started.
    started: BTreeSet<Name>,
    /// Number of the next task, for its events.
    tasks: usize,
    /// The task of a step that was planned again: it goes on under the same id.
    open: Option<(String, String)>,
}

/// How far a plan came.
enum Passed {
    /// To its end, but for these steps.
    Ended(Vec<Step>),
    /// To a step that was planned on an older generation; with what was done meanwhile.
    Outdated(String, String),
}

impl Run<'_> {
    async fn pass(&mut self, plan: &RolloutPlan) -> Result<Passed, RolloutError> {
        let mut left: Vec<Step> = Vec::new();
        let mut failed: Vec<RolloutError> = Vec::new();
        for step in &plan.steps {
            if !self.options.wait && needs_wait(step, &left) {
                left.push(step.clone());
                continue;
            }
            if !failed.is_empty() && step.act().is_some() {
                break;
            }
            let id = self.begin(step);
            match self.step(step).await {
                Ok(()) => {}
                Err(RolloutError::Cloud { step, source: CloudError::Outdated { message } })
                    if failed.is_empty() =>
                {
                    self.open = Some((id, step.clone()));
                    return Ok(Passed::Outdated(step, message));
                }
                // The cloud itself does not answer: the other groups cannot be asked for either.
                Err(error @ RolloutError::Cloud { .. }) => {
                    failed.push(error);
                    break;
                }
                Err(error) => {
                    failed.push(error);
                    continue;
                }
            }
            self.record.finish(step);
            self.events.emit(Event::TaskFinished { id, outcome: "done".to_owned() });
        }
        if let Some((id, _)) = self.open.take() {
            self.events.emit(Event::TaskFinished { id, outcome: "planned again".to_owned() });
        }
        match failed.len() {
            0 => Ok(Passed::Ended(left)),
            1 => Err(failed.remove(0)),
            _ => Err(RolloutError::Several(failed)),
        }
    }

    /// Reports the start of a step, unless it was reported before and is only planned again. Returns its task.
    fn begin(&mut self, step: &Step) -> String {
        let title = step.to_string();
        if let Some((id, open)) = self.open.take() {
            if open == title {
                return id;
            }
            self.events.emit(Event::TaskFinished { id, outcome: "planned again".to_owned() });
        }
        let id = format!("step-{}", self.tasks);
        self.tasks += 1;
        self.events.emit(Event::TaskStarted { id: id.clone(), title, total: None });
        id
    }

    async fn step(&mut self, step: &Step) -> Result<(), RolloutError> {
        match step {
            Step::Apply(change) => self.apply(&change.act, step).await,
            Step::Await { group, revision, replicas, deadline_seconds, expires, .. } => {
                let goal = watch::Goal {
                    group,
                    revision: *revision,
                    replicas: *replicas,
                    deadline: Duration::from(*deadline_seconds),
                    patience: PATIENCE,
                    started_here: self.started.contains(group),
                    expires: *expires,
                };
                watch::until_settled(&goal, self.cloud, self.events).await
            }
            Step::AwaitRun { group, after } => {
                watch::until_run_ended(group, *after, PATIENCE, self.cloud, self.events).await
            }
        }
    }

    async fn apply(&mut self, act: &Act, step: &Step) -> Result<(), RolloutError> {
        if let Act::PutImage { image } = act
            && !self.materials.images.contains_key(image)
        {
            return Err(RolloutError::ImageMissing(*image));
        }
        let planned = PlannedAct { act: act.clone(), generation: self.at, by: self.options.by.clone() };
        self.record.send(act);
        let applied = self.cloud.apply(&planned, self.materials).await;
        if let Err(CloudError::Outdated { .. }) = &applied {
            self.record.refuse();
        }
        self.at = applied.map_err(|source| RolloutError::Cloud { step: step.to_string(), source })?;
        if let Act::StartRefresh { group, .. } = act {
            self.started.insert(group.clone());
        }
        Ok(())
    }
}

/// Whether a step waits, or is right only after one of the steps that are `left`.
fn needs_wait(step: &Step, left: &[Step]) -> bool {
    let Some(act) = step.act() else { return true };
    match act {
        // A refresh that fails goes back to a revision that may be one of these.
        Act::DeleteRevisions { group, .. } => {
            left.iter().any(|step| matches!(step, Step::Await { group: waited, .. } if waited == group))
        }
        // Part of them may be images of revisions that are left.
        Act::DeleteImages { .. } => {
            left.iter().any(|step| matches!(step.act(), Some(Act::DeleteRevisions { .. })))
        }
        _ => false,
    }
}

/// Removes what the environment has as a whole, if it holds nothing.
///
/// # Errors
/// The cloud's refusal.
pub async fn release(cloud: &dyn Cloud, by: &str) -> Result<(), CloudError> {
    let act = PlannedAct { act: Act::Release, generation: Generation::default(), by: by.to_owned() };
    cloud.apply(&act, &Materials::default()).await.map(drop)
}
