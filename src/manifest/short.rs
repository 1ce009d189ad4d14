//! The short form, turned into a Deployment and a Service before anything else sees it.

use super::check::{MACHINE_TYPE_LABELS, PortMapping, port_mapping};
use super::language::{KINDS, Kind};
use super::support::TLS_PORTS;
use super::tree::{Entry, Node, Span, Value};

/// The long form of a short form that was checked. Every node keeps the place that it comes from.
pub(super) fn expand<'a>(root: &Node<'a>) -> Vec<(&'static Kind, Node<'a>)> {
    let span = root.span;
    let name = root.get("name").cloned().unwrap_or_else(|| Node::text("", span));
    let listeners = listeners(root);
    let mut objects = vec![("apps/v1", "Deployment", deployment(root, &name))];
    if !listeners.is_empty() {
        objects.push(("v1", "Service", service(root, &name, &listeners)));
    }
    objects.into_iter().filter_map(|(version, kind, node)| Some((find(version, kind)?, node))).collect()
}

fn find(version: &str, name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.api_version == version && kind.name == name)
}

fn labels<'a>(name: &Node<'a>) -> Node<'a> {
    Node::map([("app", name.clone())], name.span)
}

fn meta<'a>(name: &Node<'a>) -> Vec<(&'static str, Node<'a>)> {
    vec![("name", name.clone()), ("labels", labels(name))]
}

fn head<'a>(version: &'static str, kind: &'static str, metadata: Node<'a>, spec: Node<'a>) -> Node<'a> {
    let span = spec.span;
    Node::map(
        [
            ("apiVersion", Node::text(version, span)),
            ("kind", Node::text(kind, span)),
            ("metadata", metadata),
            ("spec", spec),
        ],
        span,
    )
}

fn deployment<'a>(root: &Node<'a>, name: &Node<'a>) -> Node<'a> {
    let span = root.span;
    let containers = root.get("containers").map_or(&[][..], Node::entries);
    let list = Node { span, value: Value::List(containers.iter().map(container).collect()) };
    let mut pod = vec![("containers", list)];
    if let Some(machine) = root.get("instance_type") {
        pod.push(("nodeSelector", Node::map([(MACHINE_TYPE_LABELS[0], machine.clone())], machine.span)));
    }
    let template = Node::map(
        [("metadata", Node::map([("labels", labels(name))], span)), ("spec", Node::map(pod, span))],
        span,
    );
    let mut spec = Vec::new();
    if let Some(replicas) = root.get("replicas") {
        spec.push(("replicas", replicas.clone()));
    }
    spec.push(("selector", Node::map([("matchLabels", labels(name))], span)));
    spec.push(("template", template));
    head("apps/v1", "Deployment", Node::map(meta(name), name.span), Node::map(spec, span))
}

fn container<'a>(entry: &Entry<'a>) -> Node<'a> {
    let (name, given) = (Node::text(entry.key.clone(), entry.key_span), &entry.value);
    let mut fields = vec![("name", name)];
    for key in ["image", "command"] {
        if let Some(node) = given.get(key) {
            fields.push((key, node.clone()));
        }
    }
    if let Some(environment) = given.get("environment") {
        let variables = environment.items().iter().filter_map(variable).collect();
        fields.push(("env", Node { span: environment.span, value: Value::List(variables) }));
    }
    if let Some(ports) = given.get("ports") {
        // Several listeners may lead to one port of the container.
        let mut known = Vec::new();
        let mut list = Vec::new();
        for port in ports.items() {
            let Some(Ok(mapping)) = port.scalar().map(port_mapping) else { continue };
            if !known.contains(&mapping.container) {
                known.push(mapping.container);
                let number = Node::plain(mapping.container.to_string(), port.span);
                list.push(Node::map([("containerPort", number)], port.span));
            }
        }
        fields.push(("ports", Node { span: given.span, value: Value::List(list) }));
    }
    Node::map(fields, given.span)
}

fn variable<'a>(node: &Node<'a>) -> Option<Node<'a>> {
    let (name, value) = node.scalar()?.split_once('=')?;
    let fields = [
        ("name", Node::text(name.to_owned(), node.span)),
        ("value", Node::text(value.to_owned(), node.span)),
    ];
    Some(Node::map(fields, node.span))
}

/// Every port of every container, with its place.
fn listeners(root: &Node<'_>) -> Vec<(PortMapping, Span)> {
    root.get("containers")
        .map_or(&[][..], Node::entries)
        .iter()
        .flat_map(|container| container.value.get("ports").map_or(&[][..], Node::items))
        .filter_map(|port| Some((port_mapping(port.scalar()?).ok()?, port.span)))
        .collect()
}

fn service<'a>(root: &Node<'a>, name: &Node<'a>, listeners: &[(PortMapping, Span)]) -> Node<'a> {
    let span = root.span;
    let kind = if root.str("public").is_some_and(|public| public.eq_ignore_ascii_case("true")) {
        "LoadBalancer"
    } else {
        "ClusterIP"
    };
    let ports = listeners.iter().map(|&(mapping, span)| {
        Node::map(
            [
                ("name", Node::text(format!("port-{}", mapping.listener), span)),
                ("port", Node::plain(mapping.listener.to_string(), span)),
                ("targetPort", Node::plain(mapping.container.to_string(), span)),
            ],
            span,
        )
    });
    let spec = Node::map(
        [
            ("type", Node::text(kind, span)),
            ("selector", labels(name)),
            ("ports", Node { span, value: Value::List(ports.collect()) }),
        ],
        span,
    );
    let encrypted: Vec<String> = listeners
        .iter()
        .filter(|(mapping, _)| mapping.terminates_tls)
        .map(|(mapping, _)| mapping.listener.to_string())
        .collect();
    let mut fields = meta(name);
    if !encrypted.is_empty() {
        // Kubernetes has no field for TLS that ends at a balancer.
        let ports = Node::text(encrypted.join(","), span);
        fields.push(("annotations", Node::map([(TLS_PORTS, ports)], span)));
    }
    head("v1", "Service", Node::map(fields, name.span), spec)
}
