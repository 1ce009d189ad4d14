//! `i2kit status`: what the environment holds.

use comfy_table::Table;
use futures::StreamExt as _;

use super::args::StatusArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::tables::{lines, row, table};
use super::{addresses, connection, named, output, replicas, traffic};
use crate::cloud::local::{self, Authority, Trust};
use crate::cloud::{Cloud, Scope};
use crate::manifest::api::Indexes;
use crate::plan::fleet::{
    Change, ContainerState, Disk, Fleet, Instance, InstanceGroup, JobRun, LoadBalancer, RefreshStatus,
    ServedCertificate, size,
};
use crate::plan::metrics;
use crate::report::{self, Format};
use crate::rollout;
use crate::text;

/// Prints groups, instances and balancers.
pub(super) async fn run(context: &Context, args: &StatusArgs) -> Result<Exit, Failure> {
    let cloud = connection::cloud(context).await?;
    let fleet = named::observe(cloud.as_ref(), args.name.as_deref()).await?;
    if args.metrics {
        report::result(&metrics::prometheus(&[fleet]));
        return Ok(Exit::Success);
    }
    match context.format {
        Format::Json => output::json(&fleet),
        Format::Text => {
            let mut said = text(&fleet, args.name.is_some());
            if let (Some(_), [group]) = (&args.name, fleet.groups.as_slice()) {
                said += &replicas::detail(cloud.as_ref(), group).await;
            }
            report::result(&(said + &sites(context, &fleet)));
            connection::warn(context, &fleet);
        }
    }
    if args.watch {
        let group = args.name.as_ref().and_then(|_| fleet.groups.first());
        let scope = group.map_or(Scope::Environment, |group| Scope::Group(group.name.clone()));
        follow(context.format, cloud.as_ref(), &scope).await?;
    }
    Ok(Exit::Success)
}

/// Prints a line for each change. The first update has everything, which was printed before.
async fn follow(format: Format, cloud: &dyn Cloud, scope: &Scope) -> Result<(), Failure> {
    let mut updates = cloud.watch(scope).skip(1);
    while let Some(update) = updates.next().await {
        for change in update.or_exit(Exit::Cloud)?.changes {
            match format {
                Format::Json => {
                    let line = serde_json::to_string(&change).expect("changes have only string keys");
                    report::document(&(line + "\n"));
                }
                Format::Text => {
                    if let Some(line) = change_line(change) {
                        report::result(&(line + "\n"));
                    }
                }
            }
        }
    }
    Ok(())
}

/// A change in words, where it is told.
pub(super) fn change_line(change: Change) -> Option<String> {
    let line = rollout::event(change)?.line()?;
    Some(line.trim().to_owned())
}

/// How each Ingress of this computer is reached by its hosts, which nothing resolves, and each Service with TLS: the URL, and a
/// command that asks it.
fn sites(context: &Context, fleet: &Fleet) -> String {
    let balancers = || fleet.balancers.iter();
    let found: Vec<_> =
        balancers().flat_map(addresses::sites).chain(balancers().flat_map(addresses::secured)).collect();
    if found.is_empty() {
        return String::new();
    }
    // Where the system trusts the local authority, curl does so too.
    let authority = connection::client(context).ok().and_then(|client| {
        let authority = Authority::find(&local::home(&client)).ok().flatten()?;
        let trusted = Trust::of(&authority).is_some_and(|trust| trust.is_installed());
        (!trusted).then(|| authority.certificate())
    });
    let mut table = table(&["URL", "TO ASK IT"]);
    for site in &found {
        table.add_row(row([site.url.clone(), site.curl(authority.as_deref())]));
    }
    format!("\n{}", lines(&[table]))
}

