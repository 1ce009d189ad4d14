//! From the objects of a set to what the cloud should hold: a group for each Deployment, a balancer for each Service.

use std::collections::BTreeMap;

use super::fleet::{
    BalancerSpec, DEFAULT_HEALTH_GRACE_SECONDS, GroupSettings, LaunchPort, LaunchSpec, Listener, TargetGroup,
};
use super::image::ImageId;
use super::pod::HEALTH_PORT;
use super::rollout::GroupSpec;
use super::size;
use crate::manifest::api::{Deployment, ObjectSet, PodTemplate, Service, ServicePort, TargetPort};

/// The group that `deployment` asks for, started from `image`.
pub fn group(deployment: &Deployment, image: ImageId) -> GroupSpec {
    let pod = &deployment.template.spec;
    let size = size::of(pod);
    let mut ports: Vec<LaunchPort> = Vec::new();
    for port in pod.containers.iter().flat_map(|container| &container.ports) {
        let port = LaunchPort { port: port.container_port, protocol: port.protocol };
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    GroupSpec {
        name: deployment.meta.name.clone(),
        replicas: deployment.replicas,
        launch: LaunchSpec {
            image,
            memory_mib: size.memory_mib,
            vcpus: size.vcpus,
            ports,
            health_port: HEALTH_PORT,
            grace_period_seconds: pod.termination_grace_period_seconds,
            health_grace_seconds: DEFAULT_HEALTH_GRACE_SECONDS,
        },
        settings: GroupSettings {
            strategy: deployment.strategy,
            min_ready_seconds: deployment.min_ready_seconds,
            progress_deadline_seconds: deployment.progress_deadline_seconds,
            revision_history_limit: deployment.revision_history_limit,
            labels: deployment.meta.labels.clone(),
        },
    }
}

/// The groups and balancers of the whole set; `images` holds the image of each Deployment, in their order.
///
/// A port that a Service targets is opened on the VMs even where no container declares it: in Kubernetes a container
/// port's declaration is for information only.
pub fn desired(set: &ObjectSet, images: &[ImageId]) -> (Vec<GroupSpec>, Vec<BalancerSpec>) {
    let mut groups: Vec<GroupSpec> =
        set.deployments.iter().zip(images).map(|(deployment, image)| group(deployment, *image)).collect();
    let balancers: Vec<BalancerSpec> =
        set.services.iter().map(|service| balancer(service, &set.deployments)).collect();
    for listener in balancers.iter().flat_map(|balancer| &balancer.listeners) {
        for target in &listener.targets {
            let port = LaunchPort { port: target.port, protocol: listener.protocol };
            for group in groups.iter_mut().filter(|group| group.name == target.group) {
                if !group.launch.ports.contains(&port) {
                    group.launch.ports.push(port);
                }
            }
        }
    }
    (groups, balancers)
}

/// The balancer that `service` asks for, in front of every workload of its namespace that it selects.
fn balancer(service: &Service, deployments: &[Deployment]) -> BalancerSpec {
    let selected: Vec<&Deployment> = deployments
        .iter()
        .filter(|deployment| deployment.meta.name.namespace == service.meta.name.namespace)
        .filter(|deployment| selects(&service.selector, &deployment.template.labels))
        .collect();
    let listener = |port: &ServicePort| Listener {
        port: port.port,
        protocol: port.protocol,
        targets: selected
            .iter()
            .filter_map(|deployment| {
                let target = number(&port.target_port, &deployment.template)?;
                Some(TargetGroup { group: deployment.meta.name.clone(), port: target })
            })
            .collect(),
    };
    BalancerSpec {
        name: service.meta.name.clone(),
        kind: service.kind,
        listeners: service.ports.iter().map(listener).collect(),
    }
}

/// Whether every label of `selector` is on the pod.
pub fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The port's number in this pod template; `None` when it has no port of that name.
fn number(target: &TargetPort, template: &PodTemplate) -> Option<u16> {
    match target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => template
            .spec
            .containers
            .iter()
            .flat_map(|container| &container.ports)
            .find(|port| port.name.as_ref() == Some(name))
            .map(|port| port.container_port),
    }
}
