//! Words of an inline command of Redis: parted by blanks, with quotes as its shell has them.

/// The words of a line; none when a quote is left open, or is followed by a letter.
pub(super) fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut rest = line;
    let mut words = Vec::new();
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Some(words);
        }
        let mut word = Vec::new();
        while let Some((byte, after)) = rest.split_first() {
            match byte {
                b'"' | b'\'' => {
                    rest = quoted(*byte, after, &mut word)?;
                    if rest.first().is_some_and(|next| !next.is_ascii_whitespace()) {
                        return None;
                    }
                }
                byte if byte.is_ascii_whitespace() => break,
                byte => {
                    word.push(*byte);
                    rest = after;
                }
            }
        }
        words.push(word);
    }
}

/// Reads up to the closing `quote`, and gives what follows it.
fn quoted<'a>(quote: u8, mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [b'\\', b'x', high, low, after @ ..]
                if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                let digits = [*high, *low];
                word.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
                after
            }
            [b'\\', escaped, after @ ..] if quote == b'"' => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                after
            }
            [b'\\', b'\'', after @ ..] if quote == b'\'' => {
                word.push(b'\'');
                after
            }
            [byte, after @ ..] if *byte == quote => return Some(after),
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
            [] => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn words_are_parted_as_redis_does() {
        let of = |line: &str| {
            let words = words(line.as_bytes())?;
            Some(words.into_iter().map(|word| String::from_utf8(word).unwrap()).collect::<Vec<_>>())
        };
        assert_eq!(of("  set a  b ").unwrap(), ["set", "a", "b"]);
        assert_eq!(of(r#"set "a b" 'c\'d' "\x41\n\"""#).unwrap(), ["set", "a b", "c'd", "A\n\""]);
        assert_eq!(of(r#"set """#).unwrap(), ["set", ""]);
        assert_eq!(of("").unwrap(), [""; 0]);
        for wrong in [r#"set "a"#, r#"set "a"b"#, "set 'a"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
