//! The end of a process in words.

use rustix::process::WaitStatus;

/// How a process ended, to follow its name: `was killed by signal 9`, `ended with exit code 3`.
pub(crate) fn in_words(status: WaitStatus) -> String {
    words(status.terminating_signal(), status.exit_status())
}

fn words(signal: Option<i32>, code: Option<i32>) -> String {
    match (signal, code) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, Some(code)) => format!("ended with exit code {code}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_in_words() {
        assert_eq!(words(Some(9), None), "was killed by signal 9");
        assert_eq!(words(None, Some(3)), "ended with exit code 3");
    }
}
