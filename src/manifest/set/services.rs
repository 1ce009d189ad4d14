//! Services and other selectors against pod templates.

use std::collections::HashMap;
use std::rc::Rc;

use super::document::Document;
use super::{Set, finding, item};
use crate::manifest::code::Code;
use crate::manifest::tree::{Node, Resolved, Value, resolve};
use crate::manifest::words::nearest;

/// Most workloads behind a Service that a note names.
const MAX_NAMED: usize = 5;

/// The pods that a selector selects.
struct Targets<'s, 'a> {
    /// In the order of the files.
    all: Vec<&'s Document<'a>>,
    /// Those with the same ports together: what is true of one of them is true of all.
    by_ports: Vec<(Ports<'s>, Vec<&'s Document<'a>>)>,
}

impl<'s, 'a> Targets<'s, 'a> {
    fn new(all: Vec<&'s Document<'a>>) -> Self {
        let mut by_ports: Vec<(Ports<'s>, Vec<&'s Document<'a>>)> = Vec::new();
        let mut places: HashMap<Ports<'s>, usize> = HashMap::new();
        for target in &all {
            let ports = ports(target);
            let place = *places.entry(ports.clone()).or_insert(by_ports.len());
            match by_ports.get_mut(place) {
                Some((_, targets)) => targets.push(target),
                None => by_ports.push((ports, vec![target])),
            }
        }
        Self { all, by_ports }
    }
}

impl<'s, 'a> Set<'s, 'a> {
    /// Who is behind each Service, and whether they have its ports.
    pub(super) fn services(&mut self) {
        let documents = self.documents;
        // Many Services may have the same pods behind them.
        let mut selected: HashMap<Vec<&str>, Rc<Targets<'s, 'a>>> = HashMap::new();
        for service in documents.iter().filter(|document| document.kind.name == "Service") {
            let Some(spec) = service.root.get("spec") else { continue };
            if spec.str("type") == Some("ExternalName") {
                continue;
            }
            let Some(selector) = spec.entry("selector").filter(|selector| !selector.value.is_empty()) else {
                continue;
            };
            let pairs = selector.value.entries().iter();
            // No text has a NUL, so that what is no text is none of them.
            let pairs = pairs.flat_map(|entry| [&*entry.key, entry.value.scalar().unwrap_or("\0")]);
            let key = std::iter::once(service.namespace.as_str()).chain(pairs).collect();
            let targets = selected.entry(key).or_insert_with(|| {
                let mut targets = self.index.candidates(&service.namespace, &selector.value);
                targets.retain(|target| target.template().is_some_and(|pod| selects(&selector.value, pod)));
                Rc::new(Targets::new(targets))
            });
            let targets = Rc::clone(targets);
            match targets.all.as_slice() {
                // What is no map of labels was reported already.
                [] if self.broken || selector.value.entries().iter().any(|e| e.value.scalar().is_none()) => {}
                [] if self.selects_unread(&service.namespace, |pod| selects(&selector.value, pod)) => {}
                [] => self.no_target(service, selector.key_span, &selector.value),
                [_] => {}
                several => {
                    let names: Vec<String> =
                        several.iter().take(MAX_NAMED).map(|target| target.title()).collect();
                    let more = match several.len().saturating_sub(MAX_NAMED) {
                        0 => String::new(),
                        more => format!(" and {more} more"),
                    };
                    let names = names.join(" and ");
                    let message = format!("selects {names}{more}: all of them are behind one balancer");
                    let found =
                        finding(Code::SharedTarget, service, "spec.selector", selector.key_span, message);
                    self.findings.push(found);
                }
            }
            for (i, port) in spec.get("ports").map_or(&[][..], Node::items).iter().enumerate() {
                for (ports, targets) in &targets.by_ports {
                    for target in targets {
                        if self.target_port((service, i), port, target, ports) {
                            break;
                        }
                    }
                }
            }
        }
    }

    fn no_target(&mut self, service: &Document<'_>, span: crate::manifest::tree::Span, selector: &Node<'_>) {
        let pairs = |node: &Node<'_>| {
            let pairs: Vec<String> = node
                .entries()
                .iter()
                .map(|entry| format!("{}: {}", entry.key, entry.value.scalar().unwrap_or_default()))
                .collect();
            format!("{{{}}}", pairs.join(", "))
        };
        let wanted = pairs(selector);
        let candidates = if self.findings.is_full(service.file) { 0 } else { usize::MAX };
        let labelled: Vec<(String, &Document<'_>)> = self
            .index
            .some_pods(&service.namespace)
            .take(candidates)
            .filter_map(|document| Some((pairs(labels(document.template()?)?), document)))
            .collect();
        let near = nearest(&wanted, labelled.iter().map(|(text, _)| text.as_str()))
            .and_then(|near| labelled.iter().find(|(text, _)| text == near))
            .map(|(text, document)| format!("{} has {text}", document.title()));
        let message = format!("selector {wanted} matches no pod template of the given files");
        let mut found = finding(Code::NoTarget, service, "spec.selector", span, message);
        found.help(
            near.unwrap_or_else(|| "give the file with the workload too, or correct the selector".into()),
        );
        self.findings.push(found);
    }

