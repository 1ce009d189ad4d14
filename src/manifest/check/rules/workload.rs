//! Rules about workloads.

use crate::manifest::api::IntOrPercent;
use crate::manifest::check::report::Check;
use crate::manifest::check::value::int_or_percent;
use crate::manifest::code::Code;
use crate::manifest::support::ENDING_POD;
use crate::manifest::tree::{Node, Resolved, Span, Value, resolve};

/// The selector against the labels of the workload's own template.
pub(in crate::manifest) fn selector_matches(check: &mut Check<'_>, spec: &Node<'_>) {
    let Some(selector) = spec.entry("selector") else { return };
    let Some(template) = spec.get("template") else { return };
    let labels = template.at(&["metadata", "labels"]);
    let around = labels.map_or_else(|| template.span, |labels| labels.span);
    check.key("selector", |check| {
        let wanted = selector.value.get("matchLabels");
        let conditions = selector.value.get("matchExpressions").map_or(&[][..], Node::items);
        if wanted.is_none_or(Node::is_empty) && conditions.is_empty() {
            // Labels right below `selector` were reported as unknown fields.
            if !selector
                .value
                .entries()
                .iter()
                .all(|entry| ["matchLabels", "matchExpressions"].contains(&&*entry.key))
            {
                return;
            }
            check.report(Code::MissingField, selector.key_span, "an empty selector would match every pod");
            return;
        }
        for entry in wanted.map_or(&[][..], Node::entries) {
            let found = labels.and_then(|labels| labels.entry(&entry.key));
            if found.and_then(|found| found.value.scalar()) == entry.value.scalar() {
                continue;
            }
            let want = format!("{}: {}", entry.key, entry.value.scalar().unwrap_or_default());
            let have = match found {
                Some(found) => format!("{{{}: {}}}", found.key, found.value.scalar().unwrap_or_default()),
                None => "{}".to_owned(),
            };
            let message = format!("selector {{{want}}} does not match template labels {have}");
            let other = check.place(found.map_or(around, |found| found.key_span));
            check.key("matchLabels", |check| {
                check
                    .report(Code::SelectorMismatch, entry.key_span, message)
                    .also(other, "the template's labels")
                    .help("make both equal");
            });
        }
        for (i, condition) in conditions.iter().enumerate() {
            if !holds(condition, labels) {
                let other = check.place(around);
                check.key("matchExpressions", |check| {
                    check.index(i, |check| {
                        check
                            .report(
                                Code::SelectorMismatch,
                                condition.span,
                                "the template's labels do not meet this condition",
                            )
                            .also(other, "the template's labels");
                    });
                });
            }
        }
    });
}

/// Whether a condition on labels holds; one that is wrong in itself was reported already.
pub(in crate::manifest) fn holds(condition: &Node<'_>, labels: Option<&Node<'_>>) -> bool {
    let label = condition.str("key").and_then(|key| labels?.str(key));
    let listed = |value: &str| {
        condition
            .get("values")
            .is_some_and(|values| values.items().iter().any(|item| item.scalar() == Some(value)))
    };
    match condition.str("operator") {
        Some("In") => label.is_some_and(listed),
        Some("NotIn") => !label.is_some_and(listed),
        Some("Exists") => label.is_some(),
        Some("DoesNotExist") => label.is_none(),
        _ => true,
    }
}

/// Pods of groups are always started again.
pub(in crate::manifest) fn always_restarts(check: &mut Check<'_>, spec: &Node<'_>) {
    let Some(policy) = spec.at(&["template", "spec", "restartPolicy"]) else { return };
    if matches!(policy.scalar(), Some("Never" | "OnFailure")) {
        check.below(&["template", "spec", "restartPolicy"], |check| {
            check
                .report(
                    Code::InvalidValue,
                    policy.span,
                    "must be `Always` in a workload that keeps its pods running",
                )
                .help("write a Job for what ends");
        });
    }
    if let Some(deadline) = spec.at(&["template", "spec", "activeDeadlineSeconds"]) {
        check.below(&["template", "spec", "activeDeadlineSeconds"], |check| {
            check.report(Code::InvalidValue, deadline.span, "is for Jobs and Pods that end");
        });
    }
}

