//! Nothing is written twice: no run of lines of code stands in two places.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Source, sources};

/// Lines of a run that may not be repeated. Shorter ones are often the same by their form alone.
const LINES: usize = 12;

/// Pairs of files that share a run today. The list only ever shrinks.
const KNOWN: &[(&str, &str)] = &[];

/// The pairs of places with the same run of lines, each place as its file and the first line that is the same. Blank lines
/// and comments do not count.
fn repeats(sources: &[&Source]) -> Vec<[(String, usize); 2]> {
    let mut places: BTreeMap<Vec<&str>, (&str, usize)> = BTreeMap::new();
    let mut pairs = BTreeSet::new();
    let mut found = Vec::new();
    for source in sources {
        let texts = source.text.lines().map(str::trim).enumerate();
        let lines: Vec<(usize, &str)> = texts
            .zip(source.code.lines())
            .filter(|(_, code)| !code.trim().is_empty())
            .map(|((number, text), _)| (number + 1, text))
            .collect();
        for run in lines.windows(LINES) {
            let text = run.iter().map(|(_, line)| *line).collect();
            let here = (source.path.as_str(), run[0].0);
            let first = *places.entry(text).or_insert(here);
            // Of a longer run only the beginning is told.
            if first != here && pairs.insert((first.0, here.0)) {
                found.push([first, here].map(|(path, line)| (path.to_owned(), line)));
            }
        }
    }
    found
}

#[test]
fn nothing_is_written_twice() {
    let found = repeats(&sources(&["src", "linuxkit"]));
    let pair = |[a, b]: &[(String, usize); 2]| (a.0.clone(), b.0.clone());
    let is_known = |known: &(&str, &str), found: &[(String, usize); 2]| {
        pair(found) == (known.0.to_owned(), known.1.to_owned())
    };
    let new: Vec<_> =
        found.iter().filter(|found| !KNOWN.iter().any(|known| is_known(known, found))).collect();
    assert!(new.is_empty(), "these have {LINES} lines in common; make them a function: {new:#?}");
    let needless: Vec<_> =
        KNOWN.iter().filter(|known| !found.iter().any(|found| is_known(known, found))).collect();
    assert!(
        needless.is_empty(),
        "these have nothing in common any more; take them from KNOWN: {needless:#?}"
    );
}

#[test]
fn runs_are_compared_by_their_code() {
    let code = ["  let a = 1;\n\n"; LINES].concat();
    let file = |path: &str, code: &str| Source { path: path.into(), text: code.into(), code: code.into() };
    let sources = [file("a", &code), file("b", &format!("fn b() {{\n{code}}}")), file("c", "let a = 1;")];
    let found = repeats(&sources.iter().collect::<Vec<_>>());
    assert_eq!(found, [[("a".to_owned(), 1), ("b".to_owned(), 2)]]);
}
