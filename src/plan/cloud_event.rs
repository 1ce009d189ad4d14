//! Events of a cloud, in the columns of Kubernetes' events. They are read off a fleet, which remembers its revisions, the
//! newest refresh of each group and its VMs, and what the cloud reports beside them.

use std::fmt;

use super::fleet::{
    CloudEvent, EventKind, Fleet, Health, Instance, InstanceGroup, InstanceState, JobRun, Refresh,
    RefreshStatus,
};

/// What an event is about, in front of its name: a group.
pub const GROUP: &str = "group";

/// The same of an instance.
pub const INSTANCE: &str = "instance";

/// The object of an event: a [`GROUP`] of this name, or an [`INSTANCE`] of this id.
pub fn object(kind: &str, name: impl fmt::Display) -> String {
    format!("{kind}/{name}")
}

/// The events of the fleet's groups, oldest first.
pub fn of(fleet: &Fleet) -> Vec<CloudEvent> {
    let mut all: Vec<CloudEvent> = fleet.groups.iter().flat_map(of_group).collect();
    all.sort_by_key(|event| event.time);
    all
}

fn of_group(group: &InstanceGroup) -> Vec<CloudEvent> {
    let object = object(GROUP, &group.name);
    let event = |time, kind, reason: &str, message| CloudEvent {
        time,
        kind,
        reason: reason.into(),
        object: object.clone(),
        message,
    };
    let mut found = Vec::new();
    for revision in &group.revisions {
        let number = revision.number;
        let made = format!("revision {number}: {}", revision.cause);
        found.push(event(revision.created, EventKind::Normal, "RevisionMade", made));
        let all = format!("every VM is of revision {number}");
        found.extend(revision.deployed.map(|time| event(time, EventKind::Normal, "Deployed", all)));
    }
    if let Some(refresh) = &group.refresh {
        let kind = if refresh.reason.is_some() || refresh.is_lost() {
            EventKind::Warning
        } else {
            EventKind::Normal
        };
        found.push(event(refresh.started, kind, "Refresh", description(refresh)));
    }
    found.extend(group.runs.iter().flat_map(|run| of_run(&object, run)));
    found.extend(
        group
            .schedule
            .as_ref()
            .and_then(|schedule| schedule.notice.as_ref())
            .map(|notice| event(notice.time, EventKind::Warning, &notice.reason, notice.message.clone())),
    );
    found.extend(group.instances.iter().flat_map(|instance| of_instance(group, instance)));
    found.extend(group.events.iter().cloned());
    found
}

/// The beginning of a run, and its end.
fn of_run(object: &str, run: &JobRun) -> Vec<CloudEvent> {
    let event = |time, kind, reason: &str, message: String| CloudEvent {
        time,
        kind,
        reason: reason.into(),
        object: object.to_owned(),
        message: format!("run {} of revision {}{message}", run.number, run.revision),
    };
    let why = if run.scheduled.is_some() { ", by the schedule" } else { "" };
    let mut found = vec![event(run.started, EventKind::Normal, "RunStarted", why.to_owned())];
    found.extend(run.ended.map(|ended| {
        if run.status == RefreshStatus::Successful {
            event(ended, EventKind::Normal, "Completed", ", completed".to_owned())
        } else {
            let reason = run.reason.as_deref().unwrap_or("cancelled");
            event(ended, EventKind::Warning, "RunFailed", format!(": {reason}"))
        }
    }));
    found
}

/// A refresh at its beginning, with its outcome: of one that succeeded its revision has the time, of the others nothing
/// has.
fn description(refresh: &Refresh) -> String {
    let from = refresh.from.map(|from| format!("from revision {from} ")).unwrap_or_default();
    let reason = refresh.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let outcome = match refresh.status {
        RefreshStatus::Successful => String::new(),
        status => format!("; it is {status} now{reason}"),
    };
    format!("refresh {from}to revision {} began{outcome}", refresh.to)
}

fn of_instance(group: &InstanceGroup, instance: &Instance) -> Vec<CloudEvent> {
    let object = object(INSTANCE, &instance.id);
    let event = |time, kind, reason: &str, message| CloudEvent {
        time,
        kind,
        reason: reason.into(),
        object: object.clone(),
        message,
    };
    let way = if instance.from_snapshot { ", from a snapshot" } else { "" };
    let started = format!("of revision {}{way}", instance.revision);
    let mut found = vec![event(instance.since, EventKind::Normal, "Started", started)];
    if let Some((kind, word, message)) = outcome(instance) {
        found.push(match changed(group, instance) {
            Some(time) => event(time, kind, word, message),
            // The time of its start is known, and that it is so now.
            None => {
                event(instance.since, kind, word, format!("{message} (now; the cloud has no time of it)"))
            }
        });
    } else if let (Health::Healthy, Some(time)) = (&instance.health, instance.changed) {
        let word = format!("of revision {}", instance.revision);
        found.extend(
            (instance.state == InstanceState::Running)
                .then(|| event(time, EventKind::Normal, "Healthy", word)),
        );
    }
    found.extend(instance.containers.iter().filter(|container| container.restarts > 0).map(|container| {
        let message = format!(
            "container {}: started again {} times since, {}",
            container.name, container.restarts, container.state
        );
        event(instance.since, EventKind::Warning, "Restarted", message)
    }));
    found
}

