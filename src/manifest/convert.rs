//! The short form in the long form, as YAML.

use std::fmt::Write as _;

use super::tree::{self, Node, Notation, Resolved, Value, resolve};
use super::{Options, Reading, SourceFile, read, short, text};

/// Every document of the files: those in the short form as a Deployment and a Service, the others as they are.
/// Refused with the reading when something is wrong with the files.
pub fn convert(files: &[SourceFile]) -> Result<String, Box<Reading>> {
    let options = Options { language_only: true, ..Options::default() };
    let reading = read(files, &options);
    if reading.has_errors() {
        return Err(Box::new(reading));
    }
    let mut out = String::new();
    for file in files {
        let Ok((text, skipped)) = text::decode(&file.bytes) else { continue };
        for root in tree::parse(text, skipped).documents {
            let is_short = root.get("apiVersion").is_none() && root.get("kind").is_none();
            let objects = if is_short {
                short::expand(&root).into_iter().map(|(_, node)| node).collect()
            } else {
                vec![root]
            };
            for object in objects {
                if !out.is_empty() {
                    out.push_str("---\n");
                }
                write(&mut out, &object, 0);
            }
        }
    }
    Ok(out)
}

/// Writes a map or list in block style, `depth` levels in.
fn write(out: &mut String, node: &Node<'_>, depth: usize) {
    match &node.value {
        Value::Map(entries) => {
            for entry in entries {
                indent(out, depth);
                out.push_str(&scalar(&entry.key, Notation::Text));
                out.push(':');
                below(out, &entry.value, depth);
            }
        }
        Value::List(items) => {
            for item in items {
                indent(out, depth);
                out.push('-');
                match &item.value {
                    // The first key stands beside the dash.
                    Value::Map(entries) if !entries.is_empty() => {
                        let mut inner = String::new();
                        write(&mut inner, item, depth + 1);
                        out.push(' ');
                        out.push_str(inner.trim_start());
                    }
                    Value::List(inner) if !inner.is_empty() => {
                        out.push('\n');
                        write(out, item, depth + 1);
                    }
                    _ => below(out, item, depth),
                }
            }
        }
        Value::Scalar(_) => below(out, node, depth),
    }
}

/// Writes what follows a key or a dash.
fn below(out: &mut String, node: &Node<'_>, depth: usize) {
    match &node.value {
        Value::Scalar(value) => {
            let _ = writeln!(out, " {}", scalar(&value.text, value.notation));
        }
        Value::Map(entries) if entries.is_empty() => out.push_str(" {}\n"),
        Value::List(items) if items.is_empty() => out.push_str(" []\n"),
        Value::Map(_) => {
            out.push('\n');
            write(out, node, depth + 1);
        }
        // Lists stand at the level of their key, as kubectl prints them.
        Value::List(_) => {
            out.push('\n');
            write(out, node, depth);
        }
    }
}

fn indent(out: &mut String, depth: usize) {
    for _ in 0..depth {
        out.push_str("  ");
    }
}

/// A scalar; quoted unless it means the same without.
fn scalar(text: &str, notation: Notation) -> String {
    // An unquoted text may have been folded from several lines, so it is looked at like any other.
    if notation == Notation::Plain && resolve(text) != Resolved::Text {
        return text.to_owned();
    }
    let bare = !text.is_empty()
        && text.bytes().all(|b| {
            b.is_ascii_alphanumeric()
                || matches!(b, b'-' | b'_' | b'.' | b'/' | b':' | b'@' | b'$' | b'(' | b')' | b'=')
        })
        && text
            .trim_start_matches('-')
            .starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '$' | '_' | '.' | '('))
        && !text.starts_with("---")
        && !text.ends_with(':')
        && !text.starts_with("..");
    if bare && resolve(text) == Resolved::Text { text.to_owned() } else { quoted(text) }
}

/// In double quotes, with escapes for what may not stand in a file or would be taken for the end of a line.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_form_reads_as_the_short_one() {
        let text = "name: web\nreplicas: 2\npublic: true\ncontainers:\n  nginx:\n    image: nginx:1.27\n    command: [sh, -c, \"echo: yes\"]\n    environment: [A=1, \"B=x y\"]\n    ports: [80]\n";
        let file = |text: &str| vec![SourceFile { name: "a".into(), bytes: text.as_bytes().to_vec() }];
        let long = convert(&file(text)).unwrap();
        insta::assert_snapshot!(long);
        let sets = [text, long.as_str()].map(|text| read(&file(text), &Options::default()).set);
        assert_eq!(sets[0], sets[1]);
    }

    #[test]
    fn texts_keep_their_meaning() {
        let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData:\n  folded: a\n\n   b c\n  \"no\": \"\\x7f\\u2028\\0\\\\\"\n  empty: \"\"\n  block: |2\n     x: y\n\n";
        let file = |text: &str| vec![SourceFile { name: "a".into(), bytes: text.as_bytes().to_vec() }];
        let long = convert(&file(text)).unwrap();
        let sets = [text, long.as_str()].map(|text| read(&file(text), &Options::default()).set);
        assert_eq!(sets[0].secrets[0].data.len(), 4);
        assert_eq!(sets[0], sets[1], "{long}");
    }

    #[test]
    fn what_is_wrong_is_not_converted() {
        let file = SourceFile { name: "a".into(), bytes: b"name: web\n".to_vec() };
        assert!(convert(&[file]).unwrap_err().has_errors());
    }
}
