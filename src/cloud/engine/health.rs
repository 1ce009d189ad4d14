//! What a VM's health check gives, and what follows: whether a balancer sends traffic to it, and whether it is replaced.
//!
//! Pure. A VM that is not ready gets no traffic and is left alone; only one that is not alive is replaced. It is not
//! alive when its process ended, when its guest says that it is lost, or when its guest does not answer for long. What
//! keeps this side from asking says nothing about it.

use std::collections::BTreeSet;

use i2kit_spec::Millis;
use i2kit_spec::replica::COORDINATOR;
use i2kit_spec::status::{self, PodPhase, PodStatus};

use super::environment::InstanceRecord;
use crate::plan::fleet::{ContainerState, Health};

/// A guest that answered before is lost when it has not answered for this long. Far more than a machine that emulates
/// several VMs on a busy host stands still, and less than the five minutes after which Kubernetes gives up the pods of
/// a node that is silent.
pub const SILENT_LOST: Millis = Millis(120_000);

/// A guest that was ready gets no traffic when it has not answered for this long since it should have: three questions, as
/// many as Kubernetes' default of `failureThreshold`.
pub const SILENT_UNREADY: Millis = Millis(5_000);

/// The longest boot id, in bytes: the kernel's is a UUID of 36.
const BOOT_ID_BYTES: usize = 64;

/// What one question to a guest gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The guest's word.
    Status(Box<PodStatus>),
    /// Somebody answered, and not with a status: why not. The guest is alive, and nobody knows whether it is ready.
    Unclear(String),
    /// No answer.
    Silence(String),
    /// The question could not be asked, by a fault of this side. It says nothing about the VM.
    Unasked(String),
}

/// What the judge knows of the VM beside the outcome of its health check.
#[derive(Debug, Clone, Copy)]
pub struct Known<'k> {
    /// The containers that the VM's plan names; a guest that tells of others is not believed.
    pub containers: &'k [String],
    /// How long the guest may take until its first answer: the rollout's own deadline.
    pub boot: Millis,
    /// A port behind a balancer that does not accept yet although the guest is ready.
    pub closed_port: Option<u16>,
}

impl Known<'_> {
    /// Whether the VM is a replica of a replicated group.
    pub fn is_replica(&self) -> bool {
        self.containers.iter().any(|name| name == COORDINATOR)
    }
}

/// Takes over the outcome of a health check at the time `now`.
pub fn judge(record: &mut InstanceRecord, outcome: CheckOutcome, known: &Known<'_>, now: u64) {
    let was_ready = !matches!(record.health, Health::Starting { .. });
    let status = match outcome {
        CheckOutcome::Unasked(_) => {
            // Whether it would have answered nobody knows: the silence begins anew.
            record.silent_since = None;
            return;
        }
        CheckOutcome::Silence(reason) => return silence(record, reason, known.boot, now),
        CheckOutcome::Unclear(reason) => {
            record.silent_since = None;
            record.answered = true;
            return set_unready(record, was_ready, bounded(reason), now);
        }
        CheckOutcome::Status(status) => *status,
    };
    record.silent_since = None;
    record.answered = true;
    if is_boot_id(&status.boot_id) {
        record.boot_id = Some(status.boot_id);
    }
    record.containers = containers(status.containers, known.containers);
    record.replica = status.replica.filter(|_| known.is_replica()).map(|mut said| {
        status::cut_report(&mut said);
        said.decisive()
    });
    // One a container, and one of the pod's own.
    let most = known.containers.len() + 1;
    match status.phase {
        PodPhase::Ready => match known.closed_port {
            None => record.set_health(Health::Healthy, now),
            Some(port) => {
                set_unready(record, was_ready, format!("port {port} accepts no connections yet"), now);
            }
        },
        PodPhase::Starting { waits } => {
            let waits = waits.iter().take(most).map(ToString::to_string);
            set_unready(record, was_ready, sentence(waits), now);
        }
        PodPhase::NotReady { reasons } => {
            let reason = sentence(reasons.into_iter().take(most));
            record.set_health(Health::Unhealthy { reason }, now);
        }
        PodPhase::Lost { reason } => {
            let reason = bounded(format!("the guest cannot go on: {reason}"));
            record.set_health(Health::Lost { reason }, now);
        }
    }
}

/// Takes note that a guest which answered before has owed an answer for so long at the time `now`: its silence began then,
/// unless it is silent for longer.
pub fn owes(record: &mut InstanceRecord, owed: Millis, now: u64) {
    if record.answered {
        record.silent_since.get_or_insert(now.saturating_sub(owed.0));
    }
}

