//! Numbers and texts of tar headers and PAX records.

/// The bytes before the first NUL.
pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number field: octal digits among blanks and NULs, or, with the top bit set, a big-endian two's complement.
pub(super) fn number(field: &[u8]) -> Result<i64, String> {
    if field[0] & 0x80 != 0 {
        return binary(field).ok_or_else(|| "a number does not fit into 64 bits".to_owned());
    }
    let text = field.trim_ascii_end();
    let text = until_nul(text).trim_ascii();
    let mut value = 0_i64;
    for digit in text {
        if !(b'0'..=b'7').contains(digit) {
            return Err(format!(
                "`{}` is not an octal number",
                String::from_utf8_lossy(text).escape_default()
            ));
        }
        // Twelve octal digits are 36 bits.
        value = value << 3 | i64::from(digit - b'0');
    }
    Ok(value)
}

fn binary(field: &[u8]) -> Option<i64> {
    // Bit 6 of the first byte is the sign.
    let negative = field[0] & 0x40 != 0;
    let first = if negative { field[0] | 0x80 } else { field[0] & 0x7f };
    let fill = if negative { 0xff } else { 0 };
    let mut bytes = [fill; 8];
    let (high, low) = field.split_at(field.len() - 8);
    let high_fits = high.iter().enumerate().all(|(at, byte)| *byte == fill || at == 0 && first == fill);
    bytes.copy_from_slice(low);
    if high.is_empty() {
        bytes[0] = first;
    }
    let value = i64::from_be_bytes(bytes);
    (high_fits && (value < 0) == negative).then_some(value)
}

/// A decimal number.
pub(super) fn decimal<T: std::str::FromStr>(text: &[u8]) -> Result<T, String> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
        let shown = String::from_utf8_lossy(&text[..text.len().min(40)]).escape_default().to_string();
        format!("`{shown}` is not a number in range")
    })
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_in_both_forms() {
        assert_eq!(number(b"0000755\0"), Ok(0o755));
        assert_eq!(number(b"   644 \0"), Ok(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Ok(0));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Ok(256));
        assert_eq!(number(&[0xff; 12]), Ok(-1));
        assert_eq!(number(&[0xff; 8]), Ok(-1));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]), Ok(2 << 32));
        assert!(number(&[0x80, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0]).is_err());
        assert!(number(b"0000089\0").is_err());
        assert!(number(b"-000007\0").is_err());
    }
}
