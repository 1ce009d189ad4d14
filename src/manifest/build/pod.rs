//! Pod templates and containers.

use super::object::{Object, Read};
use crate::manifest::api::{
    Container, ContainerPort, EnvVar, PodSpec, PodTemplate, Protocol, Resources, RestartPolicy,
};
use crate::manifest::check::{bytes, cpu_millis};

/// `template` of a workload.
pub(super) fn template(object: Object<'_>) -> Read<PodTemplate> {
    let meta = object.object("metadata")?;
    Ok(PodTemplate {
        labels: meta.map("labels")?,
        annotations: meta.map("annotations")?,
        spec: spec(object.object("spec")?)?,
    })
}

fn spec(object: Object<'_>) -> Read<PodSpec> {
    let containers = |field| object.objects(field)?.into_iter().map(container).collect::<Read<Vec<_>>>();
    Ok(PodSpec {
        init_containers: containers("initContainers")?,
        containers: containers("containers")?,
        restart_policy: object.value("restartPolicy", |text, _| match text {
            "Always" => Some(RestartPolicy::Always),
            "OnFailure" => Some(RestartPolicy::OnFailure),
            "Never" => Some(RestartPolicy::Never),
            _ => None,
        })?,
        termination_grace_period_seconds: object.number("terminationGracePeriodSeconds")?,
    })
}

fn container(object: Object<'_>) -> Read<Container> {
    Ok(Container {
        name: object.text("name")?,
        image: object.value("image", |text, _| text.parse().ok())?,
        command: object.texts_if("command")?,
        args: object.texts_if("args")?,
        working_dir: object.text_if("workingDir")?,
        env: object.objects("env")?.into_iter().map(variable).collect::<Read<_>>()?,
        ports: object.objects("ports")?.into_iter().map(port).collect::<Read<_>>()?,
        resources: resources(object.object("resources")?)?,
    })
}

fn variable(object: Object<'_>) -> Read<EnvVar> {
    Ok(EnvVar { name: object.text("name")?, value: object.text_if("value")?.unwrap_or_default() })
}

fn port(object: Object<'_>) -> Read<ContainerPort> {
    Ok(ContainerPort {
        name: object.text_if("name")?,
        container_port: object.number("containerPort")?,
        protocol: object.value("protocol", |text, _| protocol(text))?,
    })
}

/// A transport by its name.
pub(super) fn protocol(text: &str) -> Option<Protocol> {
    match text {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        _ => None,
    }
}

fn resources(object: Object<'_>) -> Read<Resources> {
    let (requests, limits) = (object.object("requests")?, object.object("limits")?);
    let cpu = |object: Object<'_>| object.value_if("cpu", |text, _| cpu_millis(text).ok());
    let memory =
        |object: Object<'_>| object.value_if("memory", |text, _| bytes(text).ok().map(|(size, _)| size));
    Ok(Resources {
        request_cpu_millis: cpu(requests)?,
        request_memory_bytes: memory(requests)?,
        limit_cpu_millis: cpu(limits)?,
        limit_memory_bytes: memory(limits)?,
    })
}
