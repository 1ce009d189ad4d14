//! Findings as they are made: where they belong, what completes them, how many are kept. The walk and the rules report
//! through it.

use std::collections::BTreeSet;
use std::fmt;

use crate::manifest::Options;
use crate::manifest::code::{Code, Severity};
use crate::manifest::diagnostic::{Diagnostic, Place};
use crate::manifest::language::{Table, Target};
use crate::manifest::support::{Answer, Support};
use crate::manifest::tree::{Node, Span, push_index, push_key};

/// Findings of one file after which the rest is counted only: a file of garbage must not become a report of gigabytes.
const MAX_FINDINGS: usize = 1000;

/// The walk over one object.
#[derive(Debug)]
pub(in crate::manifest) struct Check<'o> {
    pub(in crate::manifest) options: &'o Options,
    pub(in crate::manifest) findings: &'o mut Findings,
    pub(in crate::manifest) references: &'o mut Vec<Reference>,
    pub(in crate::manifest) file: usize,
    /// Such as `Deployment/web`.
    pub(in crate::manifest) object: String,
    pub(in crate::manifest) namespace: String,
    /// Whether values must not appear in messages.
    pub(in crate::manifest) secret: bool,
    pub(in crate::manifest) path: String,
    /// Volumes that the StatefulSet at hand makes for its pods.
    pub(in crate::manifest) claim_templates: Vec<String>,
    /// The objects around the one at hand, for hints about fields at the wrong level.
    pub(in crate::manifest) around: Vec<&'static Table>,
}

/// All findings of a reading, with a bound for each file.
#[derive(Debug, Default)]
pub(in crate::manifest) struct Findings {
    pub(in crate::manifest) all: Vec<Diagnostic>,
    counts: Vec<usize>,
    /// Whether a file has an error in the list.
    failed: Vec<bool>,
    /// Subjects that are reported once a set and were.
    reported: BTreeSet<&'static str>,
}

impl Findings {
    /// Adds one, unless its file has too many already.
    pub(in crate::manifest) fn push(&mut self, diagnostic: Diagnostic) {
        let file = diagnostic.place.file;
        if self.counts.len() <= file {
            self.counts.resize(file + 1, 0);
            self.failed.resize(file + 1, false);
        }
        self.counts[file] += 1;
        // The first error must be listed, whatever the count.
        let is_error = diagnostic.severity == Severity::Error;
        if self.counts[file] <= MAX_FINDINGS || is_error && !self.failed[file] {
            self.failed[file] |= is_error;
            self.all.push(diagnostic);
        }
    }

    /// Whether `what`, which is reported once a set, was not reported yet.
    pub(in crate::manifest) fn first(&mut self, what: &'static str) -> bool {
        self.reported.insert(what)
    }

    /// Whether more findings of the file are counted only, so that nobody needs their hints.
    pub(in crate::manifest) fn is_full(&self, file: usize) -> bool {
        self.counts.get(file).is_some_and(|count| *count >= MAX_FINDINGS)
    }

    /// Replaces the help of the finding of that rule at that path, when it is the last one there.
    pub(in crate::manifest) fn advise(&mut self, code: Code, path: &str, help: String) {
        let found = self.all.iter_mut().rev().find(|found| found.code == code && found.path == path);
        if let Some(found) = found {
            found.help = Some(help);
        }
    }

    /// Number of errors so far.
    pub(in crate::manifest) fn errors(&self) -> usize {
        self.all.iter().filter(|d| d.severity == Severity::Error).count()
    }

    /// How many were left out of a file's list.
    pub(in crate::manifest) fn left_out(&self, file: usize) -> usize {
        self.counts.get(file).map_or(0, |count| count.saturating_sub(MAX_FINDINGS))
    }
}

/// A name that must be found in the set.
#[derive(Debug)]
pub(in crate::manifest) struct Reference {
    pub(in crate::manifest) target: Target,
    pub(in crate::manifest) namespace: String,
    pub(in crate::manifest) name: String,
    /// A key of the target that must be there, with its place and path.
    pub(in crate::manifest) keys: Vec<(String, Place, String)>,
    pub(in crate::manifest) optional: bool,
    pub(in crate::manifest) place: Place,
    pub(in crate::manifest) path: String,
    /// Who refers.
    pub(in crate::manifest) object: String,
}

impl<'o> Check<'o> {
    /// A walk over one object of the first file, which has no name yet.
    pub(in crate::manifest) fn new(
        options: &'o Options,
        findings: &'o mut Findings,
        references: &'o mut Vec<Reference>,
    ) -> Self {
        Self {
            options,
            findings,
            references,
            file: 0,
            object: String::new(),
            namespace: String::new(),
            secret: false,
            path: String::new(),
            claim_templates: Vec::new(),
            around: Vec::new(),
        }
    }
}