/// What became of a VM, if it is neither starting nor healthy. A machine of a Job that ended well is as it should be.
fn outcome(instance: &Instance) -> Option<(EventKind, &'static str, String)> {
    let (Health::Unhealthy { reason } | Health::Lost { reason }) = &instance.health else { return None };
    let (kind, word) = match (instance.state, &instance.health) {
        _ if instance.has_succeeded() => (EventKind::Normal, "Completed"),
        (InstanceState::Ended, _) => (EventKind::Warning, "Ended"),
        (_, Health::Lost { .. }) => (EventKind::Warning, "Lost"),
        _ => (EventKind::Warning, "Unhealthy"),
    };
    Some((kind, word, reason.clone()))
}

/// When the VM came to be as it is. A machine of a run ended when that did, or before.
fn changed(group: &InstanceGroup, instance: &Instance) -> Option<u64> {
    let ended = instance.run.filter(|_| instance.state == InstanceState::Ended).and_then(|member| {
        group.runs.iter().find(|run| run.number == member.number).and_then(|run| run.ended)
    });
    let times = instance.changed.into_iter().chain(ended);
    times.min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::Name;
    use crate::oci::Digest;
    use crate::plan::image::ImageId;
    use serde_json::json;

    fn launch() -> serde_json::Value {
        json!({"image": ImageId(Digest::of(b"web")), "memoryMib": 128, "vcpus": 1, "ports": [],
            "healthPort": 10256, "gracePeriodSeconds": 30})
    }

    #[test]
    fn what_went_wrong_is_a_warning_and_the_order_is_that_of_time() {
        let group: InstanceGroup = serde_json::from_value(json!({
            "name": {"namespace": "default", "name": "web"},
            "replicas": 1,
            "settings": {"strategy": "Recreate", "minReadySeconds": 0, "progressDeadlineSeconds": 600,
                "revisionHistoryLimit": 10, "labels": {}},
            "current": 1,
            "nextRevision": 3,
            "revisions": [{"number": 1, "launch": launch(), "created": 10, "cause": "i2kit deploy web.yaml",
                "deployed": 20}],
            "instances": [{"id": "web-1-abcde", "revision": 1, "state": "running", "health": {"status": "healthy"},
                "since": 30, "endpoints": [],
                "containers": [{"name": "app", "ready": true, "restarts": 3, "state": "running"}]}],
            "refresh": {"status": "rolledBack", "from": 1, "to": 2, "updated": 0, "available": 0, "total": 1,
                "started": 40, "reason": "web-2-abcde is unhealthy"},
        }))
        .unwrap();
        let fleet = Fleet { groups: vec![group], ..Fleet::default() };
        let found = of(&fleet);
        let reasons: Vec<&str> = found.iter().map(|event| event.reason.as_str()).collect();
        assert_eq!(reasons, ["RevisionMade", "Deployed", "Started", "Restarted", "Refresh"]);
        assert!(found.windows(2).all(|pair| pair[0].time <= pair[1].time), "{found:#?}");
        let warnings: Vec<&str> = found
            .iter()
            .filter(|event| event.kind == EventKind::Warning)
            .map(|event| event.message.as_str())
            .collect();
        assert_eq!(
            warnings,
            [
                "container app: started again 3 times since, running",
                "refresh from revision 1 to revision 2 began; it is rolled back now: web-2-abcde is unhealthy",
            ]
        );
    }

    fn instance(fields: &serde_json::Value) -> Instance {
        let mut all = json!({"id": "report-1-abcde", "revision": 1, "state": "ended", "since": 30, "endpoints": [],
            "containers": [], "run": {"number": 1}, "health": {"status": "unhealthy", "reason": "Completed"}});
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn an_event_has_the_time_of_what_it_says() {
        let settings = crate::plan::example::settings(crate::manifest::api::Strategy::Recreate);
        let mut group =
            InstanceGroup::new(Name { namespace: "default".into(), name: "report".into() }, settings);
        let shown = |group: &InstanceGroup, fields: serde_json::Value| {
            let found = of_instance(group, &instance(&fields));
            let last = found.last().unwrap().clone();
            (last.time, last.kind, last.reason)
        };
        let completed = |time| (time, EventKind::Normal, "Completed".to_owned());
        assert_eq!(shown(&group, json!({"changed": 90})), completed(90));
        group.runs = vec![
            serde_json::from_value(json!({"number": 1, "revision": 1, "status": "successful",
            "completed": 1, "failed": 0, "started": 30, "ended": 80}))
            .unwrap(),
        ];
        assert_eq!(shown(&group, json!({"changed": 90})), completed(80), "the run's end was written down");
        let failed = json!({"changed": 70, "health": {"status": "unhealthy", "reason": "Error"}});
        assert_eq!(shown(&group, failed), (70, EventKind::Warning, "Ended".to_owned()));
        let healthy = json!({"changed": 44, "state": "running", "health": {"status": "healthy"}});
        assert_eq!(shown(&group, healthy), (44, EventKind::Normal, "Healthy".to_owned()));
        let unknown = json!({"run": null, "state": "running"});
        let found = of_instance(&group, &instance(&unknown));
        assert!(found[1].message.ends_with("(now; the cloud has no time of it)"), "{found:?}");
        assert_eq!(found[0].message, "of revision 1");
        let found = of_instance(&group, &instance(&json!({"fromSnapshot": true})));
        assert_eq!(found[0].message, "of revision 1, from a snapshot");
    }
}
