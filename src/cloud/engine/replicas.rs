//! What replicas of a replicated group say of themselves, as their guests report it, and what follows for its events.
//!
//! Pure. A guest is a stranger: of a pod that is not replicated nothing is taken, and texts are bounded.

use i2kit_spec::replica::{ReplicaReport, Role};
use serde::{Deserialize, Serialize};

use crate::plan::cloud_event;
use crate::plan::fleet::{CloudEvent, EventKind, InstanceId};

/// So many events of a group's replicas are remembered: those of several elections, and of the failures that led to them.
const EVENTS_KEPT: usize = 40;

/// What a group remembers of its replicas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaMemory {
    /// What happened to them, oldest first.
    #[serde(default)]
    pub events: Vec<CloudEvent>,
    /// The newest term that somebody led in, and the VM that did.
    #[serde(default)]
    led: Option<(u64, InstanceId)>,
    /// How often the group was recovered from the loss of a majority.
    #[serde(default)]
    recoveries: u64,
}

impl ReplicaMemory {
    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the group has had a state: somebody led it.
    pub fn was_led(&self) -> bool {
        self.led.is_some()
    }

    /// How often the group was recovered, as far as its replicas said.
    pub fn recoveries(&self) -> u64 {
        self.recoveries
    }

    /// Takes note of what the replica in the VM `id` says after it said `before`, at the time `wall` in milliseconds since the
    /// Unix epoch.
    pub fn note(
        &mut self,
        id: &InstanceId,
        before: Option<&ReplicaReport>,
        now: Option<&ReplicaReport>,
        wall: u64,
    ) {
        let Some(now) = now else { return };
        let event = |kind, reason: &str, message: String| CloudEvent {
            time: wall / 1000,
            kind,
            reason: reason.to_owned(),
            object: cloud_event::object(cloud_event::INSTANCE, id),
            message,
        };
        let mut found = Vec::new();
        if now.recoveries > self.recoveries {
            self.recoveries = now.recoveries;
            let message = format!(
                "the group goes on from this replica's log alone, after the loss of a majority ({} so far): what others had acknowledged \
                 beyond it is lost",
                now.recoveries
            );
            found.push(event(EventKind::Warning, "Recovered", message));
        }
        let was_member = before.is_some_and(|before| is_member(before.role));
        if is_member(now.role) && !was_member {
            let message = format!("it is a voter of its group, in term {}", now.term);
            found.push(event(EventKind::Normal, "Joined", message));
        }
        let led = (now.term, id.clone());
        let is_newer =
            self.led.as_ref().is_none_or(|last| last.0 < now.term || last.0 == now.term && last.1 != *id);
        if now.role == Role::Leader && is_newer {
            found.push(event(
                EventKind::Normal,
                "LeaderElected",
                format!("it leads its group in term {}", now.term),
            ));
            self.led = Some(led);
        }
        // One that starts has met nobody yet.
        let had_quorum = before.is_some_and(|before| before.has_quorum && before.role != Role::Starting);
        let lacked_quorum = before.is_some_and(|before| !before.has_quorum && before.role != Role::Starting);
        if had_quorum && !now.has_quorum {
            let message =
                "it is connected with no majority of its group's voters: it answers no command".to_owned();
            found.push(event(EventKind::Warning, "QuorumLost", message));
        } else if lacked_quorum && now.has_quorum {
            let message = "it is connected with a majority of its group's voters again".to_owned();
            found.push(event(EventKind::Normal, "QuorumRegained", message));
        }
        if let Some(at) = now.diverged_at.filter(|_| before.is_none_or(|before| before.diverged_at.is_none()))
        {
            let message = format!(
                "its replies differ from those of a majority since index {at}: it serves nobody until the disk of its slot is replaced"
            );
            found.push(event(EventKind::Warning, "Quarantined", message));
        }
        self.events.extend(found);
        let surplus = self.events.len().saturating_sub(EVENTS_KEPT);
        self.events.drain(..surplus);
    }
}

