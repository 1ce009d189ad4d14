//! The tables of `scripts/corpus`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use i2kit::manifest::{Code, Severity};

use super::{Corpus, Set, Verdict};

/// Every set with its verdict and its worst causes.
pub(super) fn sets(corpus: &Corpus) -> String {
    let mut out = String::new();
    let widest = corpus.sets.keys().map(|name| name.chars().count()).max().unwrap_or_default();
    for set in corpus.sets.values() {
        let _ = writeln!(
            out,
            "{:<9} {:<widest$} {:>4} errors {:>4} warnings {:>4} notes  {}",
            set.verdict().word(),
            set.name,
            count(set, Severity::Error),
            count(set, Severity::Warning),
            count(set, Severity::Note),
            reasons(set),
        );
    }
    let files: usize = corpus.sets.values().map(|set| set.files).sum();
    let _ = write!(out, "\n{files} files in {} sets:", corpus.sets.len());
    for verdict in [Verdict::Accepted, Verdict::NotYet, Verdict::Refused] {
        let sets = corpus.sets.values().filter(|set| set.verdict() == verdict).count();
        let _ = write!(out, " {sets} {}", verdict.word());
    }
    if corpus.expected > 0 {
        let agree = corpus.expected - corpus.disagreeing.len();
        let _ = write!(out, "; {agree} of {} rows of EXPECT.tsv agree", corpus.expected);
    }
    out.push('\n');
    out
}

fn count(set: &Set, severity: Severity) -> usize {
    set.findings.iter().filter(|finding| finding.severity == severity).count()
}

/// What is behind a verdict: the rules of errors, or the kinds and fields that wait for a later version.
fn reasons(set: &Set) -> String {
    let waits = set.verdict() == Verdict::NotYet;
    let names: BTreeSet<String> = set
        .findings
        .iter()
        .filter(|finding| {
            if waits { finding.code == Code::NotDeployableYet } else { finding.severity == Severity::Error }
        })
        .map(|finding| if waits { field(&finding.path) } else { finding.code.name().to_owned() })
        .collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// What was found how often, by rule and field, and in how many sets.
pub(super) fn causes(corpus: &Corpus) -> String {
    let mut causes: BTreeMap<_, (usize, BTreeSet<&str>)> = BTreeMap::new();
    for set in corpus.sets.values() {
        for finding in &set.findings {
            let key = (std::cmp::Reverse(finding.severity), finding.code.name(), field(&finding.path));
            let (times, sets) = causes.entry(key).or_default();
            *times += 1;
            sets.insert(&set.name);
        }
    }
    let mut rows: Vec<_> = causes.into_iter().collect();
    rows.sort_by_key(|((severity, ..), (times, sets))| {
        (*severity, std::cmp::Reverse(sets.len()), std::cmp::Reverse(*times))
    });
    let mut out = format!("{:>5} {:>5}  {:<8} {:<22} field\n", "sets", "times", "", "rule");
    for ((severity, code, field), (times, sets)) in rows {
        let word = severity.0.word();
        let _ = writeln!(out, "{:>5} {times:>5}  {word:<8} {code:<22} {field}", sets.len());
    }
    out
}

/// The path without what differs between manifests: indexes, and keys that people choose.
fn field(path: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => {
                inside = true;
                out.push_str("[]");
            }
            ']' => inside = false,
            c if !inside => out.push(c),
            _ => {}
        }
    }
    // Everything is below one of these for workloads, so that the interesting part stands in front.
    for prefix in ["spec.jobTemplate.spec.template.spec.", "spec.template.spec."] {
        if let Some(rest) = out.strip_prefix(prefix) {
            return rest.to_owned();
        }
    }
    out
}
