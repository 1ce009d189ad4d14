//! A plan as text: one line a step, marked `+` for what is added, `~` for what changes, `-` for what is deleted.

use std::fmt::{self, Write as _};

use super::steps::{Change, RolloutPlan, Step};
use crate::manifest::api::{Floor, Protocol, Strategy};
use crate::plan::act::Act;
use crate::plan::fleet::{BalancerSpec, GroupSettings, LaunchSpec};
use crate::plan::image::ImageId;

impl fmt::Display for RolloutPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "environment {}", self.environment)?;
        for step in &self.steps {
            writeln!(f, "  {step}")?;
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        if self.is_unchanged() {
            return f.write_str("unchanged\n");
        }
        let marked = |mark| self.steps.iter().filter(|step| step.mark() == mark).count();
        writeln!(f, "{} to add, {} to change, {} to delete", marked('+'), marked('~'), marked('-'))
    }
}

impl Step {
    /// `+` adds, `~` changes, `-` deletes, `.` waits.
    fn mark(&self) -> char {
        let Self::Apply(change) = self else { return '.' };
        let Change { act, before } = &**change;
        match act {
            Act::PutImage { .. } | Act::PutRevision { .. } => '+',
            Act::PutBalancer { .. } if before.balancer.is_none() => '+',
            Act::PutGroup { .. } if before.settings.is_none() => '+',
            act if act.is_deletion() => '-',
            _ => '~',
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.mark())?;
        match self {
            Self::Apply(change) => change.fmt(f),
            Self::Await { group, revision, replicas, .. } => {
                write!(f, "wait for {group}: {} of revision {revision} healthy", vms(*replicas))
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = &self.before;
        match &self.act {
            Act::PutImage { image } => write!(f, "image {}", short(*image)),
            Act::PutBalancer { spec } => write!(f, "balancer {}: {}", spec.name, listeners(spec)),
            Act::PutGroup { group, settings } => write!(f, "group {group}: {}", policy(settings)),
            Act::PutRevision { group, revision } => {
                let changes = launch_changes(&revision.launch, before.launch.as_ref());
                write!(f, "revision {} of {group}: {changes}", revision.number)
            }
            Act::CancelRefresh { group, to } => write!(f, "refresh of {group} to revision {to}: cancel it"),
            Act::StartRefresh { group, to, replicas } => {
                match before.revision {
                    None => return write!(f, "start {group}: {} of revision {to}", vms(*replicas)),
                    Some(from) if from == *to => write!(f, "refresh {group}: back to revision {to}")?,
                    Some(from) => write!(f, "refresh {group}: revision {from} -> {to}")?,
                }
                match before.replicas {
                    Some(before) if before != *replicas => write!(f, ", {before} -> {}", vms(*replicas)),
                    _ => write!(f, ", {}", vms(*replicas)),
                }
            }
            Act::Scale { group, replicas } => {
                write!(f, "scale {group}: {} -> {}", before.replicas.unwrap_or(0), vms(*replicas))
            }
            Act::DeleteRevisions { group, revisions } => {
                let numbers: Vec<String> = revisions.iter().map(u32::to_string).collect();
                write!(f, "old revisions of {group}: {}", numbers.join(", "))
            }
            Act::DeleteGroup { group } => write!(f, "group {group} and its VMs"),
            Act::DeleteBalancer { balancer } => write!(f, "balancer {balancer}"),
            Act::DeleteImages { images } => {
                let ids: Vec<String> = images.iter().map(|image| short(*image)).collect();
                write!(f, "unused images: {}", ids.join(", "))
            }
            Act::DeleteLeftovers { leftovers } => {
                let all: Vec<String> = leftovers.iter().map(ToString::to_string).collect();
                write!(f, "leftovers: {}", all.join(", "))
            }
            Act::Release => f.write_str("what the environment has as a whole"),
        }
    }
}

fn vms(count: u32) -> String {
    if count == 1 { "1 VM".to_owned() } else { format!("{count} VMs") }
}

/// The first 12 hexadecimal digits, as container engines shorten an image id.
fn short(image: ImageId) -> String {
    image.to_string().chars().skip("sha256:".len()).take(12).collect()
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}

fn listeners(spec: &BalancerSpec) -> String {
    let one = |listener: &crate::plan::fleet::Listener| {
        let targets: Vec<String> =
            listener.targets.iter().map(|target| format!("{}:{}", target.group, target.port)).collect();
        let targets = if targets.is_empty() { "no group".to_owned() } else { targets.join(", ") };
        let kind = if listener.tls.is_some() { "TLS" } else { protocol(listener.protocol) };
        format!("{}/{kind} -> {targets}", listener.port)
    };
    if let Some(name) = &spec.external_name {
        return format!("alias of {name}");
    }
    if let Some(http) = &spec.http {
        let kind = if http.hosts.is_empty() && http.certificates.is_empty() { "http" } else { "https" };
        let backend = |index: usize| {
            http.backends
                .get(index)
                .map_or("?".to_owned(), |found| format!("{}:{}", found.service, found.port))
        };
        let mut rules: Vec<String> = http
            .rules
            .iter()
            .map(|rule| {
                let below = if rule.exact { "" } else { " and below" };
                format!(
                    "{kind}://{}{}{below} -> {}",
                    rule.host.as_deref().unwrap_or("*"),
                    rule.path,
                    backend(rule.backend)
                )
            })
            .collect();
        rules.extend(http.default.map(|index| format!("else -> {}", backend(index))));
        return rules.join("; ") + &clients(spec);
    }
    spec.listeners.iter().map(one).collect::<Vec<_>>().join("; ") + &clients(spec)
}

/// Who may connect, when not everybody may, and whether they stay.
fn clients(spec: &BalancerSpec) -> String {
    let mut text = String::new();
    if !spec.source_ranges.is_empty() {
        let _ = write!(text, "; from {}", spec.source_ranges.join(", "));
    }
    if spec.sticky_clients {
        text.push_str("; a client stays with its VM");
    }
    text
}

fn policy(settings: &GroupSettings) -> String {
    if let Some(job) = &settings.job {
        let deadline = job.active_deadline_seconds.map_or("no deadline".into(), |s| format!("deadline {s}"));
        return format!(
            "job, {} to succeed, {} at a time, {} may fail, {deadline}",
            job.completions, job.parallelism, job.backoff_limit
        );
    }
    let strategy = match settings.strategy {
        Strategy::Recreate => "recreate".to_owned(),
        Strategy::RollingUpdate { max_unavailable, max_surge } => {
            format!("rolling update, max unavailable {max_unavailable}, max surge {max_surge}")
        }
    };
    let mut text = format!("{strategy}, deadline {}", settings.progress_deadline_seconds);
    if let Some(scaling) = &settings.scaling {
        let _ = write!(text, ", {} to {} VMs by load", scaling.min, scaling.max);
        if let Some(percent) = scaling.cpu_percent {
            let _ = write!(text, " (processors at {percent} % of the request)");
        }
    }
    if !settings.zones.is_empty() {
        let _ = write!(text, ", zones {}", settings.zones.join(" "));
    }
    if settings.balanced_zones {
        text.push_str(", zones balanced");
    }
    for floor in &settings.floors {
        let _ = match floor {
            Floor::MinAvailable(share) => write!(text, ", at least {share} healthy"),
            Floor::MaxUnavailable(share) => write!(text, ", at most {share} missing"),
        };
    }
    text
}

fn launch_changes(launch: &LaunchSpec, previous: Option<&LaunchSpec>) -> String {
    let mut parts = Vec::new();
    let mut part = |what: &str, now: String, before: Option<String>, unit: &str| match before {
        None => parts.push(format!("{what} {now}{unit}")),
        Some(before) if before != now => parts.push(format!("{what} {before} -> {now}{unit}")),
        Some(_) => {}
    };
    part("image", short(launch.image), previous.map(|p| short(p.image)), "");
    part("memory", launch.memory_mib.to_string(), previous.map(|p| p.memory_mib.to_string()), " MiB");
    part("vcpus", launch.vcpus.to_string(), previous.map(|p| p.vcpus.to_string()), "");
    part("ports", ports(launch), previous.map(ports), "");
    let role = |spec: &LaunchSpec| spec.role.as_ref().map(|role| role.account.to_string());
    if let Some(now) = role(launch).or_else(|| previous.and_then(role).map(|_| "none".to_owned())) {
        let before = previous.map(|previous| role(previous).unwrap_or_else(|| "none".to_owned()));
        part("service account", now, before, "");
    }
    let machine = |spec: &LaunchSpec| {
        let kind = spec.machine_type.as_deref().unwrap_or("by size");
        match &spec.mix {
            Some(mix) if mix.types.len() > 1 => format!("{} ({})", mix.types.join(" or "), mix.terms()),
            Some(mix) => format!("{kind} ({})", mix.terms()),
            None => format!("{kind}{}", if spec.spot { ", Spot" } else { "" }),
        }
    };
    if launch.mix.is_some() || launch.spot || launch.machine_type.is_some() || previous.is_some() {
        part("machine", machine(launch), previous.map(machine), "");
    }
    part("health port", launch.health_port.to_string(), previous.map(|p| p.health_port.to_string()), "");
    let grace = |spec: &LaunchSpec| spec.grace_period_seconds.0.to_string();
    part("grace period", grace(launch), previous.map(grace), " s");
    parts.join(", ")
}

fn ports(launch: &LaunchSpec) -> String {
    if launch.ports.is_empty() {
        return "none".to_owned();
    }
    let one = |port: &crate::plan::fleet::LaunchPort| format!("{}/{}", port.port, protocol(port.protocol));
    launch.ports.iter().map(one).collect::<Vec<_>>().join(" ")
}
