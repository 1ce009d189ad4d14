//! Schedules of CronJobs: their text, and the times that they mean, by the rules of the parser that Kubernetes uses
//! (github.com/robfig/cron, version 3, standard form).
//!
//! - Five fields: minute, hour, day of month, month, day of week; or `@hourly` and its like; or `@every DURATION`.
//! - Where both days are restricted, one of them is enough; otherwise both must fit.
//! - A time is every minute whose fields on the wall of the time zone fit. A time that the clock jumps over in spring does
//!   not come; one that it shows twice in autumn comes twice.
//!
//! Other crates for schedules count days and such hours by other rules; what this takes from a crate is the database of
//! time zones, which is in the program, so that a schedule means the same on every host.

use std::fmt;

use chrono::{DateTime, Datelike as _, Days, NaiveDate, TimeZone as _, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

/// A schedule without a time in so many days has none: February 29 comes back within 8 years, over a century's end too.
const HORIZON_DAYS: u64 = 8 * 366 + 2;

/// Since when the shortest gap of a schedule is looked for, in seconds since the Unix epoch (the first of 2025), for how long, and
/// how many times of it at most.
const GAP_SINCE: u64 = 1_735_689_600;
/// See [`GAP_SINCE`].
const GAP_SECONDS: u64 = 2 * 365 * 86_400;
/// See [`GAP_SINCE`].
const MOST_TIMES: u32 = 400;

/// Names of months and of days of the week, in their order.
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Words that stand for five fields.
const WORDS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// When something is due, over and over. Times are milliseconds since the Unix epoch, on whole seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Schedule {
    text: String,
    zone: Tz,
    rule: Rule,
}

/// A schedule as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    schedule: String,
    time_zone: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Fields(Fields),
    /// So many seconds after the last time.
    Every(u64),
}

/// Each field as a set of bits: bit N is the number N.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether the day of month, or that of the week, is `*`: then both must fit.
    any_day: bool,
}

impl Schedule {
    /// Reads a schedule in the time zone of that IANA name.
    ///
    /// # Errors
    /// What the text must be, in words that follow "must be".
    pub fn parse(text: &str, time_zone: &str) -> Result<Self, String> {
        let zone = zone(time_zone)?;
        Ok(Self { text: text.to_owned(), zone, rule: rule(text)? })
    }

    /// The first time after `after`; none within eight years is none at all.
    pub fn next(&self, after: u64) -> Option<u64> {
        let seconds = i64::try_from(after / 1000).ok()?;
        match self.rule {
            Rule::Every(period) => Some((after / 1000).checked_add(period)?.checked_mul(1000)?),
            Rule::Fields(fields) => {
                let mut date = self.date(seconds)?;
                for _ in 0..HORIZON_DAYS {
                    let times = self.times(&fields, date).filter(|time| *time > seconds);
                    if let Some(first) = times.min() {
                        return milliseconds(first);
                    }
                    date = date.succ_opt()?;
                }
                None
            }
        }
    }

    /// The last time after `after` and not after `until`.
    pub fn latest(&self, after: u64, until: u64) -> Option<u64> {
        let (after, until) = (after / 1000, until / 1000);
        match self.rule {
            Rule::Every(period) => {
                let times = until.saturating_sub(after) / period;
                (times > 0).then(|| (after + times * period) * 1000)
            }
            Rule::Fields(fields) => {
                let (after, until) = (i64::try_from(after).ok()?, i64::try_from(until).ok()?);
                let first = self.date(after)?;
                // A day later: where the clock was set back over midnight, the older date is the later time.
                let mut date = self.date(until)?.checked_add_days(Days::new(1))?;
                for _ in 0..HORIZON_DAYS {
                    let times = self.times(&fields, date).filter(|time| (after + 1..=until).contains(time));
                    if let Some(last) = times.max() {
                        return milliseconds(last);
                    }
                    date = date.pred_opt()?;
                    if date < first {
                        return None;
                    }
                }
                None
            }
        }
    }

