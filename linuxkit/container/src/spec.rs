//! A container as it is configured. Starts nothing.

use std::borrow::Cow;

use i2kit_spec::ContainerBoot;
use i2kit_spec::runtime::{Config, NamespaceKind};

use crate::error::Error;
use crate::sandbox::Sandbox;
use crate::variables;

/// A container that can be started, any number of times.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its entry in `pod.json`.
    pub boot: ContainerBoot,
    /// Its `config.json`.
    pub config: Config,
    /// Mount points of its layers, the topmost first.
    pub layers: Vec<String>,
}

impl Spec {
    /// Whether its programs may set packet filters.
    pub fn may_set_packet_filters(&self) -> bool {
        self.config.process.capabilities.bounding.iter().any(|name| name == "CAP_NET_ADMIN")
    }

    /// Whether it has a namespace of its own of this kind.
    pub(crate) fn has(&self, kind: NamespaceKind) -> bool {
        self.config.linux.namespaces.iter().any(|namespace| namespace.kind == kind)
    }

    /// The container with all values filled in that are known at boot alone. Called in the container's own process, in the
    /// VM's root: the value of a Secret is never in PID 1's memory, and so in no other copy of PID 1 either.
    pub(crate) fn filled(&self, sandbox: &Sandbox) -> Result<Cow<'_, Self>, Error> {
        let Some(late) = &self.boot.late else { return Ok(Cow::Borrowed(self)) };
        let config = variables::fill(&self.config, late, &sandbox.instance, &sandbox.secrets)?;
        Ok(Cow::Owned(Self { config, ..self.clone() }))
    }
}
