//! Rules about fields of a pod that no single field can break: volumes against mounts, ports and names that must differ,
//! and where a pod may run (selectors, affinity, tolerations), of which only zones mean something to machines.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::manifest::check::report::Check;
use crate::manifest::code::Code;
use crate::manifest::support::PLACEMENT;
use crate::manifest::tree::{Entry, Node};
use crate::manifest::words::nearest;

/// Annotations and labels by which injectors are asked for a sidecar.
const INJECTORS: [(&str, &str); 6] = [
    ("sidecar.istio.io/inject", "Istio"),
    ("linkerd.io/inject", "Linkerd"),
    ("dapr.io/enabled", "Dapr"),
    ("consul.hashicorp.com/connect-inject", "Consul"),
    ("vault.hashicorp.com/agent-inject", "Vault"),
    ("instrumentation.opentelemetry.io/inject-sdk", "OpenTelemetry"),
];

/// Sidecars that will be missing.
pub(in crate::manifest) fn injected_sidecars(check: &mut Check<'_>, meta: &Node<'_>) {
    for group in ["annotations", "labels"] {
        let Some(map) = meta.get(group) else { continue };
        check.key(group, |check| {
            for entry in map.entries() {
                let Some((_, injector)) = INJECTORS.iter().find(|(key, _)| *key == entry.key) else {
                    continue;
                };
                if matches!(entry.value.scalar(), Some("false" | "disabled" | "")) {
                    continue;
                }
                let message =
                    format!("{injector} would add a container to this pod; the sidecar will be missing");
                check.key(&entry.key, |check| {
                    check
                        .report(Code::MissingSidecar, entry.key_span, message)
                        .help("add the container to the pod, or remove the annotation");
                });
            }
        });
    }
}

/// Labels and annotations by which all pods of a namespace get a sidecar.
const NAMESPACE_INJECTORS: [(&str, &str); 4] = [
    ("istio-injection", "Istio"),
    ("istio.io/rev", "Istio"),
    ("linkerd.io/inject", "Linkerd"),
    ("consul.hashicorp.com/connect-inject", "Consul"),
];

/// Sidecars that will be missing in a whole namespace.
pub(in crate::manifest) fn injecting_namespace(check: &mut Check<'_>, namespace: &Node<'_>) {
    for group in ["annotations", "labels"] {
        for entry in namespace.at(&["metadata", group]).map_or(&[][..], Node::entries) {
            let found = NAMESPACE_INJECTORS.iter().find(|(key, _)| *key == entry.key);
            let is_off = matches!(entry.value.scalar(), Some("false" | "disabled" | ""));
            if let Some((key, injector)) = found.filter(|_| !is_off) {
                let message = format!(
                    "{injector} would add a container to each pod of this namespace; the sidecars will be missing"
                );
                check.below(&["metadata", group, key], |check| {
                    check
                        .report(Code::MissingSidecar, entry.key_span, message)
                        .help("add the container to the pods that need it, or remove this");
                });
            }
        }
    }
}

/// Names of containers are unique over both lists.
pub(in crate::manifest) fn unique_containers(check: &mut Check<'_>, spec: &Node<'_>) {
    let mut seen = HashMap::new();
    for list in ["initContainers", "containers"] {
        check.each(spec, list, |check, container| {
            let Some(name) = container.get("name") else { return };
            let Some(text) = name.scalar() else { return };
            if let Some(first) = seen.insert(text.to_owned(), name.span) {
                let other = check.place(first);
                let message = format!("two containers have the name {}", check.shown(text));
                check.key("name", |check| {
                    check.report(Code::RepeatedItem, name.span, message).also(other, "first given here");
                });
            }
        });
    }
}

