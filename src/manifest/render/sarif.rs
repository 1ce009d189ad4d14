//! Findings as SARIF 2.1.0, the format in which code scanning services take results.

use serde_json::{Value, json};

use super::source::Lines;
use crate::manifest::{Code, Diagnostic, Place, Reading, Severity, SourceFile};

/// All findings as one SARIF log; `version` is the tool's.
pub fn sarif(files: &[SourceFile], reading: &Reading, version: &str) -> Value {
    let lines: Vec<Lines<'_>> =
        files.iter().enumerate().map(|(index, file)| Lines::new(file, index, &reading.redacted)).collect();
    let rules: Vec<Value> = Code::ALL.iter().map(|code| rule(*code)).collect();
    let results: Vec<Value> =
        reading.diagnostics.iter().map(|diagnostic| result(diagnostic, &lines)).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "i2kit", "version": version, "rules": rules } },
            "results": results,
            "columnKind": "unicodeCodePoints",
        }],
    })
}

fn rule(code: Code) -> Value {
    json!({
        "id": code.name(),
        "shortDescription": { "text": code.name().replace('-', " ") },
        "fullDescription": { "text": code.explanation() },
        "defaultConfiguration": { "level": level(code.severity()) },
    })
}

const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

fn result(diagnostic: &Diagnostic, lines: &[Lines<'_>]) -> Value {
    let mut text = diagnostic.message.clone();
    if let Some(help) = &diagnostic.help {
        text = format!("{text}; {help}");
    }
    let mut location = place(&diagnostic.place, lines);
    if !diagnostic.path.is_empty() {
        location["logicalLocations"] = json!([{ "fullyQualifiedName": diagnostic.path, "kind": "member" }]);
    }
    let related: Vec<Value> = diagnostic
        .related
        .iter()
        .map(|(other, words)| {
            let mut location = place(other, lines);
            location["message"] = json!({ "text": words });
            location
        })
        .collect();
    let index = Code::ALL.iter().position(|code| *code == diagnostic.code);
    let mut value = json!({
        "ruleId": diagnostic.code.name(),
        "ruleIndex": index,
        "level": level(diagnostic.severity),
        "message": { "text": text },
        "locations": [location],
    });
    if !related.is_empty() {
        value["relatedLocations"] = related.into();
    }
    value
}

fn place(place: &Place, lines: &[Lines<'_>]) -> Value {
    let Some(lines) = lines.get(place.file) else { return json!({}) };
    let (start, end) = (lines.position(place.span.start), lines.position(place.span.end));
    json!({
        "physicalLocation": {
            "artifactLocation": { "uri": uri(lines.name()) },
            "region": {
                "startLine": start.line,
                "startColumn": start.column,
                "endLine": end.line,
                "endColumn": end.column,
            },
        },
    })
}

/// A relative path as a URI reference.
fn uri(name: &str) -> String {
    let plain =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'~' | b'+' | b'@');
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
