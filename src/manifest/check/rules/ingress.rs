//! Rules about Ingresses.

use super::service::{admits_somebody, certificates, items, ranges};
use crate::manifest::check::report::Check;
use crate::manifest::code::Code;
use crate::manifest::support::{ACME, Annotation, Answer, INGRESS_RANGES};
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
        let meaning = check.options.clouds.meaning(key);
        if !VENDORS.iter().any(|vendor| key.contains(vendor)) && meaning != Some(Annotation::IngressAcme) {
            continue;
        }
        let is_ranges = meaning == Some(Annotation::IngressSourceRanges);
        let other = if is_ranges { ranges.replace(entry) } else { None };
        let report = |check: &mut Check<'_>| annotation(check, entry, other);
        check.key("metadata", |check| check.key("annotations", |check| check.key(key, report)));
    }
}

/// One annotation; `other` is one before it that limits who may connect.
fn annotation(check: &mut Check<'_>, entry: &Entry<'_>, other: Option<&Entry<'_>>) {
    let key = entry.key.as_ref();
    let value = entry.value.scalar().unwrap_or_default();
    let clouds = check.options.clouds;
    let meaning = clouds.meaning(key);
    if meaning == Some(Annotation::IngressScheme) {
        if !["internal", "internet-facing"].contains(&value) {
            let message = format!("must be `internal` or `internet-facing`, got {}", check.shown(value));
            check.report(Code::InvalidValue, entry.value.span, message);
        }
    } else if meaning == Some(Annotation::IngressCertificates) {
        certificates(check, value.split(',').map(str::trim), entry.value.span);
    } else if meaning == Some(Annotation::IngressSourceRanges) {
        ranges(check, value, entry.value.span);
        check.supported(entry.key_span, "a limit on who may connect", INGRESS_RANGES);
        admits_somebody(check, items(value), entry.key_span);
        if let Some(other) = other.filter(|other| other.value.scalar() != Some(value)) {
            let place = check.place(other.key_span);
            check
                .report(
                    Code::Conflict,
                    entry.key_span,
                    "two annotations name different clients that may connect",
                )
                .also(place, "the other one")
                .help("keep one of them");
        }
    } else if matches!(meaning, Some(Annotation::IngressRedirect | Annotation::IngressForcedRedirect)) {
        if !["true", "false"].contains(&value) {
            let message = format!("must be `true` or `false`, got {}", check.shown(value));
            check.report(Code::InvalidValue, entry.value.span, message);
        }
    } else if meaning == Some(Annotation::IngressBackendProtocol) {
        if !["HTTP", "GRPC"].contains(&value) {
            let message = format!("must be `HTTP` or `GRPC`, got {}", check.shown(value));
            check
                .report(Code::InvalidValue, entry.value.span, message)
                .help("balancers of Ingresses speak HTTP/1.1 to pods, or HTTP/2 without TLS");
        }
    } else if matches!(meaning, Some(Annotation::IngressAcme | Annotation::IngressIssuer)) {
        acme(check, entry, meaning == Some(Annotation::IngressAcme));
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
        let ranges = clouds.keys(Annotation::IngressSourceRanges).next().map(|key| format!("`{key}`"));
        let scheme = clouds.keys(Annotation::IngressScheme).next().map(|key| format!("`{key}: internal`"));
        let ways: Vec<String> = ranges.into_iter().chain(scheme).collect();
        check
            .report(Code::OpenAccess, entry.key_span, message)
            .help(format!("let the pods refuse them, or limit who connects with {}", ways.join(" or ")));
    } else {
        let message = format!("annotation `{key}` has no meaning here: it is for another ingress controller");
        check.report(Code::NoMeaning, entry.key_span, message);
    }
}

/// An annotation that asks for certificates by ACME; `is_switch` where its value turns that on or off.
fn acme(check: &mut Check<'_>, entry: &Entry<'_>, is_switch: bool) {
    let value = entry.value.scalar().unwrap_or_default();
    if is_switch && !["true", "false"].contains(&value) {
        let message = format!("must be `true` or `false`, got {}", check.shown(value));
        check.report(Code::InvalidValue, entry.value.span, message);
    } else if check.options.acme.is_none() && !(is_switch && value == "false") {
        let key = entry.key.as_ref();
        let message =
            format!("annotation `{key}` has no effect: the environment names no CA that is asked by ACME");
        let help = if check.options.clouds.target.answer(ACME) == Answer::Yes {
            "name one as `provider.acme` in the environment file"
        } else {
            "certificates come from the cloud here"
        };
        check.report(Code::NoMeaning, entry.key_span, message).help(help);
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

/// Paths begin with a slash, and are such as a request has: clients resolve dots before they ask.
pub(in crate::manifest) fn ingress_path(check: &mut Check<'_>, path: &Node<'_>) {
    let Some(node) = path.get("path") else { return };
    let Some(text) = node.scalar() else { return };
    let reason = if !text.starts_with('/') {
        "a path begins with `/`"
    } else if has_dots(text) {
        "no request has a path with `.` or `..`: clients resolve them"
    } else if !is_encoded(text) {
        "in a path, two hexadecimal digits follow `%`"
    } else {
        return;
    };
    let message = format!("{reason}, got {}", check.shown(text));
    check.key("path", |check| {
        check.report(Code::InvalidValue, node.span, message);
    });
}

/// Whether an element of the path is `.` or `..`, in any encoding (RFC 3986, 6.2.2.2).
fn has_dots(path: &str) -> bool {
    let path = path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
    let mut elements = path.split(['/', '\\']);
    elements.any(|element| [".", ".."].contains(&element.split(';').next().unwrap_or_default()))
}

/// Whether each `%` is followed by two hexadecimal digits (RFC 3986, 2.1).
fn is_encoded(path: &str) -> bool {
    let is_octet =
        |rest: &str| rest.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    path.split('%').skip(1).all(is_octet)
}