/// Every mount has its volume, every volume its mount.
pub(in crate::manifest) fn mounts_exist(check: &mut Check<'_>, spec: &Node<'_>) {
    let items = spec.get("volumes").map_or(&[][..], Node::items);
    let mut known: BTreeSet<String> =
        items.iter().filter_map(|volume| volume.str("name")).map(str::to_owned).collect();
    known.extend(check.claim_templates.iter().cloned());
    let mut used = HashSet::new();
    for list in ["initContainers", "containers"] {
        check.each(spec, list, |check, container| {
            check.each(container, "volumeMounts", |check, mount| {
                let Some(name) = mount.get("name") else { return };
                let Some(text) = name.scalar() else { return };
                used.insert(text.to_owned());
                if !known.contains(text) {
                    let message = format!("no volume named {} in this pod", check.shown(text));
                    let words = if check.findings.is_full(check.file) { 0 } else { usize::MAX };
                    let help = nearest(text, known.iter().map(String::as_str).take(words)).map_or_else(
                        || "add it to `volumes`".to_owned(),
                        |near| format!("did you mean `{near}`?"),
                    );
                    check.key("name", |check| {
                        check.report(Code::UnknownVolume, name.span, message).help(help);
                    });
                }
            });
        });
    }
    check.each(spec, "volumes", |check, volume| {
        let Some(name) = volume.get("name") else { return };
        let Some(text) = name.scalar() else { return };
        if !used.contains(text) {
            let message = format!("no container mounts volume {}", check.shown(text));
            check.report(Code::UnusedVolume, name.span, message);
        }
    });
}

/// The old and the new name of one field; the new one wins, as in Kubernetes.
pub(in crate::manifest) fn same_service_account(check: &mut Check<'_>, spec: &Node<'_>) {
    let (Some(new), Some(old)) = (spec.get("serviceAccountName"), spec.get("serviceAccount")) else { return };
    if new.scalar() != old.scalar() {
        let other = check.place(new.span);
        check.key("serviceAccount", |check| {
            check
                .report(
                    Code::NoMeaning,
                    old.span,
                    "`serviceAccount` has no meaning beside `serviceAccountName`",
                )
                .also(other, "this one holds")
                .help("remove `serviceAccount`");
        });
    }
}

/// What a label of nodes means for machines.
enum NodeLabel {
    System,
    Architecture,
    /// Zone, type of machine.
    Placement,
    Region,
    /// The name of a node.
    Host,
    Other,
}

/// Labels of nodes that name a zone.
pub(in crate::manifest) const ZONE_LABELS: [&str; 2] =
    ["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"];

/// Labels of nodes that name a type of machine.
pub(in crate::manifest) const MACHINE_TYPE_LABELS: [&str; 2] =
    ["node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type"];

/// The annotation of a pod template by which its machines, or a share of them, may be Spot instances.
pub(in crate::manifest) const SPOT: &str = "i2kit.dev/spot";

/// The annotation of a pod template with the number of machines that are no Spot instances in any case.
pub(in crate::manifest) const ON_DEMAND_BASE: &str = "i2kit.dev/on-demand-base";

/// The annotation of a pod template with types of machines, the preferred one first.
pub(in crate::manifest) const MACHINE_TYPES: &str = "i2kit.dev/instance-types";

/// The annotation of a pod template that says which snapshots its machines may start from.
pub(in crate::manifest) const SNAPSHOT: &str = "i2kit.dev/snapshot";

/// Its value for none: each machine boots.
pub(in crate::manifest) const NEVER: &str = "never";

/// Its other value, and what holds without it: from one of a machine whose containers were not started yet.
const BEFORE_CONTAINERS: &str = "before-containers";

/// The most types of machine that a group has: no cloud takes more.
const MOST_TYPES: usize = 40;

/// How many of a hundred machines may be Spot instances: `true` is all, `25%` a quarter.
pub(in crate::manifest) fn spot_percent(text: &str) -> Option<u8> {
    match text {
        "true" => Some(100),
        "false" => Some(0),
        _ => text.strip_suffix('%')?.parse().ok().filter(|percent| *percent <= 100),
    }
}

