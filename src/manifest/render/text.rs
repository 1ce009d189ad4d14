//! Findings for people: the lines, with both places where two collide.

use std::borrow::Cow;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};

use super::source::Lines;
use crate::manifest::{Diagnostic, Place, Reading, Severity, SourceFile};
use crate::text;

/// Places no further apart than this many lines are shown in one piece.
const NEAR: usize = 12;

/// All findings as text, each with its lines. `files` are those that were read.
pub fn text(files: &[SourceFile], reading: &Reading, coloured: bool) -> String {
    let lines: Vec<Lines<'_>> =
        files.iter().enumerate().map(|(index, file)| Lines::new(file, index, &reading.redacted)).collect();
    let renderer = if coloured { Renderer::styled() } else { Renderer::plain() };
    let mut out = String::new();
    for diagnostic in &reading.diagnostics {
        out.push_str(&one(diagnostic, &lines, &renderer));
        out.push_str("\n\n");
    }
    out
}

/// A place, the words about it, and whether it is the main one.
struct Mark<'d> {
    place: &'d Place,
    words: Cow<'d, str>,
    kind: AnnotationKind,
}

fn one(diagnostic: &Diagnostic, lines: &[Lines<'_>], renderer: &Renderer) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let whose = match (diagnostic.object.as_str(), diagnostic.path.as_str()) {
        ("", path) => path.to_owned(),
        (object, "") => object.to_owned(),
        (object, path) => format!("{object}: {path}"),
    };
    // What strangers wrote is made visible here, since the rendering adds colours, which must stay.
    let title = level.primary_title(text::line(&diagnostic.message)).id(diagnostic.code.name());
    let mut group = Group::with_title(title);
    let main = Mark { place: &diagnostic.place, words: text::line(&whose), kind: AnnotationKind::Primary };
    let others = diagnostic.related.iter().map(|(place, words)| Mark {
        place,
        words: text::line(words),
        kind: AnnotationKind::Context,
    });
    let marks: Vec<Mark<'_>> = std::iter::once(main).chain(others).collect();
    if near(&marks, lines) {
        group = group.elements(snippet(&marks, lines));
    } else {
        for mark in marks {
            group = group.elements(snippet(&[mark], lines));
        }
    }
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(text::line(help)));
    }
    renderer.render(&[group])
}

/// Whether all places are in one part of one file.
fn near(marks: &[Mark<'_>], lines: &[Lines<'_>]) -> bool {
    let Some(first) = marks.first() else { return false };
    let Some(file) = lines.get(first.place.file) else { return false };
    let line = |mark: &Mark<'_>| file.line_of(mark.place.span.start);
    marks.iter().all(|mark| mark.place.file == first.place.file && line(mark).abs_diff(line(first)) <= NEAR)
}

/// The lines from the first mark to the last, all of one file.
fn snippet<'s>(marks: &[Mark<'s>], lines: &'s [Lines<'_>]) -> Option<Snippet<'s, Annotation<'s>>> {
    let file = lines.get(marks.first()?.place.file)?;
    let line = |mark: &Mark<'_>| file.line_of(mark.place.span.start);
    let (first, last) = (marks.iter().map(line).min()?, marks.iter().map(line).max()?);
    let mut source = String::new();
    let mut annotations = Vec::new();
    for number in first..=last {
        let here: Vec<&Mark<'_>> = marks.iter().filter(|mark| line(mark) == number).collect();
        let shown = file.shown(number, here.first().map_or(0, |mark| mark.place.span.start));
        for mark in here {
            let span = shown.span(&mark.place.span);
            let annotation = mark.kind.span(span.start + source.len()..span.end + source.len());
            annotations.push(if mark.words.is_empty() {
                annotation
            } else {
                annotation.label(mark.words.clone())
            });
        }
        source.push_str(&shown.text);
        source.push('\n');
    }
    Some(Snippet::source(source).line_start(first + 1).path(text::line(file.name())).annotations(annotations))
}
