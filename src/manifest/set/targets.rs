//! What scalers, budgets, policies, Ingresses and StatefulSets are about.

use std::collections::HashSet;

use super::document::Document;
use super::services::selects;
use super::{Set, finding, item};
use crate::manifest::check::{Reference, holds};
use crate::manifest::code::Code;
use crate::manifest::language::Target;
use crate::manifest::support::Answer;
use crate::manifest::tree::{Node, Span};
use crate::manifest::words::{list, nearest};

impl<'s, 'a> Set<'s, 'a> {
    /// Checks every object that is about another one.
    pub(super) fn targets(&mut self) {
        let documents = self.documents;
        for document in documents {
            match document.kind.name {
                "HorizontalPodAutoscaler" => self.scaler(document),
                "PodDisruptionBudget" => self.budget(document),
                "NetworkPolicy" => self.policy(document),
                "Ingress" => self.ingress(document),
                "StatefulSet" => self.governing_service(document),
                _ => {}
            }
        }
    }

    /// Disks of drivers that there are none of: an error where a claim asks for one.
    pub(super) fn storage_classes(&mut self, references: &[Reference]) {
        let used: HashSet<&str> = references
            .iter()
            .filter(|reference| reference.target == Target::StorageClass)
            .map(|reference| reference.name.as_str())
            .collect();
        let drivers: Vec<&[&str]> = self.options.clouds.provisioners().collect();
        for class in self.documents.iter().filter(|document| document.kind.name == "StorageClass") {
            let Some(provisioner) = class.root.get("provisioner") else { continue };
            let text = provisioner.scalar().unwrap_or_default();
            if drivers.iter().any(|names| names.contains(&text)) {
                continue;
            }
            let (code, fate) = if used.contains(class.name.as_str()) {
                (Code::RefusedValue, "cannot make disks")
            } else {
                (Code::NoMeaning, "has no meaning here, and no claim uses it")
            };
            let message = format!("provisioner `{text}` {fate}");
            let mut found = finding(code, class, "provisioner", provisioner.span, message);
            found.help(format!(
                "the clouds' own are {}",
                list(&drivers.iter().map(|names| names[0]).collect::<Vec<_>>(), "and")
            ));
            self.findings.push(found);
        }
    }

    /// An object of the same namespace.
    fn find(&self, around: &Document<'_>, kind: &str, name: &str) -> Option<&'s Document<'a>> {
        self.index.find(kind, &around.namespace, name)
    }

    /// Reports that `kind/name` is not in the set, unless nobody can know.
    fn absent(&mut self, from: &Document<'_>, path: &str, span: Span, kind: &str, name: &str) {
        if self.broken || self.is_unread(kind, &from.namespace, name) {
            return;
        }
        let near = nearest(name, self.index.some(kind).map(|document| document.name.as_str()));
        let message = format!("{kind} `{name}` is not in the given files");
        let mut found = finding(Code::MissingReference, from, path, span, message);
        found.help(
            near.map_or_else(|| "give its file too".to_owned(), |near| format!("did you mean `{near}`?")),
        );
        self.findings.push(found);
    }

    fn scaler(&mut self, document: &Document<'_>) {
        let Some(target) = document.root.at(&["spec", "scaleTargetRef"]) else { return };
        let (Some(kind), Some(name)) = (target.str("kind"), target.get("name")) else { return };
        let text = name.scalar().unwrap_or_default();
        let Some(workload) = self.find(document, kind, text) else {
            self.absent(document, "spec.scaleTargetRef.name", name.span, kind, text);
            return;
        };
        if let Some(replicas) = workload.root.at(&["spec", "replicas"]) {
            let message = format!(
                "{} is scaled by {}: `replicas` is only its first size",
                workload.title(),
                document.title()
            );
            let found = finding(Code::Adapted, workload, "spec.replicas", replicas.span, message);
            self.findings.push(found);
        }
        self.one_disk(document, workload);
        let metrics = document.root.at(&["spec", "metrics"]).map_or(&[][..], Node::items);
        let named = metrics.iter().filter_map(|metric| metric.at(&["containerResource", "container"]));
        for named in named {
            let Some(wanted) = named.scalar() else { continue };
            let containers = ["containers", "initContainers"]
                .iter()
                .filter_map(|list| workload.template()?.at(&["spec", list]).map(Node::items));
            if !containers.flatten().any(|container| container.str("name") == Some(wanted)) {
                let message = format!("{} has no container `{wanted}`", workload.title());
                let found = finding(Code::MissingReference, document, "spec.metrics", named.span, message);
                self.findings.push(found);
            }
        }
        self.requests(document, target.span, workload, metrics);
    }

