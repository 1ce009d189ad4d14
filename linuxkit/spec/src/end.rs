//! The end of a pod, which its guest reports to the host right before the VM powers off.

use serde::{Deserialize, Serialize};

use crate::status;

/// The reason of a pod whose VM ends because PID 1 cannot go on.
pub const LOST: &str = "Lost";

/// The end of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodEnd {
    /// Whether every container but the sidecars ended with exit code 0 and nothing else made the pod fail.
    pub succeeded: bool,
    /// What made the pod fail, where it was not a container: Kubernetes' word (`DeadlineExceeded`, `InitError`), or
    /// [`LOST`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// More words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// How each container that ever ran ended the last time, init containers first.
    pub containers: Vec<ContainerEnd>,
}

/// The end of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerEnd {
    /// Its name.
    pub name: String,
    /// Its exit code; 128 plus the signal when one killed it.
    pub exit_code: i32,
    /// Kubernetes' word: `Completed`, `Error`, `OOMKilled`, `StartError`.
    pub reason: String,
    /// More words, such as the probe that failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// How often it was started again.
    #[serde(default)]
    pub restarts: u64,
}

/// The room that a line with an end may take, less than what a host looks through for it: texts are cut to what is left for
/// each. A byte takes up to six as JSON.
const LINE_BYTES: usize = 160 * 1024;
const ESCAPED: usize = 6;

impl PodEnd {
    /// Cuts the texts that come from containers, so that the end fits into a line that a host reads whole, however many
    /// containers there are.
    pub fn cut(&mut self) {
        let share = LINE_BYTES / ESCAPED / (self.containers.len() + 1);
        let containers = self.containers.iter_mut().map(|container| &mut container.message);
        containers.chain([&mut self.message]).for_each(|text| status::cut_to(text, share));
    }
}

impl ContainerEnd {
    /// How it ended, without its name: `Error, exit code 3`.
    pub fn ending(&self) -> String {
        let message = if self.message.is_empty() { String::new() } else { format!(" ({})", self.message) };
        format!("{}, exit code {}{message}", self.reason, self.exit_code)
    }
}

impl std::fmt::Display for PodEnd {
    /// What made the pod what it is: the reason, or the first container that failed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.succeeded {
            return f.write_str("Completed");
        }
        if !self.reason.is_empty() {
            return write!(f, "{}: {}", self.reason, self.message);
        }
        match self.containers.iter().find(|container| container.exit_code != 0) {
            Some(container) => container.fmt(f),
            None => f.write_str("stopped"),
        }
    }
}

impl std::fmt::Display for ContainerEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name, self.ending())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_with_many_long_messages_fits_into_its_line() {
        for (containers, text) in [(1, "\u{1}"), (32, "\""), (100, "\u{1}"), (300, "\u{1}")] {
            let container = |number| ContainerEnd {
                name: format!("c{number}"),
                exit_code: 1,
                reason: "Error".into(),
                message: text.repeat(4096),
                restarts: 0,
            };
            let containers = (0..containers).map(container).collect();
            let mut end = PodEnd { message: text.repeat(4096), containers, ..PodEnd::default() };
            end.cut();
            let line = serde_json::to_string(&end).unwrap();
            assert!(line.len() < 256 * 1024, "{}", line.len());
            assert!(end.containers.iter().all(|container| container.message.len() > 20));
        }
    }

    #[test]
    fn the_first_failure_is_the_summary() {
        let container = |name: &str, exit_code| ContainerEnd {
            name: name.into(),
            exit_code,
            reason: if exit_code == 0 { "Completed" } else { "Error" }.into(),
            message: String::new(),
            restarts: 0,
        };
        let containers = vec![container("init", 0), container("job", 4)];
        let end = PodEnd { containers, ..PodEnd::default() };
        assert_eq!(end.to_string(), "job: Error, exit code 4");
        let json = serde_json::to_string(&end).unwrap();
        assert_eq!(serde_json::from_str::<PodEnd>(&json).unwrap(), end);
        let late = PodEnd { reason: "DeadlineExceeded".into(), message: "5 s".into(), ..end.clone() };
        assert_eq!(late.to_string(), "DeadlineExceeded: 5 s");
        assert_eq!(PodEnd { succeeded: true, ..end }.to_string(), "Completed");
    }
}
