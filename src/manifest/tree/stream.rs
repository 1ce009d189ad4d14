//! A file that begins with `{` is a stream of JSON values to kubectl, one after the other. YAML has no such thing.

use std::ops::Range;

use serde::de::IgnoredAny;

/// Where the values of such a stream are in `text`; `None` when it is none, or a single value, which is YAML as well.
pub(super) fn values(text: &str) -> Option<Vec<Range<usize>>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let mut values = Vec::new();
    let mut start = 0;
    while let Some(value) = stream.next() {
        value.ok()?;
        let end = stream.byte_offset();
        values.push(start..end);
        start = end;
    }
    (values.len() > 1).then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_follow_each_other() {
        let text = " {\"a\": \"}\"}{} \n\t[1]\n";
        let values = values(text).unwrap();
        assert_eq!(
            values.into_iter().map(|place| text[place].trim()).collect::<Vec<_>>(),
            ["{\"a\": \"}\"}", "{}", "[1]"]
        );
        for text in ["{}", "a: {}", "{} a: b", "{}\n---\n{}", "{a: b} {c: d}", ""] {
            assert_eq!(super::values(text), None, "{text}");
        }
    }
}
