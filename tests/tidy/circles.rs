//! No circle between files: what a file names by `crate::`, `super::`, `self::` or a child's name is an edge, and the
//! edges of a crate have no circle.
//!
//! A `mod.rs` that declares its children and re-exports their names does not depend on them by that; one that uses those
//! names itself does. A name is followed through re-exports to the file that has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::source::{Source, sources, words};

/// Edges that close circles today, from the file that names to the file that is named. The list only ever shrinks: an
/// entry that closes no circle any more fails the test too.
const KNOWN: &[(&str, &str)] = &[];

/// The path of a module below the crate's root.
type Module = Vec<String>;

/// A path that a file names, and the name that it gets there.
#[derive(Debug, Clone)]
struct Named {
    path: Vec<String>,
    alias: String,
    /// Whether it stands in `use`, and in a public one.
    used: Option<bool>,
}

/// The files of a crate.
struct Crate {
    /// The file of each module.
    files: BTreeMap<Module, String>,
    /// What each module names.
    named: BTreeMap<Module, Vec<Named>>,
    /// Words of each module outside `use`.
    words: BTreeMap<Module, BTreeSet<String>>,
    /// Names that each module defines.
    defined: BTreeMap<Module, BTreeSet<String>>,
}

impl Crate {
    fn new(folder: &str, sources: &[&Source]) -> Self {
        let has_library = sources.iter().any(|source| source.path == format!("{folder}/lib.rs"));
        let mut files = BTreeMap::new();
        for source in sources.iter().filter(|source| !source.code.is_empty()) {
            let Some(path) = source.path.strip_prefix(folder).and_then(|path| path.strip_prefix('/')) else {
                continue;
            };
            let mut module: Module =
                path.trim_end_matches(".rs").split('/').map(str::to_owned).collect::<Vec<_>>();
            let is_root = module == ["lib"] || (module == ["main"] && !has_library);
            if is_root || module.last().is_some_and(|name| name == "mod") {
                module.pop();
            }
            files.insert(module, source.path.clone());
        }
        let mut this =
            Self { files, named: BTreeMap::new(), words: BTreeMap::new(), defined: BTreeMap::new() };
        for (module, file) in &this.files {
            let code = &sources.iter().find(|source| &source.path == file).unwrap().code;
            let (named, outside) = this.read(module, &words(code));
            this.named.insert(module.clone(), named);
            this.words.insert(module.clone(), outside);
            this.defined.insert(module.clone(), defined(code));
        }
        this
    }

    /// What a module names, and its words outside `use`.
    fn read(&self, module: &Module, words: &[&str]) -> (Vec<Named>, BTreeSet<String>) {
        let mut named = Vec::new();
        let mut outside = BTreeSet::new();
        let mut at = 0;
        while at < words.len() {
            let before = at.checked_sub(1).map_or("", |at| words[at]);
            if words[at] == "use" {
                // `pub use`, `pub(crate) use`.
                let is_public = before == "pub" || before == ")";
                let start = named.len();
                at = tree(words, at + 1, &[], &mut named);
                for name in &mut named[start..] {
                    name.used = Some(is_public);
                }
                continue;
            }
            let is_path = words.get(at + 1) == Some(&"::") && before != "::" && before != ".";
            let is_visibility = before == "in" && at >= 2 && words[at - 2] == "(";
            let is_child = || self.files.contains_key(&child(module, words[at]));
            if is_path && !is_visibility && (["crate", "self", "super"].contains(&words[at]) || is_child()) {
                at = tree(words, at, &[], &mut named);
                continue;
            }
            outside.insert(words[at].to_owned());
            at += 1;
        }
        (named, outside)
    }