    /// Five fields that mean the same to every cron: `*`, or numbers with commas between them. None of a schedule that is no
    /// such: one of a period, and one that names days of the month and days of the week, which crons read in two ways.
    pub fn plain_fields(&self) -> Option<String> {
        let Rule::Fields(fields) = self.rule else { return None };
        let written = |set: u64, (first, last): (u32, u32)| {
            let all: Vec<u32> = numbers(set).collect();
            let is_all = (first..=last).all(|number| has(set, number));
            let list = || all.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            if is_all { "*".to_owned() } else { list() }
        };
        let (days, weekdays) = (written(fields.days, (1, 31)), written(fields.weekdays, (0, 6)));
        // Where one of them is every day without being written as `*`, either one fits on every day.
        let is_every_day = !fields.any_day && (days == "*" || weekdays == "*");
        let (days, weekdays) = if is_every_day { ("*".to_owned(), "*".to_owned()) } else { (days, weekdays) };
        if days != "*" && weekdays != "*" {
            return None;
        }
        let minutes = written(fields.minutes, (0, 59));
        Some(
            [minutes, written(fields.hours, (0, 23)), days, written(fields.months, (1, 12)), weekdays]
                .join(" "),
        )
    }

    /// The fewest seconds between two times of the schedule, of its first ones or of those of two years; these two years where there are
    /// no two times.
    pub fn shortest_gap(&self) -> u64 {
        let mut shortest = GAP_SECONDS;
        let Some(mut last) = self.next(GAP_SINCE * 1000) else { return shortest };
        for _ in 0..MOST_TIMES {
            let Some(next) = self.next(last) else { break };
            shortest = shortest.min(next.saturating_sub(last) / 1000);
            if next / 1000 > GAP_SINCE + GAP_SECONDS {
                break;
            }
            last = next;
        }
        shortest
    }

    /// The name of the time zone.
    pub fn time_zone(&self) -> &'static str {
        self.zone.name()
    }

    /// The date that the zone's clock shows.
    fn date(&self, seconds: i64) -> Option<NaiveDate> {
        Some(DateTime::<Utc>::from_timestamp(seconds, 0)?.with_timezone(&self.zone).date_naive())
    }

    /// The times of a day, in seconds since the Unix epoch.
    fn times(&self, fields: &Fields, date: NaiveDate) -> impl Iterator<Item = i64> {
        let zone = self.zone;
        let hours = if fields.has_day(date) { fields.hours } else { 0 };
        let minutes = fields.minutes;
        let walls = numbers(hours).flat_map(move |hour| {
            numbers(minutes).filter_map(move |minute| date.and_hms_opt(hour, minute, 0))
        });
        walls.flat_map(move |wall| {
            let found = zone.from_local_datetime(&wall);
            let (first, second) = (found.earliest(), found.latest());
            let second = second.filter(|second| Some(*second) != first);
            first.into_iter().chain(second).map(|time| time.timestamp())
        })
    }
}

fn milliseconds(seconds: i64) -> Option<u64> {
    u64::try_from(seconds).ok()?.checked_mul(1000)
}

impl Fields {
    fn has_day(&self, date: NaiveDate) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().num_days_from_sunday());
        has(self.months, date.month()) && if self.any_day { day && weekday } else { day || weekday }
    }
}

fn has(set: u64, number: u32) -> bool {
    set & (1 << number) != 0
}

/// The numbers of a set, in their order.
fn numbers(set: u64) -> impl Iterator<Item = u32> {
    (0..60).filter(move |number| has(set, *number))
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Schedule> for Written {
    fn from(schedule: Schedule) -> Self {
        Self { time_zone: schedule.time_zone().to_owned(), schedule: schedule.text }
    }
}

impl TryFrom<Written> for Schedule {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        Self::parse(&written.schedule, &written.time_zone)
    }
}

/// The time zone of that name.
///
/// # Errors
/// What the name must be.
pub fn zone(name: &str) -> Result<Tz, String> {
    name.parse().map_err(|_| "the IANA name of a time zone, such as `Europe/Berlin` or `Etc/UTC`".to_owned())
}

