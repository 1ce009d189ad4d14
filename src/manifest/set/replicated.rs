//! Replicated pods: what a group of replicas cannot be, and what the rest of the set must not ask of it. What its pod cannot have
//! is in `replicated_pod.rs`.

use i2kit_spec::replica::{ADMIN_PORT, CONTROL_PORT, FRONT_PORT, PEER_PORT};

use super::document::Document;
use super::services::selects;
use super::{Set, finding};
use crate::manifest::check::replicated::REPLICATED;
use crate::manifest::code::Code;
use crate::manifest::tree::{Entry, Node, Resolved, Span, resolve};

/// Sizes of a group in which a majority is more than half, and no machine is there for nothing.
const COUNTS: [&str; 4] = ["1", "3", "5", "7"];

/// The ports of the coordinator in each machine.
const COORDINATOR_PORTS: [u16; 4] = [FRONT_PORT, PEER_PORT, ADMIN_PORT, CONTROL_PORT];

impl Set<'_, '_> {
    /// Checks every group of replicas.
    pub(super) fn replicated(&mut self) {
        let documents = self.documents;
        for document in documents {
            let Some(wish) = wish(document).filter(|_| !self.findings.is_full(document.file)) else {
                continue;
            };
            if document.kind.name == "StatefulSet" {
                self.replicas(document);
                self.slots(document);
                self.replicas_update(document);
                self.replica_names(document, wish);
                self.scaler_of_replicas(document);
                self.replica_ports(document, wish);
                self.replica_pod(document, wish);
            } else {
                let message = format!(
                    "the pods of a {} cannot be replicated: replicas have names and disks of their own",
                    document.kind.name
                );
                self.refuse(
                    document,
                    (Code::ReplicatedKind, wish.key_span),
                    &at_wish(document),
                    message,
                    "write a StatefulSet",
                );
            }
        }
    }

    pub(super) fn refuse(
        &mut self,
        document: &Document<'_>,
        (code, span): (Code, Span),
        path: &str,
        message: String,
        help: &str,
    ) {
        let mut found = finding(code, document, path, span, message);
        found.help(help);
        self.findings.push(found);
    }

    /// How many there are.
    fn replicas(&mut self, document: &Document<'_>) {
        let replicas = document.root.at(&["spec", "replicas"]);
        let text = replicas.and_then(Node::scalar).unwrap_or("1");
        let (Some(replicas), false) = (replicas, COUNTS.contains(&text)) else { return };
        // What is no number was reported already.
        if matches!(resolve(text), Resolved::Int(_)) {
            let message =
                "a group of replicas has 1, 3, 5 or 7 machines: each step of two bears one more that fails";
            self.refuse(
                document,
                (Code::ReplicatedCount, replicas.span),
                "spec.replicas",
                message.to_owned(),
                "write `replicas: 3`",
            );
        }
    }

    /// Slots are counted from zero.
    fn slots(&mut self, document: &Document<'_>) {
        let start = document.root.at(&["spec", "ordinals", "start"]);
        if let Some(start) = start.filter(|start| start.scalar() != Some("0")) {
            let message = "the slots of replicas are counted from 0".to_owned();
            let help = "remove `ordinals`";
            self.refuse(document, (Code::ReplicatedNames, start.span), "spec.ordinals.start", message, help);
        }
    }

    /// How machines are started and replaced.
    fn replicas_update(&mut self, document: &Document<'_>) {
        let Some(spec) = document.root.get("spec") else { return };
        if spec.str("podManagementPolicy") != Some("Parallel") {
            let policy = spec.get("podManagementPolicy");
            let message = "replicas start together: none of them is ready before it has found the others, and `OrderedReady` \
                           starts none before the one before is ready";
            self.refuse(
                document,
                (Code::ReplicatedRollout, policy.map_or(spec.span, |policy| policy.span)),
                if policy.is_some() { "spec.podManagementPolicy" } else { "spec" },
                message.to_owned(),
                "write `podManagementPolicy: Parallel`",
            );
        }
        let missing = spec.at(&["updateStrategy", "rollingUpdate", "maxUnavailable"]);
        if let Some(missing) = missing.filter(|missing| missing.scalar() != Some("1")) {
            let message =
                "one replica is replaced at a time: the next one goes when the last one has caught up";
            self.refuse(
                document,
                (Code::ReplicatedRollout, missing.span),
                "spec.updateStrategy.rollingUpdate.maxUnavailable",
                message.to_owned(),
                "write `maxUnavailable: 1`, or remove it",
            );
        }
        let scaled = spec.at(&["persistentVolumeClaimRetentionPolicy", "whenScaled"]);
        if let Some(scaled) = scaled.filter(|scaled| scaled.scalar() == Some("Delete")) {
            let message = format!(
                "`i2kit scale {} --replicas 0`, by which a group of replicas is changed, would delete its logs, and with them every \
                 write that it has acknowledged",
                document.name
            );
            self.refuse(
                document,
                (Code::ReplicatedRollout, scaled.span),
                "spec.persistentVolumeClaimRetentionPolicy.whenScaled",
                message,
                "write `whenScaled: Retain`, or remove it",
            );
        }
    }