/// The fleet as tables, as `kubectl get` would show it; with all containers, or those that are not ready or were restarted.
pub(super) fn text(fleet: &Fleet, all: bool) -> String {
    if fleet.groups.is_empty() && fleet.balancers.is_empty() && fleet.disks.is_empty() {
        return format!(
            "Environment {} holds nothing. `i2kit deploy MANIFEST` changes that.\n",
            text::line(&fleet.environment)
        );
    }
    let mut tables = Vec::new();
    let mut add = |table: Table| tables.push(table);
    if !fleet.groups.is_empty() || !fleet.balancers.is_empty() {
        add(groups(&fleet.groups));
    }
    if fleet.groups.iter().any(|group| group.scaling.is_some()) {
        add(scalers(&fleet.groups));
    }
    // A Job of one run is in its group's line.
    let has_runs = |group: &&InstanceGroup| {
        let job = group.settings.job.as_ref();
        !group.runs.is_empty()
            && (all || group.settings.schedule.is_some() || job.is_some_and(|job| job.indexed))
    };
    if fleet.groups.iter().any(|group| has_runs(&group)) {
        add(runs(fleet.groups.iter().filter(has_runs)));
    }
    if fleet.groups.iter().any(|group| !group.instances.is_empty()) {
        add(instances(&fleet.groups));
    }
    // Of one group they are asked themselves.
    if !all && let Some(replicas) = replicas::known(&fleet.groups) {
        add(replicas);
    }
    let is_shown = |container: &&ContainerState| all || !container.ready || container.restarts > 0;
    let members = || fleet.groups.iter().flat_map(|group| &group.instances);
    if members().flat_map(|instance| &instance.containers).any(|container| is_shown(&container)) {
        add(containers(members(), is_shown));
    }
    if !fleet.balancers.is_empty() {
        add(balancers(&fleet.balancers));
    }
    if fleet.balancers.iter().any(|balancer| !balancer.certificates.is_empty()) {
        add(certificates(&fleet.balancers));
    }
    if !fleet.disks.is_empty() {
        add(volumes(&fleet.disks));
    }
    tables.extend(traffic::tables(&fleet.balancers));
    lines(&tables)
}

fn groups(groups: &[InstanceGroup]) -> Table {
    let mut table = table(&["GROUP", "READY", "REVISION", "IMAGE", "STATUS"]);
    for group in groups {
        let revision = group.current.and_then(|number| group.revision(number));
        table.add_row(row([
            group.name.to_string(),
            if group.settings.schedule.is_some() {
                "-".into()
            } else {
                format!("{}/{}", group.healthy(), group.replicas)
            },
            group.current.map_or("-".into(), |number| number.to_string()),
            revision.map_or("-".into(), |revision| revision.launch.image.0.short()),
            group_status(group),
        ]));
    }
    table
}

/// How far a group is, in a few words; what is wrong with its instances comes before a rollout that is over and brought its
/// revision.
pub(super) fn group_status(group: &InstanceGroup) -> String {
    let is_over = group.active_refresh().is_none() && group.refresh.as_ref().is_none_or(|it| !it.is_lost());
    let missing = group.replicas.saturating_sub(group.healthy());
    match &group.refresh {
        _ if group.settings.job.is_none() && is_over && missing > 0 => {
            if missing == group.replicas {
                "no instance is healthy".to_owned()
            } else {
                format!("{missing} not healthy")
            }
        }
        _ if group.settings.schedule.is_some() => schedule(group),
        Some(refresh) if group.settings.job.is_some() => {
            let rests = group.settings.job.as_ref().is_some_and(|job| job.suspend);
            let word = run_word(refresh.status, rests);
            let reason = refresh.reason.as_deref().and_then(|reason| reason.lines().next());
            let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("{word} ({}/{}){}", refresh.available, refresh.total, shortened(&reason))
        }
        Some(refresh) if refresh.status.is_active() => {
            format!("{} to revision {} ({}/{})", refresh.status, refresh.to, refresh.available, refresh.total)
        }
        Some(refresh) => refresh.status.to_string(),
        // Where the cloud starts a group without a refresh.
        None if group.current.is_some() => "started".into(),
        None => "new".into(),
    }
}

/// Scalers, as `kubectl get hpa` shows them.
fn scalers(groups: &[InstanceGroup]) -> Table {
    let mut table = table(&["AUTOSCALED", "TARGETS", "MINPODS", "MAXPODS", "REPLICAS"]);
    for group in groups {
        let (Some(_), Some(scaling)) = (&group.scaling, &group.settings.scaling) else { continue };
        let targets = group.measured().map(|(metric, current)| {
            let current = current.map_or("<unknown>".into(), |value| metric.amount(value));
            format!("{metric}: {}/{}", current.replace(' ', ""), metric.target().replace(' ', ""))
        });
        table.add_row(row([
            group.name.to_string(),
            targets.collect::<Vec<_>>().join(", "),
            scaling.min.to_string(),
            scaling.max.to_string(),
            group.replicas.to_string(),
        ]));
    }
    table
}

