//! What a trial tells: each step with its outcome, its time and what was found, as a page that can be shown to strangers.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::mask::Mask;
use crate::cloud::trial::seconds;

/// Advice for deployments, and what it is for a trial, which has a policy of its own and begins anew.
const ADVICE: [(&str, &str); 5] = [
    ("`i2kit iam-policy`", "`i2kit iam-policy --trial`"),
    ("; run the command again; what was done is found and not done twice", ""),
    ("run the command again to plan from what is there now", "start the trial again"),
    ("run the command again later, it goes on where it stopped", "start the trial again later"),
    ("run the command again; it goes on where it stopped", "start the trial again"),
];

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    /// It did what it should.
    Passed,
    /// It did not.
    Failed,
    /// Something that it needs failed, or the trial ended before.
    NotRun,
    /// It was not asked for.
    LeftOut,
}

impl Outcome {
    /// In a word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::NotRun => "not run",
            Self::LeftOut => "left out",
        }
    }
}

/// A step that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    /// Its number.
    pub(super) number: u8,
    /// What it is about.
    pub(super) title: &'static str,
    /// How it ended.
    pub(super) outcome: Outcome,
    /// How long it took.
    pub(super) milliseconds: u64,
    /// What was found, a sentence each, with nothing of the account in it.
    pub(super) findings: Vec<String>,
}

impl Entry {
    /// A step that took so long, with what is told of what was found.
    pub(super) fn new(
        (number, title): (u8, &'static str),
        outcome: Outcome,
        took: Duration,
        findings: &[String],
        mask: &Mask,
    ) -> Self {
        let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let findings = findings.iter().map(|found| told(found, mask)).collect();
        Self { number, title, outcome, milliseconds, findings }
    }

    /// How long it took, for people.
    fn time(&self) -> String {
        match self.outcome {
            Outcome::Passed | Outcome::Failed => seconds(Duration::from_millis(self.milliseconds)),
            Outcome::NotRun | Outcome::LeftOut => "-".to_owned(),
        }
    }

    /// As lines of text.
    pub(super) fn text(&self) -> String {
        let Self { number, title, outcome, findings, .. } = self;
        let mut text = format!("{:<8} {number:>2} {title}, {}\n", outcome.word(), self.time());
        for found in findings {
            let _ = writeln!(text, "            {}", found.trim_end().replace('\n', "\n            "));
        }
        text
    }
}

/// A whole trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TrialReport {
    /// The version of the program.
    pub(super) version: &'static str,
    /// The cloud.
    pub(super) cloud: &'static str,
    /// The region.
    pub(super) region: String,
    /// When it began.
    pub(super) started: String,
    /// The image of the pod, masked.
    pub(super) image: String,
    /// What it was to cost at most.
    pub(super) bound: String,
    /// Its steps.
    pub(super) steps: Vec<Entry>,
}

impl TrialReport {
    /// The report of a trial of that cloud, region, time, masked image and bound, before its first step.
    pub(super) fn begun(cloud: &'static str, region: &str, started: &str, image: &str, bound: &str) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            cloud,
            region: region.to_owned(),
            started: started.to_owned(),
            image: image.to_owned(),
            bound: bound.to_owned(),
            steps: vec![],
        }
    }

    /// The page, in Markdown.
    pub(super) fn page(&self) -> String {
        let Self { version, cloud, region, started, image, bound, steps } = self;
        let mut page = format!(
            "# Trial of i2kit {version} on {cloud}\n\n{started}, region {region}, pod of `{image}`, {bound}. The account's number, \
             names of users, roles and policies, and ids of keys are left out; names of networks, certificates, stacks and the \
             environment are not.\n\n| step | | outcome | time |\n|---|---|---|---|\n"
        );
        for entry in steps {
            let Entry { number, title, outcome, .. } = entry;
            let _ = writeln!(page, "| {number} | {title} | {} | {} |", outcome.word(), entry.time());
        }
        for Entry { number, title, findings, .. } in steps.iter().filter(|entry| !entry.findings.is_empty()) {
            let _ = writeln!(page, "\n## {number}. {title}\n");
            for found in findings {
                let _ = writeln!(page, "- {}", found.trim_end().replace('\n', "\n  "));
            }
        }
        page
    }
}

/// What is told of a finding: advice is a trial's, and what strangers are not to read is left out.
fn told(found: &str, mask: &Mask) -> String {
    let found = ADVICE.iter().fold(found.to_owned(), |found, (said, meant)| found.replace(said, meant));
    mask.text(&found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_a_trial_s() {
        let told = |found: &str| told(found, &Mask::new(vec![], str::to_owned));
        assert_eq!(
            told(
                "Call failed: Denied; the credentials may not do this: `i2kit iam-policy` prints the permissions"
            ),
            "Call failed: Denied; the credentials may not do this: `i2kit iam-policy --trial` prints the permissions"
        );
        let failed = "Call failed: Broken; run the command again; what was done is found and not done twice";
        assert_eq!(told(failed), "Call failed: Broken");
        let expired = "log in again, then run the command again; it goes on where it stopped";
        assert_eq!(told(expired), "log in again, then start the trial again");
        assert_eq!(
            told("somebody did it; run the command again to plan from what is there now"),
            "somebody did it; start the trial again"
        );
    }

    #[test]
    fn a_page_has_each_step_and_what_was_found() {
        let mask = Mask::new(vec![], |word| word.replace("123456789012", "***"));
        let entry = |number, outcome, findings: &[&str]| {
            let findings: Vec<String> = findings.iter().map(ToString::to_string).collect();
            Entry::new((number, "images"), outcome, Duration::from_millis(1500), &findings, &mask)
        };
        let mut report =
            TrialReport::begun("Sim", "r-1", "2026-01-31T12:00:00Z", "busybox", "at most 1.20 USD");
        report.steps = vec![
            entry(2, Outcome::Passed, &["one of account 123456789012", "two\nlines"]),
            entry(3, Outcome::NotRun, &[]),
        ];
        let page = report.page();
        assert!(page.contains("| 2 | images | passed | 1.5 s |\n| 3 | images | not run | - |\n"), "{page}");
        assert!(page.contains("## 2. images\n\n- one of account ***\n- two\n  lines\n"), "{page}");
        assert!(!page.contains("## 3."), "{page}");
        assert_eq!(report.steps[1].text(), "not run   3 images, -\n");
    }
}
