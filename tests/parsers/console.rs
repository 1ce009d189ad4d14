//! Any bytes as the console of a machine: lines with their containers, and the end of the pod, which is written and read
//! again the same.

use i2kit::cloud::local::{console_line, pod_end};
use i2kit_spec::console::{END, GUEST_PREFIX};

/// Fails when something does not hold.
pub(crate) fn run(data: &[u8]) {
    for line in String::from_utf8_lossy(data).lines() {
        let read = console_line("web-1-a", line);
        assert!(line.contains(&read.text));
        let is_label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(read.container.is_none_or(|name| !name.is_empty() && name.chars().all(is_label)));
    }
    let Some(mut end) = pod_end(data) else { return };
    let _ = end.to_string();
    let json = serde_json::to_string(&end).expect("it has only string keys");
    assert_eq!(pod_end(format!("{GUEST_PREFIX}{END}{json}\r\n").as_bytes()).as_ref(), Some(&end));
    end.cut();
}