    /// A workload with the disk of a claim cannot be scaled: one machine at a time has the disk.
    fn one_disk(&mut self, document: &Document<'_>, workload: &Document<'_>) {
        let Some(most) = document.root.at(&["spec", "maxReplicas"]) else { return };
        let volumes = workload.template().and_then(|template| template.at(&["spec", "volumes"]));
        let volumes = volumes.map_or(&[][..], Node::items);
        let has_claim = volumes.iter().any(|volume| volume.get("persistentVolumeClaim").is_some());
        if !has_claim || matches!(most.scalar(), Some("0" | "1") | None) {
            return;
        }
        let message = format!(
            "{} has the disk of a claim, which can be attached to one machine at a time, so that it has one machine",
            workload.title()
        );
        let mut found = finding(Code::RefusedValue, document, "spec.maxReplicas", most.span, message);
        found.help("write a StatefulSet with `volumeClaimTemplates`, or `maxReplicas: 1`");
        self.findings.push(found);
    }

    /// A share of a request needs a request.
    fn requests(
        &mut self,
        document: &Document<'_>,
        span: Span,
        workload: &Document<'_>,
        metrics: &[Node<'_>],
    ) {
        let share = |metric: &Node<'_>| {
            let source = metric.get("resource").or_else(|| metric.get("containerResource"))?;
            (source.at(&["target", "type"])?.scalar()? == "Utilization").then_some(())?;
            let container = source.str("container").map(str::to_owned);
            Some((source.str("name")?.to_owned(), container))
        };
        let wanted: Vec<(String, Option<String>)> = match metrics {
            [] => vec![("cpu".to_owned(), None)],
            metrics => metrics.iter().filter_map(share).collect(),
        };
        let containers = workload.template().and_then(|template| template.at(&["spec", "containers"]));
        for container in containers.map_or(&[][..], Node::items) {
            let name = container.str("name").unwrap_or("?");
            let given = |resource: &str| {
                ["requests", "limits"]
                    .iter()
                    .any(|group| container.at(&["resources", group, resource]).is_some())
            };
            let is_meant = |only: &Option<String>| only.as_deref().is_none_or(|only| only == name);
            let lacks = |(resource, only): &&(String, Option<String>)| is_meant(only) && !given(resource);
            if let Some((resource, _)) = wanted.iter().find(lacks) {
                let title = workload.title();
                let message = format!(
                    "container `{name}` of {title} has no {resource} request to measure its use against"
                );
                let mut found = finding(Code::NoRequest, document, "spec.scaleTargetRef", span, message);
                found.help(format!("set resources.requests.{resource}"));
                self.findings.push(found);
            }
        }
    }

    fn budget(&mut self, document: &Document<'_>) {
        let Some(selector) = document.root.at(&["spec", "selector"]) else { return };
        if !self.selects_some(document, selector) {
            let message = "the selector matches no pod template of the given files".to_owned();
            let mut found = finding(Code::NoTarget, document, "spec.selector", selector.span, message);
            found.help("give the file with the workload too, or correct the selector");
            self.findings.push(found);
        }
    }

    /// A policy is a setting of the workloads that are deployed with it: one that selects none would close nothing.
    fn policy(&mut self, document: &Document<'_>) {
        let Some(selector) = document.root.at(&["spec", "podSelector"]) else { return };
        if !self.selects_some(document, selector) {
            let message =
                "the selector matches no pod template of the given files, so that it closes nothing";
            let mut found =
                finding(Code::OpenAccess, document, "spec.podSelector", selector.span, message.to_owned());
            found.help("give the files of its workloads in the same command, or correct the selector");
            self.findings.push(found);
        }
    }