/// What becomes of a Pod that no workload keeps.
pub(in crate::manifest) fn pod_alone(check: &mut Check<'_>, pod: &Node<'_>) {
    let span = pod.get("kind").map_or(pod.span, |kind| kind.span);
    let policy = pod.at(&["spec", "restartPolicy"]).and_then(Node::scalar);
    if let Some(policy @ ("Never" | "OnFailure")) = policy {
        let message = format!("a Pod with restartPolicy {policy} becomes a Job of one machine");
        check.report(Code::Adapted, span, message);
        check.supported(span, ENDING_POD, ENDING_POD);
    } else {
        if let Some(deadline) = pod.at(&["spec", "activeDeadlineSeconds"]) {
            check.below(&["spec", "activeDeadlineSeconds"], |check| {
                let message = "is for pods that end, and a Pod that is always started again does not";
                check
                    .report(Code::RefusedValue, deadline.span, message)
                    .help("write `restartPolicy: Never` or `OnFailure`");
            });
        }
        let message =
            "a Pod becomes a group of one machine that is replaced when it dies; write a Deployment or a Job";
        check.report(Code::AdaptedKind, span, message);
    }
}

/// Disks of a group of equal machines: one machine at a time can have them.
pub(in crate::manifest) fn claims_of_group(check: &mut Check<'_>, spec: &Node<'_>) {
    let Some((i, claim)) = claim_of(spec) else { return };
    let recreated = spec.at(&["strategy", "type"]).and_then(Node::scalar) == Some("Recreate");
    if one_machine(check, spec, claim) && !recreated {
        check.below(&["template", "spec", "volumes"], |check| {
            check.index(i, |check| {
                let message = "each rollout stops the old machine before the new one starts, because both need the disk";
                check.report(Code::Unlike, claim, message).help("write `strategy: {type: Recreate}`");
            });
        });
    }
}

/// A disk of a claim in a StatefulSet, which its members cannot share.
pub(in crate::manifest) fn claims_of_members(check: &mut Check<'_>, spec: &Node<'_>) {
    if let Some((_, claim)) = claim_of(spec) {
        one_machine(check, spec, claim);
    }
}

/// The first volume of the pod that is a claim's disk, with its index.
fn claim_of(spec: &Node<'_>) -> Option<(usize, Span)> {
    let volumes = spec.at(&["template", "spec", "volumes"]).map_or(&[][..], Node::items);
    let mut claims = volumes.iter().map(|volume| volume.entry("persistentVolumeClaim"));
    claims
        .position(|claim| claim.is_some())
        .and_then(|i| Some((i, volumes[i].entry("persistentVolumeClaim")?.key_span)))
}

/// Refuses more than one machine for a disk; whether there is one.
fn one_machine(check: &mut Check<'_>, spec: &Node<'_>, claim: Span) -> bool {
    let other = check.place(claim);
    let replicas = spec.get("replicas");
    let several = replicas.filter(|replicas| !matches!(replicas.scalar(), Some("0" | "1") | None));
    let Some(replicas) = several else { return true };
    check.key("replicas", |check| {
        check
            .report(
                Code::RefusedValue,
                replicas.span,
                "a disk can be attached to one machine at a time, so a group with one has one machine",
            )
            .also(other, "the disk")
            .help("write a StatefulSet with `volumeClaimTemplates`, or `replicas: 1`");
    });
    false
}

/// The time in which a rollout must make progress is longer than the time that each machine takes.
pub(in crate::manifest) fn deadline(check: &mut Check<'_>, spec: &Node<'_>) {
    let seconds = |key: &str| match resolve(spec.str(key)?) {
        Resolved::Int(seconds) => Some(seconds),
        _ => None,
    };
    let Some(ready) = spec.get("minReadySeconds") else { return };
    let deadline = seconds("progressDeadlineSeconds").unwrap_or(600);
    if seconds("minReadySeconds").is_some_and(|seconds| seconds >= deadline) {
        check.key("minReadySeconds", |check| {
            let message = format!(
                "no rollout could ever end: a machine must stay healthy for longer than the {deadline} s of progressDeadlineSeconds"
            );
            check
                .report(Code::Conflict, ready.span, message)
                .help("raise progressDeadlineSeconds or lower minReadySeconds");
        });
    }
}

