//! Dates, and the time by SNTP (RFC 4330) from the address that EC2 serves it at. Parsing is pure.

use std::net::UdpSocket;
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::error::{Error, io};

/// EC2's time service, reachable from every instance without a route.
const SERVER: &str = "169.254.169.123:123";
/// How long an answer may take, and how often is asked.
const WAIT: Duration = Duration::from_millis(500);
const ATTEMPTS: u32 = 4;
/// Smaller errors are not worth a step, which programs may see.
const WORTH: f64 = 0.05;
/// No clock is right that is before the first of 2025 or after that of 2100.
const SANE: std::ops::Range<u64> = 1_735_689_600..4_102_444_800;
/// Seconds from 1900, where NTP counts from, to 1970.
const EPOCH: u64 = 2_208_988_800;
/// NTP's seconds wrap in 2036; smaller ones belong to the next era.
const ERA: u64 = 1 << 32;

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    let now = clock_gettime(ClockId::Realtime);
    seconds(now)
}

/// The clock, in milliseconds since 1970.
pub(crate) fn milliseconds() -> u64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Realtime);
    u64::try_from(tv_sec).unwrap_or(0) * 1000 + u64::try_from(tv_nsec / 1_000_000).unwrap_or(0)
}

#[expect(clippy::cast_precision_loss, reason = "until 2100 microseconds are kept")]
fn seconds(time: Timespec) -> f64 {
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Asks for the time and sets the clock where it is wrong by more than a little. Returns the correction.
pub(crate) fn set_clock() -> Result<f64, Error> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match offset() {
            Ok(offset) if offset.abs() < WORTH => return Ok(0.0),
            Ok(offset) => {
                let time = now() + offset;
                let whole = time.floor();
                #[expect(clippy::cast_possible_truncation, reason = "sane times are far below the limits")]
                let time = Timespec { tv_sec: whole as i64, tv_nsec: ((time - whole) * 1e9) as i64 };
                clock_settime(ClockId::Realtime, time).map_err(|e| io("set the clock")(e.into()))?;
                return Ok(offset);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.expect("at least one attempt was made"))
}

fn offset() -> Result<f64, Error> {
    let failed = || io(format!("ask {SERVER} for the time"));
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(failed())?;
    socket.set_read_timeout(Some(WAIT)).map_err(failed())?;
    socket.connect(SERVER).map_err(failed())?;
    let sent = now();
    // What an answer must repeat: our time's bits, which nobody beside the path can guess.
    let cookie = sent.to_bits().to_be_bytes();
    let mut request = [0; 48];
    // Version 4, client.
    request[0] = 4 << 3 | 3;
    request[40..48].copy_from_slice(&cookie);
    socket.send(&request).map_err(failed())?;
    let mut answer = [0; 128];
    let length = socket.recv(&mut answer).map_err(failed())?;
    let received = now();
    let server = parse(&answer[..length], cookie)
        .map_err(|reason| Error::Answer { what: SERVER.into(), reason: reason.into() })?;
    Ok(server - f64::midpoint(sent, received))
}

/// The server's time in the middle of its work, in seconds since 1970.
pub(crate) fn parse(answer: &[u8], cookie: [u8; 8]) -> Result<f64, &'static str> {
    let answer: &[u8; 48] = answer.first_chunk().ok_or("the answer is too short")?;
    let (leap, version, mode, stratum) = (answer[0] >> 6, answer[0] >> 3 & 7, answer[0] & 7, answer[1]);
    if mode != 4 || !(3..=4).contains(&version) {
        return Err("it is no answer of a time server");
    }
    if answer[24..32] != cookie {
        return Err("it answers another question");
    }
    if leap == 3 || !(1..=15).contains(&stratum) {
        return Err("the server's own clock is not set");
    }
    let (received, sent) = (timestamp(&answer[32..40]), timestamp(&answer[40..48]));
    match (received, sent) {
        (Some(received), Some(sent)) if (0.0..1.0).contains(&(sent - received)) => {
            Ok(f64::midpoint(received, sent))
        }
        _ => Err("its time is none that could be"),
    }
}

