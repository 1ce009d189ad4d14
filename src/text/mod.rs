//! Text of strangers (manifests, registries, guests, clouds) as it may be shown: characters that move a cursor, change a
//! terminal or hide what a line says become signs that can be seen. Pure: text in, text out.
//!
//! [`visible`] is for a text of several lines, [`line()`] for what must stay one line, [`talk`] for messages that a CI system
//! reads too, [`word`] for a command that the user is given to run, [`Stream`] for bytes that come in pieces.
//!
//! ```
//! assert_eq!(i2kit::text::visible("a\u{1b}[2Jb"), "a\u{241b}[2Jb");
//! ```

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character acts on a terminal, or on the direction of the text around it, instead of being shown.
pub fn is_hidden(c: char) -> bool {
    // Marks, embeddings, overrides and isolates of direction; the separators end a line in some viewers.
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text of one or more lines: line feeds and tabs stay, everything else that is hidden becomes visible (`␛`, `\u{9b}`).
pub fn visible(text: &str) -> Cow<'_, str> {
    shown(text, |c| !matches!(c, '\n' | '\t'))
}

/// A field that is shown on one line: line feeds and tabs become visible too (`␊`, `␉`).
pub fn line(text: &str) -> Cow<'_, str> {
    shown(text, |_| true)
}

/// Text of several lines for people or a CI system's log, as [`visible`]. A line that starts with `::` is a command to
/// some of these systems; it gets a mark in front.
pub fn talk(text: &str) -> Cow<'_, str> {
    let text = visible(text);
    if !text.lines().any(is_command) {
        return text;
    }
    let marked = |line: &str| if is_command(line) { format!("| {line}") } else { line.to_owned() };
    let end = if text.ends_with('\n') { "\n" } else { "" };
    Cow::Owned(text.lines().map(marked).collect::<Vec<_>>().join("\n") + end)
}

fn is_command(line: &str) -> bool {
    line.trim_start().starts_with("::")
}

/// A JSON document with the same values, in which everything that is hidden is escaped.
pub fn json(document: &str) -> Cow<'_, str> {
    // Outside of strings a document has no such characters but line feeds, which serialisers escape inside of them.
    if !document.chars().any(|c| is_hidden(c) && c != '\n') {
        return Cow::Borrowed(document);
    }
    let mut out = String::with_capacity(document.len() + 16);
    for c in document.chars() {
        if is_hidden(c) && c != '\n' {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn shown(text: &str, is_shown: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(|c| is_hidden(c) && is_shown(c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if !is_hidden(c) || !is_shown(c) => out.push(c),
            // Unicode has a picture of each control character of ASCII.
            '\0'..='\u{1f}' => out.extend(char::from_u32(0x2400 + u32::from(c))),
            '\u{7f}' => out.push('\u{2421}'),
            c => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
        }
    }
    Cow::Owned(out)
}

/// Makes a stream of bytes visible that comes in pieces, such as a serial console's: a character that a piece cuts waits
/// for the next one. As in [`talk`], what would be a command to a CI system gets a mark in front.
#[derive(Debug, Default)]
pub struct Stream {
    /// The beginning of a character.
    rest: Vec<u8>,
    /// Whether the last byte was a carriage return, which is nothing when a line feed follows.
    is_return: bool,
    /// Whether the line has more than blanks so far.
    has_begun: bool,
    /// Whether the line begins with a colon, which waits for the next character.
    is_colon: bool,
}

impl Stream {
    /// The next piece as text. Bytes that are no UTF-8 are shown as `\u{fffd}`.
    pub fn next(&mut self, bytes: &[u8]) -> String {
        self.rest.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.rest);
        let mut text = String::new();
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            for c in chunk.valid().chars() {
                if std::mem::take(&mut self.is_return) && c != '\n' {
                    self.put('\r', &mut text);
                }
                match c {
                    '\r' => self.is_return = true,
                    c => self.put(c, &mut text),
                }
            }
            let invalid = chunk.invalid();
            // At the end of a piece it may be the beginning of a character; one has at most four bytes.
            if chunks.peek().is_none() && may_go_on(invalid) {
                self.rest = invalid.to_vec();
            } else if !invalid.is_empty() {
                self.put(char::REPLACEMENT_CHARACTER, &mut text);
            }
        }
        text
    }

    /// Adds a character to `text`, unless it is a colon that may begin a command.
    fn put(&mut self, c: char, text: &mut String) {
        if std::mem::take(&mut self.is_colon) {
            text.push_str(if c == ':' { "| :" } else { ":" });
        } else if c == ':' && !self.has_begun {
            (self.has_begun, self.is_colon) = (true, true);
            return;
        }
        self.has_begun = c != '\n' && (self.has_begun || !c.is_whitespace());
        text.push_str(&visible(c.encode_utf8(&mut [0; 4])));
    }
}