    /// The names by which replicas find each other.
    fn replica_names(&mut self, document: &Document<'_>, wish: &Entry<'_>) {
        let name = document.root.at(&["spec", "serviceName"]).and_then(Node::scalar);
        if name.is_none_or(str::is_empty) {
            let message =
                "replicas find each other by the names that a headless Service gives them".to_owned();
            let help = "write `serviceName`, and a Service of that name with `clusterIP: None` and the pod's labels as its selector";
            self.refuse(document, (Code::ReplicatedNames, wish.key_span), &at_wish(document), message, help);
            return;
        }
        // One that is missing was reported already.
        let Some(service) = name.and_then(|name| self.index.find("Service", &document.namespace, name))
        else {
            return;
        };
        let is_headless = service.root.at(&["spec", "clusterIP"]).and_then(Node::scalar) == Some("None");
        if !is_headless || !leads_to(service, document) {
            let message = format!(
                "replicas find each other by the names that {} gives them, and it {}",
                service.title(),
                if is_headless { "does not select them" } else { "is not headless" }
            );
            let help = "give it `clusterIP: None` and the pod's labels as its selector";
            self.refuse(document, (Code::ReplicatedNames, wish.key_span), &at_wish(document), message, help);
        }
        let families =
            service.root.at(&["spec", "ipFamilies"]).filter(|families| !families.items().is_empty());
        if let Some(families) = families.filter(|it| it.items().iter().all(|it| it.scalar() != Some("IPv4")))
        {
            let message = format!("the replicas of {} find each other by IPv4", document.title());
            let help = "add `IPv4`, or remove `ipFamilies`";
            self.refuse(service, (Code::ReplicatedNames, families.span), "spec.ipFamilies", message, help);
        }
    }

    /// A scaler would add replicas that do no more work, and take away those that vote.
    fn scaler_of_replicas(&mut self, document: &Document<'_>) {
        let documents = self.documents;
        let is_about = |scaler: &&Document<'_>| {
            let target = scaler.root.at(&["spec", "scaleTargetRef"]);
            scaler.kind.name == "HorizontalPodAutoscaler"
                && scaler.namespace == document.namespace
                && target.is_some_and(|target| {
                    target.str("kind") == Some("StatefulSet") && target.str("name") == Some(&document.name)
                })
        };
        for scaler in documents.iter().filter(is_about) {
            let target = scaler.root.at(&["spec", "scaleTargetRef"]).unwrap_or(&scaler.root);
            let message =
                format!("{} is replicated: more machines do the same work, not more", document.title());
            self.refuse(
                scaler,
                (Code::ReplicatedScaled, target.span),
                "spec.scaleTargetRef",
                message,
                "remove the scaler; to spread load instead, remove the annotation",
            );
        }
    }

    /// The one port whose requests are ordered.
    fn replica_ports(&mut self, document: &Document<'_>, wish: &Entry<'_>) {
        let documents = self.documents;
        let services = || {
            documents
                .iter()
                .filter(|service| service.kind.name == "Service" && service.namespace == document.namespace)
                .filter(|service| leads_to(service, document))
        };
        let mut first: Option<(String, &Document<'_>)> = None;
        for service in services() {
            self.shared_service(service, document);
            for port in service.root.at(&["spec", "ports"]).map_or(&[][..], Node::items) {
                if matches!(port.str("protocol"), Some(protocol) if protocol != "TCP") {
                    let message = format!("{} is replicated, and requests come over TCP", document.title());
                    self.refuse(
                        service,
                        (Code::ReplicatedPorts, port.span),
                        "spec.ports",
                        message,
                        "remove this port",
                    );
                    continue;
                }
                let Some(target) = target(port, document) else { continue };
                if is_coordinators(&target) && !declares(document, &target) {
                    let message = format!("port {target} of {} is the coordinator's", document.title());
                    let help = "lead to the application's port";
                    self.refuse(service, (Code::ReplicatedPorts, port.span), "spec.ports", message, help);
                    continue;
                }
                match &first {
                    Some((known, other)) if *known != target => {
                        let message = format!(
                            "the requests of one port are ordered, and {} leads to port {known} of {}",
                            other.title(),
                            document.title()
                        );
                        self.refuse(
                            service,
                            (Code::ReplicatedPorts, port.span),
                            "spec.ports",
                            message,
                            "leave one port of the pod behind Services",
                        );
                    }
                    Some(_) => {}
                    None => first = Some((target, service)),
                }
            }
        }
        self.declared_ports(document, wish, first.is_some());
    }

    /// A Service leads to one group of replicas, and to nobody else.
    fn shared_service(&mut self, service: &Document<'_>, document: &Document<'_>) {
        let Some(selector) = service.root.at(&["spec", "selector"]) else { return };
        let mut candidates = self.index.candidates(&document.namespace, selector).into_iter();
        let shared = candidates.find(|other| other.name != document.name && leads_to(service, other));
        if let Some(other) = shared {
            let message = format!(
                "it leads to {}, which is replicated, and to {}, which is not a part of that group",
                document.title(),
                other.title()
            );
            self.refuse(
                service,
                (Code::ReplicatedPorts, selector.span),
                "spec.selector",
                message,
                "give each a Service of its own",
            );
        }
    }

    /// The ports that containers declare: one of them is known without a Service, and none is the coordinator's.
    fn declared_ports(&mut self, document: &Document<'_>, wish: &Entry<'_>, is_known: bool) {
        let declared = containers(document).iter().filter_map(|container| container.get("ports"));
        let declared: Vec<&Node<'_>> = declared.flat_map(Node::items).collect();
        if !is_known && declared.is_empty() {
            let message = "no port is known whose requests are ordered".to_owned();
            let help = "give the container's port under `ports`, and a Service that leads to it";
            self.refuse(document, (Code::ReplicatedPorts, wish.key_span), &at_wish(document), message, help);
        }
        for port in declared {
            if port.str("containerPort").is_some_and(is_coordinators) {
                let message = "the coordinator of a replicated pod listens on ports 7310 to 7313".to_owned();
                self.refuse(
                    document,
                    (Code::ReplicatedPorts, port.span),
                    "spec.template.spec.containers",
                    message,
                    "choose another port",
                );
            }
        }
    }
}

