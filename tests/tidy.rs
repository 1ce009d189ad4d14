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

/// A page that names tests is worth something as long as they are there.
#[test]
fn every_test_that_the_page_of_pods_names_exists() {
    let page = fs::read_to_string(root().join("docs/pods.md")).unwrap();
    let code: String = sources(&["src", "linuxkit", "tests"]).into_iter().map(|source| source.text).collect();
    let names: Vec<&str> = page
        .split('`')
        .filter(|word| word.contains("::") && word.chars().all(|c| c.is_alphanumeric() || "_:".contains(c)))
        .collect();
    assert!(names.len() > 50, "docs/pods.md no longer names tests as `module::test`");
    let is_there = |name: &&&str| match name.rsplit("::").next() {
        Some("tests") => true,
        last => code.contains(&format!("fn {}(", last.unwrap_or_default())),
    };
    let missing: Vec<&&str> = names.iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "docs/pods.md names tests that do not exist: {missing:?}");
}