/// Whether a replica has a vote, as its role says.
fn is_member(role: Role) -> bool {
    matches!(role, Role::Follower | Role::Candidate | Role::Leader)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(role: Role, term: u64) -> ReplicaReport {
        ReplicaReport {
            role,
            term,
            leader: None,
            has_quorum: true,
            recoveries: 0,
            diverged_at: None,
            waits_for: None,
            progress: None,
        }
    }

    /// The reasons of the events that these reports of replicas lead to, in this order; each with its object's last letter.
    fn reasons(reports: &[(&str, Option<ReplicaReport>)]) -> Vec<String> {
        let mut memory = ReplicaMemory::default();
        let mut known = std::collections::BTreeMap::new();
        for (id, report) in reports {
            let before: Option<ReplicaReport> = known.insert(*id, report.clone()).flatten();
            memory.note(&InstanceId::from(*id), before.as_ref(), report.as_ref(), 5000);
        }
        assert!(memory.events.iter().all(|event| event.time == 5));
        let name =
            |event: &CloudEvent| format!("{} {}", event.object.rsplit('/').next().unwrap(), event.reason);
        memory.events.iter().map(name).collect()
    }

    #[test]
    fn a_leader_is_told_once_a_term_whatever_its_machine_says_in_between() {
        let leads = |term| Some(report(Role::Leader, term));
        let follows = |term| Some(report(Role::Follower, term));
        let all = [
            ("a", Some(report(Role::Starting, 0))),
            ("a", leads(1)),
            ("a", leads(1)),
            // Its coordinator started anew, and leads again in a later term; one that says an old one is late.
            ("a", None),
            ("a", leads(2)),
            ("b", follows(2)),
            ("b", leads(3)),
            ("a", leads(2)),
            ("a", follows(3)),
        ];
        assert_eq!(
            reasons(&all),
            ["a Joined", "a LeaderElected", "a Joined", "a LeaderElected", "b Joined", "b LeaderElected"]
        );
    }

    #[test]
    fn what_is_wrong_is_told_when_it_begins_and_when_it_is_over() {
        let cut_off = |role| Some(ReplicaReport { has_quorum: false, ..report(role, 1) });
        let quarantined = Some(ReplicaReport { diverged_at: Some(7), ..report(Role::Quarantined, 1) });
        let recovered = Some(ReplicaReport { recoveries: 1, ..report(Role::Leader, 4) });
        let all = [
            // It has met nobody yet.
            ("a", cut_off(Role::Starting)),
            ("a", Some(report(Role::Follower, 1))),
            ("a", cut_off(Role::Follower)),
            ("a", cut_off(Role::Candidate)),
            ("a", Some(report(Role::Follower, 1))),
            ("a", quarantined.clone()),
            ("a", quarantined),
            ("b", recovered.clone()),
            ("b", None),
            ("b", recovered),
        ];
        assert_eq!(
            reasons(&all),
            [
                "a Joined",
                "a QuorumLost",
                "a QuorumRegained",
                "a Quarantined",
                "b Recovered",
                "b Joined",
                "b LeaderElected",
                "b Joined"
            ]
        );
    }

    #[test]
    fn few_events_are_kept_and_the_newest_ones() {
        let mut memory = ReplicaMemory::default();
        assert!(memory.is_empty() && !memory.was_led());
        for term in 1..1000 {
            memory.note(&"a".into(), None, Some(&report(Role::Leader, term)), term * 1000);
        }
        assert!(memory.was_led());
        assert_eq!(memory.events.len(), EVENTS_KEPT);
        assert_eq!(memory.events.last().map(|event| event.time), Some(999));
        let json = serde_json::to_string(&memory).unwrap();
        assert_eq!(serde_json::from_str::<ReplicaMemory>(&json).unwrap(), memory);
        assert_eq!(serde_json::from_str::<ReplicaMemory>("{}").unwrap(), ReplicaMemory::default());
    }
}