fn silence(record: &mut InstanceRecord, reason: String, boot: Millis, now: u64) {
    // The silence of a guest that never answered began with its VM.
    let first = if record.answered { now } else { record.started };
    let since = *record.silent_since.get_or_insert(first);
    let silent = Millis(now.saturating_sub(since));
    let limit = if record.answered { SILENT_LOST } else { boot };
    match record.health {
        // It said so itself, or was silent for too long before.
        Health::Lost { .. } => {}
        _ if silent >= limit => {
            let reason = bounded(format!("the guest has not answered for {} s: {reason}", silent.0 / 1000));
            record.set_health(Health::Lost { reason }, now);
        }
        Health::Healthy if silent < SILENT_UNREADY => {}
        Health::Starting { .. } => {
            record.set_health(Health::Starting { waiting: Some(bounded(reason)) }, now);
        }
        Health::Healthy | Health::Unhealthy { .. } => {
            record.set_health(Health::Unhealthy { reason: bounded(reason) }, now);
        }
    }
}

/// Not ready, and nothing is wrong with a VM that never was.
fn set_unready(record: &mut InstanceRecord, was_ready: bool, reason: String, now: u64) {
    let health =
        if was_ready { Health::Unhealthy { reason } } else { Health::Starting { waiting: Some(reason) } };
    record.set_health(health, now);
}

/// The containers that the plan names, each once, with bounded texts.
fn containers(told: Vec<status::ContainerStatus>, names: &[String]) -> Vec<ContainerState> {
    let mut seen = BTreeSet::new();
    told.into_iter()
        .filter(|container| names.contains(&container.name) && seen.insert(container.name.clone()))
        .map(|container| ContainerState {
            state: bounded(state(&container)),
            name: container.name,
            ready: container.ready,
            restarts: u32::try_from(container.restarts).unwrap_or(u32::MAX),
        })
        .collect()
}

/// A container's state in one line: what it does, what its probes complain of, how it ended the last time.
fn state(container: &status::ContainerStatus) -> String {
    let mut text = container.state.clone();
    if let Some(probe) = container.probe.as_deref().filter(|probe| !probe.is_empty()) {
        text.extend([", probe: ", probe]);
    }
    // A container that has ended for good shows that already.
    if let Some(last) = container.last.as_deref().filter(|last| !last.is_empty() && *last != container.state)
    {
        text.extend([", last: ", last]);
    }
    text
}

fn sentence(parts: impl Iterator<Item = String>) -> String {
    bounded(parts.map(bounded).collect::<Vec<_>>().join("; "))
}

fn bounded(mut text: String) -> String {
    status::cut(&mut text);
    text
}