fn rule(text: &str) -> Result<Rule, String> {
    if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
        return Err("a schedule without `TZ=`; the field `timeZone` has the time zone".to_owned());
    }
    if let Some(duration) = text.strip_prefix("@every ") {
        return seconds(duration).map(Rule::Every).ok_or_else(|| {
            "`@every` with a duration of at least a second, such as `@every 1h30m`".to_owned()
        });
    }
    if text.starts_with('@') {
        let word = WORDS.iter().find(|(word, _)| *word == text);
        let list: Vec<&str> = WORDS.iter().map(|(word, _)| *word).collect();
        let (_, fields) = word.ok_or_else(|| format!("{} or `@every DURATION`", list.join(", ")))?;
        return rule(fields);
    }
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let [minutes, hours, days, months, weekdays] = fields[..] else {
        return Err("five fields: minute, hour, day of month, month, day of week".to_owned());
    };
    let (days, any_day) = set(days, "day of month", (1, 31), &[])?;
    let (weekdays, any_weekday) = set(weekdays, "day of week", (0, 6), &WEEKDAYS)?;
    Ok(Rule::Fields(Fields {
        minutes: set(minutes, "minute", (0, 59), &[])?.0,
        hours: set(hours, "hour", (0, 23), &[])?.0,
        days,
        months: set(months, "month", (1, 12), &MONTHS)?.0,
        weekdays,
        any_day: any_day || any_weekday,
    }))
}

/// A field as a set, and whether a part of it is `*` without a step.
fn set(field: &str, what: &str, bounds: (u32, u32), names: &[&str]) -> Result<(u64, bool), String> {
    let (mut bits, mut any) = (0, false);
    for part in field.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let wrong = || {
            let (low, high) = bounds;
            format!(
                "a schedule whose {what} is `*` or of numbers from {low} to {high}, such as `{low}-{high}/2`"
            )
        };
        let number = |text: &str| {
            let word = names.iter().position(|name| name.eq_ignore_ascii_case(text));
            let word = word.and_then(|at| u32::try_from(at).ok()).map(|at| at + bounds.0);
            word.or_else(|| digits(text)).filter(|number| (bounds.0..=bounds.1).contains(number))
        };
        let star = matches!(range, "*" | "?");
        let (first, last) = match range.split_once('-') {
            _ if star => bounds,
            Some((first, last)) => (number(first).ok_or_else(wrong)?, number(last).ok_or_else(wrong)?),
            None => {
                let first = number(range).ok_or_else(wrong)?;
                // `5/10` is from 5 on.
                (first, if step.is_some() { bounds.1 } else { first })
            }
        };
        let step = step.map_or(Some(1), digits).filter(|step| *step > 0).ok_or_else(wrong)?;
        if first > last {
            return Err(format!("a schedule whose {what} has no range from {first} back to {last}"));
        }
        any |= star && step == 1;
        (first..=last).step_by(usize::try_from(step).unwrap_or(usize::MAX)).for_each(|bit| bits |= 1 << bit);
    }
    Ok((bits, any))
}

