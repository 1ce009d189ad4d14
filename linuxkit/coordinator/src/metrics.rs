//! What the coordinator counts, and the document of `GET /metrics`: Prometheus' text format, version 0.0.4. Batch size, time of
//! a sync and time in the application are the three that explain a rate.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use i2kit_spec::replica::{ReplicaStatus, Role};

/// Bounds of the histogram of commands in a batch.
const COMMANDS: [u64; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 1024];

/// Bounds of histograms of short times, in microseconds.
const SHORT: [u64; 10] = [50, 100, 200, 500, 1_000, 2_000, 5_000, 20_000, 100_000, 1_000_000];

/// Bounds of the histogram of snapshots, in microseconds.
const LONG: [u64; 10] =
    [10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 5_000_000, 20_000_000, 60_000_000];

/// How often values were at most so much, and their sum.
#[derive(Debug)]
struct Histogram {
    bounds: [u64; 10],
    counts: [AtomicU64; 11],
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: [u64; 10]) -> Self {
        Self { bounds, counts: [const { AtomicU64::new(0) }; 11], sum: AtomicU64::new(0) }
    }

    fn add(&self, value: u64) {
        let place = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.counts[place].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// `unit` is how many of the values' units one of the document's is.
    fn write(&self, out: &mut String, name: &str, help: &str, unit: u64) {
        head(out, name, help, "histogram");
        let mut count = 0;
        for (bound, own) in self.bounds.iter().zip(&self.counts) {
            count += own.load(Relaxed);
            line(out, format_args!("i2kit_replica_{name}_bucket{{le=\"{}\"}} {count}", Ratio(*bound, unit)));
        }
        count += self.counts[self.bounds.len()].load(Relaxed);
        line(out, format_args!("i2kit_replica_{name}_bucket{{le=\"+Inf\"}} {count}"));
        line(out, format_args!("i2kit_replica_{name}_sum {}", Ratio(self.sum.load(Relaxed), unit)));
        line(out, format_args!("i2kit_replica_{name}_count {count}"));
    }
}

/// A number in units of a power of ten, written without rounding.
struct Ratio(u64, u64);

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(value, unit) = *self;
        write!(f, "{}", value / unit)?;
        if value.is_multiple_of(unit) {
            return Ok(());
        }
        let digits = usize::try_from(unit.ilog10()).unwrap_or_default();
        let part = format!("{:0digits$}", value % unit);
        write!(f, ".{}", part.trim_end_matches('0'))
    }
}

