//! Promises name their tests: those of `SECURITY.md`, and the pages of what is tested. Exit codes are documented.

use std::collections::BTreeSet;
use std::fs;

use super::pages::{is_name, quoted};
use super::source::{root, sources};
use super::test_names::TestNames;

/// The pages that say which test shows what.
const COVERAGE: &[&str] = &["tests/COVERAGE.md", "tests/aws/COVERAGE.md"];

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

/// The names of all tests.
fn tests() -> BTreeSet<String> {
    tests_below(&["src", "linuxkit", "tests"])
}

fn tests_below(folders: &[&str]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for source in sources(folders) {
        let mut is_test = false;
        for line in source.text.lines().map(str::trim) {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            // Cases of a harness of their own have no attribute.
            is_test |= line.starts_with("fn ") && line.ends_with("(world: &mut World) {");
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

/// The rows of the tables of a page, without their heads.
fn rows(page: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let mut rows: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| line.starts_with('|')) {
        if line.starts_with("|--") || line.starts_with("|:-") || line.starts_with("| --") {
            rows.pop();
        } else {
            rows.push(line.to_owned());
        }
    }
    rows
}

/// What a page says is tested names a test, or a module of tests, that is there, by the end of its whole name.
#[test]
fn every_row_of_coverage_names_its_test() {
    let known = TestNames::all();
    let mut wrong = Vec::new();
    for page in COVERAGE {
        let rows = rows(page);
        assert!(rows.len() > 10, "{page} no longer has tables");
        for row in rows {
            let tests = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default();
            let names: Vec<&str> = quoted(tests).filter(|word| is_name(word)).collect();
            if names.is_empty() {
                wrong.push(format!("{page}: none in {row}"));
            }
            wrong.extend(
                names.into_iter().filter(|name| !known.has(name)).map(|name| format!("{page}: {name}")),
            );
        }
    }
    assert!(wrong.is_empty(), "these name no test, or one that is not there:\n{}", wrong.join("\n"));
}

/// Tests that boot machines, and those of AWS, are worth their minutes: the pages say what each is for.
#[test]
fn every_test_of_machines_is_covered() {
    let pages: String = COVERAGE.iter().map(|page| fs::read_to_string(root().join(page)).unwrap()).collect();
    let folders = ["tests/e2e", "tests/aws", "linuxkit/init/tests/guest"];
    let missing: Vec<String> = folders
        .iter()
        .flat_map(|folder| tests_below(&[folder]))
        .filter(|name| !pages.contains(&format!("::{name}`")))
        .collect();
    assert!(missing.is_empty(), "tests/COVERAGE.md or tests/aws/COVERAGE.md lacks these tests: {missing:#?}");
}
