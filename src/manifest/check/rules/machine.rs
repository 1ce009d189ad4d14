//! Rules about what a pod asks of its machine, and about what machines do otherwise than nodes.

use std::collections::BTreeSet;

use crate::manifest::check::report::Check;
use crate::manifest::code::Code;
use crate::manifest::support::{Answer, SCRATCH_DISK};
use crate::manifest::tree::{Node, Resolved, Span, Value, resolve};
use crate::manifest::words::nearest;

/// Shortest time that a cloud is known to leave a machine between the request to end and the end, when it takes it back (Spot).
const SHUTDOWN_WINDOW: i128 = 120;

/// A grace period that a cloud may cut short.
pub(in crate::manifest) fn grace_period(check: &mut Check<'_>, spec: &Node<'_>) {
    let Some(grace) = spec.get("terminationGracePeriodSeconds") else { return };
    if let Some(Resolved::Int(seconds)) = grace.scalar().map(resolve)
        && seconds > SHUTDOWN_WINDOW
    {
        check.key("terminationGracePeriodSeconds", |check| {
            let message = format!(
                "{seconds} s may be cut short: clouds leave a machine {SHUTDOWN_WINDOW} s when they take it away themselves (Spot)"
            );
            check.report(Code::Unlike, grace.span, message);
        });
    }
}

/// `dnsPolicy: None` without anybody to ask.
pub(in crate::manifest) fn name_servers(check: &mut Check<'_>, spec: &Node<'_>) {
    let Some(policy) = spec.get("dnsPolicy").filter(|policy| policy.scalar() == Some("None")) else { return };
    if spec.at(&["dnsConfig", "nameservers"]).is_none_or(Node::is_empty) {
        check.key("dnsPolicy", |check| {
            check
                .report(Code::MissingField, policy.span, "`None` needs `dnsConfig.nameservers`")
                .help("name a server, or remove `dnsPolicy`");
        });
    }
}

/// Containers whose limits and requests variables and files show.
pub(in crate::manifest) fn shown_containers(check: &mut Check<'_>, spec: &Node<'_>) {
    let lists = ["initContainers", "containers"];
    let known: BTreeSet<String> = lists
        .iter()
        .filter_map(|list| spec.get(list))
        .flat_map(Node::items)
        .filter_map(|container| container.str("name"))
        .map(str::to_owned)
        .collect();
    let look = |check: &mut Check<'_>, source: &Node<'_>, above: &[&str]| {
        let Some(name) = source.at(above).and_then(|found| found.at(&["resourceFieldRef", "containerName"]))
        else {
            return;
        };
        let text = name.scalar().unwrap_or_default();
        if known.contains(text) {
            return;
        }
        let near = nearest(text, known.iter().map(String::as_str));
        let help = near.map(|near| format!("did you mean `{near}`?"));
        let message = format!("no container named {} in this pod", check.shown(text));
        let path: Vec<&str> = above.iter().copied().chain(["resourceFieldRef", "containerName"]).collect();
        check.below(&path, |check| {
            check.report(Code::MissingReference, name.span, message).maybe_help(help);
        });
    };
    for list in lists {
        check.each(spec, list, |check, container| {
            check.each(container, "env", |check, variable| look(check, variable, &["valueFrom"]));
        });
    }
    check.each(spec, "volumes", |check, volume| {
        let Some(files) = volume.get("downwardAPI") else { return };
        check.key("downwardAPI", |check| check.each(files, "items", |check, item| look(check, item, &[])));
    });
}

/// Files of ConfigMaps and Secrets stay as they are until the next rollout.
pub(in crate::manifest) fn no_live_update(check: &mut Check<'_>, volume: &Node<'_>) {
    let Some(entry) = ["configMap", "secret", "projected"].iter().find_map(|key| volume.entry(key)) else {
        return;
    };
    let message =
        "files of ConfigMaps and Secrets do not change in running machines: a changed value is a rollout";
    if check.findings.first(message) {
        check.key(&entry.key, |check| {
            check.report(Code::Unlike, entry.key_span, message);
        });
    }
}

/// Scratch space takes memory where machines have no disks for it, unless the manifest asks for memory itself.
pub(in crate::manifest) fn scratch_in_memory(check: &mut Check<'_>, volume: &Node<'_>) {
    let Some(entry) = volume.entry("emptyDir") else { return };
    let cloud = check.options.clouds.target;
    let Answer::Note(note) = cloud.answer(SCRATCH_DISK) else { return };
    if entry.value.str("medium") == Some("Memory") {
        return;
    }
    let message = format!("on {} {note}", cloud.name);
    if check.findings.first(SCRATCH_DISK) {
        check.key(&entry.key, |check| {
            check.report(Code::Unlike, entry.key_span, message).quietly().help(
                "give the container a limit that has room for it; with `medium: Memory` this note goes away",
            );
        });
    }
}

/// Privileges that contradict each other; Kubernetes refuses such pods.
pub(in crate::manifest) fn security(check: &mut Check<'_>, context: &Node<'_>) {
    let (Some(escalation), Some(privileged)) =
        (context.get("allowPrivilegeEscalation"), context.get("privileged"))
    else {
        return;
    };
    if is(escalation, Resolved::Bool(false)) && is(privileged, Resolved::Bool(true)) {
        let place = check.place(privileged.span);
        check.key("allowPrivilegeEscalation", |check| {
            check
                .report(Code::Conflict, escalation.span, "a privileged container has all privileges already")
                .also(place, "contradicts this")
                .help("change one of them");
        });
    }
}

/// Containers that run as root and must not; Kubernetes never starts them. Each of the two settings may be the pod's or
/// the container's own, which wins.
pub(in crate::manifest) fn root_user(check: &mut Check<'_>, spec: &Node<'_>) {
    let pod = spec.get("securityContext");
    let of_pod = |key: &str| pod.and_then(|pod| pod.get(key));
    let report = |check: &mut Check<'_>, user: Span, forbidden: Span| {
        let place = check.place(forbidden);
        check.below(&["securityContext", "runAsUser"], |check| {
            check
                .report(Code::Conflict, user, "the user 0 is root, which `runAsNonRoot` forbids")
                .also(place, "contradicts this")
                .help("change one of them");
        });
    };
    let mut whole_pod = None;
    for list in ["initContainers", "containers"] {
        check.each(spec, list, |check, container| {
            let own = |key: &str| container.at(&["securityContext", key]);
            let user = own("runAsUser").or(of_pod("runAsUser"));
            let forbidden = own("runAsNonRoot").or(of_pod("runAsNonRoot"));
            let (Some(user), Some(forbidden)) = (user, forbidden) else { return };
            if !is(user, Resolved::Int(0)) || !is(forbidden, Resolved::Bool(true)) {
                return;
            }
            if own("runAsUser").is_some() {
                report(check, user.span, forbidden.span);
            } else if whole_pod.is_none() {
                whole_pod = Some((user.span, forbidden.span));
            }
        });
    }
    // The pod's user is one mistake, however many containers have it.
    if let Some((user, forbidden)) = whole_pod {
        report(check, user, forbidden);
    }
}

/// Whether the scalar is this value.
fn is(node: &Node<'_>, value: Resolved) -> bool {
    matches!(&node.value, Value::Scalar(scalar) if scalar.resolved() == value)
}
