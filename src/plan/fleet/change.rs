//! What differs between two observations of an environment: the events of a watch.

use serde::{Deserialize, Serialize};

use super::{Fleet, Health, Instance, InstanceGroup, InstanceState, Refresh};
use crate::manifest::api::Name;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Change {
    /// An instance appeared, or its state or health changed in kind.
    Instance {
        /// Its group.
        group: Name,
        /// Its id.
        instance: String,
        /// Its revision.
        revision: u32,
        /// `starting`, `healthy`, `unhealthy: REASON`, `draining`, `stopping`, `ended: REASON` or `gone`.
        state: String,
    },
    /// A refresh began, came further or ended.
    Refresh {
        /// Its group.
        group: Name,
        /// Whether it is a run of a Job, whose machines end.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        job: bool,
        /// The refresh as it is now.
        refresh: Refresh,
    },
    /// A group is gone, with all its instances.
    GroupGone {
        /// The group.
        group: Name,
    },
    /// A balancer listens at other addresses than before.
    Bound {
        /// The balancer.
        balancer: Name,
        /// `HOST:PORT` of each listener that is bound.
        addresses: Vec<String>,
    },
    /// The cloud cannot give the environment something, such as a task that fails.
    Warning {
        /// One sentence.
        message: String,
    },
}

/// What changed from `before` to `after`. Against an empty fleet it is all of `after`.
pub fn changes(before: &Fleet, after: &Fleet) -> Vec<Change> {
    let mut found = Vec::new();
    for group in &after.groups {
        group_changes(before.group(&group.name), group, &mut found);
    }
    for gone in before.groups.iter().filter(|group| after.group(&group.name).is_none()) {
        let group = gone.name.clone();
        found.extend(gone.instances.iter().map(|instance| change(&group, instance, "gone".to_owned())));
        found.push(Change::GroupGone { group });
    }
    for balancer in &after.balancers {
        let addresses = balancer.addresses();
        let known = before.balancer(&balancer.spec.name).map(super::LoadBalancer::addresses);
        if known.unwrap_or_default() != addresses {
            found.push(Change::Bound { balancer: balancer.spec.name.clone(), addresses });
        }
    }
    let new = after.warnings.iter().filter(|warning| !before.warnings.contains(warning));
    found.extend(new.map(|message| Change::Warning { message: message.clone() }));
    found
}

fn group_changes(before: Option<&InstanceGroup>, after: &InstanceGroup, found: &mut Vec<Change>) {
    let known = before.map(|group| group.instances.as_slice()).unwrap_or_default();
    for instance in &after.instances {
        let state = state(instance);
        let was = known.iter().find(|known| known.id == instance.id).map(self::state);
        if was.as_ref() != Some(&state) {
            found.push(change(&after.name, instance, state));
        }
    }
    let gone = known.iter().filter(|known| after.instances.iter().all(|instance| instance.id != known.id));
    found.extend(gone.map(|instance| change(&after.name, instance, "gone".to_owned())));
    if let Some(refresh) = &after.refresh
        && before.and_then(|group| group.refresh.as_ref()) != Some(refresh)
    {
        let job = after.settings.job.is_some();
        found.push(Change::Refresh { group: after.name.clone(), job, refresh: refresh.clone() });
    }
}

fn change(group: &Name, instance: &Instance, state: String) -> Change {
    Change::Instance {
        group: group.clone(),
        instance: instance.id.to_string(),
        revision: instance.revision,
        state,
    }
}

fn state(instance: &Instance) -> String {
    match instance.state {
        // What a starting instance waits for changes with every answer of its health check: no change of its own.
        InstanceState::Running if matches!(instance.health, Health::Starting { .. }) => "starting".to_owned(),
        InstanceState::Running => instance.health.to_string(),
        InstanceState::Draining => "draining".to_owned(),
        InstanceState::Stopping => "stopping".to_owned(),
        InstanceState::Ended => match &instance.health {
            Health::Unhealthy { reason } | Health::Lost { reason } => format!("ended: {reason}"),
            Health::Starting { .. } | Health::Healthy => "ended".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn instance(id: &str, health: &serde_json::Value) -> Instance {
        serde_json::from_value(json!({"id": id, "revision": 1, "state": "running", "health": health,
            "since": 30, "endpoints": [], "containers": []}))
        .unwrap()
    }

    fn fleet(instances: Vec<Instance>, warnings: &[&str]) -> Fleet {
        let mut group: InstanceGroup = serde_json::from_value(json!({
            "name": {"namespace": "default", "name": "web"},
            "replicas": 1,
            "settings": {"strategy": "Recreate", "minReadySeconds": 0, "progressDeadlineSeconds": 600,
                "revisionHistoryLimit": 10, "labels": {}},
            "current": 1, "nextRevision": 2, "revisions": [], "instances": [],
        }))
        .unwrap();
        group.instances = instances;
        let warnings = warnings.iter().map(|warning| (*warning).to_owned()).collect();
        Fleet { groups: vec![group], warnings, ..Fleet::default() }
    }

    /// The states among the changes, and how many changes there are beside them.
    fn states(before: &Fleet, after: &Fleet) -> (Vec<String>, usize) {
        let all = changes(before, after);
        let states = all.iter().filter_map(|change| match change {
            Change::Instance { instance, state, .. } => Some(format!("{instance} {state}")),
            _ => None,
        });
        let states: Vec<String> = states.collect();
        let others = all.len() - states.len();
        (states, others)
    }

    #[test]
    fn a_machine_that_ended_shows_its_reason_alone() {
        let mut ended = instance("a", &json!({"status": "unhealthy", "reason": "Completed"}));
        ended.state = InstanceState::Ended;
        let found = states(&Fleet::default(), &fleet(vec![ended], &[]));
        assert_eq!(found, (vec!["a ended: Completed".to_owned()], 0));
    }

    #[test]
    fn what_is_new_what_is_another_and_what_is_gone_are_changes() {
        let healthy = json!({"status": "healthy"});
        let waiting = |what: &str| json!({"status": "starting", "waiting": what});
        let first = fleet(vec![instance("a", &waiting("boot"))], &[]);
        assert_eq!(states(&Fleet::default(), &first), (vec!["a starting".to_owned()], 0));
        let later = fleet(vec![instance("a", &waiting("an init container"))], &["a disk is full"]);
        assert_eq!(states(&first, &later), (vec![], 1), "a warning, and no other word for starting");
        let next = fleet(vec![instance("b", &healthy)], &["a disk is full"]);
        assert_eq!(states(&later, &next), (vec!["b healthy".to_owned(), "a gone".to_owned()], 0));
        let all = changes(&next, &Fleet::default());
        assert!(matches!(&all[..], [Change::Instance { .. }, Change::GroupGone { .. }]), "{all:?}");
        assert_eq!(changes(&next, &next), []);
    }
}