fn is_boot_id(text: &str) -> bool {
    (1..=BOOT_ID_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use i2kit_spec::status::Wait;

    use super::*;

    const BOOT: Millis = Millis(600_000);

    fn record(health: Health) -> InstanceRecord {
        let mut record =
            InstanceRecord::new("web-1-a".into(), 1, crate::cloud::engine::moment::Moment::default());
        record.answered = health != Health::STARTING;
        record.set_health(health, 0);
        record
    }

    fn names() -> Vec<String> {
        vec!["migrate".into(), "web".into()]
    }

    fn check(record: &mut InstanceRecord, outcome: CheckOutcome, now: u64) {
        let known = Known { containers: &names(), boot: BOOT, closed_port: None };
        judge(record, outcome, &known, now);
    }

    fn says(phase: PodPhase) -> CheckOutcome {
        says_of(phase, vec![])
    }

    fn says_of(phase: PodPhase, containers: Vec<status::ContainerStatus>) -> CheckOutcome {
        CheckOutcome::Status(Box::new(PodStatus {
            version: 1,
            boot_id: "b-1".into(),
            phase,
            containers,
            usage: None,
            replica: None,
        }))
    }

    #[test]
    fn a_replica_says_what_it_is_and_no_other_guest_is_believed_that_it_is_one() {
        let said = r#"{"role":"leader","term":3,"leader":0,"hasQuorum":true,"recoveries":0,
            "waitsFor":"WORDS","progress":{"committed":9,"applied":8}}"#;
        let said = said.replace("WORDS", &"x".repeat(100_000));
        let CheckOutcome::Status(status) = says(PodPhase::Ready) else { panic!("a status") };
        let status = PodStatus { replica: Some(serde_json::from_str(&said).unwrap()), ..*status };
        for (coordinator, is_taken) in [(COORDINATOR, true), ("web", false)] {
            let mut vm = record(Health::Healthy);
            let known = Known { containers: &[coordinator.to_owned()], boot: BOOT, closed_port: None };
            judge(&mut vm, CheckOutcome::Status(Box::new(status.clone())), &known, 5);
            let kept = vm.replica.as_ref().map(|kept| (kept.term, kept.progress));
            assert_eq!(kept, is_taken.then_some((3, None)), "how far it is changes without end");
            let words = vm.replica.and_then(|kept| kept.waits_for).unwrap_or_default();
            assert!(words.len() <= status::TEXT_BYTES);
        }
    }

    fn not_ready(reason: &str) -> CheckOutcome {
        says(PodPhase::NotReady { reasons: vec![reason.into()] })
    }

    fn silence() -> CheckOutcome {
        CheckOutcome::Silence("no answer within 2 s".into())
    }

    #[test]
    fn a_vm_that_is_not_ready_is_alive_however_long_that_takes() {
        let mut vm = record(Health::Healthy);
        for now in (0..86_400_000).step_by(1_000_000) {
            check(&mut vm, not_ready("web: readiness probe: no db"), now);
            assert_eq!(vm.health, Health::Unhealthy { reason: "web: readiness probe: no db".into() });
        }
        check(&mut vm, says(PodPhase::Ready), 86_400_000);
        assert!(vm.serves());
    }

    #[test]
    fn a_vm_that_starts_is_starting_until_it_is_ready_or_something_fails() {
        let mut vm = record(Health::STARTING);
        let waits = vec![Wait::InitContainer { container: "migrate".into() }];
        for now in [0, 300_000, 3_000_000] {
            check(&mut vm, says(PodPhase::Starting { waits: waits.clone() }), now);
            let waiting = Some("migrate: init container is running".to_owned());
            assert_eq!(vm.health, Health::Starting { waiting });
        }
        check(&mut vm, not_ready("migrate: CrashLoopBackOff"), 3_000_001);
        assert_eq!(vm.health.to_string(), "unhealthy: migrate: CrashLoopBackOff");
        // Once it served, a container that starts again is no start of the VM.
        check(&mut vm, says(PodPhase::Ready), 3_000_002);
        check(&mut vm, says(PodPhase::Starting { waits }), 3_000_003);
        assert!(matches!(vm.health, Health::Unhealthy { .. }));
    }

    #[test]
    fn a_guest_that_is_silent_for_long_is_lost_and_a_short_silence_only_ends_its_traffic() {
        let mut vm = record(Health::Healthy);
        check(&mut vm, silence(), 1000);
        assert!(vm.serves(), "one question that is not answered says little");
        check(&mut vm, silence(), 1000 + SILENT_UNREADY.0);
        assert_eq!(vm.health, Health::Unhealthy { reason: "no answer within 2 s".into() });
        check(&mut vm, silence(), 1000 + SILENT_LOST.0 - 1);
        assert!(matches!(vm.health, Health::Unhealthy { .. }));
        check(&mut vm, says(PodPhase::Ready), 1000 + SILENT_LOST.0);
        assert!(vm.serves());
        // The silence counts from its own beginning.
        check(&mut vm, silence(), 200_000);
        check(&mut vm, silence(), 200_000 + SILENT_LOST.0 - 1);
        assert!(matches!(vm.health, Health::Unhealthy { .. }));
        check(&mut vm, silence(), 200_000 + SILENT_LOST.0);
        let reason = "the guest has not answered for 120 s: no answer within 2 s";
        assert_eq!(vm.health, Health::Lost { reason: reason.into() });
    }

    #[test]
    fn a_silence_begins_when_an_answer_was_owed_and_decides_at_its_limits() {
        let mut vm = record(Health::Healthy);
        owes(&mut vm, Millis(2000), 9000);
        check(&mut vm, silence(), 9000);
        assert_eq!(vm.silent_since, Some(7000));
        // What was owed first counts.
        owes(&mut vm, Millis(2000), 11_000);
        check(&mut vm, silence(), 11_000);
        assert!(vm.serves());
        check(&mut vm, silence(), 12_000);
        assert!(matches!(vm.health, Health::Unhealthy { .. }));
        check(&mut vm, silence(), 127_000);
        assert!(matches!(vm.health, Health::Lost { .. }));
        // The silence of one that never answered began with its machine.
        let mut young = record(Health::STARTING);
        owes(&mut young, Millis(2000), 9000);
        assert_eq!(young.silent_since, None);
    }

    #[test]
    fn a_guest_that_never_answers_is_lost_at_the_deadline_of_its_rollout() {
        let mut vm = record(Health::STARTING);
        for now in [0, SILENT_LOST.0, BOOT.0 - 1] {
            check(&mut vm, silence(), now);
            assert!(matches!(vm.health, Health::Starting { .. }), "at {now}");
        }
        check(&mut vm, silence(), BOOT.0);
        assert!(matches!(vm.health, Health::Lost { .. }));
    }

    #[test]
    fn a_fault_of_this_side_says_nothing_about_the_vm() {
        let mut vm = record(Health::Healthy);
        check(&mut vm, silence(), 0);
        for now in (0..10 * SILENT_LOST.0).step_by(1000) {
            check(&mut vm, CheckOutcome::Unasked("too many open files".into()), now);
            assert!(vm.serves());
        }
        // What was silence before is forgotten with it.
        check(&mut vm, silence(), 10 * SILENT_LOST.0);
        assert!(vm.serves());
    }

    #[test]
    fn a_guest_that_says_that_it_is_lost_is() {
        let mut vm = record(Health::Healthy);
        check(&mut vm, says(PodPhase::Lost { reason: "write the state record: no space".into() }), 5);
        let reason = "the guest cannot go on: write the state record: no space";
        assert_eq!(vm.health, Health::Lost { reason: reason.into() });
        check(&mut vm, silence(), 6);
        assert_eq!(vm.health, Health::Lost { reason: reason.into() }, "its word stays");
    }

    #[test]
    fn an_answer_that_is_no_status_is_a_sign_of_life() {
        let mut vm = record(Health::Healthy);
        for now in (0..10 * SILENT_LOST.0).step_by(1000) {
            check(&mut vm, CheckOutcome::Unclear("/status answers 404".into()), now);
        }
        assert_eq!(vm.health, Health::Unhealthy { reason: "/status answers 404".into() });
    }

    #[test]
    fn a_guest_is_believed_within_bounds() {
        let container = |name: &str| status::ContainerStatus {
            name: name.into(),
            ready: true,
            restarts: u64::MAX,
            state: "x".repeat(10_000),
            last: None,
            probe: None,
            usage: None,
        };
        let told = (0..6000).map(|number| container(&format!("c{number}")));
        let told = told.chain([container("web"), container("web")]).collect();
        let reasons = vec!["y".repeat(10_000); 1000];
        let CheckOutcome::Status(mut status) = says_of(PodPhase::NotReady { reasons }, told) else {
            unreachable!()
        };
        status.boot_id = "z".repeat(200_000);
        let mut vm = record(Health::STARTING);
        check(&mut vm, CheckOutcome::Status(status), 0);
        assert_eq!(vm.boot_id, None);
        let [web] = &vm.containers[..] else { panic!("{:?}", vm.containers.len()) };
        assert_eq!((web.name.as_str(), web.restarts), ("web", u32::MAX));
        assert!(web.state.len() <= status::TEXT_BYTES);
        let Health::Unhealthy { reason } = &vm.health else { panic!("{:?}", vm.health) };
        assert!(reason.len() <= status::TEXT_BYTES);
    }

    #[test]
    fn a_containers_state_has_its_probes_and_its_last_end() {
        let crashing = status::ContainerStatus {
            name: "web".into(),
            ready: false,
            restarts: 3,
            state: "CrashLoopBackOff".into(),
            last: Some("Error, exit code 1 (no \"db\")".into()),
            probe: Some("refused".into()),
            usage: None,
        };
        let expected = "CrashLoopBackOff, probe: refused, last: Error, exit code 1 (no \"db\")";
        assert_eq!(state(&crashing), expected);
        let ended = status::ContainerStatus {
            state: "Completed, exit code 0".into(),
            last: Some("Completed, exit code 0".into()),
            probe: None,
            ..crashing
        };
        assert_eq!(state(&ended), "Completed, exit code 0");
    }

    #[test]
    fn a_ready_guest_is_healthy_once_its_ports_accept() {
        let mut vm = record(Health::STARTING);
        let known = Known { containers: &names(), boot: BOOT, closed_port: Some(80) };
        judge(&mut vm, says(PodPhase::Ready), &known, 0);
        assert_eq!(vm.health.to_string(), "starting: port 80 accepts no connections yet");
        check(&mut vm, says(PodPhase::Ready), 1);
        assert!(vm.serves());
    }
}
