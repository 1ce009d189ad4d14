//! Findings as workflow commands, which GitHub shows beside the lines of a change.

use super::source::Lines;
use crate::manifest::{Reading, Severity, SourceFile};
use crate::text;

/// One command a finding.
pub fn github(files: &[SourceFile], reading: &Reading) -> String {
    let lines: Vec<Lines<'_>> =
        files.iter().enumerate().map(|(index, file)| Lines::new(file, index, &reading.redacted)).collect();
    let mut out = String::new();
    for diagnostic in &reading.diagnostics {
        let level = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "notice",
        };
        let mut message = diagnostic.message.clone();
        if !diagnostic.path.is_empty() {
            message = format!("{}: {message}", diagnostic.path);
        }
        if let Some(help) = &diagnostic.help {
            message = format!("{message}; {help}");
        }
        let Some(lines) = lines.get(diagnostic.place.file) else { continue };
        let (start, end) =
            (lines.position(diagnostic.place.span.start), lines.position(diagnostic.place.span.end));
        out.push_str(
            &[
                format!(
                    "::{level} file={},line={},endLine={}",
                    property(lines.name()),
                    start.line,
                    end.line.max(start.line)
                ),
                format!(
                    ",col={},title={}::{}\n",
                    start.column,
                    property(diagnostic.code.name()),
                    data(&message)
                ),
            ]
            .concat(),
        );
    }
    out
}

/// Escapes what would end a command.
fn data(value: &str) -> String {
    text::visible(value).replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Escapes what would end a property too.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
