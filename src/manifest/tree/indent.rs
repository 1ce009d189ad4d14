//! Quoted text whose further lines are indented no more than its key. YAML 1.2 refuses it, while the readers of Go
//! (kubectl), Python and Ruby take it. Blanks at the start of a line of quoted text say nothing, so more of them give the
//! same value.

use granit_parser::{ErrorKind, Parser};

use super::limits::{MAX_FAULTS, options};

/// How many bytes are read again in all, so that the work stays in proportion to the largest file.
const MAX_REREAD: usize = 16 << 20;
/// Widest indentation that is put in front of a line.
const MAX_WIDTH: usize = 512;

/// A text with blanks put in front of lines.
#[derive(Debug)]
pub(super) struct Widened {
    pub(super) text: String,
    /// Where blanks were put in, by offset in `text`, ascending.
    inserted: Vec<Inserted>,
}

/// Blanks in front of a line.
#[derive(Debug)]
struct Inserted {
    at: usize,
    width: usize,
    /// How many were put in further up.
    before: usize,
}

impl Widened {
    /// The offset in the original text.
    pub(super) fn original(&self, offset: usize) -> usize {
        let next = self.inserted.partition_point(|inserted| inserted.at < offset);
        let last = next.checked_sub(1).and_then(|last| self.inserted.get(last));
        last.map_or(offset, |last| offset - last.before - last.width.min(offset - last.at))
    }
}

/// The text with all such lines indented far enough; `None` when it has none, or too much of them.
pub(super) fn widened(text: &str) -> Option<Widened> {
    let mut wide = Widened { text: text.to_owned(), inserted: Vec::new() };
    let mut left = MAX_REREAD;
    let mut done = 0;
    loop {
        left = left.checked_sub(wide.text.len().saturating_mul(3))?;
        let Some(at) = faults(&wide.text).1 else {
            return (!wide.inserted.is_empty()).then_some(wide);
        };
        if at < done {
            return None;
        }
        done = wide.widen(at)?;
    }
}

impl Widened {
    /// Indents the line at the offset `at`, and the following ones of the same text, whose end it returns.
    fn widen(&mut self, at: usize) -> Option<usize> {
        let quote = quote(self.text.get(..at)?)?;
        let end = at + end(self.text.get(at..)?, quote)?;
        let prefix =
            |line: &str| line.bytes().take_while(|byte| matches!(byte, b' ' | b'-' | b'?' | b':')).count();
        let width = self.text[..at].lines().map(prefix).max().unwrap_or(0) + 1;
        let first = self.text[..at].rfind('\n')? + 1;
        let newlines = self.text[at..end].match_indices('\n').map(|(newline, _)| at + newline + 1);
        let starts: Vec<usize> = std::iter::once(first).chain(newlines).collect();
        let added = width.checked_mul(starts.len())?;
        if width > MAX_WIDTH || self.text.len() + added > MAX_REREAD {
            return None;
        }
        let mut text = String::with_capacity(self.text.len() + added);
        let mut from = 0;
        for start in starts {
            text.push_str(&self.text[from..start]);
            let before = self.inserted.last().map_or(0, |last| last.before + last.width);
            self.inserted.push(Inserted { at: text.len(), width, before });
            text.extend(std::iter::repeat_n(' ', width));
            from = start;
        }
        text.push_str(&self.text[from..]);
        self.text = text;
        Some(end + added)
    }
}

/// How many errors the parser finds, and where the first is that is about such a line.
fn faults(text: &str) -> (usize, Option<usize>) {
    let mut parser = Parser::new_from_str_with_options(text, options());
    let (mut count, mut first) = (0, None);
    while let Some(next) = parser.next_event() {
        let Err(error) = next else { continue };
        count += 1;
        if matches!(error.kind(), ErrorKind::InvalidQuotedScalarIndent) && first.is_none() {
            first = error.marker().byte_offset().filter(|at| text.is_char_boundary(*at));
        }
        if first.is_some() || count > MAX_FAULTS || !parser.proceed_next_document().unwrap_or(false) {
            break;
        }
    }
    (count, first)
}

/// The quotation mark that is open at the end of `text`: the one which closes it.
fn quote(text: &str) -> Option<char> {
    let closed_by = |quote: char| faults(&format!("{text}{quote}")).0;
    match closed_by('\'').cmp(&closed_by('"')) {
        std::cmp::Ordering::Less => Some('\''),
        std::cmp::Ordering::Greater => Some('"'),
        std::cmp::Ordering::Equal => None,
    }
}

/// Where the text in quotation marks ends.
fn end(text: &str, quote: char) -> Option<usize> {
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let doubled = |next: Option<&(usize, char)>| next.is_some_and(|(_, next)| *next == '\'');
        match (quote, c) {
            ('"', '\\') => drop(chars.next()),
            ('\'', '\'') if doubled(chars.peek()) => drop(chars.next()),
            (quote, c) if quote == c => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_quoted_text_are_indented_and_places_are_kept() {
        let text = "a:\n  b: '[\n  it''s\n\n  ]'\n  c: \"x\n  \\\" y\"\nd: 'one\n\n  two'\n";
        let wide = widened(text).unwrap();
        assert_eq!(faults(&wide.text).0, 0, "{}", wide.text);
        let squeezed = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(squeezed(&wide.text), squeezed(text));
        for word in ["it''s", "]'", "c:", "\\\" y", "d:", "two"] {
            let at = wide.text.find(word).unwrap();
            assert_eq!(wide.original(at), text.find(word).unwrap(), "{word}");
        }
        assert!(widened("a: 'b'\n").is_none());
        assert!(widened("a: 'b\nc: d\n").is_none(), "it is never closed");
    }

    #[test]
    fn the_work_is_bounded() {
        let one = format!("{}a: '\n", " ".repeat(400));
        assert!(widened(&(one + &"\n x".repeat(100_000) + "'")).is_none());
        let many = "a: 'x\ny'\n".repeat(20_000);
        assert!(widened(&many).is_none());
    }
}
