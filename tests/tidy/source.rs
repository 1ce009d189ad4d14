//! The Rust files of the repository as text: their code without comments, strings and tests, and its words.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// A Rust file of the repository.
pub(crate) struct Source {
    /// Path relative to the repository, with `/`.
    pub(crate) path: String,
    /// The whole text.
    pub(crate) text: String,
    /// The text with comments, strings, characters and items of tests blanked; lines stay where they are. Empty for a
    /// file of tests.
    pub(crate) code: String,
}

impl Source {
    /// The room in `src/` that the file belongs to; none for `main.rs` and `lib.rs`.
    pub(crate) fn room(&self) -> Option<&str> {
        self.path.strip_prefix("src/")?.split_once('/').map(|(room, _)| room)
    }
}

/// The repository's folder.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder`, sorted; none when there is no such folder.
pub(crate) fn files(folder: &str) -> Vec<PathBuf> {
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

/// The Rust files below `folders`.
pub(crate) fn sources(folders: &[&str]) -> Vec<&'static Source> {
    static ALL: LazyLock<Vec<Source>> =
        LazyLock::new(|| read(&["src", "linuxkit", "tests", "benches", "fuzz"]));
    let is_below =
        |source: &&Source| folders.iter().any(|folder| Path::new(&source.path).starts_with(folder));
    ALL.iter().filter(is_below).collect()
}

fn read(folders: &[&str]) -> Vec<Source> {
    let mut sources: Vec<Source> = folders
        .iter()
        .flat_map(|folder| files(folder))
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            Source { path, code: blank(&text), text }
        })
        .collect();
    let mut of_tests = BTreeSet::new();
    for source in &mut sources {
        let folder = children_folder(&source.path);
        for module in take_tests(&mut source.code) {
            of_tests.insert(format!("{folder}/{module}.rs"));
            of_tests.insert(format!("{folder}/{module}/mod.rs"));
        }
    }
    let folders: Vec<String> = of_tests.iter().map(|module| children_folder(module) + "/").collect();
    for source in &mut sources {
        let path = &source.path;
        let is_below = folders.iter().any(|folder| path.starts_with(folder));
        if of_tests.contains(path) || is_below || path.ends_with("/tests.rs") || path.contains("/tests/") {
            source.code.clear();
        }
    }
    sources
}

/// The folder in which the modules lie that the file at `path` declares.
pub(crate) fn children_folder(path: &str) -> String {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    let (folder, name) = stem.rsplit_once('/').unwrap_or(("", stem));
    if ["mod", "lib", "main"].contains(&name) { folder.to_owned() } else { stem.to_owned() }
}

/// The text with comments, strings and characters blanked.
pub(crate) fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let length = match rest {
            [b'/', b'/', ..] => rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
            [b'/', b'*', ..] => block_comment(rest),
            [b'"', ..] => string(rest, &bytes[..at]),
            [b'\'', b'\\', _, ..] => 3 + rest[3..].iter().position(|b| *b == b'\'').unwrap_or(0) + 1,
            [b'\'', ..] => character(&text[at..]),
            _ => 0,
        };
        code[at..at + length].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
        at += length.max(1);
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// The length of the comment, with those inside of it.
fn block_comment(text: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        match &text[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    at
}

/// The length of the string that begins with the quote in front of `text`; `before` tells whether it is a raw one.
fn string(text: &[u8], before: &[u8]) -> usize {
    let hashes = before.iter().rev().take_while(|b| **b == b'#').count();
    if before[..before.len() - hashes].ends_with(b"r") {
        let end: Vec<u8> = [b'"'].into_iter().chain(std::iter::repeat_n(b'#', hashes)).collect();
        let close = text[1..].windows(end.len()).position(|window| window == end);
        return close.map_or(text.len(), |close| 1 + close + end.len());
    }
    let mut at = 1;
    while at < text.len() && text[at] != b'"' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// The length of a character such as `'x'`; 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut characters = text.char_indices().skip(2);
    match characters.next() {
        Some((at, '\'')) => at + 1,
        _ => 0,
    }
}

/// Blanks what `#[cfg(test)]` stands in front of; gives the names of the modules among it that are files.
fn take_tests(code: &mut String) -> Vec<String> {
    const MARK: &str = "#[cfg(test)]";
    let mut modules = Vec::new();
    while let Some(start) = code.find(MARK) {
        let item = start + MARK.len();
        let rest = &code[item..];
        let words: Vec<&str> = rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
        let is_use = words.iter().find(|word| !word.is_empty()).is_some_and(|word| *word == "use");
        let end = item + end_of_item(rest, is_use);
        if code[..end].ends_with(';') {
            modules.extend(code[item..end - 1].split("mod ").nth(1).map(|name| name.trim().to_owned()));
        }
        let blanked: String = code[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        code.replace_range(start..end, &blanked);
    }
    modules
}

/// The length of an item, a field or a statement.
fn end_of_item(code: &str, is_use: bool) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' if depth == 0 && !is_use => return at + braces(&code[at..]),
            ';' if depth == 0 => return at + 1,
            ',' if depth == 0 && !is_use => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// The length of what the brace in front of `code` opens.
pub(crate) fn braces(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// The words of `code`: names, `::`, and every other sign by itself.
pub(crate) fn words(code: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut words = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if is_name(first) {
            rest.find(|c| !is_name(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        words.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    words
}

#[test]
fn code_is_what_is_neither_comment_nor_text_nor_test() {
    let text = "fn a<'x>() { b(\"{ // \\\" {\", '{', '\\'', r#\"{\" \"#) } // {\n/* { /* */ { */ fn c() {}\n#[cfg(test)]\nmod tests { fn d() {} }\n#[cfg(test)]\nmod other;\nfn e() {}";
    let mut code = blank(text);
    assert_eq!(take_tests(&mut code), ["other"]);
    let names: Vec<&str> = words(&code).into_iter().filter(|word| word.len() == 1 && *word > "A").collect();
    assert_eq!(names, ["a", "x", "{", "b", "r", "}", "c", "{", "}", "e", "{", "}"]);
    assert_eq!(code.lines().count(), text.lines().count());
}
