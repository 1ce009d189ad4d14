//! A cloud is a folder: no file outside the folders of AWS names it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::source::{root, sources};

/// The folders that are about AWS.
const FOLDERS: &[&str] = &["src/cloud/aws", "linuxkit/aws"];

/// Words that name AWS, as words of a name or of a sentence.
const WORDS: &[&str] = &["aws", "amazon", "ec2", "cloudformation", "cloudwatch"];

/// Files that must name it, each with its reason.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("src/cloud/kinds.rs", "the table of clouds, with a line for each"),
    ("src/cloud/mod.rs", "declares the folder"),
    ("linuxkit/init/src/boot/cloud.rs", "how PID 1 knows where the program for a cloud is needed"),
    ("src/manifest/language/volume.rs", "a kind of volume is called `awsElasticBlockStore`"),
];

/// Further files that name it today. The list only ever shrinks.
const KNOWN: &[&str] = &[];

/// The words of a text, those of `CamelCase` and `snake_case` apart, in small letters.
fn parts(text: &str) -> BTreeSet<String> {
    let mut parts = BTreeSet::new();
    let mut part = String::new();
    let mut before = ' ';
    for c in text.chars().chain([' ']) {
        // `AwsError` is `aws` and `error`, `AWSError` too.
        let begins = c.is_uppercase() && before.is_lowercase();
        if !c.is_alphanumeric() || begins {
            parts.insert(std::mem::take(&mut part).to_lowercase());
        }
        if c.is_alphanumeric() {
            part.push(c);
        }
        before = c;
    }
    parts
}

fn names_it(text: &str) -> bool {
    let parts = parts(text);
    WORDS.iter().any(|word| parts.contains(*word))
}

#[test]
fn aws_is_named_in_its_folders_alone() {
    let naming: Vec<String> = sources(&["src", "linuxkit"])
        .into_iter()
        .filter(|source| !source.path.contains("/tests/") && !source.path.ends_with("/tests.rs"))
        .filter(|source| {
            !FOLDERS.iter().any(|folder| Path::new(source.path.trim_end_matches(".rs")).starts_with(folder))
        })
        // What a module of tests says at the end of a file is no part of the program.
        .filter(|source| {
            names_it(source.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default())
        })
        .map(|source| source.path.clone())
        .collect();
    let is_excepted = |path: &str| EXCEPTIONS.iter().any(|(file, _)| *file == path);
    let new: Vec<_> =
        naming.iter().filter(|path| !is_excepted(path) && !KNOWN.contains(&path.as_str())).collect();
    assert!(new.is_empty(), "these name AWS; say it in general terms, or move it to its folder: {new:#?}");
    let needless: Vec<_> = EXCEPTIONS
        .iter()
        .map(|(file, _)| file)
        .chain(KNOWN)
        .filter(|file| !naming.iter().any(|path| path == *file))
        .collect();
    assert!(needless.is_empty(), "these do not name AWS any more; take them from the lists: {needless:#?}");
}

/// Whoever adds a cloud edits what names this one: the list of files has them all.
#[test]
fn the_list_of_a_new_cloud_has_every_file_that_names_one() {
    let page = fs::read_to_string(root().join("docs/architecture/changes.md")).unwrap();
    let (_, section) = page.split_once("\n## A cloud: ").expect("changes.md has the change");
    let section = section.split("\n## ").next().unwrap_or_default();
    // A kind of volume is of the language, whatever clouds there are.
    let of_clouds = |path: &str| !path.starts_with("src/manifest/");
    let shared = EXCEPTIONS.iter().map(|(path, _)| *path).filter(|path| of_clouds(path));
    let others = ["Cargo.toml", "tests/tidy.rs", "tests/tidy/clouds.rs", "docs/SUMMARY.md"];
    for path in others {
        let text = fs::read_to_string(root().join(path)).unwrap();
        assert!(names_it(&text), "{path} does not name AWS any more: take it from this list");
    }
    let missing: Vec<_> =
        shared.chain(others).filter(|path| !section.contains(&format!("`{path}`"))).collect();
    assert!(missing.is_empty(), "docs/architecture/changes.md, \"A cloud\", lacks {missing:?}");
}

#[test]
fn names_and_sentences_are_read_word_by_word() {
    for text in ["AwsProvider", "on AWS.", "aws_client", "an EC2 instance", "provider.aws"] {
        assert!(names_it(text), "{text}");
    }
    for text in ["draws", "Amazing", "laws", "rec2"] {
        assert!(!names_it(text), "{text}");
    }
}
