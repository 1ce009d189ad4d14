//! A plan as text: one line a step, marked `+` for what is added, `~` for what changes, `-` for what is deleted.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use super::steps::{Change, GroupKind, RolloutPlan, Step};
use crate::manifest::api::{CronRules, Floor, JobRules, MetricTarget, Protocol, Resource, Strategy};
use crate::plan::act::Act;
use crate::plan::fleet::{
    BalancerSpec, DiskSpec, GroupSettings, LaunchDisk, LaunchSpec, Requests, ScalingMetric, size,
};
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
            Act::PutImage { .. } | Act::PutRevision { .. } | Act::SnapshotDisk { .. } => '+',
            Act::PutBalancer { .. } if before.balancer.is_none() => '+',
            Act::PutDisk { .. } if before.disk.is_none() => '+',
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
            Self::Await { group, revision, kind: GroupKind::Job, .. } => {
                write!(f, "wait for the end of {group} at revision {revision}")
            }
            Self::Await { group, revision, kind: GroupKind::CronJob, .. } => {
                write!(f, "wait for {group}: its runs are of revision {revision} from now on")
            }
            Self::Await { group, revision, replicas, .. } => {
                write!(f, "wait for {group}: {} of revision {revision} healthy", vms(*replicas))
            }
            Self::AwaitRun { group, .. } => write!(f, "wait for the end of the run of {group}"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = &self.before;
        match &self.act {
            Act::PutImage { image } => write!(f, "image {}", short(*image)),
            Act::PutBalancer { spec } => write!(f, "balancer {}: {}", spec.name, listeners(spec)),
            Act::PutDisk { disk } => f.write_str(&disk_text(disk, before.disk.as_ref())),
            Act::PutGroup { group, settings } => write!(f, "group {group}: {}", policy(settings)),
            Act::PutRevision { group, revision } if before.launch.as_ref() == Some(&revision.launch) => {
                let same =
                    before.revision.map_or_else(String::new, |number| format!(" as revision {number}"));
                write!(f, "revision {} of {group}: the same{same}", revision.number)
            }
            Act::PutRevision { group, revision } => {
                let changes = launch_changes(&revision.launch, before.launch.as_ref());
                write!(f, "revision {} of {group}: {changes}", revision.number)
            }
            Act::CancelRefresh { group, to } => write!(f, "refresh of {group} to revision {to}: cancel it"),
            Act::StartRefresh { group, to, .. } if before.kind == GroupKind::CronJob => {
                write!(f, "schedule {group}: its runs are of revision {to} from now on")
            }
            Act::StartRefresh { group, to, .. } if before.kind == GroupKind::Job => {
                write!(f, "run {group} at revision {to}")
            }
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
            Act::StartRun { group, revision } => write!(f, "run {group} at revision {revision}"),
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
            Act::DeleteDisks { disks } => {
                let all: Vec<String> = disks.iter().map(ToString::to_string).collect();
                write!(f, "disks and what is on them: {}", all.join(", "))
            }
            Act::SnapshotDisk { disk, snapshot } => write!(f, "snapshot {snapshot} of disk {disk}"),
            Act::RestoreDisk { disk, snapshot } => write!(f, "disk {disk}: back to snapshot {snapshot}"),
            Act::DeleteSnapshots { disk, snapshots } => {
                write!(f, "snapshots of disk {disk}: {}", snapshots.join(", "))
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

/// A disk that is made, or what becomes of one.
fn disk_text(disk: &DiskSpec, before: Option<&DiskSpec>) -> String {
    let now = size(disk.size);
    match before {
        None => format!("disk {}: {now}", disk.name),
        Some(before) if before.retain && !disk.retain => {
            format!("disk {}: {now}, kept, but from now on deleted by `destroy --volumes`", disk.name)
        }
        Some(before) if before.size == disk.size => format!("disk {}: {now}, kept", disk.name),
        Some(before) => {
            format!("disk {}: {} -> {now}, kept with what is on it", disk.name, size(before.size))
        }
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
    if let Some(headless) = &spec.headless {
        let groups: Vec<String> = headless.groups.iter().map(|member| member.group.to_string()).collect();
        let groups = if groups.is_empty() { "no group".to_owned() } else { groups.join(", ") };
        return format!("the machines of {groups}");
    }
    if let Some(name) = &spec.external_name {
        return format!("alias of {name}");
    }
    if let Some(http) = &spec.http {
        let kind = if http.has_tls() { "https" } else { "http" };
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
        return schedule(settings.schedule.as_ref()) + &job_rules(job);
    }
    let strategy = match settings.strategy {
        Strategy::Recreate => "recreate".to_owned(),
        Strategy::RollingUpdate { max_unavailable, max_surge } => {
            format!("rolling update, max unavailable {max_unavailable}, max surge {max_surge}")
        }
    };
    let strategy = match &settings.stateful {
        Some(stateful) => {
            let order = if stateful.parallel { "all at once" } else { "in order" };
            let mut text = format!(
                "members {order}, updates from the highest index, max unavailable {}",
                stateful.max_unavailable
            );
            if stateful.partition > 0 {
                let _ = write!(text, ", those below index {} stay as they are", stateful.partition);
            }
            text
        }
        None => strategy,
    };
    let mut text = format!("{strategy}, deadline {}", settings.progress_deadline_seconds);
    if let Some(scaling) = &settings.scaling {
        let _ = write!(text, ", {} to {} VMs by load", scaling.min, scaling.max);
        let metrics: Vec<String> = scaling.metrics.iter().map(metric).collect();
        let _ = write!(text, " ({})", metrics.join(", "));
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

/// What a scaler keeps.
fn metric(metric: &ScalingMetric) -> String {
    let resource = match metric.metric.resource {
        Resource::Cpu => "processors",
        Resource::Memory => "memory",
    };
    let container = metric.metric.container.as_ref().map(|name| format!(" of {name}")).unwrap_or_default();
    let unit = match metric.metric.target {
        MetricTarget::Utilization(_) => " of the request",
        MetricTarget::AverageValue(_) => " a VM",
    };
    format!("{resource}{container} at {}{unit}", metric.target())
}

/// When a CronJob runs.
fn schedule(rules: Option<&CronRules>) -> String {
    let Some(rules) = rules else { return String::new() };
    let zone = match rules.schedule.time_zone() {
        "Etc/UTC" => String::new(),
        zone => format!(" in {zone}"),
    };
    let rests = if rules.suspend { ", suspended" } else { "" };
    format!("schedule {}{zone}{rests}: ", rules.schedule)
}

/// How often a Job runs.
fn job_rules(job: &JobRules) -> String {
    let deadline = job.active_deadline_seconds.map_or("no deadline".into(), |s| format!("deadline {s}"));
    let wanted = job.completions.map_or("one of them".into(), |completions| completions.to_string());
    let indexed = if job.indexed { "indexed " } else { "" };
    let rests = if job.suspend { ", suspended" } else { "" };
    let may_fail = match job.backoff_limit_per_index {
        Some(limit) => format!("{limit} may fail an index"),
        None => format!("{} may fail", job.backoff_limit),
    };
    format!("{indexed}job, {wanted} to succeed, {} at a time, {may_fail}, {deadline}{rests}", job.parallelism)
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
    let disks = |spec: &LaunchSpec| {
        let one = |disk: &LaunchDisk| match disk {
            LaunchDisk::Claim(claim) => claim.clone(),
            LaunchDisk::Member(volume) => format!("{volume} of each member"),
        };
        if spec.disks.is_empty() {
            "none".into()
        } else {
            spec.disks.iter().map(one).collect::<Vec<_>>().join(" ")
        }
    };
    if !launch.disks.is_empty() || previous.is_some_and(|previous| !previous.disks.is_empty()) {
        part("disks", disks(launch), previous.map(disks), "");
    }
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
    if previous.is_some() || !launch.scratch_bytes.is_empty() {
        part("scratch disks", scratch_disks(launch), previous.map(scratch_disks), "");
    }
    if previous.is_some() {
        let containers = |spec: &LaunchSpec| spec.containers.join(" ");
        part("containers", containers(launch), previous.map(containers), "");
        part("requests", requests(launch), previous.map(requests), "");
        part(
            "architecture",
            launch.architecture.to_string(),
            previous.map(|p| p.architecture.to_string()),
            "",
        );
    }
    parts.extend(secret_changes(launch, previous));
    if parts.is_empty() {
        parts.extend(previous.map(|previous| other_changes(launch, previous)));
    }
    parts.join(", ")
}

/// The Secrets that a launch names, and those whose values are others than before. A version is of no use to a reader.
fn secret_changes(launch: &LaunchSpec, previous: Option<&LaunchSpec>) -> Vec<String> {
    let before = previous.map(|previous| &previous.secrets);
    let known = |name: &String| before.and_then(|before| before.get(name));
    let mut parts: Vec<String> = launch
        .secrets
        .iter()
        .filter(|(name, version)| known(name) != Some(version))
        .map(|(name, _)| {
            format!("{}secret {name}", if known(name).is_some() { "new values of " } else { "" })
        })
        .collect();
    let gone = before.into_iter().flatten().filter(|(name, _)| !launch.secrets.contains_key(*name));
    parts.extend(gone.map(|(name, _)| format!("without secret {name}")));
    parts
}

/// What containers request, as far as they do.
fn requests(launch: &LaunchSpec) -> String {
    let amounts = |requests: &Requests| {
        let cpu = requests.cpu_millis.map(|millis| format!(" {millis}m"));
        let memory = requests.memory_bytes.map(|bytes| format!(" {}", size(i2kit_spec::Bytes(bytes))));
        cpu.into_iter().chain(memory).collect::<String>()
    };
    let some = launch.requests.iter().filter(|(_, requests)| **requests != Requests::default());
    let some: Vec<String> = some.map(|(name, requests)| format!("{name}{}", amounts(requests))).collect();
    if some.is_empty() { "none".to_owned() } else { some.join(", ") }
}

/// The sizes of the disks for emptyDirs.
fn scratch_disks(launch: &LaunchSpec) -> String {
    if launch.scratch_bytes.is_empty() {
        return "none".to_owned();
    }
    let size = |bytes: &i2kit_spec::Bytes| match bytes.0 {
        bytes if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        bytes => format!("{bytes} bytes"),
    };
    launch.scratch_bytes.iter().map(size).collect::<Vec<_>>().join(" ")
}

/// What differs, by the names of the fields: of two launches whose difference nothing else here shows.
fn other_changes(launch: &LaunchSpec, previous: &LaunchSpec) -> String {
    let fields = |spec: &LaunchSpec| match serde_json::to_value(spec) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (now, before) = (fields(launch), fields(previous));
    let names: BTreeSet<&String> = now.keys().chain(before.keys()).collect();
    let names = names.into_iter().filter(|name| now.get(*name) != before.get(*name));
    format!("another {}", names.cloned().collect::<Vec<_>>().join(", "))
}

fn ports(launch: &LaunchSpec) -> String {
    if launch.ports.is_empty() {
        return "none".to_owned();
    }
    let one = |port: &crate::plan::fleet::LaunchPort| format!("{}/{}", port.port, protocol(port.protocol));
    launch.ports.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use i2kit_spec::{Bytes, Seconds};
    use serde_json::{Value, json};

    use super::*;
    use crate::manifest::api::Name;
    use crate::oci::Digest;
    use crate::plan::example;
    use crate::plan::fleet::{LaunchPort, MachineRole};

    fn launch() -> LaunchSpec {
        let account = Name { namespace: "default".into(), name: "reader".into() };
        LaunchSpec {
            ports: vec![LaunchPort { port: 80, protocol: Protocol::Tcp }],
            secrets: [("db".to_owned(), Some("1".to_owned())), ("mail".to_owned(), None)].into(),
            scratch_bytes: vec![Bytes::mib(64)],
            requests: [("web".to_owned(), Requests { cpu_millis: Some(100), memory_bytes: None })].into(),
            role: Some(MachineRole { account, role: None }),
            machine_type: Some("small".into()),
            grace_period_seconds: Seconds(5),
            ..example::launch(ImageId(Digest::of(b"1")))
        }
    }

    #[test]
    fn whatever_differs_between_two_revisions_is_shown() {
        let Ok(Value::Object(before)) = serde_json::to_value(launch()) else { panic!("an object") };
        let others = |field: &str, value: &Value| match value {
            _ if field == "image" => json!(ImageId(Digest::of(b"2"))),
            Value::Number(number) => json!(number.as_u64().unwrap() + 1),
            Value::Bool(yes) => json!(!yes),
            Value::String(text) => json!(format!("{text}-other")),
            Value::Array(_) => json!([]),
            Value::Object(_) if field == "secrets" => json!({"db": "2"}),
            Value::Object(_) if field == "requests" => json!({"web": {"memoryBytes": 5}}),
            _ => Value::Null,
        };
        assert!(before.len() > 8, "{before:?}");
        let mut fields = before.clone();
        fields.insert("spot".into(), json!(false));
        for (field, value) in &fields {
            let mut after = before.clone();
            after.insert(field.clone(), others(field, value));
            let after: LaunchSpec = serde_json::from_value(Value::Object(after)).unwrap();
            assert_ne!(after, launch(), "{field}");
            assert!(!launch_changes(&after, Some(&launch())).is_empty(), "nothing is shown of {field}");
        }
        assert_eq!(other_changes(&LaunchSpec { spot: true, ..launch() }, &launch()), "another spot");
    }

    #[test]
    fn a_job_is_run_and_a_cron_job_starts_nothing() {
        let name = || Name { namespace: "default".into(), name: "nightly".into() };
        let shown = |kind| {
            let act = Act::StartRefresh { group: name(), to: 1, replicas: 1 };
            let start = Step::apply(act, super::super::steps::Before { kind, ..Default::default() });
            let deadline_seconds = Seconds(600);
            let wait = Step::Await {
                group: name(),
                revision: 1,
                replicas: 1,
                deadline_seconds,
                expires: false,
                kind,
            };
            format!("{start}; {wait}")
        };
        assert_eq!(
            shown(GroupKind::CronJob),
            "~ schedule nightly: its runs are of revision 1 from now on; . wait for nightly: its runs are of revision 1 \
             from now on"
        );
        assert_eq!(
            shown(GroupKind::Job),
            "~ run nightly at revision 1; . wait for the end of nightly at revision 1"
        );
        assert_eq!(
            shown(GroupKind::Service),
            "~ start nightly: 1 VM of revision 1; . wait for nightly: 1 VM of revision 1 healthy"
        );
    }

    #[test]
    fn secrets_are_named_and_their_versions_are_not() {
        let versions = |secrets: &[(&str, Option<&str>)]| {
            let one =
                |(name, version): &(&str, Option<&str>)| ((*name).to_owned(), version.map(str::to_owned));
            LaunchSpec { secrets: secrets.iter().map(one).collect::<BTreeMap<_, _>>(), ..launch() }
        };
        let before = versions(&[("db", Some("aaaa")), ("mail", Some("bbbb"))]);
        let after = versions(&[("db", Some("cccc")), ("shop", Some("dddd"))]);
        let shown = launch_changes(&after, Some(&before));
        assert_eq!(shown, "new values of secret db, secret shop, without secret mail");
        assert!(launch_changes(&after, None).ends_with("scratch disks 64 MiB, secret db, secret shop"));
    }
}
