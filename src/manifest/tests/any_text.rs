//! Any text at all: findings lie inside the text, typed objects can be made of what passes, nothing panics.

use proptest::prelude::*;

use crate::manifest::{Code, Options, Place, SourceFile, convert, read, render};

fn hold(bytes: &[u8]) {
    let files = [SourceFile { name: "x.yaml".into(), bytes: bytes.to_vec() }];
    let options = Options { language_only: true, ..Options::default() };
    let reading = read(&files, &options);
    for diagnostic in &reading.diagnostics {
        assert_ne!(diagnostic.code, Code::Internal, "{diagnostic:?}");
        let inside = |place: &Place| place.span.start <= place.span.end && place.span.end <= bytes.len();
        assert!(inside(&diagnostic.place), "{diagnostic:?}");
        assert!(diagnostic.related.iter().all(|(place, _)| inside(place)), "{diagnostic:?}");
    }
    let shown = render::text(&files, &reading, false);
    assert_eq!(shown.is_empty(), reading.diagnostics.is_empty());
    assert_eq!(render::json(&files, &reading).len(), reading.diagnostics.len());
    render::github(&files, &reading);
    let _ = convert(&files);
}

/// The files of `tests/findings`, which have a bit of everything.
fn corpus() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/findings");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

/// Words that mean something somewhere.
const WORDS: [&str; 28] = [
    "null",
    "~",
    "yes",
    "0400",
    "-1",
    "1.5Gib",
    "{}",
    "[]",
    "[{}]",
    "{a: b}",
    "&a",
    "*a",
    "<<: *a",
    "!!str",
    "|",
    ">-",
    "\"",
    "'",
    "---",
    "25%",
    "99999999999999999999",
    "$(A)",
    "{{ x }}",
    ": ",
    "- ",
    "\t",
    "ä\u{85}",
    "None",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        hold(&bytes);
    }

    #[test]
    fn any_yaml_like_text(text in "([a-c: \\-\\[\\]{}&*!|>'\"#%\n]|kind|apiVersion){0,120}") {
        hold(text.as_bytes());
    }

    /// A good text with some words of it replaced, doubled or left out.
    #[test]
    fn almost_good_text(
        file in any::<prop::sample::Index>(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..4u8), 1..5),
    ) {
        let corpus = corpus();
        let text = file.get(&corpus);
        let mut words: Vec<String> = text.split_inclusive([' ', '\n', ',', '{', '}']).map(str::to_owned).collect();
        for (at, word, how) in edits {
            let at = at.index(words.len());
            let word = word.get(&WORDS);
            match how {
                0 => words[at] = format!("{word} "),
                1 => words[at] = format!("{word}\n"),
                2 => words[at].clear(),
                _ => { let again = words[at].clone(); words.insert(at, again); }
            }
        }
        hold(words.concat().as_bytes());
    }
}
