//! No function is longer than a person reads at once.

use super::source::{braces, sources};

/// Lines of a function, from its name to its closing brace.
const MAX_LINES: usize = 80;

/// Functions that are longer today, by file and name. The list only ever shrinks.
const KNOWN: &[(&str, &str)] = &[];

/// The functions of `code` with bodies: name and number of lines.
fn functions(code: &str) -> Vec<(String, usize)> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if code[..at].chars().next_back().is_some_and(is_name) {
            continue;
        }
        let rest = &code[at..];
        let name: String = rest[3..].chars().take_while(|c| is_name(*c)).collect();
        // Arrays in a signature have semicolons too: they stand in brackets.
        let mut depth = 0;
        let open = rest.char_indices().find(|(_, c)| {
            match c {
                '(' | '[' => depth += 1,
                ')' | ']' => depth -= 1,
                _ => {}
            }
            depth == 0 && (*c == '{' || *c == ';')
        });
        let Some((open, '{')) = open else { continue };
        let end = open + braces(&rest[open..]);
        found.push((name, rest[..end].lines().count()));
    }
    found
}

#[test]
fn functions_fit_on_a_page() {
    let mut long = Vec::new();
    let mut count = 0;
    for source in sources(&["src", "linuxkit"]) {
        for (name, lines) in functions(&source.code) {
            count += 1;
            if lines > MAX_LINES {
                long.push((source.path.clone(), name, lines));
            }
        }
    }
    assert!(count > 1000, "only {count} functions: they are no longer found");
    let is_known = |path: &str, name: &str| KNOWN.contains(&(path, name));
    let new: Vec<_> = long.iter().filter(|(path, name, _)| !is_known(path, name)).collect();
    assert!(new.is_empty(), "these have more than {MAX_LINES} lines; split them: {new:#?}");
    let needless: Vec<_> = KNOWN
        .iter()
        .filter(|known| !long.iter().any(|(path, name, _)| (path.as_str(), name.as_str()) == **known))
        .collect();
    assert!(needless.is_empty(), "these are short now; take them from KNOWN: {needless:#?}");
}

#[test]
fn functions_are_found_with_their_lines() {
    let code = "fn a(x: [u8; 3]) -> u8 {\n  {}\n}\ntrait T { fn b(); fn c() {} }\nlet f: fn (u8) = d;";
    assert_eq!(functions(code), [("a".to_owned(), 3), ("c".to_owned(), 1)]);
}
