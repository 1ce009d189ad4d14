//! Jobs, Pods that end and CronJobs. Their machines are on paper: what a machine of a Job does, `bed/paper.py` does in its
//! place, with the rights of its role.

mod kills;
mod runs;
mod schedules;

use serde_json::Value;

use crate::harness::Bed;

/// A Job whose spec has these lines beside its pod.
pub(crate) fn job(name: &str, lines: &[&str]) -> String {
    let lines = lines.iter().fold(String::new(), |all, line| all + "  " + line + "\n");
    format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec:\n{lines}  template:\n    spec:\n      \
         restartPolicy: Never\n      containers:\n        - name: main\n          image: busybox:1.35\n          \
         args: [echo, done]\n"
    )
}

/// Has machines of Jobs end as `told` says; see `bed/paper.py`.
pub(crate) fn behave(bed: &Bed, told: &Value) {
    bed.call("POST", "/moto-api/i2kit/job", &told.to_string());
}

/// Sets the clock of schedules and machines so many seconds ahead.
pub(crate) fn ahead(bed: &Bed, seconds: u64) {
    bed.call("POST", "/moto-api/i2kit/clock", &seconds.to_string());
}

/// The scheduled actions of groups, as lines `GROUP NAME WHEN CAPACITY`.
pub(crate) fn scheduled(bed: &Bed) -> Vec<String> {
    serde_json::from_str(&bed.call("GET", "/moto-api/i2kit/scheduled", "")).unwrap()
}

/// The log streams with records of Jobs.
pub(crate) fn records(bed: &Bed) -> Vec<String> {
    serde_json::from_str(&bed.call("GET", "/moto-api/i2kit/records", "")).unwrap()
}

/// The Auto Scaling groups, as lines `group NAME MIN MAX DESIRED ZONES`.
pub(crate) fn groups(bed: &Bed) -> Vec<String> {
    let found: Vec<String> = serde_json::from_str(&bed.call("GET", "/moto-api/i2kit/frame", "")).unwrap();
    found.into_iter().filter(|line| line.starts_with("group ")).collect()
}
