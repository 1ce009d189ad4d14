//! Bytes of a file as text, or why they are none.

use super::code::Code;

/// Largest file; nobody needs to read more than one byte beyond it. A set of a hundred applications has about two
/// megabytes.
pub const MAX_BYTES: usize = 32 << 20;

/// Why bytes are not the text of a manifest.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TextFault {
    pub(super) code: Code,
    /// Offset of the byte that is wrong.
    pub(super) at: usize,
    pub(super) message: String,
    pub(super) help: Option<&'static str>,
}

/// The text, without the byte-order mark that some editors write, and the number of bytes taken away at the front.
pub(super) fn decode(bytes: &[u8]) -> Result<(&str, usize), TextFault> {
    if bytes.len() > MAX_BYTES {
        let message =
            format!("the file has more than {} MiB, which is the most that one may have", MAX_BYTES >> 20);
        return Err(TextFault { code: Code::TooLarge, at: 0, message, help: Some("split the file") });
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(TextFault {
            code: Code::Encoding,
            at: 0,
            message: "the file is UTF-16, not UTF-8".into(),
            help: Some("convert it: iconv -f UTF-16 -t UTF-8"),
        });
    }
    let skipped = if bytes.starts_with(&[0xef, 0xbb, 0xbf]) { 3 } else { 0 };
    let rest = &bytes[skipped..];
    let text = std::str::from_utf8(rest).map_err(|error| not_utf8(bytes, skipped + error.valid_up_to()))?;
    match first_control(rest) {
        Some(at) => Err(control(bytes, skipped + at)),
        None => Ok((text, skipped)),
    }
}

/// The first control character that no text has. Whole blocks are looked at without a way out in between, which
/// compilers turn into a few instructions.
fn first_control(bytes: &[u8]) -> Option<usize> {
    const BLOCK: usize = 256;
    let is_control = |b: u8| (b < b' ' && !matches!(b, b'\t' | b'\n' | b'\r')) || b == 0x7f;
    let block =
        bytes.chunks(BLOCK).position(|block| block.iter().fold(false, |any, &b| any | is_control(b)))?;
    let start = block * BLOCK;
    bytes[start..].iter().position(|&b| is_control(b)).map(|at| start + at)
}

fn not_utf8(bytes: &[u8], at: usize) -> TextFault {
    let (line, column) = position(bytes, at);
    TextFault {
        code: Code::Encoding,
        at,
        message: format!(
            "the file is not UTF-8: first bad byte at line {line}, column {column} (byte offset {at})"
        ),
        help: Some("save it as UTF-8"),
    }
}

fn control(bytes: &[u8], at: usize) -> TextFault {
    let (line, column) = position(bytes, at);
    let name = match bytes[at] {
        0 => "NUL".to_owned(),
        0x1b => "ESC".to_owned(),
        other => format!("0x{other:02x}"),
    };
    let utf16 = bytes.iter().take(64).filter(|&&b| b == 0).count() > 16;
    TextFault {
        code: Code::Encoding,
        at,
        message: format!("control character {name} in line {line}, column {column}"),
        help: Some(if utf16 {
            "the file looks like UTF-16: iconv -f UTF-16 -t UTF-8"
        } else {
            "remove it; in a quoted text it can be written as an escape such as \"\\0\""
        }),
    }
}

/// Line and column, both from 1; the column counts characters, a bad byte as one.
fn position(bytes: &[u8], at: usize) -> (usize, usize) {
    let before = &bytes[..at];
    let line = before.split(|&b| b == b'\n').count();
    let start = before.iter().rposition(|&b| b == b'\n').map_or(0, |newline| newline + 1);
    (line, String::from_utf8_lossy(&before[start..]).chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_text_is_named_with_its_place() {
        let fault = decode(b"a: b\nc: \xff\n").unwrap_err();
        assert_eq!(
            fault.message,
            "the file is not UTF-8: first bad byte at line 2, column 4 (byte offset 8)"
        );
        let fault = decode(b"a: b\nname: a\0b").unwrap_err();
        assert_eq!(fault.message, "control character NUL in line 2, column 8");
        assert_eq!(decode(b"\xff\xfea\0").unwrap_err().message, "the file is UTF-16, not UTF-8");
        assert!(decode(b"a\0b\0c\0").is_err());
        let late = [b"#".repeat(700), b"\x7f".to_vec()].concat();
        assert_eq!(decode(&late).unwrap_err().message, "control character 0x7f in line 1, column 701");
    }

    #[test]
    fn a_byte_order_mark_and_carriage_returns_are_harmless() {
        assert_eq!(decode(b"\xef\xbb\xbfa: b\r\n").unwrap(), ("a: b\r\n", 3));
    }
}
