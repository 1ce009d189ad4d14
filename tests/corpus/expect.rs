//! Rows of an `EXPECT.tsv`: file, severity, field, line, and what a good tool says (for people only). The first line is
//! a heading.

use std::fs;
use std::path::Path;

use i2kit::manifest::Severity;

use super::{Finding, Set};

/// What a file must get.
pub(super) struct Row {
    /// The file, or a folder below.
    pub(super) file: String,
    /// `error…`, `warning…`, or `ok…` when there must be no error.
    severity: String,
    /// Ends of field paths, divided by `;` or `,`; in parentheses what is no field.
    fields: Vec<String>,
    /// Lines that findings must point at; for what is no field, the first line that will do.
    lines: Vec<u64>,
}

pub(super) fn rows(path: &Path) -> Vec<Row> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().skip(1).filter(|line| !line.trim().is_empty()).map(row).collect()
}

fn row(line: &str) -> Row {
    let mut columns = line.split('\t').map(str::trim);
    let mut next = || columns.next().unwrap_or_default();
    let (file, severity, field, lines) = (next(), next(), next(), next());
    Row {
        file: file.to_owned(),
        severity: severity.to_owned(),
        fields: field.split([';', ',']).map(field_of).filter(|field| !field.is_empty()).collect(),
        lines: lines.split(',').filter_map(|line| line.trim().parse().ok()).collect(),
    }
}

/// The path at the end of `Service web spec.ports[0].port` or `...resources.limits`; `-` names none.
fn field_of(text: &str) -> String {
    text.trim().rsplit(' ').next().unwrap_or_default().trim_start_matches("...").trim_matches('-').to_owned()
}

impl Row {
    /// What `set` has that the row does not want, or lacks.
    pub(super) fn disagreement(&self, set: &Set) -> Option<String> {
        let wants_error = self.severity.starts_with("error");
        let worst = set.findings.iter().map(|finding| finding.severity).max();
        let fault = if wants_error != (worst == Some(Severity::Error)) {
            format!("wanted {:?}, got {}", self.severity, worst.map_or("nothing", Severity::word))
        } else if self.severity.starts_with("warning") && worst != Some(Severity::Warning) {
            format!("wanted a warning, got {}", worst.map_or("nothing", Severity::word))
        } else if !wants_error {
            return None;
        } else {
            self.missing(&set.findings)?
        };
        let found: Vec<String> =
            set.findings.iter().map(|f| format!("{} {:?} {}", f.path, f.lines, f.message)).collect();
        Some(format!("{}: {fault}; findings: {found:#?}", set.name))
    }

    /// The field or line that no finding names.
    fn missing(&self, findings: &[Finding]) -> Option<String> {
        let (outside, fields): (Vec<&String>, Vec<&String>) =
            self.fields.iter().partition(|field| field.starts_with('('));
        let lost = fields.iter().find(|field| !findings.iter().any(|f| f.path.ends_with(field.as_str())));
        if let Some(field) = lost {
            return Some(format!("no finding at {field}"));
        }
        let points = |line: &u64| {
            findings.iter().flat_map(|f| &f.lines).any(|l| l == line || (!outside.is_empty() && l > line))
        };
        self.lines.iter().find(|line| !points(line)).map(|line| format!("no finding at line {line}"))
    }
}
