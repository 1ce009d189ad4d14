//! Which parts of a text must never be shown: the values of Secrets.

use std::ops::Range;

use super::diagnostic::Place;
use super::tree::{Node, Value};

/// Notes the places of all values of a Secret, except those that only name it.
pub(super) fn values(root: &Node<'_>, file: usize, redacted: &mut Vec<Place>) {
    for entry in root.entries() {
        match entry.key.as_ref() {
            "apiVersion" | "kind" | "type" | "immutable" => {}
            "metadata" => {
                for entry in entry.value.entries() {
                    if !matches!(entry.key.as_ref(), "name" | "namespace" | "labels") {
                        scalars(&entry.value, file, redacted);
                    }
                }
            }
            _ => scalars(&entry.value, file, redacted),
        }
    }
}

fn scalars(node: &Node<'_>, file: usize, redacted: &mut Vec<Place>) {
    match &node.value {
        Value::Scalar(_) => redacted.push(Place { file, span: node.span.range() }),
        Value::List(items) => items.iter().for_each(|item| scalars(item, file, redacted)),
        Value::Map(entries) => entries.iter().for_each(|entry| scalars(&entry.value, file, redacted)),
    }
}

/// The parts of lines that may hold a value, of the document around `at`, when that document seems to be a Secret.
/// For documents that could not be read. With the place of the document, so that nobody asks for it again.
pub(super) fn lines_of_secret(text: &str, at: usize) -> (Range<usize>, Vec<Range<usize>>) {
    let at = (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    let start = text[..at].rfind("\n---").map_or(0, |i| i + 1);
    let end = text[at..].find("\n---").map_or(text.len(), |i| at + i);
    let document = &text[start..end];
    let lower = document.to_ascii_lowercase();
    let is_secret = lower.match_indices("kind").any(|(i, _)| {
        let rest = lower[i + 4..].trim_start_matches(['"', '\'', ' ', ':', '\t']);
        rest.starts_with("secret")
    });
    if !is_secret {
        return (start..end, Vec::new());
    }
    let mut hidden = Vec::new();
    let mut offset = start;
    for line in document.split_inclusive('\n') {
        let bare = line.trim_end();
        // What stands before the first colon is a key, when it looks like one.
        let key = bare.find(':').filter(|&colon| {
            bare[..colon]
                .trim_start()
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        });
        let from = key.map_or(bare.len() - bare.trim_start().len(), |colon| colon + 1);
        if from < bare.len() && !bare.starts_with("---") {
            hidden.push(offset + from..offset + bare.len());
        }
        offset += line.len();
    }
    (start..end, hidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_broken_secret_is_hidden() {
        let text =
            "kind: ConfigMap\ndata: {a: b}\n---\nkind: Secret\nstringData:\n  password: hunter2\n\tx: y\n";
        let at = text.find("\tx").unwrap();
        let hidden: Vec<&str> = lines_of_secret(text, at).1.into_iter().map(|range| &text[range]).collect();
        assert_eq!(hidden, [" Secret", " hunter2", " y"]);
        assert_eq!(lines_of_secret(text, 3), (0..text.find("\n---").unwrap(), Vec::new()));
    }
}