impl Check<'_> {
    /// A finding at `span`, under the current path. Completed by what is chained to it.
    pub(in crate::manifest) fn report(
        &mut self,
        code: Code,
        span: Span,
        message: impl Into<String>,
    ) -> Report<'_> {
        let diagnostic = Diagnostic {
            severity: self.severity(code),
            code,
            place: self.place(span),
            object: self.object.clone(),
            path: self.path.clone(),
            message: message.into(),
            help: None,
            related: Vec::new(),
        };
        Report { findings: &mut *self.findings, diagnostic: Some(diagnostic) }
    }

    fn severity(&self, code: Code) -> Severity {
        match code {
            Code::NotDeployableYet if self.options.language_only => Severity::Note,
            code => code.severity(),
        }
    }

    pub(in crate::manifest) fn place(&self, span: Span) -> Place {
        Place { file: self.file, span: span.range() }
    }

    /// Runs `inner` with `.key` added to the path.
    pub(in crate::manifest) fn key<R>(&mut self, key: &str, inner: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.path.len();
        push_key(&mut self.path, key);
        let result = inner(self);
        self.path.truncate(length);
        result
    }

    /// Runs `inner` with `[index]` added to the path.
    pub(in crate::manifest) fn index<R>(&mut self, index: usize, inner: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.path.len();
        push_index(&mut self.path, index);
        let result = inner(self);
        self.path.truncate(length);
        result
    }

    /// Runs `inner` for each item of the list under `key`.
    pub(in crate::manifest) fn each(
        &mut self,
        node: &Node<'_>,
        key: &str,
        mut inner: impl FnMut(&mut Self, &Node<'_>),
    ) {
        let Some(list) = node.get(key) else { return };
        self.key(key, |check| {
            for (i, item) in list.items().iter().enumerate() {
                check.index(i, |check| inner(check, item));
            }
        });
    }

    /// A value as messages show it.
    pub(in crate::manifest) fn shown(&self, text: &str) -> String {
        if self.secret {
            return "the value (not shown)".into();
        }
        let short: String = text.chars().take(60).collect();
        if short.len() < text.len() { format!("`{short}…`") } else { format!("`{short}`") }
    }

    /// Reports that `what` cannot be deployed yet.
    pub(in crate::manifest) fn not_yet(&mut self, span: Span, what: impl fmt::Display) {
        self.report(Code::NotDeployableYet, span, format!("not deployable yet: {what}"));
    }

    /// Reports what the target cloud makes of `what`, whose path is given.
    pub(in crate::manifest) fn supported(&mut self, span: Span, what: impl fmt::Display, path: &str) {
        self.supported_by(span, what, |cloud| cloud.answer(path));
    }

    /// Reports what the target cloud answers about `what`, when that is not a plain yes.
    pub(in crate::manifest) fn supported_by(
        &mut self,
        span: Span,
        what: impl fmt::Display,
        answer: impl Fn(&Support) -> Answer,
    ) {
        if self.options.language_only {
            return;
        }
        let clouds = self.options.clouds;
        let cloud = clouds.target.name;
        let message = match answer(clouds.target) {
            Answer::Yes => return,
            Answer::Note(note) => {
                self.report(Code::Adapted, span, format!("{what} on {cloud}: {note}"));
                return;
            }
            Answer::NotYet => format!("not deployable on {cloud} yet: {what}"),
            Answer::No => format!("not deployable on {cloud}: {what}"),
        };
        let able: Vec<&str> = clouds.able(answer).iter().map(|cloud| cloud.provider).collect();
        let help = format!("name an environment file whose provider is `{}` with `-e`", able.join("` or `"));
        let help = (!able.is_empty()).then_some(help);
        self.report(Code::NotDeployableYet, span, message).maybe_help(help);
    }

    /// Runs `inner` with all keys added to the path.
    pub(in crate::manifest) fn below(&mut self, keys: &[&str], inner: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        for key in keys {
            push_key(&mut self.path, key);
        }
        inner(self);
        self.path.truncate(length);
    }
}

/// A finding that is being completed; it is listed when this ends.
#[derive(Debug)]
pub(in crate::manifest) struct Report<'f> {
    findings: &'f mut Findings,
    diagnostic: Option<Diagnostic>,
}

impl Report<'_> {
    /// Sets what to do next.
    pub(in crate::manifest) fn help(mut self, help: impl Into<String>) -> Self {
        if let Some(diagnostic) = &mut self.diagnostic {
            diagnostic.help(help);
        }
        self
    }

    /// Sets what to do next, where that is known.
    pub(in crate::manifest) fn maybe_help(self, help: Option<impl Into<String>>) -> Self {
        match help {
            Some(help) => self.help(help),
            None => self,
        }
    }

    /// As a note, whatever the rule.
    pub(in crate::manifest) fn quietly(mut self) -> Self {
        if let Some(diagnostic) = &mut self.diagnostic {
            diagnostic.severity = Severity::Note;
        }
        self
    }

    /// Shows another place.
    pub(in crate::manifest) fn also(mut self, place: Place, words: impl Into<String>) -> Self {
        if let Some(diagnostic) = &mut self.diagnostic {
            diagnostic.also(place, words);
        }
        self
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if let Some(diagnostic) = self.diagnostic.take() {
            self.findings.push(diagnostic);
        }
    }
}