/// The types in the annotation's text.
pub(in crate::manifest) fn machine_types(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty())
}

/// Annotations of our own on a pod template.
pub(in crate::manifest) fn spot(check: &mut Check<'_>, template: &Node<'_>) {
    annotation(check, template, SPOT, |text| match spot_percent(text) {
        Some(0) => Ok(None),
        Some(_) => Ok(Some("Spot")),
        None => Err("must be `true`, `false` or a percentage"),
    });
    annotation(check, template, ON_DEMAND_BASE, |text| match text.parse::<u16>() {
        Ok(_) => Ok(Some("a number of machines on demand")),
        Err(_) => Err("must be a number of machines"),
    });
    annotation(check, template, SNAPSHOT, |text| match text {
        NEVER | BEFORE_CONTAINERS => Ok(None),
        _ => Err("must be `never` or `before-containers`"),
    });
    annotation(check, template, MACHINE_TYPES, |text| {
        let is_type = |name: &str| {
            let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            name.split_once('.').is_some_and(|(family, size)| {
                !family.is_empty() && !size.is_empty() && (family.chars().chain(size.chars())).all(known)
            })
        };
        let count = machine_types(text).count();
        if (1..=MOST_TYPES).contains(&count) && machine_types(text).all(is_type) {
            Ok(Some("types of instances"))
        } else {
            Err("must be 1 to 40 types of instances, such as `m6a.large, m6i.large`")
        }
    });
}

/// Reports what is wrong with an annotation of a pod template; `judge` gives what it asks for, or what it must be.
fn annotation(
    check: &mut Check<'_>,
    template: &Node<'_>,
    key: &'static str,
    judge: impl Fn(&str) -> Result<Option<&'static str>, &'static str>,
) {
    let Some(node) = template.at(&["metadata", "annotations", key]) else { return };
    let text = node.scalar().unwrap_or_default();
    let report = |check: &mut Check<'_>| match judge(text) {
        Ok(Some(what)) => check.supported(node.span, what, PLACEMENT),
        Ok(None) => {}
        Err(must) => {
            let message = format!("{must}, got {}", check.shown(text));
            check.report(Code::InvalidValue, node.span, message);
        }
    };
    check.key("metadata", |check| check.key("annotations", |check| check.key(key, report)));
}

fn node_label(key: &str) -> NodeLabel {
    match key {
        "kubernetes.io/os" | "beta.kubernetes.io/os" => NodeLabel::System,
        "kubernetes.io/arch" | "beta.kubernetes.io/arch" => NodeLabel::Architecture,
        "topology.kubernetes.io/region" | "failure-domain.beta.kubernetes.io/region" => NodeLabel::Region,
        "kubernetes.io/hostname" => NodeLabel::Host,
        _ if ZONE_LABELS.contains(&key) || MACHINE_TYPE_LABELS.contains(&key) => NodeLabel::Placement,
        _ => NodeLabel::Other,
    }
}

/// The label of a region: an environment lies in one, which will do or not.
fn region(
    check: &mut Check<'_>,
    span: crate::manifest::tree::Span,
    label: &str,
    will_do: impl Fn(&str) -> bool,
) {
    match check.options.region.clone() {
        Some(region) if !will_do(&region) => {
            let message =
                format!("the environment lies in {region}, and label `{label}` wants another region");
            check.report(Code::RefusedValue, span, message).help("use the environment of that region");
        }
        Some(_) => {}
        None => check.supported(span, format_args!("label `{label}`"), PLACEMENT),
    }
}

fn host_label(check: &mut Check<'_>, entry_span: crate::manifest::tree::Span, key: &str) {
    let message = format!("label `{key}` chooses a node by its name, and a machine is made for each pod");
    check.report(Code::RefusedValue, entry_span, message).help("remove it");
}

