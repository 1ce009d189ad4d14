//! What containers and the machine use: for the host in the status document, and for others on `/metrics` in Prometheus'
//! text format. Names there are those of kubelet's cadvisor and of kube-state-metrics where they exist, so that dashboards
//! for Kubernetes fit.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::record::{ContainerState, Record};
use crate::replica;
use i2kit_container::cgroup;
use i2kit_spec::status;
use i2kit_sys::clock;

/// The pod's status for the host, with what its running containers and the machine use right now.
pub(crate) fn status(record: &Record) -> status::PodStatus {
    let mut told = record.status();
    for (container, told) in record.containers.iter().zip(&mut told.containers) {
        if let ContainerState::Running { .. } = container.state {
            told.usage = usage_of(&cgroup::of_container(&container.name));
        }
    }
    told.usage = usage_of_machine();
    told.replica = replica::noted(record);
    told
}

/// What a group uses, where the kernel says all of it.
fn usage_of(group: &Path) -> Option<status::Usage> {
    let text = |file: &str| fs::read_to_string(group.join(file)).ok();
    let memory: u64 = text("memory.current")?.trim().parse().ok()?;
    let inactive = cgroup::field(&text("memory.stat")?, "inactive_file")?;
    Some(status::Usage {
        cpu_nanoseconds: cgroup::field(&text("cpu.stat")?, "usage_usec")?.saturating_mul(1000),
        working_set_bytes: memory.saturating_sub(inactive),
    })
}

/// What the machine uses as a whole: the root group has no `memory.current`.
fn usage_of_machine() -> Option<status::Usage> {
    let cpu = fs::read_to_string(Path::new(cgroup::MOUNT).join("cpu.stat")).ok()?;
    let memory = fs::read_to_string("/proc/meminfo").ok()?;
    let used = kilobytes(&memory, "MemTotal:").saturating_sub(kilobytes(&memory, "MemAvailable:"));
    Some(status::Usage {
        cpu_nanoseconds: cgroup::field(&cpu, "usage_usec")?.saturating_mul(1000),
        working_set_bytes: used,
    })
}

/// What containers and the guest itself use right now.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    /// In the order of the record's containers.
    containers: Vec<ContainerUsage>,
    uptime: f64,
    /// Resident memory of PID 1 and of the supervisor.
    guest_bytes: u64,
    memory_total: u64,
    memory_available: u64,
}

#[derive(Debug, Default)]
struct ContainerUsage {
    cpu_microseconds: u64,
    memory_bytes: u64,
    inactive_file_bytes: u64,
    oom_kills: u64,
    processes: u64,
}

impl Usage {
    /// Reads the kernel's files.
    pub(crate) fn read(record: &Record) -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let memory = text("/proc/meminfo");
        let resident = |path: &str| kilobytes(&text(path), "VmRSS:");
        Self {
            containers: record
                .containers
                .iter()
                .map(|container| ContainerUsage::read(&container.name))
                .collect(),
            uptime: clock::since_boot(),
            guest_bytes: resident("/proc/1/status") + resident("/proc/self/status"),
            memory_total: kilobytes(&memory, "MemTotal:"),
            memory_available: kilobytes(&memory, "MemAvailable:"),
        }
    }
}

impl ContainerUsage {
    fn read(name: &str) -> Self {
        let group = cgroup::of_container(name);
        let text = |file: &str| fs::read_to_string(group.join(file)).unwrap_or_default();
        let number = |file: &str| text(file).trim().parse().unwrap_or(0);
        Self {
            cpu_microseconds: cgroup::field(&text("cpu.stat"), "usage_usec").unwrap_or(0),
            memory_bytes: number("memory.current"),
            inactive_file_bytes: cgroup::field(&text("memory.stat"), "inactive_file").unwrap_or(0),
            oom_kills: cgroup::field(&text("memory.events"), "oom_kill").unwrap_or(0),
            processes: number("pids.current"),
        }
    }
}

/// The value in bytes of a line such as `VmRSS:  123 kB`.
fn kilobytes(text: &str, key: &str) -> u64 {
    let value =
        text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse::<u64>().ok());
    value.unwrap_or(0) * 1024
}

/// One metric with its samples.
struct Family<'a> {
    out: &'a mut String,
    name: &'static str,
}

