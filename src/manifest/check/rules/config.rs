//! Rules about configuration and scaling.

use std::collections::HashMap;

use crate::manifest::check::quantity::cpu_millis;
use crate::manifest::check::report::Check;
use crate::manifest::code::Code;
use crate::manifest::support::{Annotation, ROLE, ROLE_ANNOTATION};
use crate::manifest::tree::{Entry, Node, Resolved, Span, resolve};

/// A key that is in both maps of a ConfigMap.
pub(in crate::manifest) fn data_keys(check: &mut Check<'_>, map: &Node<'_>) {
    let (Some(texts), Some(bytes)) = (map.get("data"), map.get("binaryData")) else { return };
    let texts: HashMap<&str, &Entry<'_>> =
        texts.entries().iter().map(|entry| (entry.key.as_ref(), entry)).collect();
    for entry in bytes.entries() {
        if let Some(first) = texts.get(entry.key.as_ref()) {
            let other = check.place(first.key_span);
            let message = format!("key `{}` is in `data` too", entry.key);
            check.key("binaryData", |check| {
                check.key(&entry.key, |check| {
                    check.report(Code::Conflict, entry.key_span, message).also(other, "the other one");
                });
            });
        }
    }
}

/// Keys that a Secret of a known type must have.
pub(in crate::manifest) fn secret_keys(check: &mut Check<'_>, secret: &Node<'_>) {
    let Some(kind) = secret.get("type") else { return };
    let needed: &[&str] = match kind.scalar() {
        Some("kubernetes.io/tls") => &["tls.crt", "tls.key"],
        Some("kubernetes.io/dockerconfigjson") => &[".dockerconfigjson"],
        Some("kubernetes.io/dockercfg") => &[".dockercfg"],
        Some("kubernetes.io/ssh-auth") => &["ssh-privatekey"],
        _ => &[],
    };
    for key in needed {
        let there = ["data", "stringData"].iter().any(|map| secret.at(&[map, key]).is_some());
        if !there {
            let message = format!("a Secret of this type needs the key `{key}`");
            check.key("type", |check| {
                check.report(Code::MissingField, kind.span, message);
            });
        }
    }
}

/// An account without a role in the cloud.
pub(in crate::manifest) fn role(check: &mut Check<'_>, account: &Node<'_>) {
    let named = |key: &'static str| Some((key, account.at(&["metadata", "annotations", key])?));
    let found = check.options.clouds.keys(Annotation::Role).find_map(named);
    if let Some((key, node)) = found {
        let text = node.scalar().unwrap_or_default();
        check.key("metadata", |check| {
            check.key("annotations", |check| check.key(key, |check| named_role(check, node.span, text)));
        });
    }
    if found.is_none() {
        let span = account.at(&["metadata", "name"]).map_or(account.span, |name| name.span);
        check.key("metadata", |check| {
            let message = "no annotation names a role, so machines may do nothing in the cloud";
            let help = format!("name one in the annotation `{ROLE_ANNOTATION}` if they must");
            check.report(Code::Adapted, span, message).help(help);
        });
    }
}

/// A role must be one of the cloud that the set is for.
fn named_role(check: &mut Check<'_>, span: Span, text: &str) {
    check.supported(span, ROLE, ROLE);
    if let Some(form) = check.options.clouds.target.role.filter(|form| !(form.fits)(text)) {
        let message = format!("{}, got {}", form.rule, check.shown(text));
        check
            .report(Code::InvalidValue, span, message)
            .help(format!("write it in the annotation `{ROLE_ANNOTATION}`"));
    }
}

/// Parameters of disks that are not read.
pub(in crate::manifest) fn disk_parameters(check: &mut Check<'_>, class: &Node<'_>) {
    const READ: [&str; 3] = ["type", "iops", "throughput"];
    for entry in class.get("parameters").map_or(&[][..], Node::entries) {
        if !READ.contains(&entry.key.as_ref()) {
            let message = format!(
                "parameter `{}` has no meaning here: only type, iops and throughput of a disk are read",
                entry.key
            );
            check.key("parameters", |check| {
                check.key(&entry.key, |check| {
                    check.report(Code::NoMeaning, entry.key_span, message);
                });
            });
        }
    }
}

/// The bounds of a scaler, and what its metrics need.
pub(in crate::manifest) fn scaler_bounds(check: &mut Check<'_>, spec: &Node<'_>) {
    let read = |key: &str| {
        let node = spec.get(key)?;
        match resolve(node.scalar()?) {
            Resolved::Int(value) => Some((value, node.span)),
            _ => None,
        }
    };
    if let (Some((low, span)), Some((high, other))) = (read("minReplicas"), read("maxReplicas"))
        && low > high
    {
        let other = check.place(other);
        check.key("minReplicas", |check| {
            check
                .report(Code::Conflict, span, format!("minReplicas {low} is above maxReplicas {high}"))
                .also(other, "maxReplicas");
        });
    }
    check.each(spec, "metrics", |check, metric| {
        let (kind, field) = match metric.str("type") {
            Some("Resource") => ("Resource", "resource"),
            Some("ContainerResource") => ("ContainerResource", "containerResource"),
            _ => return,
        };
        let Some(resource) = metric.get(field) else {
            check.report(Code::MissingField, metric.span, format!("type `{kind}` needs `{field}`"));
            return;
        };
        if let Some(target) = resource.get("target") {
            let (kind, field) = match target.str("type") {
                Some("Utilization") => ("Utilization", "averageUtilization"),
                Some("AverageValue") => ("AverageValue", "averageValue"),
                _ => return,
            };
            if let Some(value) = target.get(field).filter(|value| value.scalar().is_some_and(is_zero)) {
                check.report(Code::InvalidValue, value.span, format!("`{field}` must be more than 0"));
            }
            if target.get(field).is_none() {
                check.report(Code::MissingField, target.span, format!("type `{kind}` needs `{field}`"));
            }
        }
    });
}

fn is_zero(text: &str) -> bool {
    cpu_millis(text) == Ok(0)
}
