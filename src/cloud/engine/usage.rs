//! What VMs use: counters that guests report, made into use a second as metrics-server makes it of the kubelet's.
//!
//! Pure. A guest is a stranger: only containers that its plan names count, and none uses more than its VM has.

use std::collections::{BTreeMap, VecDeque};

use i2kit_spec::Millis;
use i2kit_spec::status::{self, PodStatus};

use crate::plan::fleet::{InstanceUsage, ResourceUsage};

/// The time over which processor use is averaged: that of metrics-server.
const WINDOW: Millis = Millis(15_000);

/// Processor use is not known over less than this: the kubelet's own shortest window.
const SHORTEST: Millis = Millis(10_000);

/// Reports that are kept lie so far apart at least; the newest one is kept in any case.
const SPACING: Millis = Millis(3_000);

/// What a guest reported so long ago is not what it uses now.
const STALE: Millis = Millis(30_000);

/// What a VM has, and no part of it can use more than.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Processors, in thousandths.
    pub cpu_millis: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// The reports of one guest.
#[derive(Debug, Clone, Default)]
pub struct UsageHistory {
    /// Oldest first; a handful, whatever the guest does.
    reports: VecDeque<Report>,
}

#[derive(Debug, Clone)]
struct Report {
    at: u64,
    containers: BTreeMap<String, status::Usage>,
    machine: Option<status::Usage>,
}

/// What a VM used at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// When the newest report came.
    pub at: u64,
    /// The use.
    pub usage: InstanceUsage,
}

impl UsageHistory {
    /// Takes over a report that came at the time `now`; `names` are the containers of the VM's plan.
    pub fn add(&mut self, told: &PodStatus, names: &[String], now: u64) {
        let known = told.containers.iter().filter(|container| names.contains(&container.name));
        let containers: BTreeMap<String, status::Usage> =
            known.filter_map(|container| Some((container.name.clone(), container.usage?))).collect();
        if containers.is_empty() && told.usage.is_none() {
            return;
        }
        let report = Report { at: now, containers, machine: told.usage };
        let mut newest = self.reports.iter().rev().map(|report| report.at);
        let is_close = match (newest.next(), newest.next()) {
            (Some(last), Some(before)) => last < SPACING.after(before),
            _ => false,
        };
        if is_close {
            self.reports.pop_back();
        }
        self.reports.push_back(report);
        while self.reports.get(1).is_some_and(|second| WINDOW.after(second.at) <= now) {
            self.reports.pop_front();
        }
    }

    /// What the VM uses at the time `now`, once that is known.
    pub fn measured(&self, capacity: Capacity, now: u64) -> Option<Measured> {
        let (first, last) = (self.reports.front()?, self.reports.back()?);
        let window = Millis(last.at.saturating_sub(first.at));
        if window < SHORTEST || STALE.after(last.at) < now {
            return None;
        }
        let containers = last.containers.keys();
        let containers = containers.filter_map(|name| {
            Some((name.clone(), self.since_seen(capacity, |report| report.containers.get(name))?))
        });
        let containers = containers.collect();
        let machine = self.since_seen(capacity, |report| report.machine.as_ref());
        Some(Measured { at: last.at, usage: InstanceUsage { window_ms: window.0, containers, machine } })
    }