/// How far a run is, in a word; `rests` while its Job is suspended.
pub(super) fn run_word(status: RefreshStatus, rests: bool) -> &'static str {
    match status {
        RefreshStatus::InProgress if rests => "suspended",
        RefreshStatus::InProgress => "running",
        RefreshStatus::Successful => "completed",
        RefreshStatus::Cancelled => "cancelled",
        _ => "failed",
    }
}

/// When a CronJob runs: the columns of kubectl's, in a line.
fn schedule(group: &InstanceGroup) -> String {
    let Some(rules) = &group.settings.schedule else { return String::new() };
    let active = group.runs.iter().filter(|run| run.status.is_active()).count();
    let zone = match rules.schedule.time_zone() {
        "Etc/UTC" => String::new(),
        zone => format!(" in {zone}"),
    };
    let times = group.schedule.as_ref();
    let time = |time: Option<u64>| time.map_or_else(|| "none".to_owned(), output::utc);
    let last = time(times.and_then(|times| times.last));
    let next = if rules.suspend {
        "suspended".to_owned()
    } else {
        format!("next {}", time(times.and_then(|times| times.next)))
    };
    format!("{}{zone}, {active} active, last {last}, {next}", rules.schedule)
}

/// Runs of Jobs and CronJobs, as tables.
pub(super) fn runs<'a>(groups: impl Iterator<Item = &'a InstanceGroup>) -> Table {
    let mut table =
        table(&["JOB", "RUN", "REVISION", "SCHEDULED", "STATUS", "SUCCEEDED", "FAILED", "STARTED", "ENDED"]);
    for group in groups {
        let rests = group.settings.job.as_ref().is_some_and(|job| job.suspend);
        for run in &group.runs {
            let reason = run.reason.as_deref().and_then(|reason| reason.lines().next());
            let reason = reason.map(|reason| shortened(&format!(": {reason}"))).unwrap_or_default();
            table.add_row(row([
                group.name.to_string(),
                run.number.to_string(),
                run.revision.to_string(),
                run.scheduled.map_or_else(|| "-".into(), output::utc),
                run_word(run.status, rests).to_owned() + &reason,
                succeeded(run),
                failed(run),
                output::utc(run.started),
                run.ended.map_or_else(|| "-".into(), output::utc),
            ]));
        }
    }
    table
}

/// How many machines of a run succeeded, and with which indexes.
fn succeeded(run: &JobRun) -> String {
    let wanted = run.completions.map(|wanted| format!("/{wanted}")).unwrap_or_default();
    format!("{}{wanted}{}", run.completed, indexes(&run.completed_indexes))
}

fn failed(run: &JobRun) -> String {
    format!("{}{}", run.failed, indexes(&run.failed_indexes))
}

fn indexes(indexes: &Indexes) -> String {
    if indexes.is_empty() { String::new() } else { shortened(&format!(" ({indexes})")) }
}

fn instances(groups: &[InstanceGroup]) -> Table {
    let all = || groups.iter().flat_map(|group| &group.instances);
    let have_addresses = all().any(|instance| instance.address.is_some());
    let mut header = vec!["INSTANCE", "REVISION", "HEALTH", "RESTARTS", "VM"];
    header.extend(have_addresses.then_some("IP"));
    let mut table = table(&header);
    for instance in all() {
        let address = instance.address.map_or("-".into(), |address| address.to_string());
        let cells = row([
            instance.called().to_owned(),
            instance.revision.to_string(),
            shortened(&output::health(instance)),
            instance.restarts().to_string(),
            machine(instance),
        ]);
        table.add_row(cells.into_iter().chain(have_addresses.then_some(address)));
    }
    table
}

/// What runs a VM, which process that is, and how it was started where it did not boot.
fn machine(instance: &Instance) -> String {
    let Some(accelerator) = instance.accelerator else { return "-".to_owned() };
    let pid = instance.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
    format!("{accelerator}{pid}{}", if instance.from_snapshot { ", from a snapshot" } else { "" })
}

fn containers<'a>(
    instances: impl Iterator<Item = &'a Instance>,
    is_shown: impl Fn(&&ContainerState) -> bool,
) -> Table {
    let mut table = table(&["INSTANCE", "CONTAINER", "READY", "RESTARTS", "STATE"]);
    for instance in instances {
        for container in instance.containers.iter().filter(|container| is_shown(container)) {
            table.add_row(row([
                instance.called().to_owned(),
                container.name.clone(),
                if container.ready { "yes" } else { "no" }.into(),
                container.restarts.to_string(),
                container.state.clone(),
            ]));
        }
    }
    table
}

