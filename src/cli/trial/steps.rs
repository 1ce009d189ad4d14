//! The steps of a trial: their table, and the ledger of what became of each.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::PathBuf;

use tokio::time::Instant;

use super::mask::Mask;
use super::stage::{Findings, Stage};
use super::trial_report::{Entry, Outcome, TrialReport};
use super::{kills, machines, serving, take_down};
use crate::cli::args::STEP_COUNT;
use crate::cli::exit::{Exit, Failure};
use crate::report::{self, Events, Format};

/// The step that is taken in any case.
pub(super) const LAST: usize = STEP_COUNT - 1;

/// Each step: its number, what it is about, and the step without which it is not taken.
pub(super) const STEPS: [(u8, &str, Option<u8>); STEP_COUNT] = [
    (1, "preflight: credentials, permissions, quotas", None),
    (2, "machine images: the smallest one, then the pod's", Some(1)),
    (3, "the environment's network and roles, made and deleted", Some(1)),
    (4, "dry runs of launches, by type and zone", Some(2)),
    (5, "one machine: its console, and its lines in the cloud's store", Some(4)),
    (6, "the power button of that machine", Some(5)),
    (7, "three machines behind a load balancer, until the first answer", Some(4)),
    (8, "a rollout under 50 connections a second", Some(7)),
    (9, "a bad revision, which is rolled back", Some(7)),
    (10, "a deployment whose process is killed ten times", Some(4)),
    (11, "a Service moved from inside to outside", Some(7)),
    (12, "everything is deleted, and looked for", None),
];

/// What became of the steps so far. The report's page has it after each step.
#[derive(Debug)]
pub(super) struct Ledger {
    format: Format,
    events: Events,
    mask: Mask,
    file: PathBuf,
    report: RefCell<TrialReport>,
    /// The step under way, and since when.
    open: RefCell<Option<(usize, Instant)>>,
    found: Findings,
    exit: Cell<Exit>,
}

impl Ledger {
    /// No step was taken.
    pub(super) fn new(
        format: Format,
        events: Events,
        mask: Mask,
        report: TrialReport,
        file: PathBuf,
    ) -> Self {
        Self {
            format,
            events,
            mask,
            file,
            report: RefCell::new(report),
            open: RefCell::default(),
            found: Findings::default(),
            exit: Cell::new(Exit::Success),
        }
    }

    /// Takes a step, and shows what became of it; how it failed, if so.
    pub(super) async fn take(&self, stage: &Stage<'_>, index: usize) -> Option<Exit> {
        let (number, title, _) = STEPS[index];
        self.events.note(format!("step {number}: {title}"));
        *self.open.borrow_mut() = Some((index, Instant::now()));
        let Err(failure) = carry_out(stage, number, &self.found).await else {
            self.close(Outcome::Passed);
            return None;
        };
        self.fail(failure.exit);
        self.found.push(failure.words());
        self.close(Outcome::Failed);
        Some(failure.exit)
    }

    /// Does not take a step.
    fn skip(&self, index: usize, outcome: Outcome, why: &str) {
        *self.open.borrow_mut() = Some((index, Instant::now()));
        self.found.push(why);
        self.close(outcome);
    }

    /// The step under way ends here, and those that were not taken are not.
    pub(super) fn cut(&self, why: &str) {
        self.fail(Exit::Failure);
        if self.open.borrow().is_some() {
            self.found.push(why);
            self.close(Outcome::Failed);
        }
        let next = self.report.borrow().steps.len();
        for index in next..LAST {
            self.skip(index, Outcome::NotRun, why);
        }
    }

    /// The first failure decides how the trial ends.
    fn fail(&self, exit: Exit) {
        if self.exit.get() == Exit::Success {
            self.exit.set(exit);
        }
    }

    fn close(&self, outcome: Outcome) {
        let Some((index, started)) = self.open.borrow_mut().take() else { return };
        let (number, title, _) = STEPS[index];
        let entry = Entry::new((number, title), outcome, started.elapsed(), &self.found.take(), &self.mask);
        if self.format == Format::Text {
            report::result(&entry.text());
        }
        self.report.borrow_mut().steps.push(entry);
        self.save();
    }

