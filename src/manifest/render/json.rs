//! Findings for programs.

use serde_json::{Value, json as object};

use super::source::Lines;
use crate::manifest::{Diagnostic, Place, Reading, SourceFile};

/// All findings as JSON objects, in order.
pub fn json(files: &[SourceFile], reading: &Reading) -> Vec<Value> {
    let lines: Vec<Lines<'_>> =
        files.iter().enumerate().map(|(index, file)| Lines::new(file, index, &reading.redacted)).collect();
    reading.diagnostics.iter().map(|diagnostic| one(diagnostic, &lines)).collect()
}

fn one(diagnostic: &Diagnostic, lines: &[Lines<'_>]) -> Value {
    let related: Vec<Value> = diagnostic
        .related
        .iter()
        .map(|(other, words)| {
            let mut value = place(other, lines);
            value["message"] = words.as_str().into();
            value
        })
        .collect();
    let mut value = place(&diagnostic.place, lines);
    value["severity"] = diagnostic.severity.word().into();
    value["code"] = diagnostic.code.name().into();
    value["object"] = diagnostic.object.as_str().into();
    value["path"] = diagnostic.path.as_str().into();
    value["message"] = diagnostic.message.as_str().into();
    value["help"] = diagnostic.help.as_deref().into();
    value["related"] = related.into();
    value
}

fn place(place: &Place, lines: &[Lines<'_>]) -> Value {
    let Some(lines) = lines.get(place.file) else { return object!({}) };
    let (start, end) = (lines.position(place.span.start), lines.position(place.span.end));
    object!({
        "file": lines.name(),
        "line": start.line,
        "column": start.column,
        "endLine": end.line,
        "endColumn": end.column,
    })
}
