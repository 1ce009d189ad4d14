//! What the page may change: the size of a group, its revision, and its instances. A change is planned and carried out as
//! `scale`, `rollback` and `restart` do it; the page shows the plan first, and what is confirmed is that plan.

use serde::{Deserialize, Serialize};

use super::site::{Connected, Running};
use crate::cli::exit::{Exit, Failure, OrExit as _};
use crate::cli::{carry_out, restart, rollback, scale};
use crate::cloud::{Cloud, Materials};
use crate::manifest::api::Name;
use crate::oci::Digest;
use crate::plan::rollout::{RolloutPlan, Step};
use crate::rollout::RunRecord;
use crate::text;

/// A change that is asked for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Wish {
    /// The environment.
    pub(super) environment: String,
    /// The group.
    group: Name,
    /// What becomes of it.
    change: Change,
    /// The digest of the plan that was confirmed.
    #[serde(default)]
    confirmed: String,
}

/// What becomes of a group.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Change {
    /// It has that number of instances.
    Scale(u32),
    /// It is of that revision.
    Rollback(u32),
    /// Its instances are replaced by equal ones.
    Restart,
}

/// A plan, or what became of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Planned {
    /// Its steps, a line each.
    steps: Vec<String>,
    /// What should be known of it.
    notes: Vec<String>,
    /// Whether it changes nothing.
    unchanged: bool,
    /// Of all that is shown: what is confirmed.
    digest: String,
}

impl Planned {
    fn of(steps: &[Step], notes: &[String], unchanged: bool) -> Self {
        let steps: Vec<String> =
            steps.iter().map(|step| text::visible(&step.to_string()).into_owned()).collect();
        let notes: Vec<String> = notes.iter().map(|note| text::visible(note).into_owned()).collect();
        let digest = Digest::of(format!("{steps:?} {notes:?}").as_bytes()).hex();
        Self { steps, notes, unchanged, digest }
    }
}

/// What the change would do.
pub(super) async fn plan(connected: &Connected, wish: &Wish) -> Result<Planned, Failure> {
    let plan = plan_of(connected, connected.looks.as_ref(), wish).await?;
    Ok(Planned::of(&plan.steps, &plan.notes, plan.is_unchanged()))
}

async fn plan_of(connected: &Connected, cloud: &dyn Cloud, wish: &Wish) -> Result<RolloutPlan, Failure> {
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    match wish.change {
        Change::Scale(replicas) => scale::plan(&connected.context, &fleet, &wish.group, replicas),
        Change::Rollback(to) => rollback::plan(&fleet, &wish.group, Some(to)),
        Change::Restart => restart::plan(&fleet, &wish.group),
    }
}

/// Carries the change out, if its plan is still the one that was confirmed, and returns the steps that the cloud goes on
/// with. A browser that goes away meanwhile stops nothing half way, and a dashboard that is ended waits for it as `running`.
pub(super) async fn change(connected: Connected, running: &Running, wish: &Wish) -> Result<Planned, Failure> {
    let started = running.begin()?;
    let plan = plan_of(&connected, connected.cloud.as_ref(), wish).await?;
    let planned = Planned::of(&plan.steps, &plan.notes, plan.is_unchanged());
    if planned.digest != wish.confirmed {
        let error = anyhow::anyhow!(
            "{} has changed since the plan was shown, and nothing was done: look at the new plan",
            wish.group
        );
        return Err(Failure::new(Exit::Overtaken, error));
    }
    let work = tokio::spawn(async move {
        let _started = started;
        let Connected { context, cloud, .. } = connected;
        let (materials, record) = (Materials::default(), RunRecord::default());
        carry_out::carry_out_to(&context, cloud.as_ref(), (&plan, &materials), false, &record).await
    });
    let left = work.await.map_err(|error| Failure::new(Exit::Failure, error))??;
    Ok(Planned::of(&left, &planned.notes, planned.unchanged))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_confirmed_is_all_that_was_shown() {
        let of = |notes: &[&str]| {
            let notes: Vec<String> = notes.iter().map(ToString::to_string).collect();
            Planned::of(&[], &notes, false).digest
        };
        assert_eq!(of(&["its disk is kept"]), of(&["its disk is kept"]));
        assert_ne!(of(&["its disk is kept"]), of(&["its disk is deleted"]));
        assert_ne!(of(&["a", "b"]), of(&["a\", \"b"]));
    }
}
