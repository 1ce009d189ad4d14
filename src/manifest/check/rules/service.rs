//! Rules about Services and the short form.

use std::collections::HashMap;

use crate::manifest::check::report::Check;
use crate::manifest::check::text::{is_cidr, overlap, port_mapping};
use crate::manifest::code::Code;
use crate::manifest::support::{Annotation, HEADLESS, TLS};
use crate::manifest::tree::{Entry, Node, Span};

/// What each type of Service needs.
pub(in crate::manifest) fn service(check: &mut Check<'_>, spec: &Node<'_>) {
    cluster_ip(check, spec);
    families(check, spec);
    if let Some(ranges) = spec.entry("loadBalancerSourceRanges") {
        let items = ranges.value.items().iter().filter_map(Node::scalar);
        check.key("loadBalancerSourceRanges", |check| admits_somebody(check, items, ranges.key_span));
    }
    if spec.str("type") == Some("ExternalName") {
        if spec.get("externalName").is_none() {
            check.report(Code::MissingField, spec.span, "type `ExternalName` needs `externalName`");
        }
        return;
    }
    if let Some(name) = spec.entry("externalName") {
        check.key("externalName", |check| {
            check
                .report(Code::Conflict, name.key_span, "`externalName` is for type `ExternalName`")
                .help("write `type: ExternalName`, or remove it");
        });
    }
    if spec.get("selector").is_none_or(Node::is_empty) {
        let span = spec.entry("selector").map_or(spec.span, |entry| entry.key_span);
        check.key("selector", |check| {
            check
                .report(
                    Code::RefusedValue,
                    span,
                    "a Service without a selector needs Endpoints written by hand",
                )
                .help("give it the labels of a pod template, or write type ExternalName");
        });
    }
    if let Some(labels) = spec.at(&["selector", "matchLabels"]) {
        check.key("selector", |check| {
            check
                .report(Code::WrongType, labels.span, "the selector of a Service is a plain map of labels")
                .help("write the labels right below `selector`, without `matchLabels`");
        });
    }
    let headless = spec.str("clusterIP") == Some("None");
    let ports = spec.get("ports");
    if ports.is_none_or(Node::is_empty) && !headless {
        check.key("ports", |check| {
            check.report(Code::MissingField, spec.span, "a Service needs at least one port");
        });
    }
    let Some(ports) = ports else { return };
    check.key("ports", |check| {
        check.unique(ports, "name", "name");
        let mut seen = HashMap::new();
        for (i, port) in ports.items().iter().enumerate() {
            check.index(i, |check| {
                if ports.items().len() > 1 && port.get("name").is_none() {
                    check.key("name", |check| {
                        check.report(
                            Code::MissingField,
                            port.span,
                            "a Service with several ports must name each",
                        );
                    });
                }
                let Some(number) = port.get("port") else { return };
                let key = (number.scalar().unwrap_or_default(), port.str("protocol").unwrap_or("TCP"));
                if let Some(first) = seen.insert(key, number.span) {
                    let other = check.place(first);
                    let message = format!("port {}/{} is listed twice", key.0, key.1);
                    check.report(Code::RepeatedItem, number.span, message).also(other, "first listed here");
                }
            });
        }
    });
}

/// Two families are for a policy of both. Source: Kubernetes' validation of Services.
fn families(check: &mut Check<'_>, spec: &Node<'_>) {
    let Some(families) = spec.get("ipFamilies") else { return };
    check.key("ipFamilies", |check| {
        if let [first, second, ..] = families.items()
            && first.scalar().is_some()
            && first.scalar() == second.scalar()
        {
            let other = check.place(first.span);
            check.index(1, |check| {
                check
                    .report(Code::RepeatedItem, second.span, "a family is listed twice")
                    .also(other, "first listed here");
            });
        }
        if families.items().len() > 1 && spec.str("ipFamilyPolicy") == Some("SingleStack") {
            check
                .report(Code::Conflict, families.span, "two families are for `ipFamilyPolicy` of both")
                .help("write PreferDualStack or RequireDualStack, or one family");
        }
    });
}