/// The counters of one coordinator.
#[derive(Debug)]
pub(crate) struct Metrics {
    commands: AtomicU64,
    duplicates: AtomicU64,
    digest_index: AtomicU64,
    batch: Histogram,
    sync: Histogram,
    app: Histogram,
    snapshot: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let [commands, duplicates, digest_index] = [const { AtomicU64::new(0) }; 3];
        Self {
            commands,
            duplicates,
            digest_index,
            batch: Histogram::new(COMMANDS),
            sync: Histogram::new(SHORT),
            app: Histogram::new(SHORT),
            snapshot: Histogram::new(LONG),
        }
    }

    /// An entry of the log was executed: its commands, without those that had been executed before.
    pub(crate) fn executed(&self, commands: u64, duplicates: u64) {
        self.commands.fetch_add(commands, Relaxed);
        self.duplicates.fetch_add(duplicates, Relaxed);
    }

    /// A batch was proposed with so many commands.
    pub(crate) fn proposed(&self, commands: u64) {
        self.batch.add(commands);
    }

    /// The log was made durable once, in this time.
    pub(crate) fn synced(&self, time: Duration) {
        self.sync.add(micros(time));
    }

    /// The application executed the commands of an entry in this time.
    pub(crate) fn answered(&self, time: Duration) {
        self.app.add(micros(time));
    }

    /// A snapshot was taken, and the commands stood for this time.
    pub(crate) fn captured(&self, time: Duration) {
        self.snapshot.add(micros(time));
    }

    /// The digest of replies was compared up to this index.
    pub(crate) fn compared(&self, index: u64) {
        self.digest_index.fetch_max(index, Relaxed);
    }

    /// The document.
    pub(crate) fn document(&self, status: &ReplicaStatus) -> String {
        let mut out = String::with_capacity(6 << 10);
        let is_diverged = u64::from(status.diverged_at.is_some());
        let gauges = [
            ("leader", "Whether this replica orders the requests.", u64::from(status.role == Role::Leader)),
            ("term", "Term of the order.", status.term),
            ("applied", "Index of the last entry that the application executed.", status.applied),
            ("committed", "Index of the last entry that is known to be committed.", status.committed),
            (
                "behind",
                "Committed entries that are still to be executed.",
                status.committed.saturating_sub(status.applied),
            ),
            ("digest_index", "Index up to which replies were compared.", self.digest_index.load(Relaxed)),
            ("diverged", "Whether the replica is quarantined because its replies differed.", is_diverged),
            ("log_bytes", "Bytes of the log.", status.log_bytes),
        ];
        for (name, help, value) in gauges {
            head(&mut out, name, help, "gauge");
            line(&mut out, format_args!("i2kit_replica_{name} {value}"));
        }
        let counters = [
            ("commands_total", "Commands that were executed.", self.commands.load(Relaxed)),
            (
                "duplicates_total",
                "Commands that had been executed before, and were passed over.",
                self.duplicates.load(Relaxed),
            ),
            ("divergences_total", "Replies that differed from those of other replicas.", status.divergences),
        ];
        for (name, help, value) in counters {
            head(&mut out, name, help, "counter");
            line(&mut out, format_args!("i2kit_replica_{name} {value}"));
        }
        self.batch.write(&mut out, "batch_commands", "Commands in a batch.", 1);
        self.sync.write(&mut out, "sync_seconds", "Time to make a group of the log durable.", 1_000_000);
        self.app.write(
            &mut out,
            "app_seconds",
            "Time of the application for the commands of an entry.",
            1_000_000,
        );
        self.snapshot.write(
            &mut out,
            "snapshot_seconds",
            "Time that commands stood for a snapshot.",
            1_000_000,
        );
        out
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    line(out, format_args!("# HELP i2kit_replica_{name} {help}\n# TYPE i2kit_replica_{name} {kind}"));
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use i2kit_spec::replica::{ReplicaStatus, Role};

    use super::{Metrics, Ratio};

    #[test]
    fn numbers_are_written_without_rounding() {
        let written = [(0, 1), (7, 1), (50, 1_000_000), (1_500_000, 1_000_000), (60_000_000, 1_000_000)];
        let written = written.map(|(value, unit)| Ratio(value, unit).to_string());
        assert_eq!(written, ["0", "7", "0.00005", "1.5", "60"]);
    }

    #[test]
    fn the_document_has_each_figure_once() {
        let metrics = Metrics::new();
        metrics.executed(5, 2);
        metrics.proposed(3);
        metrics.proposed(5000);
        metrics.synced(Duration::from_micros(170));
        metrics.compared(9);
        metrics.compared(4);
        let status = ReplicaStatus {
            slot: 1,
            id: 7,
            role: Role::Leader,
            term: 3,
            leader: Some(1),
            committed: 12,
            applied: 10,
            members: Vec::new(),
            diverged_at: None,
            divergences: 0,
            log_bytes: 4096,
            waits_for: None,
            recoveries: 0,
            has_quorum: true,
        };
        let text = metrics.document(&status);
        let lines: Vec<&str> = text.lines().collect();
        for line in [
            "i2kit_replica_leader 1",
            "i2kit_replica_behind 2",
            "i2kit_replica_digest_index 9",
            "i2kit_replica_commands_total 5",
            "i2kit_replica_duplicates_total 2",
            "i2kit_replica_batch_commands_bucket{le=\"4\"} 1",
            "i2kit_replica_batch_commands_bucket{le=\"1024\"} 1",
            "i2kit_replica_batch_commands_bucket{le=\"+Inf\"} 2",
            "i2kit_replica_batch_commands_sum 5003",
            "i2kit_replica_sync_seconds_bucket{le=\"0.0001\"} 0",
            "i2kit_replica_sync_seconds_bucket{le=\"0.0002\"} 1",
            "i2kit_replica_sync_seconds_sum 0.00017",
            "# TYPE i2kit_replica_snapshot_seconds histogram",
        ] {
            assert_eq!(lines.iter().filter(|found| **found == line).count(), 1, "{line} in\n{text}");
        }
    }
}
