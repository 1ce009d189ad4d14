//! The boot as data: which phases there are and in which order. Pure; `boot` runs those of the machine, `guest` those in
//! which containers start.

use std::fmt;

use i2kit_spec::{ContainerBoot, PodBoot};

/// One step of the boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Mounts `/proc`, `/sys` and `/dev`.
    PseudoFilesystems,
    /// Reads what differs between the VMs of an image.
    CommandLine,
    /// Loads the initrd's kernel modules.
    Modules,
    /// Finds and mounts the pod file system, and reads what the pod is.
    Pod,
    /// Finds and mounts the layers of all containers.
    Layers,
    /// Leaves the initramfs.
    SwitchRoot,
    /// Waits for what makes the machine this one. All before it is the same in every machine of its kind.
    Identity,
    /// Brings the network up.
    Network,
    /// Asks the cloud for what belongs to this VM alone.
    Cloud,
    /// Names the VM.
    Hostname,
    /// Takes the values of Secrets from the host.
    Secrets,
    /// Makes the pod's volumes.
    Volumes,
    /// Makes the containers' user namespace, and what they see of it.
    Users,
    /// Makes the memory that the containers share.
    SharedMemory,
    /// Makes the cgroup tree.
    Cgroups,
    /// Sets the pod's kernel parameters.
    Sysctls,
    /// Makes the PID namespace that the containers share.
    SharedProcesses,
    /// Listens on the health port and starts the supervisor.
    Health,
    /// Runs the init container of this index to its end, or starts it when it is a sidecar.
    Onboot(usize, String),
    /// Starts all services.
    Services,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::PseudoFilesystems => "pseudo-filesystems",
            Self::CommandLine => "command-line",
            Self::Modules => "modules",
            Self::Pod => "pod",
            Self::Layers => "layers",
            Self::SwitchRoot => "switch-root",
            Self::Identity => "identity",
            Self::Network => "network",
            Self::Cloud => "cloud",
            Self::Hostname => "hostname",
            Self::Secrets => "secrets",
            Self::Volumes => "volumes",
            Self::Users => "users",
            Self::SharedMemory => "shared-memory",
            Self::Cgroups => "cgroups",
            Self::Sysctls => "sysctls",
            Self::SharedProcesses => "shared-processes",
            Self::Health => "health",
            Self::Onboot(_, name) => return write!(f, "onboot {name}"),
            Self::Services => "services",
        };
        f.write_str(name)
    }
}

/// The phases until the guest knows its pod.
pub(crate) fn until_pod(modules: bool) -> Vec<Phase> {
    let modules = modules.then_some(Phase::Modules);
    [Phase::PseudoFilesystems, Phase::CommandLine].into_iter().chain(modules).chain([Phase::Pod]).collect()
}

/// The phases that make the machine what the pod wants. The health port is the last one, before the init containers, so
/// that a host can see how far a pod is that takes long to get ready. In a machine with an `awaited` identity that is told apart
/// from others of its kind as late as it can be: once everything that comes from its image is mounted.
pub(crate) fn of_machine(pod: &PodBoot, cloud: bool, awaited: bool) -> Vec<Phase> {
    let optional = |wanted: bool, phase| wanted.then_some(phase);
    let phases = [
        Some(Phase::Layers),
        Some(Phase::SwitchRoot),
        optional(awaited, Phase::Identity),
        Some(Phase::Network),
        optional(cloud, Phase::Cloud),
        Some(Phase::Hostname),
        optional(pod.names_secrets(), Phase::Secrets),
        optional(!pod.volumes.is_empty(), Phase::Volumes),
        optional(pod.user_namespace, Phase::Users),
        Some(Phase::SharedMemory),
        // How many processes there may be is a parameter, and a limit of the containers follows from it.
        optional(!pod.sysctls.is_empty(), Phase::Sysctls),
        Some(Phase::Cgroups),
        optional(pod.share_process_namespace, Phase::SharedProcesses),
        Some(Phase::Health),
    ];
    phases.into_iter().flatten().collect()
}

/// The phases in which containers start: init containers by their names, in their order, then the services.
pub(crate) fn of_pod(onboot: &[ContainerBoot]) -> Vec<Phase> {
    let onboot =
        onboot.iter().enumerate().map(|(index, container)| Phase::Onboot(index, container.name.clone()));
    onboot.chain([Phase::Services]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_reads_as_a_list() {
        let container = |name: &str| ContainerBoot { name: name.into(), ..ContainerBoot::default() };
        let pod = PodBoot {
            onboot: vec![container("migrate"), container("warm")],
            services: vec![container("web")],
            ..PodBoot::default()
        };
        let phases: Vec<String> = [until_pod(true), of_machine(&pod, false, false), of_pod(&pod.onboot)]
            .concat()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            phases,
            [
                "pseudo-filesystems",
                "command-line",
                "modules",
                "pod",
                "layers",
                "switch-root",
                "network",
                "hostname",
                "shared-memory",
                "cgroups",
                "health",
                "onboot migrate",
                "onboot warm",
                "services",
            ]
        );
        assert!(of_machine(&pod, true, false).contains(&Phase::Cloud));
        let awaited = of_machine(&pod, false, true);
        assert_eq!(awaited[..4], [Phase::Layers, Phase::SwitchRoot, Phase::Identity, Phase::Network]);
        assert!(!until_pod(false).contains(&Phase::Modules));
    }
}
