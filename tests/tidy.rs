//! Keeps the house in order by reading its source as text: which room may name which, what pure rooms must not touch,
//! what each file opens with, and that templates, examples and exit codes are tested and documented.
//!
//! Sizes and names are a matter of judgement, not of a test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of `src/`, and for each the rooms that it may name. A new edge is a decision about the design: make it
/// here and in `docs/architecture.md`, in the same commit.
const EDGES: &[(&str, &[&str])] = &[
    ("text", &[]),
    ("oci", &[]),
    ("erofs", &[]),
    ("report", &["text"]),
    ("manifest", &["oci", "text"]),
    ("plan", &["manifest", "oci"]),
    ("disk", &["oci", "plan"]),
    ("registry", &["erofs", "oci", "report"]),
    ("image", &["disk", "erofs", "oci", "plan", "registry", "report"]),
    ("cloud", &["disk", "image", "manifest", "oci", "plan", "report"]),
    ("rollout", &["cloud", "image", "manifest", "oci", "plan", "report"]),
    (
        "cli",
        &[
            "cloud", "disk", "erofs", "image", "manifest", "oci", "plan", "registry", "report", "rollout",
            "text",
        ],
    ),
];

/// Rooms that take values and give values.
const PURE: &[&str] = &["text", "manifest", "oci", "plan", "erofs", "disk"];

/// What a pure room must not touch.
const EFFECTS: &[&str] = &[
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::net::ToSocketAddrs",
    "std::env",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "SystemTime",
    "tokio",
    "async fn",
    "rustix",
];

/// The only places that start processes: qemu, the local cloud's own process, the tools that sign and that make manifests
/// of a kustomization, and what the guest is there for.
const STARTS_PROCESSES: &[&str] = &[
    "src/cloud/local",
    "src/image/sign.rs",
    "src/cli/kustomize.rs",
    "linuxkit/init/src",
    "linuxkit/aws/src",
];

/// A Rust file of ours.
struct Source {
    /// Relative to the repository, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The room in `src/` that the file belongs to; none for `main.rs` and `lib.rs`.
    fn room(&self) -> Option<&str> {
        self.path.strip_prefix("src/")?.split_once('/').map(|(room, _)| room)
    }