    /// Whether a selector matches a pod template of the object's namespace, as far as anybody can know.
    fn selects_some(&self, document: &Document<'_>, selector: &Node<'_>) -> bool {
        let labels = selector.get("matchLabels");
        let conditions = selector.get("matchExpressions").map_or(&[][..], Node::items);
        let empty = Node::map([], selector.span);
        let candidates = self.index.candidates(&document.namespace, labels.unwrap_or(&empty));
        let is_meant = |template: &Node<'_>| {
            labels.is_none_or(|labels| selects(labels, template))
                && conditions.iter().all(|condition| holds(condition, template.at(&["metadata", "labels"])))
        };
        let matched = candidates.iter().filter_map(|other| other.template()).any(is_meant);
        matched || self.broken || self.selects_unread(&document.namespace, is_meant)
    }

    fn ingress(&mut self, document: &Document<'_>) {
        let Some(spec) = document.root.get("spec") else { return };
        self.certificates(document, spec);
        if let Some(backend) = spec.get("defaultBackend") {
            self.backend_port(document, backend, "spec.defaultBackend");
        }
        for (i, rule) in spec.get("rules").map_or(&[][..], Node::items).iter().enumerate() {
            for (j, path) in rule.at(&["http", "paths"]).map_or(&[][..], Node::items).iter().enumerate() {
                let Some(backend) = path.get("backend") else { continue };
                let prefix = format!("{}.paths[{j}].backend", item("spec.rules", i, "http"));
                self.backend_port(document, backend, &prefix);
            }
        }
    }

    /// A Secret from which the cloud takes a certificate has one, with its key. One that is not in the set is no fault: the
    /// cloud has another certificate then.
    fn certificates(&mut self, document: &Document<'_>, spec: &Node<'_>) {
        if self.options.clouds.target.answer("IngressTLS.secretName") != Answer::Yes {
            return;
        }
        for (i, tls) in spec.get("tls").map_or(&[][..], Node::items).iter().enumerate() {
            let Some(name) = tls.get("secretName") else { continue };
            let secret = name.scalar().and_then(|name| self.find(document, "Secret", name));
            let Some(secret) = secret else { continue };
            let has = |key: &str| {
                ["data", "stringData"].iter().any(|field| secret.root.at(&[field, key]).is_some())
            };
            let lacks: Vec<&str> = ["tls.crt", "tls.key"].into_iter().filter(|key| !has(key)).collect();
            if lacks.is_empty() {
                continue;
            }
            let message = format!("{} has no {}", secret.title(), list(&lacks, "and"));
            let path = item("spec.tls", i, "secretName");
            let mut found = finding(Code::MissingReference, document, &path, name.span, message);
            found.help("a Secret of type kubernetes.io/tls has the certificate as `tls.crt` and its key as `tls.key`");
            self.findings.push(found);
        }
    }

    /// The port that a backend names must be one of its Service, which leads to pods; that the Service exists is checked by
    /// name.
    fn backend_port(&mut self, document: &Document<'_>, backend: &Node<'_>, path: &str) {
        let Some(service) = backend.get("service") else { return };
        let Some(target) = service.str("name").and_then(|name| self.find(document, "Service", name)) else {
            return;
        };
        let is_alias = target.root.at(&["spec", "type"]).and_then(Node::scalar) == Some("ExternalName");
        let selector = target.root.at(&["spec", "selector"]);
        let why = match () {
            () if is_alias => Some("is an alias for another DNS name"),
            () if selector.is_none_or(Node::is_empty) => Some("has no selector"),
            () => None,
        };
        if let (Some(why), Some(name)) = (why, service.get("name")) {
            let message = format!("{} {why}: an Ingress leads to pods, and it has none", target.title());
            let path = format!("{path}.service.name");
            let mut found = finding(Code::RefusedValue, document, &path, name.span, message);
            found.help("name a Service whose selector has the labels of a pod template");
            self.findings.push(found);
            return;
        }
        let ports = target.root.at(&["spec", "ports"]).map_or(&[][..], Node::items);
        for (key, of) in [("number", "port"), ("name", "name")] {
            let Some(wanted) = service.at(&["port", key]) else { continue };
            let text = wanted.scalar().unwrap_or_default();
            if ports.iter().any(|port| port.str(of) == Some(text)) {
                continue;
            }
            let has: Vec<&str> = ports.iter().filter_map(|port| port.str(of)).collect();
            let has = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
            let message = format!("{} has no port with the {key} {text}; it has: {has}", target.title());
            let path = format!("{path}.service.port.{key}");
            let found = finding(Code::UnknownPort, document, &path, wanted.span, message);
            self.findings.push(found);
        }
    }

    fn governing_service(&mut self, document: &Document<'_>) {
        let Some(name) = document.root.at(&["spec", "serviceName"]) else { return };
        let text = name.scalar().unwrap_or_default();
        if text.is_empty() {
            return;
        }
        let Some(service) = self.find(document, "Service", text) else {
            self.absent(document, "spec.serviceName", name.span, "Service", text);
            return;
        };
        let address = service.root.at(&["spec", "clusterIP"]);
        if address.and_then(Node::scalar) != Some("None") {
            let message =
                format!("{} is not headless, so machines have no DNS names of their own", service.title());
            let mut found = finding(Code::NoMeaning, document, "spec.serviceName", name.span, message);
            found.help(format!("write `clusterIP: None` in {}", service.title()));
            self.findings.push(found);
        }
    }
}