/// Seconds since 1970 of a time stamp of NTP; `None` outside of what is sane.
fn timestamp(bytes: &[u8]) -> Option<f64> {
    let bits = u64::from_be_bytes(*bytes.first_chunk()?);
    let (whole, fraction) = (bits >> 32, u32::try_from(bits & 0xffff_ffff).ok()?);
    let whole = if whole < EPOCH { whole + ERA } else { whole } - EPOCH;
    #[expect(clippy::cast_precision_loss, reason = "until 2100 microseconds are kept")]
    SANE.contains(&whole).then(|| whole as f64 + f64::from(fraction) / 4_294_967_296.0)
}

/// `20251121T102030Z` of seconds since 1970.
pub(crate) fn stamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since the first of March of the year 0, in eras of 400 years.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}{month:02}{date:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// `2025-11-21T10:20:30Z` of seconds since 1970.
pub(crate) fn iso(seconds: u64) -> String {
    let stamp = stamp(seconds);
    let part = |from: usize, to: usize| stamp.get(from..to).unwrap_or_default();
    let (date, time) = ([part(0, 4), part(4, 6), part(6, 8)], [part(9, 11), part(11, 13), part(13, 15)]);
    format!("{}T{}Z", date.join("-"), time.join(":"))
}

/// Milliseconds since 1970 of `2025-11-21T10:20:30.123456789Z`, the form of containers' log lines.
pub(crate) fn parse_rfc3339(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if marks.iter().any(|(at, mark)| bytes.get(*at) != Some(mark)) || bytes.last() != Some(&b'Z') {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let of_day = number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    let milliseconds = if bytes.get(19) == Some(&b'.') { number(20, 23)? } else { 0 };
    let (shifted_year, shifted_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = shifted_year * 365 + shifted_year / 4 - shifted_year / 100
        + shifted_year / 400
        + (153 * shifted_month + 2) / 5
        + day
        - 1;
    Some((days.checked_sub(719_468)? * 86_400 + of_day) * 1000 + milliseconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(seconds: u64) -> [u8; 48] {
        let mut answer = [0; 48];
        answer[0] = 4 << 3 | 4;
        answer[1] = 3;
        answer[24..32].copy_from_slice(b"question");
        for at in [32, 40] {
            answer[at..at + 4]
                .copy_from_slice(&u32::try_from((seconds + EPOCH) % ERA).unwrap().to_be_bytes());
        }
        answer
    }

    #[test]
    fn only_a_good_answer_to_the_question_is_taken() {
        let good = answer(1_800_000_000);
        assert_eq!(parse(&good, *b"question"), Ok(1_800_000_000.0));
        // In 2040 NTP's seconds have wrapped.
        assert_eq!(parse(&answer(2_208_988_800), *b"question"), Ok(2_208_988_800.0));
        assert!(parse(&good[..47], *b"question").is_err());
        assert!(parse(&good, *b"whatever").is_err());
        for (at, value) in [(0, 4 << 3 | 3), (0, 3 << 6 | 4 << 3 | 4), (1, 0), (1, 16), (32, 0), (40, 0xff)] {
            let mut bad = good;
            bad[at] = value;
            assert!(parse(&bad, *b"question").is_err(), "{at} {value}");
        }
    }

    #[test]
    fn dates_go_there_and_back() {
        assert_eq!(stamp(0), "19700101T000000Z");
        assert_eq!(stamp(951_782_400), "20000229T000000Z");
        assert_eq!(stamp(1_440_938_160), "20150830T123600Z");
        assert_eq!(parse_rfc3339("2015-08-30T12:36:00.123456789Z"), Some(1_440_938_160_123));
        assert_eq!(parse_rfc3339("2000-02-29T00:00:00Z"), Some(951_782_400_000));
        assert_eq!(parse_rfc3339("2015-08-30 12:36:00Z"), None);
    }

    proptest! {
        #[test]
        fn any_answer_is_sane_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(time) = parse(&bytes, [0; 8]) {
                prop_assert!(time > 1.7e9 && time < 4.2e9);
            }
        }

        #[test]
        fn any_text_is_a_date_or_none(text in "[0-9TZ:. -]{0,32}") {
            let _ = parse_rfc3339(&text);
        }
    }
}
