//! The annotations of a replicated pod: their keys, and what their texts mean. The checker reports what is wrong with them,
//! and the builder takes what is right.

use i2kit_spec::replica::{Framing, Integrity, Limits, MAX_BODY, MAX_DEADLINE, MAX_REPLY, Reads};
use i2kit_spec::{Bytes, Millis};

use super::quantity::bytes;
use crate::manifest::api::{Replicated, ReplicatedState};

/// Makes the pods of a StatefulSet replicas of each other; its value is the protocol of their requests.
pub(in crate::manifest) const REPLICATED: &str = "i2kit.dev/replicated";

const READS: &str = "i2kit.dev/replicated-reads";
const DEPTH: &str = "i2kit.dev/replicated-depth";
const SNAPSHOT: &str = "i2kit.dev/replicated-snapshot";
const RESTORE: &str = "i2kit.dev/replicated-restore";
const INTEGRITY: &str = "i2kit.dev/replicated-integrity";
const VOLATILE: &str = "i2kit.dev/replicated-volatile";
const LIMITS: &str = "i2kit.dev/replicated-limits";
const LOG: &str = "i2kit.dev/replicated-log";

/// How the application's state is captured.
pub(in crate::manifest) const STATE: &str = "i2kit.dev/replicated-state";

/// All of them, for hints about keys that there are none of.
pub(in crate::manifest) const KEYS: [&str; 10] =
    [REPLICATED, READS, DEPTH, STATE, SNAPSHOT, RESTORE, INTEGRITY, VOLATILE, LIMITS, LOG];

/// What all keys but the first begin with.
pub(in crate::manifest) const PREFIX: &str = "i2kit.dev/replicated-";

/// Size of the log's disk where no annotation gives it.
const DEFAULT_LOG: Bytes = Bytes::mib(1024);

/// The smallest disk that holds some segments of the log and a snapshot.
const LEAST_LOG: Bytes = Bytes::mib(256);

/// The most commands that are under way to an application.
const MOST_DEPTH: u16 = 256;

/// The deadlines that a limit may give, in milliseconds: shorter ones end while a leader is elected.
const DEADLINES: std::ops::RangeInclusive<u64> = 1_000..=MAX_DEADLINE.0;

/// What is wrong with an annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::manifest) struct Fault {
    /// Its key.
    pub(in crate::manifest) key: &'static str,
    /// The condition that its text breaks, such as `must be a size`.
    pub(in crate::manifest) must: String,
}

/// What the annotations that `of` finds ask for, as far as they can be read, and what is wrong with them. Nothing without
/// [`REPLICATED`].
pub(in crate::manifest) fn read<'t>(
    of: impl Fn(&str) -> Option<&'t str>,
) -> Option<(Replicated, Vec<Fault>)> {
    let protocol = of(REPLICATED)?;
    let mut faults = Vec::new();
    let mut found = Replicated {
        // Known once the whole set is.
        app_port: 0,
        protocol: Framing::Http,
        reads: Reads::default(),
        depth: 1,
        state: ReplicatedState::Memory,
        integrity: Integrity::default(),
        volatile: Vec::new(),
        limits: Limits::default(),
        log: DEFAULT_LOG,
    };
    let mut fault = |key, must: &str| faults.push(Fault { key, must: must.to_owned() });
    match protocol {
        "http" => {}
        "resp" => found.protocol = Framing::Resp,
        "lines" => found.protocol = Framing::Lines,
        "frames-u32be" => found.protocol = Framing::FramesU32be,
        _ => fault(REPLICATED, "must be `http`, `resp`, `lines` or `frames-u32be`"),
    }
    match of(READS) {
        None | Some("linearizable") => {}
        Some("ordered") => found.reads = Reads::Ordered,
        Some("local") => found.reads = Reads::Local,
        Some(_) => fault(READS, "must be `linearizable`, `ordered` or `local`"),
    }
    if let Some(text) = of(DEPTH) {
        match text.parse() {
            Ok(depth @ 1..=MOST_DEPTH) => found.depth = depth,
            _ => fault(DEPTH, "must be a number from 1 to 256"),
        }
    }
    match of(INTEGRITY) {
        None | Some("compare") => {}
        Some("quorum") => found.integrity = Integrity::Quorum,
        Some("off") => found.integrity = Integrity::Off,
        Some(_) => fault(INTEGRITY, "must be `compare`, `quorum` or `off`"),
    }
    for name in of(VOLATILE).unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)) {
            found.volatile.push(name.to_ascii_lowercase());
        } else {
            fault(VOLATILE, "must be names of headers, separated by commas");
        }
    }
    if let Some(text) = of(LOG) {
        match bytes(text) {
            Ok((size, false)) if size >= LEAST_LOG.0 => found.log = Bytes(size),
            _ => fault(LOG, "must be a size of 256Mi or more, such as `2Gi`"),
        }
    }
    found.state = state(&of, &mut faults);
    limits(of(LIMITS), &mut found, &mut faults);
    Some((found, faults))
}

