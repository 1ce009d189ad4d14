//! What is told of the pod: the record on file while it runs, and how it ended.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use i2kit_spec::{ContainerEnd, PodEnd};

use super::Guest;
use crate::lifecycle::{Container, Role};
use crate::record::{Record, Stage, VERSION};

impl Guest {
    /// How the pod ended: what the host keeps of it.
    pub(crate) fn ended(&self) -> PodEnd {
        let containers: Vec<ContainerEnd> = self.containers.iter().filter_map(Container::ended).collect();
        let failed = |container: &Container| container.role != Role::Sidecar && !container.succeeded();
        let succeeded = self.end.is_none() && !self.containers.iter().any(failed);
        let (reason, message) = self.end.clone().unwrap_or_default();
        PodEnd { succeeded, reason: reason.into(), message, containers }
    }

    pub(super) fn record(&self) -> Record {
        let booting = self.stage == Stage::Booting;
        let network = self.parameters.network.as_ref();
        Record {
            version: VERSION,
            boot_id: self.boot_id.clone(),
            hostname: self.machine.hostname.clone(),
            address: network.map_or(Ipv4Addr::LOCALHOST, |network| network.address).to_string(),
            pod: format!("{}/{}", self.pod.pod.namespace, self.pod.pod.name),
            stage: self.stage,
            lost: self.lost.clone(),
            phases: self.phases.clone(),
            containers: self.containers.iter().map(|container| container.record(booting)).collect(),
            supervisor_restarts: self.supervisor.as_ref().map_or(0, |supervisor| supervisor.restarts),
            console_dropped: self.console.dropped(),
            supervisor_attach: self.supervisor.as_ref().map_or((0.0, 0.0), |supervisor| supervisor.attach),
            log_dropped: self.log_dropped(),
            program: crate::program_version().into(),
        }
    }

    fn log_dropped(&self) -> BTreeMap<String, u64> {
        let Some(journals) = &self.journals else { return BTreeMap::new() };
        let names = self.containers.iter().map(|container| container.name().to_owned());
        names.map(|name| (name.clone(), journals.dropped(&name))).collect()
    }
}
