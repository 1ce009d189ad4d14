//! What the pod of a group of replicas cannot have: containers and volumes that have to do with its state or with its coordinator.

use super::Set;
use super::document::Document;
use super::replicated::{at_wish, containers};
use crate::manifest::api::{Replicated, ReplicatedState};
use crate::manifest::check::bytes;
use crate::manifest::check::replicated::{STATE, read};
use crate::manifest::code::Code;
use crate::manifest::tree::{Entry, Node, Span};

/// Names that the coordinator's own volumes have.
const COORDINATOR_VOLUMES: [&str; 3] = [
    i2kit_spec::replica::LOG_VOLUME,
    i2kit_spec::replica::IDENTITY_VOLUME,
    i2kit_spec::replica::SOCKET_VOLUME,
];

/// Where the containers of a pod are.
const CONTAINERS: &str = "spec.template.spec.containers";

/// Where its init containers are.
const INIT_CONTAINERS: &str = "spec.template.spec.initContainers";

/// The volume whose copy is the state, and the disk that copies lie on.
struct StateVolume<'t> {
    name: &'t str,
    /// Where it is named.
    span: Span,
    wish: &'t Replicated,
}

impl Set<'_, '_> {
    /// Checks the pod of a group.
    pub(super) fn replica_pod(&mut self, document: &Document<'_>, wish: &Entry<'_>) {
        self.isolation(document);
        self.resolver(document);
        self.coordinators_names(document, wish);
        self.beside_the_application(document);
        let annotations = document.template().and_then(|template| template.at(&["metadata", "annotations"]));
        let text = |key: &str| annotations.and_then(|annotations| annotations.str(key));
        let Some((wish, _)) = read(text) else { return };
        let ReplicatedState::Directory(name) = &wish.state else { return };
        let Some(state) = annotations.and_then(|annotations| annotations.get(STATE)) else { return };
        let volume = StateVolume { name, span: state.span, wish: &wish };
        self.state_volume(document, &volume);
        self.before_the_application(document, name);
    }

    /// The coordinator has the group's private key in its memory and its files, and a socket that stops the application.
    fn isolation(&mut self, document: &Document<'_>) {
        let shared = pod(document).and_then(|spec| spec.get("shareProcessNamespace"));
        if let Some(shared) = shared.filter(|shared| shared.scalar() == Some("true")) {
            let message = "the containers of a replicated pod do not see each other's processes: through its coordinator's they would \
                           reach the group's private key, and the socket that stops the application";
            self.refuse(
                document,
                (Code::ReplicatedIsolation, shared.span),
                "spec.template.spec.shareProcessNamespace",
                message.to_owned(),
                "remove `shareProcessNamespace`",
            );
        }
    }

    /// Replicas find each other by names of the environment.
    fn resolver(&mut self, document: &Document<'_>) {
        let policy = pod(document).and_then(|spec| spec.get("dnsPolicy"));
        if let Some(policy) = policy.filter(|policy| policy.scalar() == Some("None")) {
            let message = "replicas find each other by DNS names of the environment, and `dnsPolicy: None` asks another server";
            self.refuse(
                document,
                (Code::ReplicatedNames, policy.span),
                "spec.template.spec.dnsPolicy",
                message.to_owned(),
                "remove `dnsPolicy`",
            );
        }
    }

    /// Names that the coordinator and its volumes have.
    fn coordinators_names(&mut self, document: &Document<'_>, wish: &Entry<'_>) {
        for name in volumes(document).chain(claims(document)).map(|(name, _)| name) {
            if COORDINATOR_VOLUMES.contains(&name) {
                let message = format!("volume `{name}` has the name of one that the coordinator has");
                let place = (Code::ReplicatedState, wish.key_span);
                self.refuse(document, place, &at_wish(document), message, "choose another name");
            }
        }
        let named = |container: &&Node<'_>| container.str("name") == Some(i2kit_spec::replica::COORDINATOR);
        for (list, path) in [(init_containers(document), INIT_CONTAINERS), (containers(document), CONTAINERS)]
        {
            for container in list.iter().filter(named) {
                let message = "this container has the name that the coordinator has".to_owned();
                let place = (Code::ReplicatedState, container.span);
                self.refuse(document, place, path, message, "choose another name");
            }
        }
    }