/// How the state is captured. What a hook or a volume has to do with the pod is looked at with the pod.
fn state<'t>(of: &impl Fn(&str) -> Option<&'t str>, faults: &mut Vec<Fault>) -> ReplicatedState {
    let mut fault = |key, must: &str| faults.push(Fault { key, must: must.to_owned() });
    let mut hook = |key: &'static str| {
        let command = command(of(key).unwrap_or_default());
        if command.is_none() {
            fault(key, "must be a command for a shell, or a list of texts in JSON");
        }
        command.unwrap_or_default()
    };
    match of(STATE) {
        None | Some("memory") => ReplicatedState::Memory,
        Some("hooks") => ReplicatedState::Hooks { snapshot: hook(SNAPSHOT), restore: hook(RESTORE) },
        Some(text) => {
            let volume = text.strip_prefix("directory:").filter(|name| !name.is_empty());
            if volume.is_none() {
                fault(STATE, "must be `memory`, `directory:VOLUME` or `hooks`");
            }
            volume.map_or(ReplicatedState::Memory, |volume| ReplicatedState::Directory(volume.to_owned()))
        }
    }
}

/// A command: a list of texts in JSON, or what a shell is given. A text that begins with a bracket and is no such list is
/// neither.
fn command(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    if text.starts_with('[') {
        return serde_json::from_str(text).ok().filter(|words: &Vec<String>| !words.is_empty());
    }
    (!text.is_empty()).then(|| vec!["/bin/sh".into(), "-c".into(), text.to_owned()])
}

/// Bounds: `body=1Mi,reply=8Mi,deadline=5s,log=256Mi`, each of which may be missing.
fn limits(text: Option<&str>, found: &mut Replicated, faults: &mut Vec<Fault>) {
    // Without snapshots the whole log stays; with them there is room for two of the application's state beside it.
    let share = if found.state == ReplicatedState::Memory { found.log.0 / 4 * 3 } else { found.log.0 / 4 };
    found.limits.log_bytes = Bytes(share);
    let mut fault = |must: &str| faults.push(Fault { key: LIMITS, must: must.to_owned() });
    for part in text.unwrap_or_default().split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let Some((name, value)) = part.split_once('=') else {
            fault("must be like `body=1Mi,reply=8Mi,deadline=5s,log=256Mi`");
            continue;
        };
        let size = bytes(value).ok().filter(|(_, odd)| !odd).map(|(size, _)| Bytes(size));
        let message = |most| size.filter(|size| size.0 > 0 && *size <= most);
        match name {
            "body" => match message(MAX_BODY) {
                Some(size) => found.limits.body_bytes = size,
                None => fault("must have a size up to 8Mi for `body`"),
            },
            "reply" => match message(MAX_REPLY) {
                Some(size) => found.limits.reply_bytes = size,
                None => fault("must have a size up to 16Mi for `reply`"),
            },
            "deadline" => match milliseconds(value).filter(|time| DEADLINES.contains(time)) {
                Some(time) => found.limits.deadline = Millis(time),
                None => fault("must have a time from 1s to 60s for `deadline`, such as `5s` or `2500ms`"),
            },
            "log" => match size.filter(|size| size.0 >= LEAST_LOG.0 / 4 && size.0 <= found.log.0 / 4 * 3) {
                Some(size) => found.limits.log_bytes = size,
                None => fault("must have a size from 64Mi to three quarters of the log's disk for `log`"),
            },
            _ => fault("has `body`, `reply`, `deadline` and `log`, and nothing else"),
        }
    }
}

