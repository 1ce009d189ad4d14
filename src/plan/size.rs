//! The size of a pod's VM: the sum of what its containers ask for, and what the system below them needs.

use i2kit_spec::replica::COORDINATOR;

use super::fleet::DEFAULT_MEMORY_MIB;
use crate::manifest::api::{Container, PodSpec};

/// Memory of kernel, PID 1 and supervisor in MiB: a guest with the stock cloud kernel serves an nginx pod that uses
/// 9 MB from 73 MB on.
const SYSTEM_MIB: u64 = 64;

const MIB: u64 = 1 << 20;

/// Processors and memory of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Number of virtual processors.
    pub(super) vcpus: u32,
    /// Memory in MiB.
    pub(super) memory_mib: u32,
}

/// The smallest VM that holds the pod, by Kubernetes' rule for a pod's effective request (KEP-753). Containers and sidecars
/// run side by side, so they add up. The other init containers run one by one before the containers, each beside the
/// sidecars that were started before it, so the largest of these sums counts.
pub(super) fn of(pod: &PodSpec) -> Size {
    let wanted = |c: &Container| {
        c.resources.limit_memory_bytes.max(c.resources.request_memory_bytes).unwrap_or_default().0
    };
    // What the pod itself says decides whether it gets the default size; its coordinator comes on top of that.
    let is_own = |c: &Container| c.sidecar && c.name == COORDINATOR;
    let memory = |c: &Container| if is_own(c) { 0 } else { wanted(c) };
    let own = pod.init_containers.iter().filter(|c| is_own(c)).map(wanted).fold(0, u64::saturating_add);
    let cpu = |c: &Container| c.resources.limit_cpu_millis.max(c.resources.request_cpu_millis).unwrap_or(0);
    let effective = |of: &dyn Fn(&Container) -> u64| {
        let (mut sidecars, mut starting) = (0_u64, 0_u64);
        for container in &pod.init_containers {
            let beside = sidecars.saturating_add(of(container));
            starting = starting.max(beside);
            if container.sidecar {
                sidecars = beside;
            }
        }
        pod.containers.iter().map(of).fold(sidecars, u64::saturating_add).max(starting)
    };
    let memory_mib = effective(&memory).div_ceil(MIB).saturating_add(SYSTEM_MIB);
    Size {
        vcpus: narrow(effective(&cpu).div_ceil(1000)).max(1),
        memory_mib: narrow(memory_mib).max(DEFAULT_MEMORY_MIB).saturating_add(narrow(own.div_ceil(MIB))),
    }
}

fn narrow(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use i2kit_spec::Bytes;

    use super::*;
    use crate::manifest::api::ResourceRequirements;
    use crate::plan::example::container;

    fn with(memory_mib: u64, cpu_millis: u64) -> Container {
        Container {
            resources: ResourceRequirements {
                limit_memory_bytes: Some(Bytes::mib(memory_mib)),
                request_cpu_millis: Some(cpu_millis),
                ..ResourceRequirements::default()
            },
            ..container("c", "busybox")
        }
    }

    #[test]
    fn containers_add_up_and_init_containers_do_not() {
        let pod = PodSpec {
            init_containers: vec![with(100, 100), with(600, 100)],
            containers: vec![with(200, 700), with(300, 700)],
            ..PodSpec::default()
        };
        assert_eq!(of(&pod), Size { vcpus: 2, memory_mib: 600 + 64 });
        let sidecar = |memory_mib, cpu_millis| Container { sidecar: true, ..with(memory_mib, cpu_millis) };
        // Beside the containers: 50 + 70 + 200 + 300.
        let served = PodSpec { init_containers: vec![sidecar(50, 200), sidecar(70, 500)], ..pod.clone() };
        assert_eq!(of(&served), Size { vcpus: 3, memory_mib: 620 + 64 });
        // The second init container runs beside the first sidecar alone: 50 + 600 is more than 50 + 40 + 500.
        let init = vec![sidecar(50, 0), with(600, 0), sidecar(40, 0)];
        assert_eq!(
            of(&PodSpec { init_containers: init, ..pod.clone() }),
            Size { vcpus: 2, memory_mib: 650 + 64 }
        );
        // A sidecar is started before the next one, so that none counts twice.
        let init = vec![with(900, 0), sidecar(50, 0)];
        assert_eq!(
            of(&PodSpec { init_containers: init, ..pod.clone() }),
            Size { vcpus: 2, memory_mib: 900 + 64 }
        );
        let coordinator = Container { name: COORDINATOR.into(), ..sidecar(64, 0) };
        let replicated =
            PodSpec { init_containers: vec![coordinator], containers: vec![with(0, 0)], ..pod.clone() };
        assert_eq!(of(&replicated), Size { vcpus: 1, memory_mib: DEFAULT_MEMORY_MIB + 64 });
        let bare = PodSpec { init_containers: vec![], containers: vec![], ..pod };
        assert_eq!(of(&bare), Size { vcpus: 1, memory_mib: DEFAULT_MEMORY_MIB });
    }
}
