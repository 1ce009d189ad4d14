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

/// A scalar; quoted, as JSON is, unless it means the same without.
fn scalar(text: &str, notation: Notation) -> String {
    let bare = !text.is_empty()
        && text.bytes().all(|b| {
            b.is_ascii_alphanumeric()
                || matches!(b, b'-' | b'_' | b'.' | b'/' | b':' | b'@' | b'$' | b'(' | b')' | b'=')
        })
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '$' | '_' | '.' | '('))
        && !text.ends_with(':')
        && !text.starts_with("..");
    match notation {
        Notation::Plain => text.to_owned(),
        Notation::Text if bare && resolve(text) == Resolved::Text => text.to_owned(),
        Notation::Text => serde_json::Value::from(text).to_string(),
    }
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
    fn what_is_wrong_is_not_converted() {
        let file = SourceFile { name: "a".into(), bytes: b"name: web\n".to_vec() };
        assert!(convert(&[file]).unwrap_err().has_errors());
    }
}
