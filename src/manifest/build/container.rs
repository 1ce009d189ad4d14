//! Containers.

use i2kit_spec::{Protocol, Seccomp};

use super::env::variables;
use super::object::{Object, Read};
use super::probe::{hook, probes};
use super::scope::PodScope;
use crate::manifest::api::{
    Container, ContainerPort, ResourceRequirements, SeccompProfile, Security, VolumeMount,
};
use crate::manifest::check::cpu_millis;
use crate::oci::signal_number;

/// A container, or an init container when `init`.
pub(super) fn container(object: Object<'_>, pod: &PodScope<'_>, init: bool) -> Read<Container> {
    Ok(Container {
        name: object.text("name")?,
        image: object.value("image", |text, _| text.parse().ok())?,
        command: object.texts_if("command")?,
        args: object.texts_if("args")?,
        working_dir: object.text_if("workingDir")?,
        termination_message_path: object.text_if("terminationMessagePath")?.filter(|path| !path.is_empty()),
        env: variables(object, pod)?,
        ports: object.objects("ports")?.into_iter().map(port).collect::<Read<_>>()?,
        resources: resources(object.object("resources")?)?,
        volume_mounts: object.objects("volumeMounts")?.into_iter().map(mount).collect::<Read<_>>()?,
        security: security(object.object("securityContext")?, pod.pod.object("securityContext")?)?,
        probes: probes(object)?,
        post_start: hook(object, "postStart")?,
        pre_stop: hook(object, "preStop")?,
        stop_signal: object.object("lifecycle")?.value_if("stopSignal", |text, _| signal_number(text))?,
        sidecar: init && object.has("restartPolicy"),
    })
}

fn port(object: Object<'_>) -> Read<ContainerPort> {
    let container_port = object.number("containerPort")?;
    Ok(ContainerPort {
        name: object.text_if("name")?,
        container_port,
        protocol: object.value("protocol", |text, _| protocol(text))?,
        host_port: object.number_if("hostPort")?.filter(|host| *host != container_port),
    })
}

/// A transport by its name.
pub(super) fn protocol(text: &str) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|protocol| protocol.name() == text)
}

fn resources(object: Object<'_>) -> Read<ResourceRequirements> {
    let (requests, limits) = (object.object("requests")?, object.object("limits")?);
    let cpu = |object: Object<'_>| object.value_if("cpu", |text, _| cpu_millis(text).ok());
    let gpus = |object: Object<'_>| {
        let of = |field| Ok(object.number_if::<u32>(field)?.unwrap_or(0));
        Ok(of("nvidia.com/gpu")?.max(of("amd.com/gpu")?))
    };
    Ok(ResourceRequirements {
        request_cpu_millis: cpu(requests)?,
        request_memory_bytes: requests.size_if("memory")?,
        limit_cpu_millis: cpu(limits)?,
        limit_memory_bytes: limits.size_if("memory")?,
        ephemeral_storage_bytes: limits
            .size_if("ephemeral-storage")?
            .or(requests.size_if("ephemeral-storage")?),
        limit_ephemeral_storage_bytes: limits.size_if("ephemeral-storage")?,
        gpus: gpus(requests)?.max(gpus(limits)?),
    })
}

fn mount(object: Object<'_>) -> Read<VolumeMount> {
    Ok(VolumeMount {
        volume: object.text("name")?,
        mount_path: object.text("mountPath")?,
        read_only: object.flag("readOnly")?,
        sub_path: object.text_if("subPath")?,
        sub_path_expr: object.text_if("subPathExpr")?,
    })
}

/// The container's own settings over its pod's.
fn security(own: Object<'_>, pod: Object<'_>) -> Read<Security> {
    let id = |field| Ok(own.number_if(field)?.or(pod.number_if(field)?));
    let profile = if own.has("seccompProfile") { own } else { pod };
    let profile = profile.object("seccompProfile")?;
    let capabilities = own.object("capabilities")?;
    let names = |field| {
        let names = capabilities.texts_if(field)?.unwrap_or_default();
        let bare = |name: String| name.to_ascii_uppercase().trim_start_matches("CAP_").to_owned();
        Ok(names.into_iter().map(bare).collect())
    };
    Ok(Security {
        run_as_user: id("runAsUser")?,
        run_as_group: id("runAsGroup")?,
        run_as_non_root: own.flag_if("runAsNonRoot")?.or(pod.flag_if("runAsNonRoot")?).unwrap_or(false),
        read_only_root_filesystem: own.flag_if("readOnlyRootFilesystem")?.unwrap_or(false),
        forbid_privilege_escalation: own.flag_if("allowPrivilegeEscalation")? == Some(false),
        capabilities_add: names("add")?,
        capabilities_drop: names("drop")?,
        seccomp: match profile.text_if("type")?.as_deref() {
            Some("Unconfined") => SeccompProfile::Guest(Seccomp::Unconfined),
            Some("Localhost") => SeccompProfile::Localhost(profile.text("localhostProfile")?),
            _ => SeccompProfile::Guest(Seccomp::RuntimeDefault),
        },
        privileged: own.flag_if("privileged")?.unwrap_or(false),
    })
}