/// The annotation that makes the pods of a workload replicas.
fn wish<'d>(document: &'d Document<'_>) -> Option<&'d Entry<'d>> {
    document.template()?.at(&["metadata", "annotations"])?.entry(REPLICATED)
}

/// Where that annotation is.
pub(super) fn at_wish(document: &Document<'_>) -> String {
    let template = match document.kind.name {
        "Pod" => "",
        "CronJob" => "spec.jobTemplate.spec.template.",
        _ => "spec.template.",
    };
    format!("{template}metadata.annotations[\"{REPLICATED}\"]")
}

/// Whether a number is that of one of the coordinator's ports.
fn is_coordinators(number: &str) -> bool {
    number.parse().is_ok_and(|number: u16| COORDINATOR_PORTS.contains(&number))
}

/// Whether a container of the pod declares this port.
fn declares(document: &Document<'_>, number: &str) -> bool {
    let mut ports = containers(document).iter().filter_map(|it| it.get("ports")).flat_map(Node::items);
    ports.any(|port| port.str("containerPort") == Some(number))
}

/// The containers of a workload's pod.
pub(super) fn containers<'d>(document: &'d Document<'_>) -> &'d [Node<'d>] {
    document.template().and_then(|template| template.at(&["spec", "containers"])).map_or(&[], Node::items)
}

/// Whether the selector of a Service has the labels of a workload's pods.
fn leads_to(service: &Document<'_>, workload: &Document<'_>) -> bool {
    let selector = service.root.at(&["spec", "selector"]).filter(|selector| !selector.is_empty());
    let kept = matches!(workload.kind.name, "Deployment" | "ReplicaSet" | "StatefulSet" | "Pod");
    kept && selector.zip(workload.template()).is_some_and(|(selector, pod)| selects(selector, pod))
}

/// The number of the pod's port that a port of a Service leads to, as far as it is known: a name that the pod does not have
/// was reported already.
fn target(port: &Node<'_>, workload: &Document<'_>) -> Option<String> {
    let wanted = port.get("targetPort").or_else(|| port.get("port"))?.scalar()?;
    if matches!(resolve(wanted), Resolved::Int(_)) {
        return Some(wanted.to_owned());
    }
    let mut ports =
        containers(workload).iter().filter_map(|container| container.get("ports")).flat_map(Node::items);
    let found = ports.find(|port| port.str("name") == Some(wanted))?;
    found.str("containerPort").map(str::to_owned)
}
