//! The rules of the house, held by reading its source as text. This file: which room may name which, what pure rooms must
//! not touch, what each file opens with, and that templates and examples are tested. The modules: circles between files,
//! sizes of functions, repeated lines, names of types, of clouds and of tests, that pages, limits and promises agree with the code,
//! and that fuzz targets do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/clouds.rs"]
mod clouds;
#[path = "tidy/fuzzing.rs"]
mod fuzzing;
#[path = "tidy/limits.rs"]
mod limits;
#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/pages.rs"]
mod pages;
#[path = "tidy/promises.rs"]
mod promises;
#[path = "tidy/repeats.rs"]
mod repeats;
#[path = "tidy/sizes.rs"]
mod sizes;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/test_names.rs"]
mod test_names;

use std::collections::BTreeSet;
use std::path::PathBuf;

use source::{files, root, sources};

/// The rooms of `src/`, and for each the rooms that it may name. A new edge is a decision about the design: make it
/// here and in `docs/architecture/index.md`, in the same commit.
const EDGES: &[(&str, &[&str])] = &[
    ("text", &[]),
    ("oci", &[]),
    ("erofs", &[]),
    ("report", &["text"]),
    ("manifest", &["oci", "text"]),
    ("plan", &["erofs", "manifest", "oci"]),
    ("disk", &["oci", "plan"]),
    ("registry", &["erofs", "oci", "report"]),
    ("image", &["disk", "erofs", "oci", "plan", "registry", "report"]),
    ("cloud", &["disk", "image", "manifest", "oci", "plan", "report", "text"]),
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

/// Parts of edge rooms that take values and give values, too.
const PURE_PARTS: &[&str] = &[
    "src/cloud/engine",
    "src/cloud/aws/plan/",
    "src/cloud/local/proxy/routing.rs",
    "src/cloud/local/network/wanted.rs",
    "src/cloud/local/network/rules",
    "src/cloud/local/network/nftables",
    "src/cloud/local/mover/dns/message.rs",
    "src/cloud/local/mover/dns/zone.rs",
    "src/cloud/local/mover/egress/packets/",
    "src/cloud/local/mover/egress/policy.rs",
    "src/cloud/local/keeper/names.rs",
    "src/cli/dashboard/view.rs",
    "src/cli/dashboard/traffic.rs",
];

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

/// The only places that start processes: qemu, the local cloud's own process, the tools that sign, that make manifests
/// of a kustomization and that open a browser, the trial, which kills this program, what the guest is there for, and what
/// measures a group of replicas.
const STARTS_PROCESSES: &[&str] = &[
    "src/cloud/local",
    "src/image/sign.rs",
    "src/cli/kustomize.rs",
    "src/cli/dashboard/open.rs",
    "src/cli/trial/kills.rs",
    "linuxkit/container/src",
    "linuxkit/init/src",
    "linuxkit/aws/src",
    "linuxkit/coordinator/benches",
];

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
        for named in named_rooms(&source.code) {
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
        let is_part = PURE_PARTS.iter().any(|part| source.path.starts_with(part));
        if is_part || source.room().is_some_and(|room| PURE.contains(&room)) {
            let code = &source.code;
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

/// What decides for the local cloud under its lock, and what it must not name: who waits for a file, for the lines of a
/// machine among them, would keep the API and every health check waiting.
#[test]
fn what_decides_under_the_lock_reads_no_file() {
    const DECIDES: &[&str] = &["src/cloud/local/keeper/state.rs", "src/cloud/local/keeper/step.rs"];
    let sources: Vec<_> =
        sources(&["src"]).into_iter().filter(|source| DECIDES.contains(&source.path.as_str())).collect();
    assert_eq!(sources.len(), DECIDES.len(), "these have other names now: {DECIDES:?}");
    let mut wrong = Vec::new();
    for source in sources {
        for named in ["std::fs", "fs::", "File::", "log_reader", "console"] {
            let is_named = source.code.match_indices(named).any(|(at, _)| {
                let before = source.code[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
            });
            if is_named {
                wrong.push(format!("{}: it names `{named}`; have the caller read that first", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn processes_are_started_in_their_homes_alone() {
    let wrong: Vec<String> = sources(&["src", "linuxkit"])
        .into_iter()
        .filter(|source| !STARTS_PROCESSES.iter().any(|home| source.path.starts_with(home)))
        .filter(|source| source.code.contains("Command::new(") || source.code.contains("process::Command"))
        .map(|source| source.path.clone())
        .collect();
    assert!(wrong.is_empty(), "these start processes; call a room that may: {wrong:?}");
}

#[test]
fn every_file_says_what_it_owns() {
    let wrong: Vec<String> = sources(&["src", "linuxkit", "tests", "benches", "fuzz"])
        .into_iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.path.clone())
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
    // What the dashboard's page looks like, `scripts/dashboard-look` looks at.
    let page = root().join("templates/dashboard");
    let templates = files("templates").into_iter().filter(|path| !path.starts_with(&page));
    let templates = templates.map(|path| (path.file_stem().unwrap().to_owned(), path));
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
    let tests: String = sources(&["tests"]).into_iter().map(|source| source.text.as_str()).collect();
    let wrong: Vec<PathBuf> = files("manifests")
        .into_iter()
        .filter(|path| !tests.contains(path.strip_prefix(root()).unwrap().to_str().unwrap()))
        .collect();
    assert!(wrong.is_empty(), "no test names these: {wrong:?}");
}