/// The longest health text of a table; the whole of it is in the JSON form.
const HEALTH_WIDTH: usize = 60;

fn shortened(text: &str) -> String {
    if text.chars().count() <= HEALTH_WIDTH {
        return text.to_owned();
    }
    text.chars().take(HEALTH_WIDTH - 1).chain(['…']).collect()
}

fn balancers(balancers: &[LoadBalancer]) -> Table {
    let mut table = table(&["BALANCER", "TYPE", "ADDRESS", "TARGETS"]);
    for balancer in balancers {
        let addresses = balancer.addresses();
        table.add_row(row([
            balancer.spec.name.to_string(),
            balancer.spec.kind.to_string(),
            match &balancer.spec.external_name {
                Some(name) => name.clone(),
                None if addresses.is_empty() => "-".into(),
                None => addresses.join(", "),
            },
            format!("{}/{} healthy", balancer.healthy(), balancer.targets.len()),
        ]));
    }
    table
}

fn certificates(balancers: &[LoadBalancer]) -> Table {
    let mut table = table(&["CERTIFICATE FOR", "FROM", "EXPIRES", "STATE"]);
    for certificate in balancers.iter().flat_map(|balancer| &balancer.certificates) {
        let ServedCertificate { hosts, source, expires, state } = certificate;
        let day = chrono::DateTime::from_timestamp(expires.cast_signed(), 0).unwrap_or_default();
        table.add_row(row([
            if hosts.is_empty() { "all hosts".into() } else { hosts.join(", ") },
            source.clone(),
            day.format("%Y-%m-%d").to_string(),
            state.clone().unwrap_or_else(|| "-".into()),
        ]));
    }
    table
}

