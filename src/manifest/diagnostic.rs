//! What is wrong with a manifest, and where.

use std::ops::Range;

/// One file of the set, as handed over by the caller.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// The name to show; `-` is standard input.
    pub name: String,
    /// Its bytes, which need not be UTF-8.
    pub bytes: Vec<u8>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; nothing is lost.
    Note,
    /// Accepted, but probably not what was meant.
    Warning,
    /// Refused.
    Error,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Stable name of the rule, such as `unknown-field`.
    pub code: &'static str,
    /// Index into the files of the set.
    pub file: usize,
    /// Byte range inside the file that the finding is about.
    pub span: Range<usize>,
    /// Field path such as `spec.template.spec.containers[0].image`; empty for findings about the text itself.
    pub path: String,
    /// One sentence, lower case, without a full stop.
    pub message: String,
    /// What to do next, when it can be said.
    pub help: Option<String>,
}
