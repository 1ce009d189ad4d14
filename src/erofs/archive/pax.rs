//! PAX records: `LENGTH KEY=VALUE\n`, where the value may hold any byte.

use super::super::format::Xattrs;
use super::number::decimal;
use super::sparse::PaxSparse;

/// The records of one extended header.
#[derive(Debug, Default)]
pub(super) struct Records {
    fields: Fields,
    /// The records that describe a sparse file.
    pub(super) sparse: PaxSparse,
}

/// Fields that override the header's.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// `path`.
    pub(super) path: Option<Vec<u8>>,
    /// `linkpath`.
    pub(super) link: Option<Vec<u8>>,
    /// `size`.
    pub(super) size: Option<u64>,
    /// `uid`.
    pub(super) uid: Option<i64>,
    /// `gid`.
    pub(super) gid: Option<i64>,
    /// `mtime` in seconds and nanoseconds.
    pub(super) mtime: Option<(i64, u32)>,
    /// `SCHILY.xattr.NAME`.
    pub(super) xattrs: Xattrs,
}

impl Records {
    /// Reads the data of an extended header.
    pub(super) fn parse(mut data: &[u8]) -> Result<Self, String> {
        let mut records = Self::default();
        while !data.is_empty() {
            let (key, value, rest) = record(data).ok_or_else(|| {
                let shown = String::from_utf8_lossy(&data[..data.len().min(40)]).escape_default().to_string();
                format!("`{shown}` is not a PAX record")
            })?;
            records.set(key, value)?;
            data = rest;
        }
        Ok(records)
    }

    /// The fields that override the header's.
    pub(super) fn fields(&self) -> &Fields {
        &self.fields
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        // An empty value stands for an absent record.
        if value.is_empty() {
            return Ok(());
        }
        let fields = &mut self.fields;
        match key {
            b"path" => fields.path = Some(value.to_vec()),
            b"linkpath" => fields.link = Some(value.to_vec()),
            b"size" => fields.size = Some(decimal(value)?),
            b"uid" => fields.uid = Some(decimal(value)?),
            b"gid" => fields.gid = Some(decimal(value)?),
            b"mtime" => fields.mtime = Some(time(value)?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    fields.xattrs.insert(name.to_vec(), value.to_vec());
                } else if let Some(field) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(field, value)?;
                }
            }
        }
        Ok(())
    }
}

/// Key, value and what follows the first record.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = data.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = decimal(&data[..blank]).ok()?;
    let body = data.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    Some((&body[..equals], &body[equals + 1..], &data[length..]))
}

/// Seconds with an optional fraction, to whole nanoseconds, rounded down as Linux does.
fn time(text: &[u8]) -> Result<(i64, u32), String> {
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let seconds: i64 = decimal(whole)?;
    let mut nanos = 0;
    for place in 0..9 {
        let digit = fraction.get(place).copied().unwrap_or(b'0');
        if !digit.is_ascii_digit() {
            return decimal::<i64>(text).map(|seconds| (seconds, 0));
        }
        nanos = nanos * 10 + u32::from(digit - b'0');
    }
    if whole.starts_with(b"-") && nanos > 0 {
        // -1.25 s is 0.75 s after -2 s.
        return match seconds.checked_sub(1) {
            Some(seconds) => Ok((seconds, 1_000_000_000 - nanos)),
            None => Err("a time is out of range".to_owned()),
        };
    }
    Ok((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::{Records, time};

    #[test]
    fn binary_values_and_their_newlines_survive() {
        let records = Records::parse(b"32 SCHILY.xattr.user.a=\n=\x00\xff=\n67\n").expect("one record");
        assert_eq!(records.fields().xattrs[&b"user.a"[..]], b"\n=\x00\xff=\n67");
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in
            [&b"9 path=a\n9"[..], b"x", b"5 a=b", b"0 a=b\n", b"99 a=b\n", b"6 a=bc\n", b"11 size=-1\n"]
        {
            assert!(Records::parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn times_before_the_epoch_round_down() {
        assert_eq!(time(b"1.5"), Ok((1, 500_000_000)));
        assert_eq!(time(b"-1.25"), Ok((-2, 750_000_000)));
        assert_eq!(time(b"-0.5"), Ok((-1, 500_000_000)));
        assert_eq!(time(b"-3"), Ok((-3, 0)));
        assert_eq!(time(b"7.1234567899"), Ok((7, 123_456_789)));
        assert!(time(b"1.x").is_err());
        assert!(time(b"").is_err());
    }
}
