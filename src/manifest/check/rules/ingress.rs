//! Rules about Ingresses.

use super::super::Check;
use super::service::{is_certificate, ranges};
use crate::manifest::code::Code;
use crate::manifest::tree::{Entry, Node};

/// What is in the annotations of ingress controllers, and of those that work beside them.
const VENDORS: [&str; 9] = [
    "ingress",
    "cert-manager.io/",
    "external-dns.alpha.kubernetes.io/",
    "nginx.org/",
    "haproxy.org/",
    "konghq.com/",
    "projectcontour.io/",
    "traefik.io/",
    "cloud.google.com/",
];

/// Whether an Ingress is reachable from outside.
pub(in crate::manifest) const INGRESS_SCHEME: &str = "alb.ingress.kubernetes.io/scheme";

/// Certificates of an Ingress.
pub(in crate::manifest) const INGRESS_CERTIFICATE: &str = "alb.ingress.kubernetes.io/certificate-arn";

/// Who may connect: the annotation of AWS' controller, and the one of nginx' in its old and its new spelling.
pub(in crate::manifest) const INGRESS_SOURCE_RANGES: [&str; 3] = [
    "alb.ingress.kubernetes.io/inbound-cidrs",
    "nginx.ingress.kubernetes.io/whitelist-source-range",
    "nginx.ingress.kubernetes.io/allowlist-source-range",
];

/// Beginnings of the names of annotations that keep requests out, whoever's they are. Plugins and middlewares may do
/// other things as well, which nobody sees from here.
const CLOSING: [&str; 14] = [
    "auth",
    "basic-auth",
    "jwt",
    "whitelist",
    "allowlist",
    "allow-list",
    "blacklist",
    "denylist",
    "deny-list",
    "security-groups",
    "waf",
    "policies",
    "plugins",
    "router.middlewares",
];

/// Annotations of ingress controllers.
pub(in crate::manifest) fn ingress_annotations(check: &mut Check<'_>, ingress: &Node<'_>) {
    let Some(annotations) = ingress.at(&["metadata", "annotations"]) else { return };
    let mut ranges = None;
    for entry in annotations.entries() {
        let key = entry.key.as_ref();
        if !VENDORS.iter().any(|vendor| key.contains(vendor)) {
            continue;
        }
        let is_ranges = INGRESS_SOURCE_RANGES.contains(&key);
        let other = if is_ranges { ranges.replace(entry) } else { None };
        let report = |check: &mut Check<'_>| annotation(check, entry, other);
        check.key("metadata", |check| check.key("annotations", |check| check.key(key, report)));
    }
}

/// One annotation; `other` is one before it that says who may connect.
fn annotation(check: &mut Check<'_>, entry: &Entry<'_>, other: Option<&Entry<'_>>) {
    let key = entry.key.as_ref();
    let value = entry.value.scalar().unwrap_or_default();
    if key == INGRESS_SCHEME {
        if !["internal", "internet-facing"].contains(&value) {
            let message = format!("must be `internal` or `internet-facing`, got {}", check.shown(value));
            check.report(Code::InvalidValue, entry.value.span, message);
        }
    } else if key == INGRESS_CERTIFICATE {
        for item in value.split(',').map(str::trim).filter(|item| !is_certificate(item)) {
            let message = format!("a certificate is named by its ARN, got {}", check.shown(item));
            check.report(Code::InvalidValue, entry.value.span, message);
        }
    } else if INGRESS_SOURCE_RANGES.contains(&key) {
        ranges(check, value, entry.value.span);
        if let Some(other) = other.filter(|other| other.value.scalar() != Some(value)) {
            let place = check.place(other.key_span);
            check
                .report(Code::Conflict, entry.key_span, "two annotations say differently who may connect")
                .also(place, "the other one")
                .help("keep one of them");
        }
    } else if key.ends_with("/rewrite-target") {
        check
            .report(
                Code::RefusedField,
                entry.key_span,
                format!("`{key}` is refused: balancers do not rewrite paths"),
            )
            .help("serve the path as it comes");
    } else if closes(key, value) {
        let message = format!("annotation `{key}` is not applied: the requests that it keeps out get in");
        check.report(Code::OpenAccess, entry.key_span, message).help(format!(
            "let the pods refuse them, or limit who connects with `{}` or `{INGRESS_SCHEME}: internal`",
            INGRESS_SOURCE_RANGES[0]
        ));
    } else {
        let message = format!("annotation `{key}` has no meaning here: it is for another ingress controller");
        check.report(Code::NoMeaning, entry.key_span, message);
    }
}

/// Whether the annotation keeps requests out.
fn closes(key: &str, value: &str) -> bool {
    let name = key.split_once('/').map_or(key, |(_, name)| name);
    let off = ["", "none", "off", "false"].iter().any(|off| value.eq_ignore_ascii_case(off));
    !off && CLOSING.iter().any(|closing| name.starts_with(closing))
}

/// An Ingress that leads nowhere.
pub(in crate::manifest) fn ingress_has_backend(check: &mut Check<'_>, spec: &Node<'_>) {
    if spec.get("rules").is_none_or(Node::is_empty) && spec.get("defaultBackend").is_none() {
        check.report(Code::MissingField, spec.span, "`rules` or `defaultBackend` is needed");
    }
}

/// Paths begin with a slash.
pub(in crate::manifest) fn ingress_path(check: &mut Check<'_>, path: &Node<'_>) {
    let Some(node) = path.get("path") else { return };
    let Some(text) = node.scalar() else { return };
    if !text.starts_with('/') {
        let message = format!("a path begins with `/`, got {}", check.shown(text));
        check.key("path", |check| {
            check.report(Code::InvalidValue, node.span, message);
        });
    }
}