/// A number of digits alone: `+5` is none.
fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A duration in Go's words, rounded down to seconds: `1h30m`, `90s`, `1.5h`.
fn seconds(text: &str) -> Option<u64> {
    let (mut total, mut rest) = (0_u64, text);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
        let unit_end =
            rest[end..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |at| end + at);
        let unit_ms: u64 = match &rest[end..unit_end] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        let (whole, part) = rest[..end].split_once('.').unwrap_or((&rest[..end], ""));
        let mut amount = whole.parse::<u64>().ok()?.checked_mul(unit_ms)?;
        let mut unit = unit_ms;
        for digit in part.bytes() {
            unit /= 10;
            amount =
                amount.checked_add(u64::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?) * unit)?;
        }
        total = total.checked_add(amount)?;
        rest = &rest[unit_end..];
    }
    // Longer than a schedule looks ahead is no schedule.
    Some(total / 1000).filter(|seconds| (1..=HORIZON_DAYS * 86_400).contains(seconds))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(text: &str, zone: &str) -> Schedule {
        Schedule::parse(text, zone).unwrap()
    }

    fn at(text: &str) -> u64 {
        u64::try_from(text.parse::<DateTime<Utc>>().unwrap().timestamp_millis()).unwrap()
    }

    fn shown(time: Option<u64>) -> String {
        let time =
            time.map(|time| DateTime::<Utc>::from_timestamp_millis(i64::try_from(time).unwrap()).unwrap());
        time.map_or_else(|| "none".into(), |time| time.format("%Y-%m-%dT%H:%MZ").to_string())
    }

    #[test]
    fn the_shortest_gap_of_a_schedule_is_that_of_its_nearest_times() {
        for (text, gap) in [
            ("* * * * *", 60),
            ("*/15 2-4 * * *", 900),
            ("0 6,7 * * *", 3600),
            ("0 0 1 * *", 28 * 86_400),
            ("@every 90m", 5400),
            ("0 0 29 2 *", GAP_SECONDS),
        ] {
            assert_eq!(schedule(text, "Etc/UTC").shortest_gap(), gap, "{text}");
        }
    }

    #[test]
    fn a_schedule_is_written_so_that_every_cron_reads_it_alike() {
        for (text, plain) in [
            ("*/15 2-4 * * *", Some("0,15,30,45 2,3,4 * * *")),
            ("@weekly", Some("0 0 * * 0")),
            ("5 * 1,15 feb-MAR ?", Some("5 * 1,15 2,3 *")),
            ("0 6 * * MON-FRI", Some("0 6 * * 1,2,3,4,5")),
            ("0 0 1-31 * 1", Some("0 0 * * *")),
            ("0 0 13 * 5", None),
            ("@every 90m", None),
        ] {
            assert_eq!(schedule(text, "Etc/UTC").plain_fields().as_deref(), plain, "{text}");
        }
    }

    #[test]
    fn what_is_a_schedule_and_what_is_none() {
        for good in [
            "*/5 * * * *",
            "0 0 1 jan sun",
            "1,2-5 3 * * 6",
            "@daily",
            "0-30/10 * * * *",
            "5/15 * * * *",
            "0 0 * * MON-FRI",
            "? ? ? ? ?",
            "@every 1h30m",
            "@every 1.5h",
            "0 0 30 2 *",
        ] {
            assert!(Schedule::parse(good, "Etc/UTC").is_ok(), "{good}");
        }
        for bad in [
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "*/0 * * * *",
            "@often",
            "a * * * *",
            "* * 0 * *",
            "",
            ",",
            "* * * * 7",
            "5-1 * * * *",
            "1-2-3 * * * *",
            "TZ=UTC * * * * *",
            "@every 0s",
            "@every 500ms",
            "@every -1h",
            "@every 1",
            "@reboot",
            "+1 * * * *",
            "*/99999999999 * * * *",
            "@every 99999999999h",
        ] {
            assert!(Schedule::parse(bad, "Etc/UTC").is_err(), "{bad}");
        }
        assert!(Schedule::parse("* * * * *", "Mars/Olympus").is_err());
        assert!(Schedule::parse("* * * * *", "Local").is_err());
    }

    /// The cases of the specification of Kubernetes' parser, with seconds left out.
    #[test]
    fn the_next_time_is_that_of_kubernetes_parser() {
        let new_york = "America/New_York";
        for (text, zone, from, next) in [
            ("0/15 * * * *", "Etc/UTC", "2012-07-09T14:45:00Z", "2012-07-09T15:00Z"),
            ("0/15 * * * *", "Etc/UTC", "2012-07-09T14:59:59Z", "2012-07-09T15:00Z"),
            ("20-35/15 * * * *", "Etc/UTC", "2012-07-09T15:45:00Z", "2012-07-09T16:20Z"),
            ("*/15 1-5 * * *", "Etc/UTC", "2012-07-09T23:46:00Z", "2012-07-10T01:00Z"),
            ("0 0 */2 2 mon", "Etc/UTC", "2012-07-09T23:35:00Z", "2013-02-01T00:00Z"),
            ("0 0 * feb mon", "Etc/UTC", "2012-07-09T23:35:00Z", "2013-02-04T00:00Z"),
            ("0 0 29 2 *", "Etc/UTC", "2012-07-09T23:35:00Z", "2016-02-29T00:00Z"),
            ("0 0 30 2 *", "Etc/UTC", "2012-07-09T23:35:00Z", "none"),
            ("@every 1h30m", "Etc/UTC", "2012-07-09T00:00:00Z", "2012-07-09T01:30Z"),
            // The clock jumps over 2 o'clock, and the nightly job with it.
            ("30 2 * * *", new_york, "2012-03-11T05:00:00Z", "2012-03-12T06:30Z"),
            ("0 * * * *", new_york, "2012-03-11T06:00:00Z", "2012-03-11T07:00Z"),
            // The clock shows 1 o'clock twice, and the nightly job runs twice.
            ("0 1 * * *", new_york, "2012-11-04T04:00:00Z", "2012-11-04T05:00Z"),
            ("0 1 * * *", new_york, "2012-11-04T05:00:00Z", "2012-11-04T06:00Z"),
            ("0 1 * * *", new_york, "2012-11-04T06:00:00Z", "2012-11-05T06:00Z"),
            ("0 * * * *", new_york, "2012-11-04T05:00:00Z", "2012-11-04T06:00Z"),
            // Midnight that does not exist.
            ("0 0 * * *", "America/Sao_Paulo", "2018-11-03T04:00:00Z", "2018-11-05T02:00Z"),
        ] {
            assert_eq!(shown(schedule(text, zone).next(at(from))), next, "{text} {zone} {from}");
        }
    }

    #[test]
    fn the_latest_time_is_found_from_afar() {
        let daily = schedule("0 9 * * *", "Europe/Berlin");
        let until = at("2026-07-10T06:59:59Z");
        assert_eq!(shown(daily.latest(0, until)), "2026-07-09T07:00Z");
        assert_eq!(shown(daily.latest(at("2026-07-09T07:00:00Z"), until)), "none");
        assert_eq!(shown(schedule("0 0 30 2 *", "Etc/UTC").latest(0, until)), "none");
        assert_eq!(schedule("* * * * *", "Etc/UTC").latest(0, u64::MAX), None, "no date");
        assert_eq!(schedule("* * * * *", "Etc/UTC").next(u64::MAX), None);
        let json = serde_json::to_string(&daily).unwrap();
        assert_eq!(json, r#"{"schedule":"0 9 * * *","timeZone":"Europe/Berlin"}"#);
        assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), daily);
    }

    fn texts() -> impl Strategy<Value = (&'static str, &'static str)> {
        let texts =
            ["* * * * *", "*/7 * * * *", "30 1,2,3 * * *", "0 0 1,15 * mon", "@every 25m", "15 */5 * * 0"];
        let zones =
            ["Etc/UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "America/Sao_Paulo"];
        (proptest::sample::select(texts.to_vec()), proptest::sample::select(zones.to_vec()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Looking forward and looking back agree: nothing lies between a time and the next one, and the latest time
        /// before any moment is the last of the times that were counted up to it.
        #[test]
        fn next_and_latest_agree((text, zone) in texts(), start in 1_500_000_000_u64..1_700_000_000, steps in 1_usize..40) {
            let schedule = schedule(text, zone);
            let start = start * 1000;
            let mut last = start;
            for _ in 0..steps {
                let next = schedule.next(last).unwrap();
                prop_assert!(next > last);
                prop_assert_eq!(schedule.latest(last, next - 1), None);
                prop_assert_eq!(schedule.latest(last, next), Some(next));
                last = next;
            }
            prop_assert_eq!(schedule.latest(start, last + 999), Some(last));
        }
    }
}
