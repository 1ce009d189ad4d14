//! Lines of the files, found by offset, with what must not be shown covered.

use std::ops::Range;

use crate::manifest::{Place, SourceFile};

/// Longest line that is shown; of longer ones the part around the finding.
const MAX_LINE: usize = 160;

/// A position for people: both from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// A file with the beginnings of its lines.
#[derive(Debug)]
pub(super) struct Lines<'f> {
    file: &'f SourceFile,
    starts: Vec<usize>,
    /// Sorted ranges that must not be shown.
    covered: Vec<Range<usize>>,
}

/// A line as it may be shown.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) text: String,
    /// Where the finding is, in bytes of `text`.
    pub(super) span: Range<usize>,
}

impl<'f> Lines<'f> {
    /// Indexes file number `index`; `redacted` are places of all files.
    pub(super) fn new(file: &'f SourceFile, index: usize, redacted: &[Place]) -> Self {
        let newlines = file.bytes.iter().enumerate().filter(|&(_, &b)| b == b'\n').map(|(i, _)| i + 1);
        let mut covered: Vec<Range<usize>> =
            redacted.iter().filter(|place| place.file == index).map(|place| place.span.clone()).collect();
        covered.sort_by_key(|range| (range.start, range.end));
        Self { file, starts: std::iter::once(0).chain(newlines).collect(), covered }
    }

    pub(super) fn name(&self) -> &'f str {
        &self.file.name
    }

    fn line_of(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset).saturating_sub(1)
    }

    pub(super) fn position(&self, offset: usize) -> Position {
        let line = self.line_of(offset);
        let start = self.starts[line];
        let end = offset.clamp(start, self.file.bytes.len().max(start));
        let before = self.file.bytes.get(start..end).unwrap_or_default();
        let before =
            if line == 0 { before.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(before) } else { before };
        Position { line: line + 1, column: String::from_utf8_lossy(before).chars().count() + 1 }
    }

    /// The line that `span` begins in, and where in it the span lies.
    pub(super) fn shown(&self, span: &Range<usize>) -> Shown {
        let line = self.line_of(span.start);
        let start = self.starts[line];
        let end = self.starts.get(line + 1).map_or(self.file.bytes.len(), |next| next - 1).max(start);
        let mut shown = Shown { text: String::new(), span: 0..0 };
        let from = span.start.clamp(start, end);
        let to = span.end.clamp(from, end);
        self.append(&mut shown.text, start..from);
        shown.span.start = shown.text.len();
        self.append(&mut shown.text, from..to);
        shown.span.end = shown.text.trim_end().len().max(shown.span.start);
        self.append(&mut shown.text, to..end);
        shown.text.truncate(shown.text.trim_end().len().max(shown.span.end));
        cut(shown)
    }

    /// Appends the bytes of `range` as text: bad bytes and control characters replaced, covered parts as dots.
    fn append(&self, text: &mut String, range: Range<usize>) {
        let mut at = range.start;
        let first = self.covered.partition_point(|covered| covered.end <= range.start);
        for covered in self.covered[first..].iter().take_while(|covered| covered.start < range.end) {
            if covered.start > at {
                self.append_open(text, at..covered.start);
            }
            let end = covered.end.min(range.end);
            if end > at {
                text.push('…');
                at = end;
            }
        }
        if at < range.end {
            self.append_open(text, at..range.end);
        }
    }

    fn append_open(&self, text: &mut String, range: Range<usize>) {
        let bytes = self.file.bytes.get(range).unwrap_or_default();
        text.extend(String::from_utf8_lossy(bytes).chars().filter(|c| *c != '\u{feff}').map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        }));
    }
}

/// Cuts a long line to the part around the span.
fn cut(shown: Shown) -> Shown {
    if shown.text.len() <= MAX_LINE {
        return shown;
    }
    let Shown { text, span } = shown;
    let boundary =
        |at: usize| (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    let from = if span.end <= MAX_LINE { 0 } else { boundary(span.start.saturating_sub(MAX_LINE / 2)) };
    let to = boundary(from + MAX_LINE);
    let mut cut = String::new();
    if from > 0 {
        cut.push('…');
    }
    let shift = cut.len();
    cut.push_str(&text[from..to]);
    if to < text.len() {
        cut.push('…');
    }
    let place = |at: usize| at.clamp(from, to) - from + shift;
    Shown { span: place(span.start)..place(span.end), text: cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> SourceFile {
        SourceFile { name: "a.yaml".into(), bytes: text.as_bytes().to_vec() }
    }

    #[test]
    fn positions_count_lines_and_characters() {
        let file = file("a: 1\nü: xyz\n");
        let lines = Lines::new(&file, 0, &[]);
        assert_eq!(lines.position(0), Position { line: 1, column: 1 });
        assert_eq!(lines.position(9), Position { line: 2, column: 4 });
        assert_eq!(lines.position(500), Position { line: 3, column: 1 });
        let shown = lines.shown(&(9..12));
        assert_eq!(&shown.text[shown.span], "xyz");
    }

    #[test]
    fn covered_text_is_never_shown() {
        let file = file("password: hunter2\nnext: x\n");
        let lines = Lines::new(&file, 0, &[Place { file: 0, span: 10..17 }]);
        let shown = lines.shown(&(10..17));
        assert_eq!(shown.text, "password: …");
        assert_eq!(&shown.text[shown.span], "…");
        assert_eq!(lines.shown(&(0..8)).text, "password: …");
        assert_eq!(lines.shown(&(12..14)).text, "password: ………");
    }

    #[test]
    fn long_lines_are_cut_around_the_finding() {
        let file = file(&format!("a: {}x{}", "ä".repeat(300), "b".repeat(300)));
        let lines = Lines::new(&file, 0, &[]);
        let shown = lines.shown(&(603..604));
        assert_eq!(&shown.text[shown.span.clone()], "x");
        assert!(shown.text.len() < 180);
    }
}