/// Annotations about TLS that ends at the balancer.
const TLS_ANNOTATIONS: [Annotation; 4] =
    [Annotation::Certificates, Annotation::TlsPorts, Annotation::TlsPolicy, Annotation::BackendProtocol];

/// The field that replaced an older annotation.
const SOURCE_RANGES: &str = "ServiceSpec.loadBalancerSourceRanges";

/// Annotations of the clouds' own controllers for balancers.
pub(in crate::manifest) fn service_annotations(check: &mut Check<'_>, service: &Node<'_>) {
    let is_public = service.at(&["spec", "type"]).and_then(Node::scalar) == Some("LoadBalancer");
    for entry in service.at(&["metadata", "annotations"]).map_or(&[][..], Node::entries) {
        let key = entry.key.as_ref();
        let value = entry.value.scalar().unwrap_or_default();
        let clouds = check.options.clouds;
        let meaning = clouds.meaning(key);
        let report = |check: &mut Check<'_>| {
            if clouds.is_internal(key, value) {
                if is_public {
                    let message = "the balancer is reachable inside the environment only";
                    check.report(Code::Adapted, entry.key_span, message);
                }
            } else if let Some(meaning) = meaning.filter(|meaning| TLS_ANNOTATIONS.contains(meaning)) {
                tls(check, service, (meaning, value), entry);
            } else if meaning == Some(Annotation::SourceRanges) {
                ranges(check, value, entry.value.span);
                check.supported(entry.key_span, "a limit on who may connect", SOURCE_RANGES);
                if service.at(&["spec", "loadBalancerSourceRanges"]).is_none_or(Node::is_empty) {
                    admits_somebody(check, items(value), entry.key_span);
                }
            } else if meaning == Some(Annotation::Closing) {
                let message =
                    format!("annotation `{key}` is not applied: clients that it keeps out can connect");
                check
                    .report(Code::OpenAccess, entry.key_span, message)
                    .help("write `loadBalancerSourceRanges`, which limits who can connect");
            } else if key.starts_with("service.beta.kubernetes.io/") {
                let message = format!(
                    "annotation `{key}` has no meaning here: it is for another controller of balancers"
                );
                check.report(Code::NoMeaning, entry.key_span, message);
            }
        };
        check.key("metadata", |check| check.key("annotations", |check| check.key(key, report)));
    }
}

/// TLS that ends at the balancer: a certificate, and ports that there are.
fn tls(check: &mut Check<'_>, service: &Node<'_>, (meaning, value): (Annotation, &str), entry: &Entry<'_>) {
    let span = entry.value.span;
    let clouds = check.options.clouds;
    let mut keys = clouds.keys(Annotation::Certificates);
    let has_certificate = keys.any(|key| service.at(&["metadata", "annotations", key]).is_some());
    if meaning == Annotation::Certificates || meaning == Annotation::TlsPorts && !has_certificate {
        check.supported(entry.key_span, TLS, TLS);
    }
    match meaning {
        Annotation::Certificates => certificates(check, items(value), span),
        Annotation::TlsPorts => {
            let ports = service.at(&["spec", "ports"]).map_or(&[][..], Node::items);
            let is_there = |item: &str| {
                ports.iter().any(|port| [port.str("port"), port.str("name")].contains(&Some(item)))
            };
            for item in items(value).filter(|item| *item != "*" && !is_there(item)) {
                let message = format!("the Service has no port {}", check.shown(item));
                check.report(Code::InvalidValue, span, message).help("name its ports, or all with `*`");
            }
            if !has_certificate {
                certificate(check, entry.key_span);
            }
        }
        Annotation::BackendProtocol if !["ssl", "https", "tcp", "http"].contains(&value) => {
            let message = format!("must be `ssl`, `https`, `tcp` or `http`, got {}", check.shown(value));
            check.report(Code::InvalidValue, span, message);
        }
        _ => {}
    }
}