    /// The use of one part, between the first and the last report that have it. A counter begins long before the first
    /// report of a container that was started again: a control group is kept over runs.
    fn since_seen<'h>(
        &'h self,
        capacity: Capacity,
        part: impl Fn(&'h Report) -> Option<&'h status::Usage>,
    ) -> Option<ResourceUsage> {
        let last = self.reports.back()?;
        let now = part(last)?;
        let (since, before) = self.reports.iter().find_map(|report| Some((report.at, part(report)?)))?;
        let time = Millis(last.at.saturating_sub(since));
        if time < SHORTEST {
            return None;
        }
        // A counter that went back began anew.
        let used = now.cpu_nanoseconds.checked_sub(before.cpu_nanoseconds).unwrap_or(now.cpu_nanoseconds);
        Some(ResourceUsage {
            // Nanoseconds in milliseconds, in thousandths; rounded up, as a quantity of Kubernetes is.
            cpu_millis: used.div_ceil(time.0.saturating_mul(1000)).min(capacity.cpu_millis),
            memory_bytes: now.working_set_bytes.min(capacity.memory_bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use i2kit_spec::status::{ContainerStatus, PodPhase};

    use super::*;

    const CAPACITY: Capacity = Capacity { cpu_millis: 2000, memory_bytes: 1 << 30 };

    fn report(containers: &[(&str, u64, u64)]) -> PodStatus {
        let container = |(name, cpu_nanoseconds, working_set_bytes): &(&str, u64, u64)| ContainerStatus {
            name: (*name).to_owned(),
            ready: true,
            restarts: 0,
            state: "Running".into(),
            last: None,
            probe: None,
            usage: Some(status::Usage {
                cpu_nanoseconds: *cpu_nanoseconds,
                working_set_bytes: *working_set_bytes,
            }),
        };
        PodStatus {
            version: status::VERSION,
            boot_id: "b".into(),
            phase: PodPhase::Ready,
            containers: containers.iter().map(container).collect(),
            usage: None,
            replica: None,
        }
    }

    fn names() -> Vec<String> {
        vec!["web".into()]
    }

    #[test]
    fn processor_use_is_averaged_over_the_window() {
        let mut history = UsageHistory::default();
        // A quarter of a processor, a report a second.
        for second in 0..=60_u64 {
            history.add(&report(&[("web", second * 250_000_000, 5 << 20)]), &names(), second * 1000);
            let measured = history.measured(CAPACITY, second * 1000);
            assert_eq!(measured.is_some(), second >= 10, "{second}");
            assert!(history.reports.len() <= 8, "{}", history.reports.len());
            let Some(measured) = measured else { continue };
            let window = measured.usage.window_ms;
            assert!((10_000..=18_000).contains(&window), "{window}");
            let web = ResourceUsage { cpu_millis: 250, memory_bytes: 5 << 20 };
            assert_eq!((measured.at, measured.usage.pod()), (second * 1000, web));
        }
        assert!(history.measured(CAPACITY, 90_000).is_some());
        assert_eq!(history.measured(CAPACITY, 90_001), None, "nothing was reported since");
    }

    #[test]
    fn a_guest_that_reports_every_few_seconds_is_known_all_the_time() {
        let mut history = UsageHistory::default();
        for second in 0..=60_u64 {
            if second % 4 == 0 {
                history.add(&report(&[("web", second * 250_000_000, 1)]), &names(), second * 1000);
            }
            let measured = history.measured(CAPACITY, second * 1000);
            assert_eq!(measured.is_some(), second >= 12, "{second}");
            let Some(measured) = measured else { continue };
            assert!((12_000..=16_000).contains(&measured.usage.window_ms), "{measured:?}");
            assert_eq!(measured.usage.pod().cpu_millis, 250);
            assert!(measured.at + 4000 > second * 1000, "{measured:?}");
        }
    }

    #[test]
    fn a_counter_that_begins_anew_is_counted_from_there() {
        let mut history = UsageHistory::default();
        history.add(&report(&[("web", 900_000_000_000, 1)]), &names(), 0);
        history.add(&report(&[("web", 1_000_000_000, 1)]), &names(), 10_000);
        let measured = history.measured(CAPACITY, 10_000).unwrap();
        assert_eq!(measured.usage.pod().cpu_millis, 100);
    }

    #[test]
    fn what_a_container_used_in_earlier_runs_is_not_its_use_now() {
        const SECOND: u64 = 1_000_000_000;
        let mut history = UsageHistory::default();
        let waiting = || {
            let usage = status::Usage { cpu_nanoseconds: 2000 * SECOND, working_set_bytes: 1 };
            PodStatus { usage: Some(usage), ..report(&[]) }
        };
        history.add(&report(&[("web", 1800 * SECOND, 1)]), &names(), 0);
        // It waits to be started again, with the counter of its control group kept.
        for second in [6, 9] {
            history.add(&waiting(), &names(), second * 1000);
        }
        // First over the wait too, and not at all until it was seen for long enough.
        for (second, millis) in [(12, Some(9)), (15, Some(27)), (18, Some(39)), (21, None), (24, Some(100))] {
            let used = 1800 * SECOND + (second - 11) * SECOND / 10;
            history.add(&report(&[("web", used, 1)]), &names(), second * 1000);
            let measured = history.measured(CAPACITY, second * 1000).unwrap();
            let web = measured.usage.containers.get("web").map(|web| web.cpu_millis);
            assert_eq!(web, millis, "{second}");
        }
    }

    #[test]
    fn a_guest_is_believed_within_its_machine() {
        let mut history = UsageHistory::default();
        history.add(&report(&[("web", 0, 0), ("forged", 0, 0)]), &names(), 0);
        history.add(&report(&[("web", u64::MAX, u64::MAX), ("forged", 9, 9)]), &names(), 20_000);
        let measured = history.measured(CAPACITY, 20_000).unwrap();
        let whole = ResourceUsage { cpu_millis: 2000, memory_bytes: 1 << 30 };
        assert_eq!(measured.usage.containers, [("web".to_owned(), whole)].into());
        // One that reports nothing has used nothing that is known.
        history.add(&report(&[]), &names(), 40_000);
        assert_eq!(history.measured(CAPACITY, 60_000), None);
    }
}
