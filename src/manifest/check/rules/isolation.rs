//! Rules about what separates the containers of a pod: processes that they share, and the pod's user namespace.

use crate::manifest::check::report::Check;
use crate::manifest::code::Code;
use crate::manifest::tree::{Node, Resolved, resolve};

/// The capability by which a process takes over another one.
const TRACE: &str = "SYS_PTRACE";

/// The greatest number of a user or a group in a pod's user namespace, which has as many as Kubernetes gives one.
const LAST_ID: i128 = 65_535;

/// Whether a field is written, and as this value.
fn is(spec: &Node<'_>, field: &str, value: bool) -> bool {
    spec.str(field).is_some_and(|text| resolve(text) == Resolved::Bool(value))
}

/// A container that may trace, among processes of others: one of them that just starts has all rights of the machine.
pub(in crate::manifest) fn tracing_others(check: &mut Check<'_>, spec: &Node<'_>) {
    if check.options.allow_privileged
        || !is(spec, "shareProcessNamespace", true)
        || is(spec, "hostUsers", false)
    {
        return;
    }
    for list in ["initContainers", "containers"] {
        check.each(spec, list, |check, container| {
            let Some(capabilities) = container.at(&["securityContext", "capabilities"]) else { return };
            check.below(&["securityContext", "capabilities"], |check| {
                check.each(capabilities, "add", |check, item| {
                    let name = item.scalar().unwrap_or_default().to_ascii_uppercase();
                    if name.trim_start_matches("CAP_") != TRACE {
                        return;
                    }
                    let message = format!(
                        "capability `{TRACE}` with `shareProcessNamespace` is refused: a container that starts could be \
                         taken over, and with it the machine"
                    );
                    check.report(Code::RefusedValue, item.span, message).help(
                        "set `hostUsers: false`, which gives the capability no hold on the machine, or pass \
                         --allow-privileged",
                    );
                });
            });
        });
    }
}

/// Numbers of users and groups that the user namespace of a pod does not have.
pub(in crate::manifest) fn ids_in_user_namespace(check: &mut Check<'_>, spec: &Node<'_>) {
    if !is(spec, "hostUsers", false) {
        return;
    }
    contexts_of(check, spec);
    for list in ["initContainers", "containers"] {
        check.each(spec, list, contexts_of);
    }
}

/// The numbers in the security context of a pod or a container.
fn contexts_of(check: &mut Check<'_>, owner: &Node<'_>) {
    let Some(context) = owner.get("securityContext") else { return };
    check.key("securityContext", |check| {
        for field in ["runAsUser", "runAsGroup", "fsGroup"] {
            if let Some(id) = context.get(field) {
                check.key(field, |check| in_user_namespace(check, id));
            }
        }
        check.each(context, "supplementalGroups", in_user_namespace);
    });
}

fn in_user_namespace(check: &mut Check<'_>, id: &Node<'_>) {
    let text = id.scalar().unwrap_or_default();
    let Resolved::Int(number) = resolve(text) else { return };
    // Above that bound it has a finding already.
    if (LAST_ID + 1..=i2kit_spec::runtime::MAX_ID.into()).contains(&number) {
        let message = format!(
            "{} is above {LAST_ID}, the last number in a pod with `hostUsers: false`",
            check.shown(text)
        );
        check
            .report(Code::InvalidValue, id.span, message)
            .help("use a smaller number, or remove `hostUsers: false`");
    }
}