    /// Containers that reach the application without the coordinator.
    fn beside_the_application(&mut self, document: &Document<'_>) {
        let second = containers(document).iter().enumerate().skip(1).take(1);
        let sidecars = init_containers(document).iter().enumerate();
        let sidecars = sidecars.filter(|(_, container)| container.str("restartPolicy") == Some("Always"));
        let found = second.map(|it| (it, CONTAINERS)).chain(sidecars.map(|it| (it, INIT_CONTAINERS)));
        for ((index, container), list) in found {
            let message = "this container reaches the others on localhost, where nothing orders its requests: what it writes \
                           there is written in one machine alone";
            self.refuse(
                document,
                (Code::ReplicatedBypass, container.span),
                &format!("{list}[{index}]"),
                message.to_owned(),
                "let it only read, or write through the Service",
            );
        }
    }

    /// What an init container writes into the state is erased, or is in one machine alone.
    fn before_the_application(&mut self, document: &Document<'_>, volume: &str) {
        for (index, container) in init_containers(document).iter().enumerate() {
            let mounts = container.get("volumeMounts").map_or(&[][..], Node::items);
            let Some(mount) = mounts.iter().find(|mount| mount.str("name") == Some(volume)) else { continue };
            let message = format!(
                "volume `{volume}` is the state that the coordinator erases and restores, and this container has it while that \
                 happens"
            );
            self.refuse(
                document,
                (Code::ReplicatedState, mount.span),
                &format!("{INIT_CONTAINERS}[{index}].volumeMounts"),
                message,
                "let the application prepare its folder when it starts, or use another volume",
            );
        }
    }

    /// The volume whose copy is the state: it is the pod's own, and copies of it have room beside the log.
    fn state_volume(&mut self, document: &Document<'_>, volume: &StateVolume<'_>) {
        let scratch = volumes(document).filter_map(|(name, volume)| {
            Some((name, volume.get("emptyDir")?.get("sizeLimit").and_then(Node::scalar)))
        });
        let claimed = claims(document).map(|(name, claim)| {
            (name, claim.at(&["spec", "resources", "requests", "storage"]).and_then(Node::scalar))
        });
        let folders: Vec<(&str, Option<&str>)> = scratch.chain(claimed).collect();
        let path = format!("spec.template.metadata.annotations[\"{STATE}\"]");
        let Some((name, size)) = folders.iter().find(|(name, _)| *name == volume.name) else {
            let names: Vec<&str> = folders.iter().map(|(name, _)| *name).collect();
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let message = format!(
                "the pod has no emptyDir and no claim of its own with the name `{}`; it has {known}",
                volume.name
            );
            self.refuse(document, (Code::ReplicatedState, volume.span), &path, message, "name one of them");
            return;
        };
        let Some(size) = size else {
            let message = format!(
                "volume `{name}` has no size: whether two copies of it fit on the disk of the log is not known, and without a \
                 copy writes end once the log has reached its limit"
            );
            let help = "give the emptyDir a `sizeLimit`";
            self.refuse(document, (Code::ReplicatedSize, volume.span), &path, message, help);
            return;
        };
        // What is no size was reported already.
        let Ok((size, _)) = bytes(size) else { return };
        let needed = size.saturating_mul(2).saturating_add(volume.wish.limits.log_bytes.0);
        if needed > volume.wish.log.0 {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            let message = format!(
                "the disk of the log has {} MiB, and needs {}: twice volume `{name}`, for a copy that takes another's place, and {} \
                 for the log",
                mib(volume.wish.log.0),
                mib(needed),
                mib(volume.wish.limits.log_bytes.0)
            );
            let help = "raise `i2kit.dev/replicated-log`, or make the volume smaller";
            self.refuse(document, (Code::ReplicatedState, volume.span), &path, message, help);
        }
    }
}

/// The description of a workload's pod.
fn pod<'d>(document: &'d Document<'_>) -> Option<&'d Node<'d>> {
    document.template()?.get("spec")
}

fn init_containers<'d>(document: &'d Document<'_>) -> &'d [Node<'d>] {
    pod(document).and_then(|spec| spec.get("initContainers")).map_or(&[], Node::items)
}

/// The pod's volumes by their names.
fn volumes<'d>(document: &'d Document<'_>) -> impl Iterator<Item = (&'d str, &'d Node<'d>)> {
    let list = pod(document).and_then(|spec| spec.get("volumes")).map_or(&[][..], Node::items);
    list.iter().filter_map(|volume| Some((volume.str("name")?, volume)))
}

/// The claims that each member has of its own, by their names.
fn claims<'d>(document: &'d Document<'_>) -> impl Iterator<Item = (&'d str, &'d Node<'d>)> {
    let list = document.root.at(&["spec", "volumeClaimTemplates"]).map_or(&[][..], Node::items);
    list.iter().filter_map(|claim| Some((claim.at(&["metadata", "name"])?.scalar()?, claim)))
}
