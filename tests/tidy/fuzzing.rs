//! Fuzz targets stay with the code: the body of each is among the ordinary tests.

use std::fs;

use super::source::{files, root};

/// The names of the Rust files in `folder`.
fn stems(folder: &str) -> Vec<String> {
    let is_rust = |extension: &std::ffi::OsStr| extension == "rs";
    let paths = files(folder).into_iter().filter(|path| path.extension().is_some_and(is_rust));
    paths.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn every_fuzz_target_is_run_by_the_ordinary_tests() {
    let targets = stems("fuzz/fuzz_targets");
    assert!(targets.len() > 10, "they are no longer found: {targets:?}");
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let (listed, tests) = (read("fuzz/Cargo.toml"), read("tests/parsers/main.rs"));
    let mut wrong = Vec::new();
    for name in &targets {
        let code = read(&format!("fuzz/fuzz_targets/{name}.rs"));
        if !code.contains(&format!("#[path = \"../../tests/parsers/{name}.rs\"]\nmod target;")) {
            wrong.push(format!("fuzz/fuzz_targets/{name}.rs: its body belongs into tests/parsers/{name}.rs"));
        }
        if !listed.contains(&format!("path = \"fuzz_targets/{name}.rs\"")) {
            wrong.push(format!("fuzz/Cargo.toml lists no target {name}"));
        }
        if !tests.contains(&format!(", {name}::run);")) {
            wrong.push(format!("tests/parsers/main.rs does not run {name}"));
        }
    }
    let parsers = stems("tests/parsers");
    let beside = ["main", "seeds", "checksums"];
    for name in parsers.iter().filter(|name| !beside.contains(&name.as_str()) && !targets.contains(name)) {
        wrong.push(format!(
            "tests/parsers/{name}.rs is the body of no target: make fuzz/fuzz_targets/{name}.rs"
        ));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
