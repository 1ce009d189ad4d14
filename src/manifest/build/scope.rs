//! Where an object stands: what it may refer to.

use std::collections::BTreeMap;

use super::object::{Object, Read};
use crate::manifest::api::{Name, ObjectMeta};
use crate::manifest::set::{Document, Index};
use crate::manifest::support::Clouds;
use crate::manifest::tree::Node;

/// The other objects of the set, as one object sees them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'d> {
    index: &'d Index<'d, 'd>,
    clouds: &'d Clouds,
    pub(super) namespace: &'d str,
    /// Whether its pods have an index.
    pub(super) stateful: bool,
}

impl<'d> Scope<'d> {
    pub(super) fn new(index: &'d Index<'d, 'd>, clouds: &'d Clouds, document: &'d Document<'d>) -> Self {
        Self { index, clouds, namespace: &document.namespace, stateful: document.kind.name == "StatefulSet" }
    }

    /// An object of the same namespace.
    pub(super) fn find(&self, kind: &str, name: &str) -> Option<&'d Node<'d>> {
        self.index.find(kind, self.namespace, name).map(|document| &document.root)
    }

    /// A text of a ConfigMap of the same namespace.
    pub(super) fn text(&self, config_map: &str, key: &str) -> Option<&'d Node<'d>> {
        let held = self.index.held("ConfigMap", self.namespace, config_map, key)?;
        (held.field == "data").then_some(held.value)
    }

    /// What annotations mean.
    pub(super) fn clouds(&self) -> &'d Clouds {
        self.clouds
    }

    /// `metadata` of the object.
    pub(super) fn meta(&self, object: Object<'_>) -> Read<ObjectMeta> {
        let meta = object.object("metadata")?;
        Ok(ObjectMeta {
            name: self.name(meta.text("name")?),
            labels: meta.map("labels")?,
            annotations: meta.map("annotations")?,
        })
    }

    /// A name of the same namespace.
    pub(super) fn name(&self, name: String) -> Name {
        Name { namespace: self.namespace.to_owned(), name }
    }
}

/// The pod at hand, as its own fields see it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PodScope<'p> {
    pub(super) scope: Scope<'p>,
    pub(super) labels: &'p BTreeMap<String, String>,
    pub(super) annotations: &'p BTreeMap<String, String>,
    pub(super) service_account: Option<&'p str>,
    /// `spec` of the pod.
    pub(super) pod: Object<'p>,
}
