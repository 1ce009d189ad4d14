//! Lines of the files, found by offset, with what must not be shown covered.

use std::ops::Range;

use crate::manifest::{Place, SourceFile};
use crate::text;

/// Longest part of a line that is shown.
const MAX_LINE: usize = 160;

/// How much of a long line is shown before the finding.
const BEFORE: usize = 60;

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
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub(super) text: String,
    /// Offsets in the file and where they are in the text, both ascending.
    map: Vec<(usize, usize)>,
}

impl Shown {
    /// Where a part of the file is in the text.
    pub(super) fn span(&self, span: &Range<usize>) -> Range<usize> {
        let at = |offset: usize| {
            let next = self.map.partition_point(|(source, _)| *source < offset);
            self.map.get(next).map_or(self.text.len(), |(_, shown)| *shown)
        };
        let start = at(span.start);
        start..at(span.end).max(start)
    }

    fn put(&mut self, source: usize, c: char) {
        self.map.push((source, self.text.len()));
        self.text.push(c);
    }
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

    /// The line that an offset is in, from 0.
    pub(super) fn line_of(&self, offset: usize) -> usize {
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

    /// Line number `line` from 0; of a long one the part around the offset `focus`.
    pub(super) fn shown(&self, line: usize, focus: usize) -> Shown {
        let Some(&start) = self.starts.get(line) else { return Shown::default() };
        let end = self.starts.get(line + 1).map_or(self.file.bytes.len(), |next| next - 1).max(start);
        let mut window = start..end;
        if end - start > MAX_LINE {
            if focus.saturating_sub(start) > MAX_LINE - BEFORE {
                window.start = self.boundary(focus.clamp(start, end) - BEFORE);
            }
            window.end = self.boundary((window.start + MAX_LINE).min(end));
        }
        let mut shown = Shown::default();
        if window.start > start {
            shown.put(window.start, '…');
        }
        self.append(&mut shown, window.clone());
        let bare = shown.text.trim_end().len();
        shown.text.truncate(bare);
        if window.end < end {
            shown.put(window.end, '…');
        }
        for (_, place) in &mut shown.map {
            *place = (*place).min(bare);
        }
        shown
    }

    /// The next offset at or before which no character of UTF-8 is cut.
    fn boundary(&self, mut offset: usize) -> usize {
        while offset > 0 && self.file.bytes.get(offset).is_some_and(|byte| byte & 0xc0 == 0x80) {
            offset -= 1;
        }
        offset
    }

    /// Appends the bytes of `range` as text: bad bytes and control characters replaced, covered parts as dots.
    fn append(&self, shown: &mut Shown, range: Range<usize>) {
        let mut at = range.start;
        // Covered ranges do not overlap, except that the same place may be listed twice.
        let first = self.covered.partition_point(|covered| covered.end <= range.start);
        for covered in self.covered[first..].iter().take_while(|covered| covered.start < range.end) {
            if covered.start > at {
                self.append_open(shown, at..covered.start);
            }
            let end = covered.end.min(range.end);
            if end > at {
                shown.put(covered.start.max(at), '…');
                at = end;
            }
        }
        if at < range.end {
            self.append_open(shown, at..range.end);
        }
    }

    fn append_open(&self, shown: &mut Shown, range: Range<usize>) {
        let mut at = range.start;
        for chunk in self.file.bytes.get(range).unwrap_or_default().utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\u{feff}' => {}
                    '\t' => shown.put(at, ' '),
                    c if text::is_hidden(c) => shown.put(at, '\u{fffd}'),
                    c => shown.put(at, c),
                }
                at += c.len_utf8();
            }
            if !chunk.invalid().is_empty() {
                shown.put(at, '\u{fffd}');
                at += chunk.invalid().len();
            }
        }
    }
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
        let shown = lines.shown(1, 9);
        assert_eq!(&shown.text[shown.span(&(9..12))], "xyz");
        assert_eq!(&shown.text[shown.span(&(9..50))], "xyz");
    }

    #[test]
    fn covered_text_is_never_shown() {
        let file = file("password: hunter2\nnext: x\n");
        let lines = Lines::new(&file, 0, &[Place { file: 0, span: 10..17 }]);
        let shown = lines.shown(0, 10);
        assert_eq!(shown.text, "password: …");
        assert_eq!(&shown.text[shown.span(&(10..17))], "…");
        assert_eq!(&shown.text[shown.span(&(0..8))], "password");
        assert_eq!(shown.span(&(12..14)), shown.text.len()..shown.text.len());
    }

    #[test]
    fn long_lines_are_cut_around_the_finding() {
        let file = file(&format!("a: {}x{}", "ä".repeat(300), "b".repeat(300)));
        let lines = Lines::new(&file, 0, &[]);
        let shown = lines.shown(0, 603);
        assert_eq!(&shown.text[shown.span(&(603..604))], "x");
        assert!(shown.text.len() < 180 && shown.text.starts_with('…') && shown.text.ends_with('…'));
    }
}