    /// The module that has what `path` names in `module`, when it belongs to the crate.
    fn resolve(&self, module: &Module, path: &[String], depth: usize) -> Option<Module> {
        let mut place = module.clone();
        let mut path = path;
        match path.first()?.as_str() {
            "crate" => (place, path) = (Module::new(), &path[1..]),
            "self" => path = &path[1..],
            "super" => {
                while path.first().is_some_and(|word| word == "super") {
                    place.pop();
                    path = &path[1..];
                }
            }
            first if self.files.contains_key(&child(&place, first)) => {}
            _ => return None,
        }
        while let Some((first, rest)) = path.split_first() {
            let next = child(&place, first);
            if !self.files.contains_key(&next) {
                return Some(self.follow(&place, first, depth).unwrap_or(place));
            }
            (place, path) = (next, rest);
        }
        Some(place)
    }

    /// The module from which `place` has `name`, when it only passes it on.
    fn follow(&self, place: &Module, name: &str, depth: usize) -> Option<Module> {
        if depth == 8 || self.defined.get(place).is_some_and(|defined| defined.contains(name)) {
            return None;
        }
        let imports = self.named.get(place).into_iter().flatten().filter(|named| named.used.is_some());
        for import in imports {
            if import.alias == name {
                return self.resolve(place, &import.path, depth + 1);
            }
            if import.alias == "*" {
                let from = self.resolve(place, &import.path, depth + 1)?;
                if self.defined.get(&from).is_some_and(|defined| defined.contains(name)) {
                    return Some(from);
                }
            }
        }
        None
    }

    fn edges(&self) -> BTreeSet<(String, String)> {
        let mut edges = BTreeSet::new();
        for (module, named) in &self.named {
            for name in named {
                let Some(to) = self.resolve(module, &name.path, 0) else { continue };
                let passes_on = name.used == Some(true)
                    && to.starts_with(module)
                    && !self.words[module].contains(&name.alias);
                if &to != module && !passes_on {
                    edges.insert((self.files[module].clone(), self.files[&to].clone()));
                }
            }
        }
        edges
    }
}

fn child(module: &Module, name: &str) -> Module {
    module.iter().cloned().chain([name.to_owned()]).collect()
}

/// Reads a path, or a tree of them, from `at` on; gives the place behind it.
fn tree(words: &[&str], mut at: usize, prefix: &[String], named: &mut Vec<Named>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match words.get(at).copied() {
            Some("{") if at > 0 && words[at - 1] == "::" => {
                at += 1;
                while words.get(at).is_some_and(|word| *word != "}") {
                    at = if words[at] == "," { at + 1 } else { tree(words, at, &path, named) };
                }
                return at + 1;
            }
            Some("self") if path.len() > prefix.len().min(1) && !prefix.is_empty() => at += 1,
            Some(word) => {
                path.push(word.to_owned());
                at += 1;
            }
            None => return at,
        }
        if words.get(at) != Some(&"::") || words.get(at + 1) == Some(&"<") {
            break;
        }
        at += 1;
    }
    let mut alias = path.last().cloned().unwrap_or_default();
    if alias == "*" {
        path.pop();
    }
    if words.get(at) == Some(&"as") {
        words.get(at + 1).copied().unwrap_or_default().clone_into(&mut alias);
        at += 2;
    }
    named.push(Named { path, alias, used: None });
    at
}

/// The names that items of `code` have.
fn defined(code: &str) -> BTreeSet<String> {
    let words = words(code);
    let keywords = ["fn", "struct", "enum", "trait", "type", "const", "static", "union", "macro_rules"];
    words
        .windows(3)
        .filter(|window| keywords.contains(&window[0]))
        .map(|window| if window[1] == "!" { window[2] } else { window[1] }.to_owned())
        .collect()
}

/// The files that `start` leads to.
fn reached<'a>(edges: &BTreeMap<&'a str, Vec<&'a str>>, start: &'a str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open = vec![start];
    while let Some(file) = open.pop() {
        for next in edges.get(file).into_iter().flatten() {
            if found.insert(*next) {
                open.push(next);
            }
        }
    }
    found
}