    /// Writes the page as far as the trial is; where that cannot be, the trial goes on all the same.
    pub(super) fn save(&self) {
        if let Err(error) = fs::write(&self.file, self.report.borrow().page()) {
            self.events.warn(format!("cannot write the report {}: {error}", self.file.display()));
        }
    }

    /// What became of a step that is over.
    fn outcome(&self, number: u8) -> Option<Outcome> {
        self.report.borrow().steps.iter().find(|entry| entry.number == number).map(|entry| entry.outcome)
    }

    /// The report as far as it is, and how the trial ends.
    pub(super) fn end(&self) -> (TrialReport, Exit) {
        (self.report.borrow().clone(), self.exit.get())
    }
}

/// Takes all steps but the last one, as far as they are asked for and what they need did not fail.
pub(super) async fn all(stage: &Stage<'_>, ledger: &Ledger) {
    for (index, (number, _, needed)) in STEPS.into_iter().enumerate().take(LAST) {
        if stage.args.only.as_ref().is_some_and(|only| !only.0.contains(&number)) {
            ledger.skip(index, Outcome::LeftOut, "it was not asked for");
            continue;
        }
        let failed = needed
            .filter(|needed| matches!(ledger.outcome(*needed), Some(Outcome::Failed | Outcome::NotRun)));
        match failed {
            Some(needed) => {
                ledger.skip(index, Outcome::NotRun, &format!("it needs step {needed}, which did not pass"));
            }
            None => {
                ledger.take(stage, index).await;
            }
        }
    }
}

/// Does what a step is about.
async fn carry_out(stage: &Stage<'_>, number: u8, found: &Findings) -> Result<(), Failure> {
    match number {
        1 => machines::preflight(stage, found).await,
        2 => machines::images(stage, found).await,
        3 => machines::frame(stage, found).await,
        4 => machines::launches(stage, found).await,
        5 => machines::boot(stage, found).await,
        6 => machines::power_button(stage, found).await,
        7 => serving::first_answer(stage, found).await,
        8 => serving::rollout(stage, found).await,
        9 => serving::bad_revision(stage, found).await,
        10 => kills::kills(stage, found).await,
        11 => serving::moved(stage, found).await,
        _ => take_down::take_down(stage, found).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_in_their_order_and_need_earlier_ones() {
        for (index, (number, title, needed)) in STEPS.into_iter().enumerate() {
            assert_eq!(usize::from(number), index + 1, "{title}");
            assert!(needed.is_none_or(|needed| needed < number), "{title}");
        }
    }

    #[test]
    fn a_trial_that_is_cut_has_every_step_in_its_report() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trial.md");
        let report =
            TrialReport::begun("Sim", "r-1", "2026-01-31T12:00:00Z", "busybox:1.35", "at most 1 USD");
        let ledger =
            Ledger::new(Format::Json, Events::none(), Mask::new(vec![], str::to_owned), report, file.clone());
        ledger.skip(0, Outcome::LeftOut, "it was not asked for");
        let page = fs::read_to_string(&file).unwrap();
        assert!(page.contains("| left out | - |"), "the page is written after each step: {page}");
        *ledger.open.borrow_mut() = Some((1, Instant::now()));
        ledger.found.push("a snapshot");
        ledger.cut("the trial was interrupted");
        let (report, exit) = ledger.end();
        assert_eq!((report.steps.len(), exit), (LAST, Exit::Failure));
        assert_eq!(report.steps[1].outcome, Outcome::Failed);
        assert_eq!(report.steps[1].findings, ["a snapshot", "the trial was interrupted"]);
        assert!(report.steps[2..].iter().all(|entry| entry.outcome == Outcome::NotRun));
        assert_eq!(fs::read_to_string(&file).unwrap(), report.page());
    }
}
