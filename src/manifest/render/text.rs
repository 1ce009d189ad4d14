//! Findings for people: the line, with both places where two collide.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::source::Lines;
use crate::manifest::{Diagnostic, Place, Reading, Severity, SourceFile};

/// All findings as text, each with its line. `files` are those that were read.
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

fn one(diagnostic: &Diagnostic, lines: &[Lines<'_>], renderer: &Renderer) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let where_ = match (diagnostic.object.as_str(), diagnostic.path.as_str()) {
        ("", "") => String::new(),
        ("", path) => path.to_owned(),
        (object, "") => object.to_owned(),
        (object, path) => format!("{object}: {path}"),
    };
    let title = level.primary_title(diagnostic.message.as_str()).id(diagnostic.code.name());
    let mut group = Group::with_title(title);
    // The places of one file that lie close together could share a snippet; one each keeps long gaps out.
    let main = (&diagnostic.place, where_.as_str(), AnnotationKind::Primary);
    let others =
        diagnostic.related.iter().map(|(place, words)| (place, words.as_str(), AnnotationKind::Context));
    for (place, words, kind) in std::iter::once(main).chain(others) {
        if let Some(snippet) = snippet(place, words, kind, lines) {
            group = group.element(snippet);
        }
    }
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    renderer.render(&[group])
}

fn snippet<'s>(
    place: &Place,
    words: &'s str,
    kind: AnnotationKind,
    lines: &'s [Lines<'_>],
) -> Option<Snippet<'s, annotate_snippets::Annotation<'s>>> {
    let lines = lines.get(place.file)?;
    let shown = lines.shown(&place.span);
    let annotation = kind.span(shown.span);
    let annotation = if words.is_empty() { annotation } else { annotation.label(words) };
    Some(
        Snippet::source(shown.text)
            .line_start(lines.position(place.span.start).line)
            .path(lines.name())
            .annotation(annotation),
    )
}
