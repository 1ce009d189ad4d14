//! `docs/limits.md` has the limits of the code.

use std::fs;

use super::pages::quoted;
use super::source::root;

/// `docs/limits.md` names each limit as `NAME = VALUE` or `field: VALUE` in `file`, as the code has it.
#[test]
fn limits_are_those_of_the_code() {
    let page = fs::read_to_string(root().join("docs/limits.md")).unwrap();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    assert!(rows.len() > 40, "docs/limits.md no longer reads as tables");
    let mut wrong = Vec::new();
    for row in rows {
        let words: Vec<&str> = quoted(row).collect();
        let is_limit = |word: &str| word.contains(" = ") || word.contains(": ");
        let named = words.windows(2).find(|pair| is_limit(pair[0]) && pair[1].contains('/'));
        let Some([constant, file]) = named else {
            wrong.push(format!("no `NAME = VALUE` in `file`: {row}"));
            continue;
        };
        let code = fs::read_to_string(root().join(file)).unwrap_or_default();
        let Some((name, value)) = constant.split_once(" = ") else {
            // A field of a value that is one of several.
            if !code.contains(&format!("{constant},")) {
                wrong.push(format!("{file} has no `{constant}`"));
            }
            continue;
        };
        let holds = |declared: &str| {
            let words = declared.split(';').next().unwrap_or_default().split_whitespace();
            words.collect::<Vec<_>>().join(" ").ends_with(&format!(" = {value}"))
        };
        if !code.split(&format!("const {name}: ")).skip(1).any(holds) {
            wrong.push(format!("{file} has no `const {name}` with the value {value}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
