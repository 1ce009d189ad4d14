//! The parser's errors as faults with advice.

use granit_parser::{ErrorKind, ScanError};

use super::fault::{Fault, fault};
use super::limits::{MAX_DEPTH, narrow};
use super::node::Span;
use crate::manifest::code::Code;

/// What `error` means to whoever wrote `text`; `place` gives the offset in the file of an offset in the text.
pub(super) fn fault_of(
    text: &str,
    place: &dyn Fn(usize) -> usize,
    error: &ScanError,
    is_template: bool,
) -> Fault {
    let at = error.marker().byte_offset().unwrap_or(text.len()).min(text.len());
    let at = (0..=at).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    let end = text[at..].chars().next().map_or(at, |c| at + c.len_utf8());
    let span = Span { start: narrow(place(at)), end: narrow(place(end)) };
    let (code, message, help) = explain(error.kind());
    let mut fault = fault(code, span, message);
    fault.help = help.map(Into::into);
    if is_template {
        fault.help = Some(
            "this looks like a Helm template: run `helm template` first and check what it prints".into(),
        );
    }
    fault
}

/// Whether the text has template actions. Only asked when the text is no YAML anyway.
pub(super) fn looks_like_template(text: &str) -> bool {
    ["{{ ", "{{-", "{{."].iter().any(|mark| text.contains(mark))
}

fn explain(kind: &ErrorKind) -> (Code, String, Option<&'static str>) {
    let syntax = |message: &str, help| (Code::Syntax, message.to_owned(), help);
    match kind {
        ErrorKind::RecursionLimitExceeded => {
            let message = format!("nested deeper than {MAX_DEPTH} levels");
            (Code::NestingLimit, message, Some("a bracket is missing or the file is no manifest"))
        }
        ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation | ErrorKind::TabNotAllowed => {
            syntax("a tab is used for indentation", Some("indent with spaces"))
        }
        ErrorKind::UnclosedFlowCollection { open } => syntax(
            &format!("`{open}` is never closed"),
            Some("close it, or quote the value if it is meant as text"),
        ),
        ErrorKind::UnclosedQuotedScalar => syntax("a quotation mark is never closed", None),
        ErrorKind::UnknownAnchor => {
            syntax("an alias without an anchor before it", Some("quote the value if `*` is meant as text"))
        }
        ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidColonPlacement => syntax(
            "`: ` is not allowed here",
            Some("quote the value if it contains `: `, and check the indentation of the line"),
        ),
        ErrorKind::ExpectedBlockMappingKey | ErrorKind::InvalidIndentation => {
            syntax("the line does not fit the ones before it", Some("check the indentation"))
        }
        ErrorKind::ExpectedBlockSequenceEntry => syntax(
            "expected the next item of the list, which begins with `- `",
            Some("indent the line as far as the other fields of the item above, or less than the list"),
        ),
        ErrorKind::BlockSequenceEntryNotAllowed => {
            syntax("a list item is not allowed here", Some("check the indentation"))
        }
        ErrorKind::InvalidSimpleKey | ErrorKind::SimpleKeyExpected => {
            syntax("expected `key: value`", Some("check the indentation"))
        }
        other => {
            let words = other.to_string();
            let help = if words.contains(" tab") {
                Some("indent with spaces; quote a text that has tabs")
            } else if words.contains("quoted scalar") {
                Some("close the quotation mark, or indent the further lines of the text")
            } else {
                None
            };
            (Code::Syntax, format!("not YAML: {words}"), help)
        }
    }
}
