//! Signals by their names, as images and manifests write them.

/// Signals of Linux by name, in the order of their numbers on all processors that i2kit knows; the first is number 1.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The first real-time signal that the C library leaves to programs, and the last.
const REAL_TIME: (i32, i32) = (34, 64);

/// The number of a signal: `SIGQUIT`, `QUIT`, `SIGRTMIN+3`, `SIGRTMAX-1` or `3`, in letters of either case.
pub fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return (1..=REAL_TIME.1).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let known = match name {
        "IOT" => "ABRT",
        "CLD" => "CHLD",
        "POLL" => "IO",
        name => name,
    };
    if let Some(position) = NAMES.iter().position(|name| *name == known) {
        return i32::try_from(position + 1).ok();
    }
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        rest => rest.strip_prefix(sign)?.parse::<u8>().ok().map(i32::from),
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => REAL_TIME.0 + offset(rest, '+')?,
        (_, Some(rest)) => REAL_TIME.1 - offset(rest, '-')?,
        _ => return None,
    };
    (REAL_TIME.0..=REAL_TIME.1).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_a_signal_of_linux_or_none(text in "(SIG)?(RT(MIN|MAX))?[+-]?[0-9]{0,4}|\\PC*") {
            prop_assert!(signal_number(&text).is_none_or(|number| (1..=64).contains(&number)));
        }
    }

    #[test]
    fn names_and_numbers_of_signals() {
        for (text, number) in [
            ("SIGQUIT", 3),
            ("term", 15),
            ("SIGWINCH", 28),
            ("SIGSYS", 31),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("RTMAX", 64),
            ("SIGRTMAX-14", 50),
            ("SIGPOLL", 29),
        ] {
            assert_eq!(signal_number(text), Some(number), "{text}");
        }
        for text in
            ["", "SIG", "0", "65", "-1", "SIGRTMIN+31", "SIGRTMIN-1", "SIGRTMIN3", "RTMAX-31", "SIGNOT"]
        {
            assert_eq!(signal_number(text), None, "{text}");
        }
    }
}
