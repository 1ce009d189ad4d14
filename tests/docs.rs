//! Pages agree with the program: every manifest and every environment file in them is accepted, and what the program
//! prints about itself is what the reference has.
//!
//! `I2KIT_UPDATE_DOCS=1 cargo test --test docs` prints the pages of verbs and codes again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The program, in the repository's folder and without an environment or a terminal.
fn i2kit(arguments: &[&str], input: &str) -> Output {
    let mut process = Command::new(env!("CARGO_BIN_EXE_i2kit"))
        .args(arguments)
        .current_dir(root())
        .env_remove("I2KIT_ENVIRONMENT")
        // Help texts are as wide as without a terminal.
        .env_remove("COLUMNS")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    process.wait_with_output().unwrap()
}

fn output(arguments: &[&str]) -> String {
    let output = i2kit(arguments, "");
    assert!(output.status.success(), "i2kit {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The pages of the book, and the README.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

/// The blocks of code of all pages that are in `language`, with their pages.
fn blocks(language: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let name = page.strip_prefix(root()).unwrap().display().to_string();
        for block in text.split("```").skip(1).step_by(2) {
            if let Some((_, code)) = block.split_once('\n').filter(|(word, _)| *word == language) {
                blocks.push((name.clone(), code.to_owned()));
            }
        }
    }
    blocks
}

/// `yaml` is a manifest; other documents in YAML are `yml`.
#[test]
fn manifests_of_pages_pass_check() {
    let blocks = blocks("yaml");
    assert!(blocks.len() > 10, "only {} manifests in the pages", blocks.len());
    let mut refused = Vec::new();
    for (page, manifest) in blocks {
        let output = i2kit(&["check", "-"], &manifest);
        if !output.status.success() {
            refused.push(format!("{page}: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn environment_files_of_pages_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("environment.yml");
    let mut refused = Vec::new();
    let mut found = 0;
    for (page, text) in blocks("yml") {
        if !text.lines().any(|line| line.starts_with("provider:") || line.starts_with("registries:")) {
            continue;
        }
        found += 1;
        fs::write(&file, text).unwrap();
        // The files of values that it names are not there: what is left out of `check` reads none.
        let environment = file.to_str().unwrap();
        let output = i2kit(&["check", "-e", environment, "manifests/hello.yaml"], "");
        if !output.status.success() {
            refused.push(format!("{page}: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    assert!(found > 2, "only {found} environment files in the pages");
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// The keys that the program expects, as its error about another one lists them.
fn keys(environment: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("environment.yml");
    fs::write(&file, environment).unwrap();
    let output = i2kit(&["check", "-e", file.to_str().unwrap(), "manifests/hello.yaml"], "");
    let error = String::from_utf8(output.stderr).unwrap();
    let (_, expected) = error.split_once("expected").expect("the program lists what it expects");
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_page_of_the_environment_file_has_every_key() {
    let page = fs::read_to_string(root().join("docs/reference/environment.md")).unwrap();
    let mut found = 0;
    let mut missing = Vec::new();
    for (place, environment) in [
        ("", "name: a\nzzz: 1\n"),
        ("provider.", "name: a\nprovider: {type: aws, region: r, zzz: 1}\n"),
        ("registries.HOST.", "name: a\nregistries: {docker.io: {zzz: 1}}\n"),
        ("images.IMAGE.", "name: a\nimages: {x: {zzz: 1}}\n"),
    ] {
        for key in keys(environment) {
            found += 1;
            if !page.contains(&format!("| `{place}{key}` |")) {
                missing.push(format!("{place}{key}"));
            }
        }
    }
    assert!(found > 15, "only {found} keys: the program's errors are no longer read");
    assert!(missing.is_empty(), "docs/reference/environment.md lacks {missing:?}");
}

/// The verbs that a help text lists.
fn verbs(help: &str) -> Vec<&str> {
    let list = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    let list = list.split("\n\n").next().unwrap_or_default();
    let verbs = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    verbs.filter_map(|line| line.split_whitespace().next()).filter(|verb| *verb != "help").collect()
}

/// A help text without the options that every verb has.
fn without_common_options(help: &str) -> &str {
    let own = help.split("\n  -e, --environment").next().unwrap_or_default().trim_end();
    own.strip_suffix("\nOptions:").unwrap_or(own).trim_end()
}

fn page_of_verbs() -> String {
    let all = output(&["--help"]);
    let (_, common) = all.split_once("\nOptions:\n").unwrap();
    let mut page = format!(
        "<!-- Printed from `i2kit --help` by tests/docs.rs. -->\n# Verbs\n\nWhat `i2kit help VERB` prints. Every verb has these \
         options too:\n\n```text\n{}\n```\n",
        common.trim_end()
    );
    let mut open: Vec<Vec<&str>> = verbs(&all).into_iter().map(|verb| vec![verb]).rev().collect();
    while let Some(verb) = open.pop() {
        let mut arguments = verb.clone();
        arguments.push("--help");
        let help = output(&arguments);
        let marks = "#".repeat(verb.len() + 1);
        let own = without_common_options(&help);
        write!(page, "\n{marks} {}\n\n```text\n{own}\n```\n", verb.join(" ")).unwrap();
        for child in verbs(&help).into_iter().rev() {
            let child = child.to_owned().leak();
            open.push(verb.iter().copied().chain([&*child]).collect());
        }
    }
    page
}

fn page_of_codes() -> String {
    let codes: serde_json::Value = serde_json::from_str(&output(&["explain", "-o", "json"])).unwrap();
    let mut page = "<!-- Printed from `i2kit explain` by tests/docs.rs. -->\n# Codes of findings\n\nEach finding of `i2kit \
                    check` names a code; `i2kit explain CODE` prints its paragraph. Codes are stable: scripts may depend on \
                    them.\n"
        .to_owned();
    for code in codes.as_array().unwrap() {
        let text = |key: &str| code[key].as_str().unwrap();
        write!(page, "\n## {}\n\n*{}*: {}\n", text("code"), text("severity"), text("explanation")).unwrap();
        if !text("example").is_empty() {
            // No manifest to check: it is an example of what is wrong.
            write!(page, "\n```text\n{}\n```\n", text("example").trim_end()).unwrap();
        }
    }
    page
}

#[test]
fn printed_pages_are_current() {
    let mut stale = Vec::new();
    for (path, text) in
        [("docs/reference/verbs.md", page_of_verbs()), ("docs/reference/codes.md", page_of_codes())]
    {
        let file = root().join(path);
        if std::env::var_os("I2KIT_UPDATE_DOCS").is_some() {
            fs::write(&file, &text).unwrap();
        }
        if fs::read_to_string(&file).unwrap_or_default() != text {
            stale.push(path);
        }
    }
    assert!(stale.is_empty(), "{stale:?}: run `I2KIT_UPDATE_DOCS=1 cargo test --test docs`");
}
