//! Pages for people: what they name in the code is there, their links lead somewhere, and the book has all of them.

use std::collections::BTreeSet;
use std::fs;

use super::source::{files, root, sources};

/// Where pages of the book link to files of the repository, which the book does not have.
const REPOSITORY: [&str; 2] =
    ["https://github.com/i2kit/i2kit/blob/main/", "https://github.com/i2kit/i2kit/tree/main/"];

/// A page: its path in the repository, and its text.
pub(crate) struct Page {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// All pages: those at the top, those of the book, and those beside tests and sources.
pub(crate) fn pages() -> Vec<Page> {
    let top = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<Page> = top
        .filter(|path| path.is_file())
        .chain(["docs", "tests", "linuxkit"].into_iter().flat_map(files))
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            Page { path: path.strip_prefix(root()).unwrap().to_string_lossy().into_owned(), text }
        })
        .collect();
    pages.sort_by(|a, b| a.path.cmp(&b.path));
    pages
}

/// What stands between backticks in a line of Markdown, or in a text whose fences have gone.
pub(crate) fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The text without its blocks of code.
fn without_fences(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// Names such as `room::name`. An address of IPv6 is none.
pub(crate) fn is_name(word: &str) -> bool {
    let is_address = word.parse::<std::net::Ipv6Addr>().is_ok();
    !is_address && word.contains("::") && word.chars().all(|c| c.is_alphanumeric() || "_:".contains(c))
}

/// A page that names tests, functions or types is worth something as long as they are there.
#[test]
fn what_pages_name_in_the_code_exists() {
    let code: String = sources(&["src", "linuxkit", "tests", "fuzz"])
        .into_iter()
        .map(|source| source.text.as_str())
        .collect();
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
    for Page { path, text } in pages() {
        for name in quoted(&without_fences(&text)).filter(|word| is_name(word)) {
            // The standard library, and kinds of things in CloudFormation's words.
            if name.starts_with("std::") || name.starts_with("AWS::") {
                continue;
            }
            found += 1;
            let last = name.rsplit("::").next().unwrap_or_default();
            if !words.contains(last) {
                missing.push(format!("{path}: {name}"));
            }
        }
    }
    assert!(found > 50, "pages no longer name tests as `module::test`");
    assert!(missing.is_empty(), "these are not in the code:\n{}", missing.join("\n"));
}

#[test]
fn files_that_pages_name_exist() {
    let folders: Vec<String> = fs::read_dir(root())
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let mut missing = Vec::new();
    for page in pages() {
        for path in quoted(&without_fences(&page.text)) {
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
                missing.push(format!("{}: {path}", page.path));
            }
        }
    }
    assert!(missing.is_empty(), "these files do not exist:\n{}", missing.join("\n"));
}

/// The places of a page that links may name: its headings, as GitHub and mdBook name them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for line in without_fences(text).lines().filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim();
        // The text of a link, not its target.
        let mut parts = heading.split("](");
        let text = parts.next().unwrap_or_default().to_owned();
        let heading = parts.fold(text, |text, part| text + part.split_once(')').map_or("", |(_, rest)| rest));
        let name: String = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || "_- ".contains(*c))
            .map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() })
            .collect();
        let mut number = 0;
        while !anchors.insert(if number == 0 { name.clone() } else { format!("{name}-{number}") }) {
            number += 1;
        }
    }
    anchors
}

/// The targets of the links and pictures of a page.
fn links(text: &str) -> Vec<String> {
    let text = without_fences(text);
    let of_markdown = text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ', '\n']).next());
    let of_html = ["src=\"", "href=\""]
        .into_iter()
        .flat_map(|mark| text.split(mark).skip(1).filter_map(|rest| rest.split('"').next()));
    of_markdown.chain(of_html).map(str::to_owned).collect()
}

/// Why a link of a page leads nowhere.
fn fault(page: &Page, link: &str) -> Option<String> {
    let of_repository = REPOSITORY.iter().find_map(|address| link.strip_prefix(address));
    if of_repository.is_none() && link.contains(':') {
        return None;
    }
    let (path, anchor) =
        of_repository.unwrap_or(link).split_once('#').unwrap_or((of_repository.unwrap_or(link), ""));
    let folder = page.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut target: Vec<&str> = if of_repository.is_some() { vec![] } else { folder.split('/').collect() };
    if path.is_empty() {
        target = page.path.split('/').collect();
    }
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            target.pop()?;
        } else {
            target.push(part);
        }
    }
    let target = target.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
    let file = root().join(&target);
    if !file.exists() {
        return Some("there is no such file".into());
    }
    if of_repository.is_none() && page.path.starts_with("docs/") && !target.starts_with("docs/") {
        return Some(format!("the book does not have it: write {}{target}", REPOSITORY[0]));
    }
    if anchor.is_empty() || file.extension().is_none_or(|extension| extension != "md") {
        return None;
    }
    let text = fs::read_to_string(file).unwrap_or_default();
    (!anchors(&text).contains(anchor)).then(|| "there is no such heading".into())
}

#[test]
fn links_lead_somewhere() {
    let mut dead = Vec::new();
    let mut found = 0;
    for page in pages() {
        for link in links(&page.text) {
            found += 1;
            dead.extend(fault(&page, &link).map(|fault| format!("{}: {link}: {fault}", page.path)));
        }
    }
    assert!(found > 100, "only {found} links: they are no longer read");
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

#[test]
fn headings_are_named_as_readers_name_them() {
    let text = "# A `b::c` of d, e_f\n```\n# no heading\n```\n## [Kind](x.md)-y\n## Same\n## Same\n";
    let anchors: Vec<String> = anchors(text).into_iter().collect();
    assert_eq!(anchors, ["a-bc-of-d-e_f", "kind-y", "same", "same-1"]);
}

#[test]
fn the_book_has_every_page() {
    let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let listed: Vec<String> = links(&summary).into_iter().map(|link| format!("docs/{link}")).collect();
    let missing: Vec<String> = pages()
        .into_iter()
        .map(|page| page.path)
        .filter(|path| path.starts_with("docs/") && path != "docs/SUMMARY.md" && !listed.contains(path))
        .collect();
    assert!(missing.is_empty(), "docs/SUMMARY.md does not list {missing:#?}");
}