    /// The text without comments, and without the module of tests at its end.
    fn code(&self) -> String {
        if self.path.ends_with("/tests.rs") || self.path.contains("/tests/") {
            return String::new();
        }
        let code = self.text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder`, sorted; none when there is no such folder.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && entry.file_name() != "target" {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn sources(folders: &[&str]) -> Vec<Source> {
    folders
        .iter()
        .flat_map(|folder| files(folder))
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| Source {
            path: path.strip_prefix(root()).unwrap().to_string_lossy().into_owned(),
            text: fs::read_to_string(&path).unwrap(),
        })
        .collect()
}

/// The rooms that stand behind `crate::` in `code`, alone or in braces.
fn named_rooms(code: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut rooms = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            rooms.insert(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut at_start = true;
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => at_start = true,
                c if at_start && !c.is_whitespace() => {
                    rooms.insert(word(&list[at..]));
                    at_start = false;
                }
                _ => {}
            }
        }
    }
    rooms
}

#[test]
fn rooms_are_read_alone_and_in_braces() {
    let code = "use crate::oci::Digest; use crate::{plan::{image, pod}, report}; crate::erofs::write()";
    let rooms: Vec<String> = named_rooms(code).into_iter().collect();
    assert_eq!(rooms, ["erofs", "oci", "plan", "report"]);
}

#[test]
fn rooms_name_only_the_rooms_that_they_may() {
    let mut wrong = Vec::new();
    for source in sources(&["src"]) {
        let Some(room) = source.room() else { continue };
        let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{}: the room `{room}` is not in the table of edges", source.path));
            continue;
        };
        for named in named_rooms(&source.code()) {
            let is_room = EDGES.iter().any(|(name, _)| *name == named);
            if is_room && named != room && !allowed.contains(&named.as_str()) {
                wrong.push(format!("{}: `{room}` may not name `{named}`", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_of_edges_has_no_cycle() {
    let mut placed: BTreeSet<&str> = BTreeSet::new();
    for (room, allowed) in EDGES {
        let later: Vec<_> = allowed.iter().filter(|name| !placed.contains(*name)).collect();
        assert!(later.is_empty(), "`{room}` stands before {later:?}, which it names");
        placed.insert(room);
    }
}

#[test]
fn pure_rooms_touch_nothing() {
    let mut wrong = Vec::new();
    for source in sources(&["src"]) {
        if source.room().is_some_and(|room| PURE.contains(&room)) {
            let code = source.code();
            wrong.extend(
                EFFECTS
                    .iter()
                    .filter(|effect| code.contains(**effect))
                    .map(|effect| format!("{}: a pure room may not use `{effect}`", source.path)),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn processes_are_started_in_their_homes_alone() {
    let wrong: Vec<String> = sources(&["src", "linuxkit"])
        .into_iter()
        .filter(|source| !STARTS_PROCESSES.iter().any(|home| source.path.starts_with(home)))
        .filter(|source| {
            source.code().contains("Command::new(") || source.code().contains("process::Command")
        })
        .map(|source| source.path)
        .collect();
    assert!(wrong.is_empty(), "these start processes; call a room that may: {wrong:?}");
}

#[test]
fn every_file_says_what_it_owns() {
    let wrong: Vec<String> = sources(&["src", "linuxkit", "tests", "benches", "fuzz"])
        .into_iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.path)
        .collect();
    assert!(wrong.is_empty(), "these do not open with `//!`: {wrong:?}");
}

/// The goldens of insta, by file name.
fn goldens() -> Vec<String> {
    files("tests")
        .into_iter()
        .chain(files("src"))
        .filter(|path| path.extension().is_some_and(|extension| extension == "snap"))
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn every_template_and_every_example_has_a_golden() {
    let goldens = goldens();
    let templates = files("templates").into_iter().map(|path| (path.file_stem().unwrap().to_owned(), path));
    let examples = files("manifests").into_iter().map(|path| (path.file_name().unwrap().to_owned(), path));
    let wrong: Vec<PathBuf> = templates
        .chain(examples)
        .filter(|(name, _)| !goldens.iter().any(|golden| golden.contains(name.to_str().unwrap())))
        .map(|(_, path)| path)
        .collect();
    assert!(wrong.is_empty(), "no golden shows these: {wrong:?}");
}

#[test]
fn every_example_is_deployed_by_a_test() {
    let tests: String = sources(&["tests"]).into_iter().map(|source| source.text).collect();
    let wrong: Vec<PathBuf> = files("manifests")
        .into_iter()
        .filter(|path| !tests.contains(&format!("manifests/{}", path.file_name().unwrap().to_string_lossy())))
        .collect();
    assert!(wrong.is_empty(), "no test names these: {wrong:?}");
}

#[test]
fn every_exit_code_is_documented() {
    let code = fs::read_to_string(root().join("src/cli/exit.rs")).unwrap();
    let page = fs::read_to_string(root().join("docs/exit-codes.md")).unwrap();
    let codes = code
        .lines()
        .filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "))
        .filter(|(_, number)| number.parse::<u8>().is_ok())
        .map(|(name, number)| format!("| {number} | `{name}` |"))
        .collect::<Vec<_>>();
    assert!(codes.len() > 3, "src/cli/exit.rs no longer reads as a list of `Name = number,`");
    let missing: Vec<_> = codes.iter().filter(|row| !page.contains(row.as_str())).collect();
    assert!(missing.is_empty(), "docs/exit-codes.md lacks the rows {missing:?}");
}

/// The pages for people: those at the top and those in `docs`, with their texts.
fn pages() -> Vec<(String, String)> {
    let top = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    top.filter(|path| path.is_file())
        .chain(files("docs"))
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| {
            let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// What stands between backticks in a line of Markdown, or in a text whose fences have gone.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The text without its blocks of code.
fn without_fences(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// Names such as `room::name`.
fn is_name(word: &str) -> bool {
    word.contains("::") && word.chars().all(|c| c.is_alphanumeric() || "_:".contains(c))
}

/// A page that names tests, functions or types is worth something as long as they are there.
#[test]
fn what_pages_name_in_the_code_exists() {
    let code: String =
        sources(&["src", "linuxkit", "tests", "fuzz"]).into_iter().map(|source| source.text).collect();
    let words: BTreeSet<&str> = code
        .lines()
        .filter_map(|line| {
            let at = ["fn ", "struct ", "enum ", "trait ", "mod ", "type ", "const "]
                .into_iter()
                .filter_map(|keyword| Some(line.find(keyword)? + keyword.len()))
                .min()?;
            line[at..].split(|c: char| !c.is_alphanumeric() && c != '_').next()
        })
        .collect();
    let mut missing = Vec::new();
    let mut found = 0;
    for (page, text) in pages() {
        for name in quoted(&without_fences(&text)).filter(|word| is_name(word)) {
            // The standard library, and kinds of things in CloudFormation's words.
            if name.starts_with("std::") || name.starts_with("AWS::") {
                continue;
            }
            found += 1;
            let last = name.rsplit("::").next().unwrap_or_default();
            if !words.contains(last) {
                missing.push(format!("{page}: {name}"));
            }
        }
    }
    assert!(found > 50, "pages no longer name tests as `module::test`");
    assert!(missing.is_empty(), "these are not in the code:\n{}", missing.join("\n"));
}

/// Links lead to files, and so do paths of the repository.
#[test]
fn files_that_pages_name_exist() {
    let folders: Vec<String> = fs::read_dir(root())
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let mut missing = Vec::new();
    for (page, text) in pages() {
        let text = without_fences(&text);
        let own = root().join(&page);
        for link in text.split("](").skip(1) {
            let link = link.split([')', '#', ' ']).next().unwrap_or_default();
            if !link.is_empty() && !link.contains(':') && !own.with_file_name(link).exists() {
                missing.push(format!("{page}: {link}"));
            }
        }
        for path in quoted(&text) {
            // A command is its program; what stands for many paths has capitals or signs.
            let path = path.split(' ').next().unwrap_or_default().trim_end_matches('/');
            let plain =
                path.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "/._-".contains(c));
            let Some((first, _)) = path.split_once('/').filter(|_| plain) else { continue };
            // What tests make there is no file of the repository.
            if folders.iter().any(|folder| folder == first)
                && first != "target"
                && !root().join(path).exists()
            {
                missing.push(format!("{page}: {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "these files do not exist:\n{}", missing.join("\n"));
}

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

/// The names of all tests.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for source in sources(&["src", "linuxkit", "tests"]) {
        let mut is_test = false;
        for line in source.text.lines().map(str::trim) {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test) {
                names.extend(rest.split(['(', '<']).next().map(str::to_owned));
                is_test = false;
            }
        }
    }
    names
}

/// A promise without a test is none.
#[test]
fn every_promise_of_security_names_its_test() {
    let page = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let (_, promises) =
        page.split_once("\n## What is promised\n").expect("SECURITY.md says what is promised");
    let promises = promises.split("\n## ").next().unwrap_or_default();
    let rows: Vec<&str> = promises
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| Promise") && !line.starts_with("|--"))
        .collect();
    assert!(rows.len() > 20, "SECURITY.md no longer has tables of promises");
    let tests = tests();
    let is_test = |name: &str| name.rsplit("::").next().is_some_and(|last| tests.contains(last));
    let has_tests = |row: &str| {
        let names: Vec<&str> = quoted(row).filter(|word| is_name(word)).collect();
        !names.is_empty() && names.into_iter().all(is_test)
    };
    let untested: Vec<&&str> = rows.iter().filter(|row| !has_tests(row)).collect();
    assert!(untested.is_empty(), "these promises name no test, or one that is not there: {untested:#?}");
}
