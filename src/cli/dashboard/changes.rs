//! What the page may change: the size of a group, and its revision. A change is planned and carried out as `scale` and
//! `rollback` do it; the page shows the plan first, and what is confirmed is that plan.

use serde::{Deserialize, Serialize};

use super::site::Connected;
use crate::cli::exit::{Exit, Failure, OrExit as _};
use crate::cli::{carry_out, rollback, scale};
use crate::cloud::Materials;
use crate::manifest::api::Name;
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
    /// The steps that were confirmed.
    #[serde(default)]
    confirmed: Vec<String>,
}

/// What becomes of a group.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Change {
    /// It has that number of instances.
    Scale(u32),
    /// It is of that revision.
    Rollback(u32),
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
}

impl Planned {
    fn of(steps: &[Step], notes: &[String], unchanged: bool) -> Self {
        let steps = steps.iter().map(|step| text::visible(&step.to_string()).into_owned()).collect();
        let notes = notes.iter().map(|note| text::visible(note).into_owned()).collect();
        Self { steps, notes, unchanged }
    }
}

/// What the change would do.
pub(super) async fn plan(connected: &Connected, wish: &Wish) -> Result<Planned, Failure> {
    let plan = plan_of(connected, wish).await?;
    Ok(Planned::of(&plan.steps, &plan.notes, plan.is_unchanged()))
}

async fn plan_of(connected: &Connected, wish: &Wish) -> Result<RolloutPlan, Failure> {
    let fleet = connected.cloud.observe().await.or_exit(Exit::Cloud)?;
    match wish.change {
        Change::Scale(replicas) => scale::plan(&connected.context, &fleet, &wish.group, replicas),
        Change::Rollback(to) => rollback::plan(&fleet, &wish.group, Some(to)),
    }
}

/// Carries the change out, if its plan is still the one that was confirmed, and returns the steps that the cloud goes on
/// with. A browser that goes away meanwhile stops nothing half way.
pub(super) async fn change(connected: Connected, wish: &Wish) -> Result<Planned, Failure> {
    let plan = plan_of(&connected, wish).await?;
    let planned = Planned::of(&plan.steps, &plan.notes, plan.is_unchanged());
    if planned.steps != wish.confirmed {
        let error = anyhow::anyhow!(
            "{} has changed since the plan was shown, and nothing was done: look at the new plan",
            wish.group
        );
        return Err(Failure::new(Exit::Overtaken, error));
    }
    let work = tokio::spawn(async move {
        let Connected { context, cloud } = connected;
        let (materials, record) = (Materials::default(), RunRecord::default());
        carry_out::carry_out_to(&context, cloud.as_ref(), (&plan, &materials), false, &record).await
    });
    let left = work.await.map_err(|error| Failure::new(Exit::Failure, error))??;
    Ok(Planned::of(&left, &planned.notes, planned.unchanged))
}
