//! What is wrong with a manifest, and where.

use std::ops::Range;

use super::code::{Code, Severity};

/// One file of the set, as handed over by the caller.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// The name to show; `-` is standard input.
    pub name: String,
    /// Its bytes, which need not be UTF-8.
    pub bytes: Vec<u8>,
}

/// A place in one of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Index into the files of the set.
    pub file: usize,
    /// Byte range inside the file.
    pub span: Range<usize>,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The rule, by its stable name.
    pub code: Code,
    /// What the finding is about.
    pub place: Place,
    /// The object, such as `Deployment/web`; empty when the text could not be read that far.
    pub object: String,
    /// Field path such as `spec.template.spec.containers[0].image`; empty for findings about the text itself.
    pub path: String,
    /// One sentence, lower case, without a full stop.
    pub message: String,
    /// What to do next, where that is known.
    pub help: Option<String>,
    /// Other places that the finding is about, each with a few words.
    pub related: Vec<(Place, String)>,
}

impl Diagnostic {
    /// Sets what to do next.
    pub(super) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Shows another place.
    pub(super) fn also(&mut self, place: Place, words: impl Into<String>) -> &mut Self {
        self.related.push((place, words.into()));
        self
    }
}
