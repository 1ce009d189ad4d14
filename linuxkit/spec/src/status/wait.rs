//! How a host waits for a status that is another one than it has (long polling): a request names the status that is known by
//! its tag, and the guest answers once it has another one, or once the time is over.
//!
//! A guest that knows nothing of this answers at once and without a tag, and a request without a known tag is answered at once.
//! No `If-None-Match`: an answer at the end of the time has the same tag, and news of what the pod uses.

use crate::units::Seconds;

/// The header of an answer that has the tag of the status in it.
pub const TAG: &str = "X-I2kit-Status-Tag";

/// The header of a request that has the tag of the status that is known.
pub const KNOWN: &str = "X-I2kit-Known-Status";

/// The header of a request that says how long its answer may take, as `wait=4`. Source: RFC 7240, section 4.3.
pub const PREFER: &str = "Prefer";

/// The longest time that a guest lets a request wait.
pub const LONGEST: Seconds = Seconds(10);

/// The longest tag, in bytes.
const TAG_BYTES: usize = 64;

/// The headers of a request that may wait for `time` while the status is the one with the tag `known`.
pub fn headers(known: &str, time: Seconds) -> String {
    format!("{KNOWN}: {known}\r\n{PREFER}: wait={}\r\n", time.0)
}

/// How long the request with this head waits while the status has the tag `tag`, at most [`LONGEST`]; nothing where it is
/// answered at once.
pub fn granted(head: &str, tag: &str) -> Seconds {
    let (mut is_known, mut time) = (false, Seconds(0));
    for (name, value) in head.lines().skip(1).filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case(KNOWN) {
            is_known = value.trim() == tag;
        } else if name.eq_ignore_ascii_case(PREFER) {
            let mut preferences = value.split(',').filter_map(|preference| preference.trim().split_once('='));
            let wait = preferences.find(|(preference, _)| preference.trim().eq_ignore_ascii_case("wait"));
            time = Seconds(wait.and_then(|(_, seconds)| seconds.trim().parse().ok()).unwrap_or(0));
        }
    }
    if is_known { time.min(LONGEST) } else { Seconds(0) }
}

/// Whether a text may be a tag: what a guest sends is sent back in a header.
pub fn is_tag(text: &str) -> bool {
    (1..=TAG_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_waits_for_as_long_as_it_says_while_its_status_is_the_newest() {
        let request = |headers: &str| format!("GET /status HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        for (headers, seconds) in [
            (headers("a1", Seconds(4)), 4),
            (headers("a1", Seconds(0)), 0),
            (headers("a2", Seconds(4)), 0),
            (headers("a1", Seconds(u64::MAX)), LONGEST.0),
            ("x-i2kit-known-status:a1\r\nPREFER: respond-async, Wait = 3\r\n".to_owned(), 3),
            ("X-I2kit-Known-Status: a1\r\n".to_owned(), 0),
            ("X-I2kit-Known-Status: a1\r\nPrefer: wait=-1\r\n".to_owned(), 0),
            ("Prefer: wait=4\r\n".to_owned(), 0),
            (String::new(), 0),
        ] {
            assert_eq!(granted(&request(&headers), "a1"), Seconds(seconds), "{headers}");
        }
    }

    #[test]
    fn a_tag_fits_into_a_header() {
        assert!(is_tag("0123456789abcdef"));
        let long = "x".repeat(TAG_BYTES + 1);
        for text in ["", "a b", "a\r\nHost: y", "\"a\"", long.as_str()] {
            assert!(!is_tag(text), "{text:?}");
        }
    }
}