fn other_label(check: &mut Check<'_>, entry_span: crate::manifest::tree::Span, key: &str) {
    let message = format!("label `{key}` of nodes means nothing for machines");
    check.report(Code::RefusedValue, entry_span, message).help(
        "use kubernetes.io/arch, topology.kubernetes.io/zone or node.kubernetes.io/instance-type, or remove it",
    );
}

/// `nodeSelector`: labels that choose the machine.
pub(in crate::manifest) fn node_selector(check: &mut Check<'_>, spec: &Node<'_>) {
    let Some(selector) = spec.get("nodeSelector") else { return };
    check.key("nodeSelector", |check| {
        for Entry { key, key_span, value, .. } in selector.entries() {
            let text = value.scalar().unwrap_or_default();
            check.key(key, |check| match node_label(key) {
                NodeLabel::System if text != "linux" => {
                    let message = format!("machines run Linux, not {}", check.shown(text));
                    check.report(Code::RefusedValue, value.span, message).help("remove it");
                }
                NodeLabel::System => {}
                NodeLabel::Architecture if text == "amd64" => {}
                NodeLabel::Placement => {
                    check.supported(*key_span, format_args!("label `{key}`"), PLACEMENT);
                }
                NodeLabel::Region => region(check, *key_span, key, |region| region == text),
                NodeLabel::Host => host_label(check, *key_span, key),
                NodeLabel::Architecture => check.not_yet(*key_span, format_args!("label `{key}`")),
                NodeLabel::Other => other_label(check, *key_span, key),
            });
        }
    });
}

/// One condition of `nodeAffinity`.
pub(in crate::manifest) fn node_condition(check: &mut Check<'_>, condition: &Node<'_>) {
    let Some(key) = condition.get("key") else { return };
    let Some(text) = key.scalar() else { return };
    let values: Vec<&str> = condition
        .get("values")
        .map(|values| values.items().iter().filter_map(Node::scalar).collect())
        .unwrap_or_default();
    let operator = condition.str("operator").unwrap_or_default();
    // Of a label that every machine has, with this value.
    let holds = |value: &str| match operator {
        "In" => values.contains(&value),
        "NotIn" => !values.contains(&value),
        other => other == "Exists",
    };
    check.key("key", |check| match (node_label(text), operator) {
        (NodeLabel::System, _) if holds("linux") => {}
        (NodeLabel::System, _) => {
            check.report(Code::RefusedValue, key.span, "machines run Linux").help("remove the condition");
        }
        (NodeLabel::Architecture, _) if holds("amd64") => {}
        // Each machine lies somewhere, is of some type and has a name; it is none of the nodes that are there, and has no
        // other labels.
        (NodeLabel::Placement | NodeLabel::Region | NodeLabel::Host, "Exists")
        | (NodeLabel::Host | NodeLabel::Other, "NotIn")
        | (NodeLabel::Other, "DoesNotExist") => {}
        (NodeLabel::Placement, "In") => check.supported(key.span, format_args!("label `{text}`"), PLACEMENT),
        (NodeLabel::Region, "In" | "NotIn") => region(check, key.span, text, holds),
        (NodeLabel::Host, "In") => host_label(check, key.span, text),
        (NodeLabel::Other, _) => other_label(check, key.span, text),
        (_, "DoesNotExist") => {
            let message = format!("every machine has label `{text}`");
            check.report(Code::RefusedValue, key.span, message).help("remove the condition");
        }
        _ => check.not_yet(key.span, format_args!("label `{text}`")),
    });
}

/// Several alternatives would need a group each.
pub(in crate::manifest) fn one_term(check: &mut Check<'_>, terms: &Node<'_>) {
    let Some(list) = terms.get("nodeSelectorTerms") else { return };
    if let [_, second, ..] = list.items() {
        check.key("nodeSelectorTerms", |check| {
            check
                .report(
                    Code::RefusedValue,
                    second.span,
                    "a group of machines has one kind of machine, so one term",
                )
                .help("put the alternatives into `values` of one condition");
        });
    }
}