/// `rollingUpdate` beside `Recreate`.
pub(in crate::manifest) fn strategy(check: &mut Check<'_>, strategy: &Node<'_>) {
    if let (Some("Recreate"), Some(rolling)) = (strategy.str("type"), strategy.entry("rollingUpdate")) {
        check.key("rollingUpdate", |check| {
            check
                .report(Code::Exclusive, rolling.key_span, "`rollingUpdate` does not go with type `Recreate`")
                .help("remove one of them");
        });
    }
}

/// A rollout that may neither take away nor add a machine cannot move.
pub(in crate::manifest) fn rolling_update(check: &mut Check<'_>, update: &Node<'_>) {
    let read = |key: &str| {
        let node = update.get(key)?;
        let Value::Scalar(scalar) = &node.value else { return None };
        Some((int_or_percent(&scalar.text, scalar.resolved())?, node.span))
    };
    let is_zero = |share: IntOrPercent| matches!(share, IntOrPercent::Int(0) | IntOrPercent::Percent(0));
    let (unavailable, surge) = (read("maxUnavailable"), read("maxSurge"));
    if let (Some((missing, span)), Some((excess, other))) = (unavailable, surge)
        && is_zero(missing)
        && is_zero(excess)
    {
        let other = check.place(other);
        check.key("maxUnavailable", |check| {
            check
                .report(
                    Code::Conflict,
                    span,
                    "maxUnavailable and maxSurge are both 0, so no rollout could ever move",
                )
                .also(other, "the other 0")
                .help("allow one machine in excess: `maxSurge: 1`");
        });
    }
    if let Some((IntOrPercent::Percent(percent), span)) = unavailable
        && percent > 100
    {
        check.key("maxUnavailable", |check| {
            check.report(Code::InvalidValue, span, format!("must be at most 100%, got {percent}%"));
        });
    }
}

/// The annotation that named the storage class before there was a field for it.
pub(in crate::manifest) fn claim_annotations(check: &mut Check<'_>, claim: &Node<'_>) {
    const KEY: &str = "volume.beta.kubernetes.io/storage-class";
    let annotations = claim.at(&["metadata", "annotations"]).map_or(&[][..], Node::entries);
    if let Some(entry) = annotations.iter().find(|entry| entry.key == KEY) {
        let help = entry.value.scalar().map(|class| format!("write `storageClassName: {class}` in the spec"));
        check.below(&["metadata", "annotations", KEY], |check| {
            check
                .report(Code::NoMeaning, entry.key_span, format!("annotation `{KEY}` is not read any more"))
                .maybe_help(help);
        });
    }
}

/// Claims of a StatefulSet: names are unique, and different from the pod's own volumes.
pub(in crate::manifest) fn claim_templates(check: &mut Check<'_>, spec: &Node<'_>) {
    let mut seen = std::collections::HashMap::new();
    for volume in spec.at(&["template", "spec", "volumes"]).map_or(&[][..], Node::items) {
        if let Some(name) = volume.get("name") {
            seen.insert(name.scalar().unwrap_or_default().to_owned(), name.span);
        }
    }
    check.each(spec, "volumeClaimTemplates", |check, claim| {
        let Some(name) = claim.at(&["metadata", "name"]) else { return };
        let text = name.scalar().unwrap_or_default();
        if let Some(first) = seen.insert(text.to_owned(), name.span) {
            let other = check.place(first);
            let message = format!("two volumes have the name {}", check.shown(text));
            check.below(&["metadata", "name"], |check| {
                check.report(Code::RepeatedItem, name.span, message).also(other, "first given here");
            });
        }
    });
}
