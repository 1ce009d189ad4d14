//! A plan is carried out, and its result is shown.

use super::connection::warn;
use super::context::{Context, holder};
use super::exit::{Exit, Failure, OrExit as _};
use super::output::json;
use super::summary;
use crate::cloud::{Cloud, Materials};
use crate::plan::fleet::Fleet;
use crate::plan::rollout::{RolloutPlan, Step};
use crate::report::{self, Format};
use crate::rollout;

/// Carries `plan` out, waits for its end, and prints the result.
pub(super) async fn carry_out(
    context: &Context,
    cloud: &dyn Cloud,
    plan: &RolloutPlan,
    materials: &Materials,
) -> Result<Exit, Failure> {
    let left = carry_out_to(context, cloud, plan, materials, true).await?;
    match context.format {
        Format::Json => json(&done(plan, &left)),
        Format::Text if plan.is_empty() => report::result("unchanged\n"),
        Format::Text => {}
    }
    Ok(Exit::Success)
}

/// What was done, and what is left, for programs.
pub(super) fn done(plan: &RolloutPlan, left: &[Step]) -> serde_json::Value {
    let steps: Vec<&Step> = plan.steps.iter().filter(|step| !left.contains(step)).collect();
    serde_json::json!({
        "environment": plan.environment,
        "changed": !plan.is_unchanged(),
        "steps": steps,
        "left": left,
    })
}

/// Carries `plan` out; without waiting it ends once everything is started. Returns the steps that are left then.
pub(super) async fn carry_out_to(
    context: &Context,
    cloud: &dyn Cloud,
    plan: &RolloutPlan,
    materials: &Materials,
    wait: bool,
) -> Result<Vec<Step>, Failure> {
    for note in &plan.notes {
        context.events.note(note.clone());
    }
    let options = rollout::Options { wait, by: holder() };
    let ended = rollout::execute(plan, materials, cloud, &context.events, &options).await;
    if context.summary.is_some() || ended.is_err() {
        let fleet = cloud.observe().await.unwrap_or_else(|error| {
            context.events.warn(format!("what the environment holds now is not known: {error}"));
            Fleet::default()
        });
        if ended.is_err() {
            warn(context, &fleet);
        }
        summary::write(context, plan, &fleet, ended.as_ref().err().map(ToString::to_string).as_deref());
    }
    let left = ended.or_exit(Exit::Rollout)?;
    if !left.is_empty() {
        let steps: Vec<String> = left.iter().map(|step| format!("\n  {step}")).collect();
        context.events.note(format!(
            "left, since it is not waited for (`i2kit wait` waits, the next deploy does the rest):{}",
            steps.concat()
        ));
    }
    Ok(left)
}