/// The circles of a graph, each with its edges as lines.
fn circles<'a>(edges: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let mut graph: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in edges {
        graph.entry(from).or_default().push(to);
    }
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        graph.keys().map(|file| (*file, reached(&graph, file))).collect();
    let mut seen = BTreeSet::new();
    let mut circles = Vec::new();
    for (file, files) in &reach {
        if !files.contains(file) || seen.contains(file) {
            continue;
        }
        let circle: BTreeSet<&str> = files
            .iter()
            .copied()
            .filter(|other| reach.get(other).is_some_and(|r| r.contains(file)))
            .collect();
        let mut text = format!("a circle of {} files:", circle.len());
        for from in &circle {
            for to in graph[from].iter().filter(|to| circle.contains(*to)) {
                write!(text, "\n  (\"{from}\", \"{to}\"),").unwrap();
            }
        }
        circles.push(text);
        seen.extend(circle);
    }
    circles
}

/// The edges between the files of every crate.
fn all_edges() -> BTreeSet<(String, String)> {
    let sources = sources(&["src", "linuxkit"]);
    let mut folders: BTreeSet<String> = BTreeSet::new();
    for source in &sources {
        let folder = source.path.strip_suffix("/lib.rs").or_else(|| source.path.strip_suffix("/main.rs"));
        folders.extend(folder.filter(|folder| folder.ends_with("src")).map(str::to_owned));
    }
    assert!(folders.len() > 3, "only the crates {folders:?}");
    folders.iter().flat_map(|folder| Crate::new(folder, &sources).edges()).collect()
}

#[test]
fn files_have_no_circles() {
    let edges = all_edges();
    assert!(edges.len() > 500, "only {} edges: paths are no longer read", edges.len());
    let pairs = || edges.iter().map(|(from, to)| (from.as_str(), to.as_str()));
    let found = circles(pairs().filter(|pair| !KNOWN.contains(pair)));
    assert!(found.is_empty(), "move what both sides need to a file below both:\n{}", found.join("\n"));
    let mut rest: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in pairs().filter(|pair| !KNOWN.contains(pair)) {
        rest.entry(from).or_default().push(to);
    }
    let is_edge = |(from, to): &(&str, &str)| edges.contains(&((*from).to_owned(), (*to).to_owned()));
    let closes =
        |known: &(&'static str, &'static str)| is_edge(known) && reached(&rest, known.1).contains(known.0);
    let needless: Vec<_> = KNOWN.iter().filter(|known| !closes(known)).collect();
    assert!(needless.is_empty(), "these close no circle any more; take them from KNOWN: {needless:#?}");
}

#[test]
fn names_are_followed_to_the_file_that_has_them() {
    let file = |path: &str, code: &str| Source { path: path.into(), text: String::new(), code: code.into() };
    let sources = [
        file("x/lib.rs", "mod a; mod b;"),
        file("x/a/mod.rs", "mod c; mod d; pub use c::{C, Other}; use d::D as E; fn a() -> Other { }"),
        file("x/a/c.rs", "use super::E; pub struct C; pub struct Other;"),
        file("x/a/d.rs", "pub struct D; fn d() { crate::b::b::<u8>() }"),
        file(
            "x/b.rs",
            "use crate::a::{self as z, C}; pub fn b() { super::a::a() } pub(in crate::a) fn e() { }",
        ),
    ];
    let edges = Crate::new("x", &sources.iter().collect::<Vec<_>>()).edges();
    let edges: Vec<String> = edges.iter().map(|(from, to)| format!("{from} {to}")).collect();
    let wanted = [
        "x/a/c.rs x/a/d.rs",
        "x/a/d.rs x/b.rs",
        "x/a/mod.rs x/a/c.rs",
        "x/a/mod.rs x/a/d.rs",
        "x/b.rs x/a/c.rs",
        "x/b.rs x/a/mod.rs",
    ];
    assert_eq!(edges, wanted);
    assert_eq!(circles([("a", "b"), ("b", "c"), ("c", "b"), ("d", "d")].into_iter()).len(), 2);
}