fn may_go_on(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// One word of a POSIX shell's command: as it is where that is plain, between single quotes otherwise.
pub fn word(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("'{}'", text.replace('\'', "'\\''")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a stranger writes: it clears the screen, sets the title and the clipboard, turns text around and ends a line.
    const HOSTILE: &str =
        "x\r\n::error::gone\n\u{1b}[2J\u{1b}]0;t\u{7}\u{9b}31m\u{202e}ab\u{2028}\0\u{7f}\ty";

    #[test]
    fn what_acts_on_a_terminal_is_seen_instead() {
        assert_eq!(visible(HOSTILE), "x␍\n::error::gone\n␛[2J␛]0;t␇\\u{9b}31m\\u{202e}ab\\u{2028}␀␡\ty");
        assert_eq!(line(HOSTILE), "x␍␊::error::gone␊␛[2J␛]0;t␇\\u{9b}31m\\u{202e}ab\\u{2028}␀␡␉y");
        assert!(matches!(visible("plain ö\n\tand more"), Cow::Borrowed(_)));
    }

    #[test]
    fn no_line_of_talk_is_a_command_of_a_ci_system() {
        assert_eq!(
            talk("error: a\n  ::error::b\n::warning::c\nd\n"),
            "error: a\n|   ::error::b\n| ::warning::c\nd\n"
        );
        assert!(matches!(talk("a: :b\nc::d"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_keeps_its_values() {
        let document = serde_json::to_string_pretty(&serde_json::json!({ "text": HOSTILE })).unwrap();
        let escaped = json(&document);
        assert!(escaped.chars().all(|c| c == '\n' || !is_hidden(c)), "{escaped}");
        let value: serde_json::Value = serde_json::from_str(&escaped).unwrap();
        assert_eq!(value["text"], HOSTILE);
    }

    #[test]
    fn characters_that_pieces_cut_are_put_together() {
        let mut stream = Stream::default();
        let text: String = "a\u{1b}ö\r\nb\rc€".as_bytes().chunks(1).map(|piece| stream.next(piece)).collect();
        assert_eq!(text, "a␛ö\nb␍c€");
        assert_eq!(stream.next(b"\xff\xe2x\xe2"), "\u{fffd}\u{fffd}x");
    }

    #[test]
    fn no_line_of_a_stream_is_a_command_of_a_ci_system() {
        let sent = "::error::a\r\n \t::b\n:c\n:\nd::e\n\r::f\n:";
        let shown = "| ::error::a\n \t| ::b\n:c\n:\nd::e\n␍| ::f\n";
        for size in 1..sent.len() {
            let mut stream = Stream::default();
            let text: String = sent.as_bytes().chunks(size).map(|piece| stream.next(piece)).collect();
            assert_eq!(text, shown, "pieces of {size}");
            assert_eq!(stream.next(b"\xff:"), ":\u{fffd}:");
        }
    }

    proptest! {
        #[test]
        fn nothing_hidden_is_left(text in any::<String>(), bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(line(&text).chars().all(|c| !is_hidden(c)));
            prop_assert!(talk(&text).chars().all(|c| matches!(c, '\n' | '\t') || !is_hidden(c)));
            let mut stream = Stream::default();
            let streamed: String = bytes.chunks(3).map(|piece| stream.next(piece)).collect();
            prop_assert!(streamed.chars().all(|c| matches!(c, '\n' | '\t') || !is_hidden(c)));
        }
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        for (given, wanted) in [
            ("/a/b.crt", "/a/b.crt"),
            ("", "''"),
            ("a b;id", "'a b;id'"),
            ("it's", "'it'\\''s'"),
            ("$x", "'$x'"),
        ] {
            assert_eq!(word(given), wanted);
        }
    }
}
