//! `i2kit trial`: an account is tried, step by step, with small things that are deleted again. The report is a file to show.

mod console;
mod cost;
mod kills;
mod load;
mod machines;
mod manifest;
mod mask;
pub(super) mod name;
mod serving;
mod stage;
mod steps;
mod take_down;
mod trial_report;

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use self::mask::Mask;
use self::stage::{Findings, LATER, Stage};
use self::steps::{LAST, Ledger, STEPS};
use self::trial_report::TrialReport;
use super::args::TrialArgs;
use super::context::{self, Context};
use super::exit::{Exit, Failure, OrExit as _};
use super::signals::Signals;
use super::{connection, output};
use crate::cloud::kinds;
use crate::report::{self, Format};

/// Tries the environment's account, and deletes everything that was made.
pub(super) async fn run(context: &Context, args: &TrialArgs) -> Result<Exit, Failure> {
    let context = &own(context)?;
    if let Some(manifest) = &args.deploy {
        return kills::deploy_while_asked(context, manifest).await;
    }
    let stage = Stage::new(context, args);
    if args.take_down {
        return alone(&stage).await;
    }
    let bound = cost::bound(&stage)?.ok_or_else(|| no_account(context))?;
    match context.format {
        Format::Text => report::result(&announcement(context, &bound)),
        // Of a trial that is carried out there is one result, its report.
        Format::Json if args.yes => {}
        Format::Json => {
            let environment = &context.environment.name;
            output::json(&serde_json::json!({ "environment": environment, "bound": bound.words() }));
        }
    }
    if !args.yes {
        return Err(Failure::new(
            Exit::Usage,
            anyhow::anyhow!("nothing was done; with --yes the trial starts"),
        ));
    }
    take_down::vacant(&stage).await?;
    let started = output::utc(UNIX_EPOCH.elapsed().unwrap_or_default().as_secs());
    let file = file(args, &started);
    create(&file)?;
    let provider = &context.environment.provider;
    let mask = Mask::new(context::personal(), provider.mask());
    let (cloud, region) = (provider.support().name, provider.region().unwrap_or_default());
    let report = TrialReport::begun(cloud, region, &started, &mask.text(&args.image), &bound.words());
    let ledger = Ledger::new(context.format, context.events.clone(), mask, report, file.clone());
    let ended = walk(&stage, &ledger).await?;
    let (report, exit) = ledger.end();
    if context.format == Format::Json {
        output::json(&report);
    }
    ledger.save();
    context.events.note(format!("the report is {}", file.display()));
    Ok(ended.unwrap_or(exit))
}

/// The context of the trial's own environment, which is in an account.
fn own(context: &Context) -> Result<Context, Failure> {
    let environment = &context.environment;
    if environment.provider.iam_policy(&environment.name).is_none() {
        return Err(no_account(context));
    }
    connection::provider(context)?;
    let mut own = context.clone();
    own.environment.name = name::of(&environment.name);
    // The page of a pipeline's step is for deployments of its own.
    own.summary = None;
    Ok(own)
}

/// That there is no account to try.
fn no_account(context: &Context) -> Failure {
    let environment = &context.environment;
    let support = environment.provider.support();
    let error = anyhow::anyhow!(
        "a trial is of an account, and the environment {} is on {}, which has none; name an environment file of type {} with -e",
        environment.name,
        support.name,
        kinds::others(support).join(" or ")
    );
    Failure::new(Exit::Environment, error)
}

/// What is going to happen, and what it costs.
fn announcement(context: &Context, bound: &cost::Bound) -> String {
    let steps = STEPS.map(|(number, title, _)| format!("  {number:>2} {title}\n")).concat();
    format!(
        "The trial makes an environment of its own, {}, in these steps:\n{steps}It costs {bound}\n",
        context.environment.name
    )
}

/// The report's file.
fn file(args: &TrialArgs, started: &str) -> PathBuf {
    // Some file systems take no colons.
    args.report
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("i2kit-trial-{}.md", started.replace(':', "-"))))
}

/// Makes the report's file. Where that cannot be, it is better known before anything is begun.
fn create(file: &Path) -> Result<(), Failure> {
    match OpenOptions::new().write(true).create_new(true).open(file) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Failure::new(
            Exit::Usage,
            anyhow::anyhow!("the report {} exists; name another with --report", file.display()),
        )),
        Err(error) => {
            let what = format!("cannot write the report {}", file.display());
            Err(anyhow::Error::new(error).context(what).into())
        }
    }
}

/// Takes all steps, and deletes everything whatever becomes of them. What the trial ends with whatever its steps say: how
/// deleting failed, or that somebody ended it.
async fn walk(stage: &Stage<'_>, ledger: &Ledger) -> Result<Option<Exit>, Failure> {
    let events = &stage.context.events;
    let mut signals = Signals::listen().and_then(Signals::with_hangup).or_exit(Exit::Failure)?;
    let interrupted = tokio::select! {
        ended = tokio::time::timeout(cost::LIMIT, steps::all(stage, ledger)) => {
            if ended.is_err() {
                ledger.cut(&format!("the trial's {} hours are over", cost::hours(cost::LIMIT)));
            }
            false
        }
        () = signals.any() => {
            ledger.cut("the trial was interrupted");
            true
        }
    };
    events.note(if interrupted {
        format!("interrupted: what the trial made is deleted now; with another Ctrl-C it stays, and {LATER}")
    } else {
        format!("what the trial made is deleted now; with Ctrl-C it stays, and {LATER}")
    });
    tokio::select! {
        failed = ledger.take(stage, LAST) => Ok(failed.or(interrupted.then_some(Exit::Interrupted))),
        () = signals.interrupt() => {
            ledger.cut(&format!("deleting was interrupted: {LATER}"));
            Ok(Some(Exit::Interrupted))
        }
    }
}

/// Only deletes.
async fn alone(stage: &Stage<'_>) -> Result<Exit, Failure> {
    let found = Findings::default();
    tokio::select! {
        // An account that does not answer at first is not asked for an hour.
        outcome = async { stage.fleet().await?; take_down::take_down(stage, &found).await } => outcome?,
        _ = tokio::signal::ctrl_c() => {
            stage.context.events.note(format!("interrupted: {LATER}"));
            return Ok(Exit::Interrupted);
        }
    }
    let found = found.take();
    match stage.context.format {
        Format::Json => output::json(&found),
        Format::Text => report::result(&(found.join("\n") + "\n")),
    }
    Ok(Exit::Success)
}
