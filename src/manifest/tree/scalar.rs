//! Which type an unquoted scalar has. The rules are YAML 1.1's as kubectl's reader applies them, not YAML 1.2's: what
//! kubectl would read as something else must not be read as text here.

/// The type of a scalar, and its value where it has one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::manifest) enum Resolved {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text,
}

impl Resolved {
    /// The word for the type in messages.
    pub(in crate::manifest) const fn kind(self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Text => "a string",
        }
    }
}

/// The type of the unquoted `text`.
pub(in crate::manifest) fn resolve(text: &str) -> Resolved {
    let Some(first) = text.bytes().next() else { return Resolved::Null };
    match first {
        b'~' | b'n' | b'N' | b'y' | b'Y' | b't' | b'T' | b'f' | b'F' | b'o' | b'O' => word(text),
        b'0'..=b'9' | b'+' | b'-' | b'.' => number(text),
        _ => Resolved::Text,
    }
}

fn word(text: &str) -> Resolved {
    match text {
        "~" | "null" | "Null" | "NULL" => Resolved::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => {
            Resolved::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            Resolved::Bool(false)
        }
        _ => Resolved::Text,
    }
}

fn number(text: &str) -> Resolved {
    match text {
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Resolved::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Resolved::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Resolved::Float(f64::NAN),
        _ => {}
    }
    if let Some(value) = integer(text) {
        return Resolved::Int(value);
    }
    let digits = text.bytes().any(|b| b.is_ascii_digit());
    let shape =
        text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E' | b'_'));
    if !(digits && shape) {
        return Resolved::Text;
    }
    text.replace('_', "").parse().map_or(Resolved::Text, Resolved::Float)
}

/// The integer, in any base: a leading 0 or 0o is octal, 0x hexadecimal, 0b binary; `_` may divide digits.
fn integer(text: &str) -> Option<i128> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if !rest.bytes().next()?.is_ascii_digit() || rest.len() > 40 {
        return None;
    }
    let digits = if rest.contains('_') { rest.replace('_', "") } else { rest.to_owned() };
    let prefixes = [("0x", 16), ("0X", 16), ("0o", 8), ("0O", 8), ("0b", 2), ("0B", 2)];
    let (digits, base) = prefixes
        .iter()
        .find_map(|(prefix, base)| digits.strip_prefix(prefix).map(|digits| (digits, *base)))
        .unwrap_or_else(|| match digits.strip_prefix('0') {
            Some(octal) if !octal.is_empty() => (octal, 8),
            _ => (digits.as_str(), 10),
        });
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let value = i128::from_str_radix(digits, base).ok()?;
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_read_as_kubectl_reads_them() {
        for text in ["yes", "On", "y", "true", "TRUE"] {
            assert_eq!(resolve(text), Resolved::Bool(true), "{text}");
        }
        for text in ["no", "off", "N", "False"] {
            assert_eq!(resolve(text), Resolved::Bool(false), "{text}");
        }
        for text in ["", "~", "null", "NULL"] {
            assert_eq!(resolve(text), Resolved::Null, "{text}");
        }
        for (text, value) in [
            ("0", 0),
            ("12", 12),
            ("-3", -3),
            ("+3", 3),
            ("0400", 256),
            ("0o400", 256),
            ("0x1F", 31),
            ("1_000", 1000),
        ] {
            assert_eq!(resolve(text), Resolved::Int(value), "{text}");
        }
        for (text, value) in [("0.5", 0.5), ("1e3", 1000.0), (".5", 0.5), ("089", 89.0)] {
            assert_eq!(resolve(text), Resolved::Float(value), "{text}");
        }
        for text in ["nginx", "25%", "1.2.3", "100m", "-", "--", "tru", "1:30", "2001-01-01", ".", "+", "e5"]
        {
            assert_eq!(resolve(text), Resolved::Text, "{text}");
        }
    }
}
