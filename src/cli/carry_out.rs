//! A plan is carried out, and its result is shown.

use super::connection::warn;
use super::context::{Context, holder};
use super::exit::{Exit, Failure};
use super::output::json;
use super::summary;
use crate::cloud::{Cloud, Materials};
use crate::plan::act::Act;
use crate::plan::fleet::Fleet;
use crate::plan::rollout::{RolloutPlan, Step};
use crate::report::{self, Format};
use crate::rollout::{self, RolloutError, RunRecord};

/// Carries `plan` out, waits for its end, and prints the result.
pub(super) async fn carry_out(
    context: &Context,
    cloud: &dyn Cloud,
    plan: &RolloutPlan,
    materials: &Materials,
) -> Result<Exit, Failure> {
    let record = RunRecord::default();
    interruptible(context, &record, carry_out_with(context, cloud, (plan, materials), &record)).await
}

/// Runs what carries a plan out. An interrupt ends it with a word about what goes on without it.
pub(super) async fn interruptible(
    context: &Context,
    record: &RunRecord,
    work: impl Future<Output = Result<Exit, Failure>>,
) -> Result<Exit, Failure> {
    tokio::select! {
        outcome = work => outcome,
        _ = tokio::signal::ctrl_c() => {
            context.events.note(interrupted(&record.sent()));
            Err(Failure::silent(Exit::Interrupted))
        }
    }
}

/// What becomes of a run that was interrupted after these acts.
fn interrupted(sent: &[Act]) -> &'static str {
    if sent.is_empty() {
        "interrupted: this command has changed nothing in the environment"
    } else {
        "interrupted: what was begun goes on in the cloud; `i2kit wait` waits for it, `i2kit rollback NAME` goes back, \
         `i2kit destroy` deletes it, and the same command again does the rest"
    }
}

/// The same, with a record that the caller reads afterwards, also when it failed.
pub(super) async fn carry_out_with(
    context: &Context,
    cloud: &dyn Cloud,
    (plan, materials): (&RolloutPlan, &Materials),
    record: &RunRecord,
) -> Result<Exit, Failure> {
    let left = carry_out_to(context, cloud, (plan, materials), true, record).await?;
    match context.format {
        Format::Json => json(&done(plan, record, &left)),
        Format::Text if is_unchanged(record, &left) => report::result("unchanged\n"),
        Format::Text => {}
    }
    Ok(Exit::Success)
}

/// Whether there was nothing to do and nothing to wait for.
pub(super) fn is_unchanged(record: &RunRecord, left: &[Step]) -> bool {
    record.done().is_empty() && left.is_empty()
}

/// What was done, and what is left, for programs.
pub(super) fn done(plan: &RolloutPlan, record: &RunRecord, left: &[Step]) -> serde_json::Value {
    serde_json::json!({
        "environment": plan.environment,
        "changed": !record.applied().is_empty(),
        "steps": record.done(),
        "left": left,
    })
}

/// Carries `plan` out; without waiting it ends once everything is started. Returns the steps that are left then.
pub(super) async fn carry_out_to(
    context: &Context,
    cloud: &dyn Cloud,
    (plan, materials): (&RolloutPlan, &Materials),
    wait: bool,
    record: &RunRecord,
) -> Result<Vec<Step>, Failure> {
    for note in &plan.notes {
        context.events.note(note.clone());
    }
    let options = rollout::RolloutOptions { wait, by: holder() };
    let ended = rollout::execute(plan, materials, cloud, &context.events, &options, record).await;
    if context.summary.is_some() || ended.is_err() {
        let fleet = cloud.observe().await.unwrap_or_else(|error| {
            context.events.warn(format!("what the environment holds now is not known: {error}"));
            Fleet::default()
        });
        if ended.is_err() {
            warn(context, &fleet);
        }
        let failure = ended.as_ref().err().map(ToString::to_string);
        summary::write(
            context,
            &plan.environment,
            (&record.done(), &plan.intent.part(fleet)),
            failure.as_deref(),
        );
    }
    let left = ended.map_err(failure)?;
    if !left.is_empty() {
        let steps: Vec<String> = left.iter().map(|step| format!("\n  {step}")).collect();
        context.events.note(format!(
            "left, since it is not waited for (`i2kit wait` waits, the next deploy does the rest):{}",
            steps.concat()
        ));
    }
    Ok(left)
}

/// The error of a run, with the code that says whether another try helps.
pub(super) fn failure(error: RolloutError) -> Failure {
    Failure::new(exit(&error), error)
}

fn exit(error: &RolloutError) -> Exit {
    match error {
        error if error.is_overtaken() => Exit::Overtaken,
        RolloutError::Cloud { .. } => Exit::Cloud,
        RolloutError::ImageMissing(_) => Exit::Build,
        // Of several, a revision that is bad is what no other try mends.
        RolloutError::Several(all) if all.iter().all(|error| exit(error) == Exit::Cloud) => Exit::Cloud,
        _ => Exit::Rollout,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cloud::CloudError;
    use crate::manifest::api::Name;

    #[test]
    fn the_code_says_whether_another_try_helps() {
        let group = || Name { namespace: "default".into(), name: "web".into() };
        let cloud = |source| RolloutError::Cloud { step: "scale".into(), source };
        let unreachable = || cloud(CloudError::Unreachable { message: "no answer".into() });
        let bad = || RolloutError::Failed { group: group(), revision: 2, reason: "it ended".into() };
        let superseded = || RolloutError::Superseded { group: group(), revision: 2, what: "replaced".into() };
        let outdated = || cloud(CloudError::Outdated { message: "somebody deployed".into() });
        for (error, code) in [
            (unreachable(), Exit::Cloud),
            (cloud(CloudError::Injected("a fault".into())), Exit::Cloud),
            (bad(), Exit::Rollout),
            (outdated(), Exit::Overtaken),
            (superseded(), Exit::Overtaken),
            (RolloutError::Deleted { group: group() }, Exit::Overtaken),
            (RolloutError::RunRemoved { group: group() }, Exit::Rollout),
            (RolloutError::Several(vec![bad(), unreachable()]), Exit::Rollout),
            (RolloutError::Several(vec![unreachable(), unreachable()]), Exit::Cloud),
            (RolloutError::Several(vec![bad(), superseded()]), Exit::Overtaken),
        ] {
            assert_eq!(exit(&error), code, "{error}");
        }
    }

    #[test]
    fn an_interrupt_says_what_goes_on() {
        assert!(interrupted(&[]).ends_with("changed nothing in the environment"));
        let group = Name { namespace: "default".into(), name: "web".into() };
        let said = interrupted(&[Act::DeleteGroup { group }]);
        for verb in ["goes on in the cloud", "`i2kit wait`", "`i2kit rollback NAME`", "`i2kit destroy`"] {
            assert!(said.contains(verb), "{said}");
        }
    }

    #[test]
    fn what_was_not_done_is_not_reported_as_done() {
        let plan: RolloutPlan = serde_json::from_value(json!({
            "environment": "staging",
            "steps": [{"step": "apply", "act": "delete-group", "group": {"namespace": "default", "name": "old"}}],
            "notes": [],
        }))
        .unwrap();
        let nothing = RunRecord::default();
        let expected = json!({"environment": "staging", "changed": false, "steps": [], "left": []});
        assert_eq!(done(&plan, &nothing, &[]), expected);
        assert!(is_unchanged(&nothing, &[]) && !is_unchanged(&nothing, &plan.steps));
    }
}