    /// `targetPort` by name must be a port of the pod; by number it should be one that the pod lists. Whether it is.
    fn target_port(
        &mut self,
        (service, index): (&Document<'_>, usize),
        port: &Node<'_>,
        target: &Document<'_>,
        ports: &Ports<'_>,
    ) -> bool {
        let Some(wanted) = port.get("targetPort").or_else(|| port.get("port")) else { return true };
        let Value::Scalar(scalar) = &wanted.value else { return true };
        let key = if port.get("targetPort").is_some() { "targetPort" } else { "port" };
        let path = || item("spec.ports", index, key);
        let text = scalar.text.as_ref();
        let list = || {
            if ports.is_empty() {
                return "no ports".to_owned();
            }
            let named = |port: &Port<'_>| {
                // Most ports are TCP, so that it goes without saying.
                let protocol =
                    if port.protocol == TCP { String::new() } else { format!("/{}", port.protocol) };
                match port.name {
                    Some(name) => format!("{name} ({}{protocol})", port.number),
                    None => format!("{}{protocol} (unnamed)", port.number),
                }
            };
            ports.iter().map(named).collect::<Vec<_>>().join(", ")
        };
        if scalar.resolved() == Resolved::Text {
            let is_quoted_number = matches!(resolve(text), Resolved::Int(_));
            let protocol = port.str("protocol").unwrap_or(TCP);
            let mut same_name = ports.iter().filter(|port| port.name == Some(text)).peekable();
            let is_other_protocol = same_name.peek().is_some();
            if is_quoted_number || same_name.any(|port| port.protocol == protocol) {
                return true;
            }
            let of = if is_other_protocol { format!(" for {protocol}") } else { String::new() };
            let message = format!(
                "no container of {} has a port named `{text}`{of}; it has {}",
                target.title(),
                list()
            );
            let mut found = finding(Code::UnknownPort, service, &path(), wanted.span, message);
            if is_other_protocol {
                found.help("give the port of the Service the `protocol` of that port");
            } else if let Some(near) = nearest(text, ports.iter().filter_map(|port| port.name)) {
                found.help(format!("did you mean `{near}`?"));
            } else if let [Port { number, .. }] = ports.as_slice() {
                found.help(format!(
                    "write `targetPort: {number}`, or name that port `{text}` in the container"
                ));
            } else {
                found.help("write the number of a port, or name the port in the container");
            }
            self.findings.push(found);
        } else if !ports.is_empty() && !ports.iter().any(|port| port.number == text) {
            let message =
                format!("no container of {} lists port {text}; it lists {}", target.title(), list());
            let found = finding(Code::UnlistedPort, service, &path(), wanted.span, message);
            self.findings.push(found);
        } else {
            return true;
        }
        false
    }
}

fn labels<'t, 'a>(template: &'t Node<'a>) -> Option<&'t Node<'a>> {
    template.at(&["metadata", "labels"])
}

/// Whether a template has all labels of a selector.
pub(super) fn selects(selector: &Node<'_>, template: &Node<'_>) -> bool {
    let labels = labels(template);
    selector.entries().iter().all(|entry| {
        let have = labels.and_then(|labels| labels.get(&entry.key)).and_then(Node::scalar);
        have.is_some() && have == entry.value.scalar()
    })
}

/// The protocol of a port that names none.
const TCP: &str = "TCP";

/// A port of a container.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Port<'d> {
    name: Option<&'d str>,
    number: &'d str,
    protocol: &'d str,
}

/// Ports of a pod.
type Ports<'d> = Vec<Port<'d>>;

/// All ports of a pod, for as long as it runs: those of init containers that end are not among them.
fn ports<'d>(target: &'d Document<'_>) -> Ports<'d> {
    let Some(spec) = target.template().and_then(|template| template.get("spec")) else { return Vec::new() };
    let items = |list| spec.get(list).map_or(&[][..], Node::items);
    let sidecars = items("initContainers").iter().filter(|init| init.str("restartPolicy") == Some("Always"));
    sidecars
        .chain(items("containers"))
        .filter_map(|container| container.get("ports"))
        .flat_map(Node::items)
        .filter_map(|port| {
            let protocol = port.str("protocol").unwrap_or(TCP);
            Some(Port { name: port.str("name"), number: port.str("containerPort")?, protocol })
        })
        .collect()
}
