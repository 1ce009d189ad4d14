//! What `check` says about whole folders of manifests: those of `tests/corpus/sets`, and those below `I2KIT_CORPUS` when it
//! is set. `scripts/corpus` prints the table.
//!
//! The files of a folder are one set, as `i2kit check FOLDER` reads them. Where an `EXPECT.tsv` lies beside them each
//! file is a set of its own, and gets the verdict, field and line that its row asks for; a row may also name a folder
//! below, as a whole.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "a table is what `scripts/corpus` prints")]

mod expect;
mod folders;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use i2kit::cloud::kinds;
use i2kit::manifest::{Code, Options, Severity, SourceFile, read, render};

use folders::{Folders, relative};

/// Files that were checked together, and what was found.
struct Set {
    /// Relative to the corpus.
    name: String,
    files: usize,
    findings: Vec<Finding>,
}

/// One finding, as the table needs it.
struct Finding {
    severity: Severity,
    code: Code,
    /// The field path; of what is about a whole object its kind.
    path: String,
    message: String,
    /// Lines of the finding and of its related places.
    lines: Vec<u64>,
}

/// What became of a set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Accepted,
    NotYet,
    Refused,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::NotYet => "not yet",
            Self::Refused => "refused",
        }
    }
}

impl Set {
    fn verdict(&self) -> Verdict {
        let has = |wanted: &dyn Fn(&Finding) -> bool| self.findings.iter().any(wanted);
        if has(&|finding| finding.severity == Severity::Error) {
            Verdict::Refused
        } else if has(&|finding| finding.code == Code::NotDeployableYet) {
            Verdict::NotYet
        } else {
            Verdict::Accepted
        }
    }
}

/// A corpus: its sets, and what rows of `EXPECT.tsv` disagree with.
#[derive(Default)]
struct Corpus {
    sets: BTreeMap<String, Set>,
    expected: usize,
    disagreeing: Vec<String>,
}

impl Corpus {
    fn new(root: &Path) -> Self {
        let mut corpus = Self::default();
        let folders = Folders::new(root);
        for (name, paths) in folders.sets {
            corpus.add(name, &paths);
        }
        for folder in folders.tables {
            for row in expect::rows(&folder.join("EXPECT.tsv")) {
                let name = relative(root, &folder.join(&row.file));
                corpus.expected += 1;
                match corpus.sets.get(&name) {
                    Some(set) => corpus.disagreeing.extend(row.disagreement(set)),
                    None => corpus.disagreeing.push(format!("{name}: there is no such file or folder")),
                }
            }
        }
        corpus
    }

    fn add(&mut self, name: String, paths: &[PathBuf]) {
        let file =
            |path: &PathBuf| SourceFile { name: path.display().to_string(), bytes: fs::read(path).unwrap() };
        let files: Vec<SourceFile> = paths.iter().map(file).collect();
        // What waits for a later version is a note here, so that rows need no change when it works.
        let clouds = kinds::clouds(kinds::supports()[0]);
        let options = Options { language_only: true, clouds, ..Options::default() };
        let reading = read(&files, &options);
        let rendered = render::json(&files, &reading);
        let findings = reading.diagnostics.iter().zip(rendered).map(|(found, shown)| {
            let related = shown["related"].as_array().unwrap().iter().map(|place| place["line"].as_u64());
            let lines = std::iter::once(shown["line"].as_u64()).chain(related).flatten().collect();
            Finding {
                severity: found.severity,
                code: found.code,
                path: match found.object.split_once('/') {
                    Some((kind, _)) if found.path.is_empty() => kind.to_owned(),
                    _ => found.path.clone(),
                },
                message: found.message.clone(),
                lines,
            }
        });
        self.sets.insert(name.clone(), Set { name, files: files.len(), findings: findings.collect() });
    }
}

#[test]
fn the_sets_get_the_verdicts_that_they_must() {
    let corpus = Corpus::new(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/sets"));
    assert!(corpus.expected >= 5, "only {} rows", corpus.expected);
    assert!(corpus.disagreeing.is_empty(), "{}", corpus.disagreeing.join("\n"));
}

#[test]
fn another_corpus_gets_a_table() {
    let Some(root) = std::env::var_os("I2KIT_CORPUS") else {
        println!("skipped: I2KIT_CORPUS names no folder");
        return;
    };
    let corpus = Corpus::new(Path::new(&root));
    println!("{}", table::sets(&corpus));
    println!("{}", table::causes(&corpus));
    assert!(corpus.disagreeing.is_empty(), "rows that disagree:\n{}", corpus.disagreeing.join("\n"));
}
