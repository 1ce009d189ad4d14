//! Events of a cloud, in the columns of Kubernetes' events. They are read off a fleet, which remembers its revisions, the
//! newest refresh of each group and its VMs, and what the cloud reports beside them.

use super::fleet::{
    CloudEvent, EventKind, Fleet, Health, Instance, InstanceGroup, InstanceState, JobRun, Refresh,
    RefreshStatus,
};

/// The events of the fleet's groups, oldest first.
pub fn of(fleet: &Fleet) -> Vec<CloudEvent> {
    let mut all: Vec<CloudEvent> = fleet.groups.iter().flat_map(of_group).collect();
    all.sort_by_key(|event| event.time);
    all
}

fn of_group(group: &InstanceGroup) -> Vec<CloudEvent> {
    let object = format!("group/{}", group.name);
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
    found.extend(group.instances.iter().flat_map(of_instance));
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

fn description(refresh: &Refresh) -> String {
    let from = refresh.from.map(|from| format!("from revision {from} ")).unwrap_or_default();
    let reason = refresh.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("refresh {from}to revision {}, {}{reason}", refresh.to, refresh.status)
}

fn of_instance(instance: &Instance) -> Vec<CloudEvent> {
    let object = format!("instance/{}", instance.id);
    let event = |kind, reason: &str, message| CloudEvent {
        time: instance.since,
        kind,
        reason: reason.into(),
        object: object.clone(),
        message,
    };
    let mut found = vec![event(EventKind::Normal, "Started", format!("of revision {}", instance.revision))];
    if let Health::Unhealthy { reason } | Health::Lost { reason } = &instance.health {
        let word = match (instance.state, &instance.health) {
            (InstanceState::Ended, _) => "Ended",
            (_, Health::Lost { .. }) => "Lost",
            _ => "Unhealthy",
        };
        found.push(event(EventKind::Warning, word, reason.clone()));
    }
    found.extend(instance.containers.iter().filter(|container| container.restarts > 0).map(|container| {
        let message = format!(
            "container {}: started again {} times, {}",
            container.name, container.restarts, container.state
        );
        event(EventKind::Warning, "Restarted", message)
    }));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
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
                "container app: started again 3 times, running",
                "refresh from revision 1 to revision 2, rolled back: web-2-abcde is unhealthy",
            ]
        );
    }
}
