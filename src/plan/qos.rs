//! OOM kill order of a machine's containers: Kubernetes' quality-of-service classes, and the scores that the kubelet gives
//! them.

use i2kit_spec::Bytes;

use crate::manifest::api::{Container, PodSpec, ResourceRequirements};

/// `oom_score_adj` of a container of a Guaranteed pod: killed nearly last.
const GUARANTEED: i32 = -997;

/// `oom_score_adj` of a container of a `BestEffort` pod: killed first.
const BEST_EFFORT: i32 = 1000;

/// Kubernetes' classes of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Every container has limits of processor and memory, and requests as much.
    Guaranteed,
    /// Something is requested.
    Burstable,
    /// Nothing is requested.
    BestEffort,
}

/// What is known of a container's `oom_score_adj` before its machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OomScore {
    /// This.
    Known(i32),
    /// It follows from the memory that the container requests, and from the machine's.
    Request(Bytes),
}

/// The pod's class.
pub(super) fn class(pod: &PodSpec) -> Class {
    let all = || pod.init_containers.iter().chain(&pod.containers).map(|container| &container.resources);
    let asks = |resources: &ResourceRequirements| {
        let amounts = [cpu(resources), memory(resources)];
        amounts.iter().any(|(request, limit)| *request > 0 || *limit > 0)
    };
    let bounded = |resources: &ResourceRequirements| {
        let amounts = [cpu(resources), memory(resources)];
        amounts.iter().all(|(request, limit)| *limit > 0 && request == limit)
    };
    if !all().any(asks) {
        Class::BestEffort
    } else if all().all(bounded) {
        Class::Guaranteed
    } else {
        Class::Burstable
    }
}

/// A container's score. A sidecar is needed by the others, so that it counts for no less than the smallest of them.
pub(super) fn oom_score(pod: &PodSpec, container: &Container) -> OomScore {
    match class(pod) {
        Class::Guaranteed => OomScore::Known(GUARANTEED),
        Class::BestEffort => OomScore::Known(BEST_EFFORT),
        Class::Burstable => {
            let request = |container: &Container| memory(&container.resources).0;
            let least = pod.containers.iter().map(request).min().filter(|_| container.sidecar);
            OomScore::Request(Bytes(request(container).max(least.unwrap_or(0))))
        }
    }
}

/// Request and limit of processor time; a limit without a request is the request too.
fn cpu(resources: &ResourceRequirements) -> (u64, u64) {
    let limit = resources.limit_cpu_millis.unwrap_or(0);
    (resources.request_cpu_millis.unwrap_or(limit), limit)
}

/// The same of memory.
fn memory(resources: &ResourceRequirements) -> (u64, u64) {
    let limit = resources.limit_memory_bytes.unwrap_or_default();
    (resources.request_memory_bytes.unwrap_or(limit).0, limit.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::example::container;

    fn with(request: [Option<u64>; 2], limit: [Option<u64>; 2]) -> Container {
        let resources = ResourceRequirements {
            request_cpu_millis: request[0],
            request_memory_bytes: request[1].map(Bytes),
            limit_cpu_millis: limit[0],
            limit_memory_bytes: limit[1].map(Bytes),
            ..ResourceRequirements::default()
        };
        Container { resources, ..container("c", "busybox") }
    }

    fn pod(init: &[Container], containers: &[Container]) -> PodSpec {
        PodSpec { init_containers: init.to_vec(), containers: containers.to_vec(), ..PodSpec::default() }
    }

    #[test]
    fn classes_are_those_of_kubernetes() {
        let nothing = with([None; 2], [None; 2]);
        let zero = with([Some(0); 2], [None; 2]);
        let limits = with([None; 2], [Some(5); 2]);
        let equal = with([Some(5); 2], [Some(5); 2]);
        let less = with([Some(4), None], [Some(5); 2]);
        let memory_alone = with([None; 2], [None, Some(5)]);
        let class = |init: &[&Container], containers: &[&Container]| {
            let [init, containers] = [init, containers].map(|list| list.iter().copied().cloned().collect());
            super::class(&PodSpec { init_containers: init, containers, ..PodSpec::default() })
        };
        assert_eq!(class(&[], &[&nothing, &zero]), Class::BestEffort);
        assert_eq!(class(&[&limits], &[&equal]), Class::Guaranteed);
        assert_eq!(class(&[&nothing], &[&equal]), Class::Burstable);
        assert_eq!(class(&[], &[&equal, &nothing]), Class::Burstable);
        assert_eq!(class(&[], &[&less]), Class::Burstable);
        assert_eq!(class(&[], &[&memory_alone]), Class::Burstable);
    }

    #[test]
    fn a_sidecar_counts_for_no_less_than_the_smallest_of_the_others() {
        let asking = |bytes| with([None, Some(bytes)], [None; 2]);
        let (small, sidecar) = (asking(30), Container { sidecar: true, ..asking(10) });
        let burstable = pod(std::slice::from_ref(&sidecar), &[small.clone(), asking(40)]);
        assert_eq!(oom_score(&burstable, &sidecar), OomScore::Request(Bytes(30)));
        assert_eq!(oom_score(&burstable, &small), OomScore::Request(Bytes(30)));
        let setup = asking(10);
        assert_eq!(oom_score(&burstable, &setup), OomScore::Request(Bytes(10)));
        let limits = with([None; 2], [Some(5); 2]);
        assert_eq!(oom_score(&pod(&[], std::slice::from_ref(&limits)), &limits), OomScore::Known(-997));
        let nothing = with([None; 2], [None; 2]);
        assert_eq!(oom_score(&pod(&[], std::slice::from_ref(&nothing)), &nothing), OomScore::Known(1000));
    }
}