pub(super) fn items(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Certificates are named as the cloud names them.
pub(super) fn certificates<'v>(check: &mut Check<'_>, names: impl Iterator<Item = &'v str>, span: Span) {
    let Some(form) = check.options.clouds.certificate_form() else { return };
    for item in names.filter(|name| !(form.fits)(name)) {
        let message = format!("{}, got {}", form.rule, check.shown(item));
        check.report(Code::InvalidValue, span, message);
    }
}

/// A balancer that ends TLS needs a certificate, named here or in the environment file.
fn certificate(check: &mut Check<'_>, span: Span) {
    let clouds = check.options.clouds;
    if clouds.target.certificate.is_some() && check.options.certificate.is_none() {
        let key = clouds.keys(Annotation::Certificates).next();
        let annotation = key.map_or_else(String::new, |key| format!("in the annotation `{key}`, or "));
        check
            .report(Code::MissingField, span, "TLS that ends at the balancer needs a certificate")
            .help(format!("name one {annotation}in the environment file as `provider.certificate`"));
    }
}

/// Ranges of addresses, separated by commas.
pub(super) fn ranges(check: &mut Check<'_>, value: &str, span: Span) {
    for item in value.split(',').map(str::trim).filter(|item| !item.is_empty() && !is_cidr(item)) {
        let message = format!("must be a range of addresses such as 192.0.2.0/24, got {}", check.shown(item));
        check.report(Code::InvalidValue, span, message);
    }
}

/// Where all clients are of one computer, ranges without an address of it keep everybody out.
pub(super) fn admits_somebody<'v>(check: &mut Check<'_>, ranges: impl Iterator<Item = &'v str>, span: Span) {
    let target = check.options.clouds.target;
    let Some(clients) = target.clients.filter(|_| !check.options.language_only) else { return };
    let ranges: Vec<&str> = ranges.collect();
    let closes = |range: &&str| is_cidr(range) && !overlap(range, clients);
    if ranges.is_empty() || !ranges.iter().all(closes) {
        return;
    }
    let message = format!(
        "on {} these ranges admit nobody: its balancers are reached from this computer alone, by addresses of {clients}",
        target.name
    );
    check.report(Code::Adapted, span, message).help(format!("add {clients} to try it here"));
}

/// `clusterIP`: headless, or an address that the cloud chooses.
fn cluster_ip(check: &mut Check<'_>, spec: &Node<'_>) {
    let Some(entry) = spec.entry("clusterIP") else { return };
    check.key("clusterIP", |check| match entry.value.scalar() {
        Some("None") => check.supported(entry.key_span, "a headless Service (`clusterIP: None`)", HEADLESS),
        None | Some("") => {}
        Some(_) => {
            check.report(
                Code::NoMeaning,
                entry.key_span,
                "`clusterIP` has no meaning here: the cloud chooses the address",
            );
        }
    });
}

/// The short form: at least one container, and no listener twice.
pub(in crate::manifest) fn short_form(check: &mut Check<'_>, root: &Node<'_>) {
    let Some(containers) = root.entry("containers") else { return };
    if containers.value.is_empty() {
        check.report(Code::MissingField, containers.key_span, "at least one container is needed");
    }
    let mut seen = HashMap::new();
    for container in containers.value.entries() {
        check.key("containers", |check| {
            check.key(&container.key, |check| {
                check.each(&container.value, "ports", |check, port| {
                    let Some(Ok(mapping)) = port.scalar().map(port_mapping) else { return };
                    if mapping.terminates_tls {
                        check.supported(port.span, TLS, TLS);
                        certificate(check, port.span);
                    }
                    if let Some(first) = seen.insert(mapping.listener, port.span) {
                        let other = check.place(first);
                        let message = format!("the balancer listens on port {} twice", mapping.listener);
                        check.report(Code::RepeatedItem, port.span, message).also(other, "first given here");
                    }
                });
            });
        });
    }
}