/// `5s` or `2500ms` in milliseconds.
fn milliseconds(text: &str) -> Option<u64> {
    match text.strip_suffix("ms") {
        Some(number) => number.parse().ok(),
        None => text.strip_suffix('s')?.parse::<u64>().ok()?.checked_mul(1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What annotations with these ends of keys and values ask for.
    fn of(annotations: &[(&str, &str)]) -> (Replicated, Vec<&'static str>) {
        let find = |key: &str| {
            let end = key.strip_prefix(REPLICATED)?;
            annotations.iter().find(|(known, _)| *known == end.trim_start_matches('-')).map(|(_, text)| *text)
        };
        let (found, faults) = read(find).unwrap();
        (found, faults.into_iter().map(|fault| fault.key).collect())
    }

    #[test]
    fn the_protocol_alone_is_enough() {
        assert_eq!(read(|_| None), None);
        let (found, faults) = of(&[("", "resp")]);
        assert_eq!((found.protocol, found.depth, faults), (Framing::Resp, 1, vec![]));
        assert_eq!((found.state, found.log), (ReplicatedState::Memory, Bytes(1 << 30)));
        assert_eq!(found.limits.log_bytes, Bytes(3 << 28), "there are no snapshots");
    }

    #[test]
    fn each_annotation_has_its_words_and_what_is_wrong_is_named() {
        let (found, faults) = of(&[
            ("", "frames-u32be"),
            ("reads", "local"),
            ("depth", "32"),
            ("state", "directory:data"),
            ("integrity", "quorum"),
            ("volatile", "X-Request-Id, ETag"),
            ("limits", "body=64Ki, deadline=2500ms,log=512Mi"),
            ("log", "2Gi"),
        ]);
        assert_eq!((found.protocol, found.reads), (Framing::FramesU32be, Reads::Local));
        assert_eq!((found.depth, found.integrity, found.log), (32, Integrity::Quorum, Bytes(2 << 30)));
        assert_eq!(found.state, ReplicatedState::Directory("data".into()));
        assert_eq!(found.volatile, ["x-request-id", "etag"]);
        let limits = Limits {
            body_bytes: Bytes(64 << 10),
            deadline: Millis(2500),
            log_bytes: Bytes(512 << 20),
            ..Limits::default()
        };
        assert_eq!((found.limits, faults), (limits, vec![]));
        for (end, key, wrong) in [
            ("", REPLICATED, "grpc"),
            ("reads", READS, "stale"),
            ("depth", DEPTH, "0"),
            ("depth", DEPTH, "257"),
            ("state", STATE, "directory:"),
            ("state", STATE, "machine"),
            ("integrity", INTEGRITY, "yes"),
            ("volatile", VOLATILE, "a b"),
            ("log", LOG, "10Mi"),
            ("limits", LIMITS, "body"),
            ("limits", LIMITS, "body=8388609"),
            ("limits", LIMITS, "reply=16777217"),
            ("limits", LIMITS, "deadline=61s"),
            ("limits", LIMITS, "deadline=5"),
            ("limits", LIMITS, "deadline=18446744073709551615s"),
            ("limits", LIMITS, "log=1Gi"),
            ("limits", LIMITS, "size=1Mi"),
        ] {
            let annotations = [(end, wrong), ("", "http")];
            assert_eq!(of(&annotations).1, [key], "{end} {wrong}");
        }
    }

    #[test]
    fn a_coordinator_takes_the_ends_of_what_is_allowed() {
        for text in ["body=8Mi,reply=16Mi,deadline=60s,log=768Mi", "body=1,reply=1,deadline=1s,log=64Mi", ""]
        {
            let (found, faults) = of(&[("", "http"), ("limits", text)]);
            assert_eq!((found.limits.check(), faults), (Ok(()), vec![]), "{text}");
        }
    }

    #[test]
    fn hooks_are_commands_for_a_shell_or_lists() {
        let hooks = [
            ("", "resp"),
            ("state", "hooks"),
            ("snapshot", "redis-cli --rdb -"),
            ("restore", r#"["load", "-"]"#),
        ];
        let (found, faults) = of(&hooks);
        let ReplicatedState::Hooks { snapshot, restore } = found.state else { panic!() };
        assert_eq!(snapshot, ["/bin/sh", "-c", "redis-cli --rdb -"]);
        assert_eq!((restore, faults), (vec!["load".to_owned(), "-".to_owned()], vec![]));
        for wrong in ["", "[", "[]", "[1]"] {
            assert_eq!(command(wrong), None, "{wrong}");
        }
        let (_, faults) = of(&[("", "http"), ("state", "hooks"), ("snapshot", "dump")]);
        assert_eq!(faults, [RESTORE]);
    }
}