/// Disks as a table.
pub(super) fn volumes(disks: &[Disk]) -> Table {
    let mut table = table(&["VOLUME", "SIZE", "USED", "CLASS", "INSTANCE", "SNAPSHOTS"]);
    for disk in disks {
        let snapshots: Vec<&str> = disk.snapshots.iter().map(|snapshot| snapshot.name.as_str()).collect();
        table.add_row(row([
            disk.spec.name.to_string(),
            size(disk.spec.size),
            disk.used.map_or("-".into(), size),
            disk.spec.class.clone().unwrap_or_else(|| "-".into()),
            disk.instance.as_ref().map_or("-".into(), ToString::to_string),
            if snapshots.is_empty() { "-".into() } else { snapshots.join(", ") },
        ]));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fleet::ScalingStatus;

    #[test]
    fn a_long_reason_does_not_stretch_the_table() {
        assert_eq!(shortened("healthy"), "healthy");
        let long = shortened(&"ö".repeat(100));
        assert!(long.ends_with('…') && long.chars().count() == HEALTH_WIDTH, "{long}");
    }

    #[test]
    fn a_scaler_is_shown_as_kubectl_shows_it() {
        let mut group: InstanceGroup = serde_json::from_value(serde_json::json!({
            "name": {"namespace": "default", "name": "web"}, "replicas": 4,
            "settings": {"strategy": "Recreate", "minReadySeconds": 0, "progressDeadlineSeconds": 600,
                "revisionHistoryLimit": 10, "labels": {}, "scaling": {"min": 2, "max": 10, "metrics": [
                    {"resource": "cpu", "target": {"utilization": 80}, "request": 100},
                    {"resource": "memory", "container": "app", "target": {"averageValue": 100 << 20}}]}},
            "current": 1, "nextRevision": 2, "revisions": [], "instances": [],
            "scaling": {"current": [180, null]},
        }))
        .unwrap();
        let lines = |group: &InstanceGroup| {
            let lines: Vec<String> = scalers(std::slice::from_ref(group)).lines().collect();
            lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(
            lines(&group),
            [
                "AUTOSCALED TARGETS MINPODS MAXPODS REPLICAS",
                "web cpu: 180%/80%, memory of app: <unknown>/100Mi 2 10 4"
            ]
        );
        // It has not looked yet.
        group.scaling = Some(ScalingStatus::default());
        assert!(lines(&group)[1].starts_with("web cpu: <unknown>/80%, memory"), "{:?}", lines(&group));
    }

    #[test]
    fn what_is_missing_comes_before_a_rollout_that_is_over() {
        let mut group: InstanceGroup = serde_json::from_value(serde_json::json!({
            "name": {"namespace": "default", "name": "web"}, "replicas": 2,
            "settings": {"strategy": "Recreate", "minReadySeconds": 0, "progressDeadlineSeconds": 600,
                "revisionHistoryLimit": 10, "labels": {}},
            "current": 1, "nextRevision": 2, "revisions": [],
            "instances": [{"id": "web-1", "revision": 1, "state": "running", "health": {"status": "healthy"},
                "since": 30, "endpoints": [], "containers": []}],
            "refresh": {"status": "successful", "from": null, "to": 1, "updated": 2, "available": 2, "total": 2,
                "started": 40, "reason": null},
        }))
        .unwrap();
        assert_eq!(group_status(&group), "1 not healthy");
        group.replicas = 1;
        assert_eq!(group_status(&group), "successful");
        group.instances.clear();
        assert_eq!(group_status(&group), "no instance is healthy");
        group.refresh.as_mut().unwrap().status = RefreshStatus::RolledBack;
        assert_eq!(group_status(&group), "rolled back");
    }

    /// A stranger's text: it clears the screen, sets the clipboard, turns the text around, and begins a line that is a
    /// command to CI systems.
    const HOSTILE: &str = "x\u{1b}[2J\u{1b}]52;c;aGk=\u{7}\r\n::error::gone\u{9b}31m\u{202e}\ty";

    /// A fleet that has this text wherever a guest, a cloud or a manifest may write.
    fn hostile() -> Fleet {
        let image = crate::plan::image::ImageId(crate::oci::Digest::of(b"web"));
        let group = serde_json::from_value(serde_json::json!({
            "name": {"namespace": HOSTILE, "name": HOSTILE},
            "replicas": 1,
            "settings": {"strategy": "Recreate", "minReadySeconds": 0, "progressDeadlineSeconds": 600,
                "revisionHistoryLimit": 10, "labels": {}},
            "current": 1,
            "nextRevision": 2,
            "revisions": [{"number": 1, "launch": {"image": image, "memoryMib": 128, "vcpus": 1, "ports": [],
                "healthPort": 10256, "gracePeriodSeconds": 30},
                "created": 10, "cause": HOSTILE, "deployed": 20}],
            "instances": [{"id": HOSTILE, "revision": 1, "state": "running",
                "health": {"status": "unhealthy", "reason": HOSTILE}, "since": 30, "endpoints": [],
                "bootId": HOSTILE,
                "containers": [{"name": HOSTILE, "ready": false, "restarts": 3, "state": HOSTILE}]}],
            "refresh": {"status": "rolledBack", "from": 1, "to": 2, "updated": 0, "available": 0, "total": 1,
                "started": 40, "reason": HOSTILE},
        }));
        let spec = serde_json::from_value(serde_json::json!({
            "name": {"namespace": HOSTILE, "name": HOSTILE}, "kind": "ClusterIP", "listeners": [],
        }));
        let balancer = LoadBalancer {
            spec: spec.unwrap(),
            host: HOSTILE.into(),
            bound: vec![Some(80)],
            targets: vec![],
            certificates: vec![],
            traffic: vec![],
            requests: vec![],
        };
        Fleet {
            environment: HOSTILE.into(),
            groups: vec![group.unwrap()],
            balancers: vec![balancer],
            ..Fleet::default()
        }
    }

    #[test]
    fn no_table_shows_a_stranger_s_text_as_it_is() {
        let fleet = hostile();
        let found = crate::plan::cloud_event::of(&fleet);
        assert!(found.len() > 3);
        for (name, shown) in [
            ("status", text(&fleet, true)),
            ("events", super::super::events::text(&found)),
            ("history", super::super::history::text(&fleet.groups[0])),
        ] {
            assert!(shown.chars().all(|c| c == '\n' || !text::is_hidden(c)), "{name}: {shown:?}");
            assert!(!shown.lines().any(|line| line.trim_start().starts_with("::")), "{name}: {shown}");
            assert!(shown.contains("x␛[2J"), "{name}: {shown}");
        }
        insta::assert_snapshot!(text(&fleet, true));
        assert!(text(&Fleet { environment: HOSTILE.into(), ..Fleet::default() }, true).contains("x␛[2J"));
    }
}
