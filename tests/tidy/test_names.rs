//! Whole names of tests: what `cargo test` prints, behind the crate's folder and the target.

use std::collections::BTreeSet;

use super::source::{blank, sources, words};

/// The names of all tests, and of all modules that have some.
pub(crate) struct TestNames(BTreeSet<String>);

impl TestNames {
    /// Those of the repository.
    pub(crate) fn all() -> Self {
        let mut names = BTreeSet::new();
        for source in sources(&["src", "linuxkit", "tests"]) {
            for test in tests_of(&source.path, &source.text) {
                names.extend((1..=test.len()).map(|length| test[..length].join("::")));
            }
        }
        Self(names)
    }

    /// Whether a test or a module of tests has this name, with or without the modules in front of it.
    pub(crate) fn has(&self, name: &str) -> bool {
        let end = format!("::{name}");
        self.0.iter().any(|whole| whole == name || whole.ends_with(&end))
    }
}

/// The module that the file at `path` is: behind `i2kit`, behind the folder of the guest's crate, or behind the target of
/// tests.
fn module(path: &str) -> Vec<String> {
    let mut parts: Vec<&str> = path.strip_suffix(".rs").unwrap_or(path).split('/').collect();
    if parts.last().is_some_and(|name| ["mod", "lib", "main"].contains(name)) {
        parts.pop();
    }
    let parts = match parts.as_slice() {
        ["src", rest @ ..] => [&["i2kit"][..], rest].concat(),
        ["linuxkit", name, "src" | "tests", rest @ ..] => [&[*name][..], rest].concat(),
        ["tests", rest @ ..] => rest.to_vec(),
        other => other.to_vec(),
    };
    parts.into_iter().map(str::to_owned).collect()
}

/// The tests of a file, each by the modules that it is in and its name.
fn tests_of(path: &str, text: &str) -> Vec<Vec<String>> {
    let code = blank(text);
    let words = words(&code);
    let file = module(path);
    // Modules that were opened, and the depth of braces at which they were.
    let mut inside: Vec<(&str, usize)> = Vec::new();
    let mut depth = 0_usize;
    let mut is_test = false;
    let has_cases = path.starts_with("linuxkit/") && path.contains("/tests/");
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let rest = &words[at + 1..];
        match *word {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                let _ = inside.pop_if(|(_, opened)| *opened == depth);
            }
            "mod" => {
                if let [name, "{", ..] = rest {
                    inside.push((*name, depth));
                }
            }
            "#" => is_test |= matches!(rest, ["[", "test", "]", ..] | ["[", "tokio", "::", "test", ..]),
            "fn" => {
                let Some(name) = rest.first() else { continue };
                let modules = inside.iter().map(|(module, _)| (*module).to_owned());
                if std::mem::take(&mut is_test) {
                    found.push(file.iter().cloned().chain(modules).chain([(*name).to_owned()]).collect());
                } else if has_cases
                    && matches!(rest, [_, "(", "world", ":", "&", "mut", "World", ")", "{", ..])
                {
                    // A case of a harness of its own is printed without modules.
                    found.push(file.iter().take(2).cloned().chain([(*name).to_owned()]).collect());
                }
            }
            _ => {}
        }
    }
    found
}

#[test]
fn tests_are_found_with_their_modules() {
    let text = "mod tests {\n#[test]\nfn a() { if x {} }\nfn helper() {}\nmod inner { #[tokio::test(flavor = \"x\")]\nasync fn b() {} }\nproptest! { #[test] fn c(x in 0..1) {} }\n}\n#[test]\nfn d() {}\nfn e(world: &mut World) {}";
    let names = |path| tests_of(path, text).iter().map(|test| test.join("::")).collect::<Vec<_>>();
    let wanted = ["room::tests::a", "room::tests::inner::b", "room::tests::c", "room::d"];
    assert_eq!(names("src/room.rs"), wanted.map(|name| format!("i2kit::{name}")));
    assert_eq!(names("linuxkit/sys/src/lib.rs")[3], "sys::d");
    assert_eq!(names("linuxkit/container/tests/start/cases.rs")[4], "container::start::e");
    assert_eq!(names("tests/door/main.rs")[3], "door::d");
    let known = TestNames(["i2kit::room::tests::a".to_owned()].into());
    assert!(known.has("tests::a") && known.has("i2kit::room::tests::a"));
    assert!(!known.has("other::tests::a") && !known.has("sts::a"));
}