fn is_zone(key: &str) -> bool {
    matches!(
        key,
        "topology.kubernetes.io/zone"
            | "failure-domain.beta.kubernetes.io/zone"
            | "topology.kubernetes.io/region"
    )
}

/// What `podAntiAffinity` may be about.
pub(in crate::manifest) fn pod_term(check: &mut Check<'_>, term: &Node<'_>) {
    let Some(key) = term.get("topologyKey") else { return };
    let text = key.scalar().unwrap_or_default();
    if text != "kubernetes.io/hostname" && !is_zone(text) {
        check.key("topologyKey", |check| {
            let message = format!("{} means nothing for machines", check.shown(text));
            check
                .report(Code::RefusedValue, key.span, message)
                .help("use kubernetes.io/hostname or topology.kubernetes.io/zone");
        });
    }
}

/// The same as a preference, which may be left out.
pub(in crate::manifest) fn preferred_term(check: &mut Check<'_>, term: &Node<'_>) {
    let Some(key) = term.get("topologyKey") else { return };
    let text = key.scalar().unwrap_or_default();
    if text != "kubernetes.io/hostname" && !is_zone(text) {
        check.key("topologyKey", |check| {
            let message =
                format!("the preference has no meaning here: machines know no {}", check.shown(text));
            check.report(Code::NoMeaning, key.span, message);
        });
    }
}

/// What `topologySpreadConstraints` may be about.
pub(in crate::manifest) fn spread_key(check: &mut Check<'_>, constraint: &Node<'_>) {
    let Some(key) = constraint.get("topologyKey") else { return };
    let text = key.scalar().unwrap_or_default();
    if text != "kubernetes.io/hostname" && !is_zone(text) {
        check.key("topologyKey", |check| {
            let message =
                format!("{} has no meaning here: machines are spread over zones only", check.shown(text));
            check.report(Code::NoMeaning, key.span, message);
        });
    }
}

/// `values` where the operator needs them, and only there.
pub(in crate::manifest) fn expression_values(check: &mut Check<'_>, expression: &Node<'_>) {
    let Some(operator) = expression.get("operator") else { return };
    let values = expression.get("values").map_or(0, |values| values.items().len());
    let text = operator.scalar().unwrap_or_default();
    match text {
        "In" | "NotIn" if values == 0 => {
            check.report(Code::MissingField, operator.span, format!("`{text}` needs `values`"));
        }
        "Exists" | "DoesNotExist" if values > 0 => {
            check.report(Code::Exclusive, operator.span, format!("`{text}` takes no `values`"));
        }
        _ => {}
    }
}

/// Kernel parameters that a pod may set: those of its network, its shared memory, its virtual memory and its files.
/// The others, such as `kernel.core_pattern`, can make the kernel run programs outside of containers.
const SYSCTLS: [&str; 7] = ["net.", "vm.", "fs.", "kernel.shm", "kernel.msg", "kernel.sem", "kernel.pid_max"];

/// Which kernel parameters may be set.
pub(in crate::manifest) fn sysctl(check: &mut Check<'_>, sysctl: &Node<'_>) {
    let Some(name) = sysctl.get("name") else { return };
    let text = name.scalar().unwrap_or_default();
    let dotted = text.replace('/', ".");
    check.key("name", |check| {
        let parts = dotted.split('.').all(|part| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        });
        if !parts {
            let message = format!("{} is no name of a kernel parameter", check.shown(text));
            check.report(Code::InvalidValue, name.span, message);
        } else if !SYSCTLS.iter().any(|known| dotted.starts_with(known)) {
            let message = format!("the kernel parameter {} reaches past the containers", check.shown(text));
            check.report(Code::RefusedValue, name.span, message).help(
                "net.*, vm.*, fs.*, kernel.shm*, kernel.msg*, kernel.sem and kernel.pid_max can be set",
            );
        }
    });
}