impl<'a> Family<'a> {
    fn new(out: &'a mut String, name: &'static str, kind: &str, help: &str) -> Self {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Self { out, name }
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.out.push_str(self.name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.out, "{}{label}=\"{text}\"", if index == 0 { "{" } else { "," });
        }
        let _ = writeln!(self.out, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// The whole page.
pub(crate) fn render(record: &Record, usage: &Usage) -> String {
    let mut out = String::new();
    render_machine(&mut out, record, usage);
    render_states(&mut out, record);
    render_usage(&mut out, record, usage);
    out
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' values are floating point numbers")]
fn float(value: u64) -> f64 {
    value as f64
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn render_machine(out: &mut String, record: &Record, usage: &Usage) {
    let mut gauge = |name, help, value| Family::new(out, name, "gauge", help).sample(&[], value);
    gauge("i2kit_pod_ready", "Whether /readyz answers 200.", flag(record.unready().is_empty()));
    gauge("i2kit_uptime_seconds", "Seconds since the kernel started.", usage.uptime);
    gauge("i2kit_memory_total_bytes", "Memory of the VM.", float(usage.memory_total));
    gauge(
        "i2kit_memory_available_bytes",
        "Memory that is free or can be made so.",
        float(usage.memory_available),
    );
    gauge(
        "i2kit_guest_resident_bytes",
        "Resident memory of PID 1 and the supervisor.",
        float(usage.guest_bytes),
    );
    gauge(
        "i2kit_supervisor_attach_seconds",
        "From the start of the running supervisor until it had taken over.",
        record.supervisor_attach.0,
    );
    gauge(
        "i2kit_supervisor_attach_seconds_max",
        "The longest that a supervisor took to take over.",
        record.supervisor_attach.1,
    );
    let mut counter = |name, help, value| Family::new(out, name, "counter", help).sample(&[], float(value));
    counter(
        "i2kit_supervisor_restarts_total",
        "How often the supervisor was started again.",
        record.supervisor_restarts,
    );
    counter(
        "i2kit_console_dropped_lines_total",
        "Lines that the console was too slow for.",
        record.console_dropped,
    );
    let help = "Lines that were dropped because nobody took them in time.";
    let mut dropped = Family::new(out, "i2kit_container_dropped_log_lines_total", "counter", help);
    for (container, lines) in &record.log_dropped {
        dropped.sample(&[("container", container)], float(*lines));
    }
    let help = "Versions of PID 1 and of the supervisor; always 1.";
    Family::new(out, "i2kit_build_info", "gauge", help)
        .sample(&[("init", &record.program), ("supervisor", crate::version::program())], 1.0);
    let mut phases =
        Family::new(out, "i2kit_boot_phase_seconds", "gauge", "How long each phase of the boot took.");
    for phase in &record.phases {
        phases.sample(&[("phase", &phase.name)], phase.end - phase.start);
    }
}

fn render_states(out: &mut String, record: &Record) {
    let mut ready = Family::new(
        out,
        "kube_pod_container_status_ready",
        "gauge",
        "Whether it runs and its probes succeed.",
    );
    for container in &record.containers {
        ready.sample(&[("container", &container.name)], flag(container.is_ready()));
    }
    let mut family = |name, kind, help, value: &dyn Fn(&ContainerState, u64) -> Option<f64>| {
        let mut family = Family::new(out, name, kind, help);
        for container in &record.containers {
            if let Some(value) = value(&container.state, container.restarts) {
                family.sample(&[("container", &container.name)], value);
            }
        }
    };
    family("kube_pod_container_status_running", "gauge", "Whether the container runs.", &|state, _| {
        Some(flag(matches!(state, ContainerState::Running { .. })))
    });
    family("kube_pod_container_status_waiting", "gauge", "Whether it waits to be started.", &|state, _| {
        Some(flag(matches!(state, ContainerState::Waiting { .. })))
    });
    family("kube_pod_container_status_terminated", "gauge", "Whether it ended for good.", &|state, _| {
        Some(flag(matches!(state, ContainerState::Terminated(_))))
    });
    family(
        "kube_pod_container_status_restarts_total",
        "counter",
        "How often it was started again.",
        &|_, restarts| Some(float(restarts)),
    );
    let mut info = Family::new(
        out,
        "i2kit_container_info",
        "gauge",
        "What a container does, how it ended last, and what its probes complained of last.",
    );
    for container in &record.containers {
        let state = container.state_text();
        let last = container.last.as_ref().map(ToString::to_string).unwrap_or_default();
        let probe = container.probe_failure.as_deref().unwrap_or_default();
        let labels =
            [("container", container.name.as_str()), ("state", &state), ("last", &last), ("probe", probe)];
        info.sample(&labels, 1.0);
    }
    let mut last = Family::new(
        out,
        "kube_pod_container_status_last_terminated_exitcode",
        "gauge",
        "The exit code of its last end.",
    );
    for container in &record.containers {
        if let Some(ended) = &container.last {
            last.sample(
                &[("container", &container.name), ("reason", &ended.reason)],
                f64::from(ended.exit_code),
            );
        }
    }
}

fn render_usage(out: &mut String, record: &Record, usage: &Usage) {
    let mut family = |name, kind, help, value: &dyn Fn(&ContainerUsage) -> f64| {
        let mut family = Family::new(out, name, kind, help);
        for (container, used) in record.containers.iter().zip(&usage.containers) {
            family.sample(&[("container", &container.name)], value(used));
        }
    };
    family("container_cpu_usage_seconds_total", "counter", "Processor time used.", &|used| {
        float(used.cpu_microseconds) / 1e6
    });
    family("container_memory_usage_bytes", "gauge", "Memory used, page cache included.", &|used| {
        float(used.memory_bytes)
    });
    family(
        "container_memory_working_set_bytes",
        "gauge",
        "Memory that cannot be reclaimed easily.",
        &|used| float(used.memory_bytes.saturating_sub(used.inactive_file_bytes)),
    );
    family("container_oom_events_total", "counter", "Processes killed for want of memory.", &|used| {
        float(used.oom_kills)
    });
    family("container_processes", "gauge", "Processes and threads.", &|used| float(used.processes));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ContainerRecord, Ended, PhaseTime, Stage};

    #[test]
    fn the_page_has_each_containers_state_and_usage() {
        let ended = Ended { exit_code: 137, reason: "OOMKilled".into(), message: String::new(), at: 9.0 };
        let record = Record {
            version: 1,
            boot_id: String::new(),
            hostname: String::new(),
            address: String::new(),
            pod: String::new(),
            stage: Stage::Running,
            lost: None,
            phases: vec![PhaseTime { name: "onboot a\"b".into(), start: 1.0, end: 1.25 }],
            containers: vec![ContainerRecord {
                name: "web".into(),
                init: false,
                state: ContainerState::Running { since: 2.0, pid: 12 },
                last: Some(ended),
                restarts: 3,
                run: 4,
                started: true,
                ready: true,
                was_ready: true,
                probe_failure: None,
            }],
            supervisor_restarts: 1,
            console_dropped: 0,
            supervisor_attach: (0.25, 0.5),
            log_dropped: [("web".to_owned(), 7)].into(),
            program: "1".into(),
        };
        let used =
            ContainerUsage { cpu_microseconds: 2_500_000, memory_bytes: 4096, ..ContainerUsage::default() };
        let page = render(&record, &Usage { containers: vec![used], ..Usage::default() });
        for line in [
            "i2kit_pod_ready 1",
            "i2kit_boot_phase_seconds{phase=\"onboot a\\\"b\"} 0.25",
            "kube_pod_container_status_running{container=\"web\"} 1",
            "i2kit_container_info{container=\"web\",state=\"Running\",last=\"OOMKilled, exit code 137\",probe=\"\"} 1",
            "kube_pod_container_status_restarts_total{container=\"web\"} 3",
            "kube_pod_container_status_last_terminated_exitcode{container=\"web\",reason=\"OOMKilled\"} 137",
            "container_cpu_usage_seconds_total{container=\"web\"} 2.5",
            "container_memory_usage_bytes{container=\"web\"} 4096",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }

    #[test]
    fn usage_is_what_the_kernel_says_or_nothing() {
        let group = std::env::temp_dir().join(format!("i2kit-usage-{}", std::process::id()));
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("cpu.stat"), "usage_usec 2500000\nuser_usec 1\n").unwrap();
        fs::write(group.join("memory.current"), "8192\n").unwrap();
        assert_eq!(usage_of(&group), None, "without memory.stat the page cache is not known");
        fs::write(group.join("memory.stat"), "anon 1\ninactive_file 4096\n").unwrap();
        let usage = status::Usage { cpu_nanoseconds: 2_500_000_000, working_set_bytes: 4096 };
        assert_eq!(usage_of(&group), Some(usage));
        fs::remove_dir_all(&group).unwrap();
    }

    #[test]
    fn kilobytes_of_the_kernels_tables() {
        assert_eq!(kilobytes("MemTotal:         112000 kB\nMemFree: 1 kB\n", "MemTotal:"), 112_000 * 1024);
        assert_eq!(kilobytes("", "MemTotal:"), 0);
    }
}
