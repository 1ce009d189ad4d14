//! Where objects are found by name and pods by label, so that no check looks through the whole set for each object.

use std::collections::HashMap;

use super::document::Document;
use crate::manifest::tree::Node;

/// Hints compare a name with at most this many others: enough for any set that a person reads.
const MAX_CANDIDATES: usize = 500;

/// The set by name and by label.
#[derive(Debug)]
pub(in crate::manifest) struct Index<'s, 'a> {
    by_name: HashMap<(&'s str, &'s str, &'s str), &'s Document<'a>>,
    by_kind: HashMap<&'s str, Vec<&'s Document<'a>>>,
    /// Workloads by namespace, and by namespace and one label of their pods.
    pods: HashMap<&'s str, Vec<&'s Document<'a>>>,
    by_label: HashMap<(&'s str, &'s str, &'s str), Vec<&'s Document<'a>>>,
    /// What ConfigMaps and Secrets hold, by kind, namespace and name, then by key.
    held: HashMap<(&'s str, &'s str, &'s str), HashMap<&'s str, Held<'s, 'a>>>,
}

/// A value of a ConfigMap or Secret.
#[derive(Debug, Clone, Copy)]
pub(in crate::manifest) struct Held<'s, 'a> {
    /// The field that it is in, such as `data`.
    pub(in crate::manifest) field: &'static str,
    pub(in crate::manifest) value: &'s Node<'a>,
}

/// The fields of a kind that hold keys and values.
fn holders(kind: &str) -> &'static [&'static str] {
    match kind {
        "ConfigMap" => &["data", "binaryData"],
        "Secret" => &["stringData", "data"],
        _ => &[],
    }
}

impl<'s, 'a> Index<'s, 'a> {
    pub(in crate::manifest) fn new(documents: &'s [Document<'a>]) -> Self {
        let mut index = Self {
            by_name: HashMap::new(),
            by_kind: HashMap::new(),
            pods: HashMap::new(),
            by_label: HashMap::new(),
            held: HashMap::new(),
        };
        for document in documents {
            let namespace = document.namespace.as_str();
            index.by_name.entry((document.kind.name, namespace, &document.name)).or_insert(document);
            index.hold(document);
            index.by_kind.entry(document.kind.name).or_default().push(document);
            let Some(template) = document.template() else { continue };
            index.pods.entry(namespace).or_default().push(document);
            for label in template.at(&["metadata", "labels"]).map_or(&[][..], Node::entries) {
                if let Some(value) = label.value.scalar() {
                    index.by_label.entry((namespace, &label.key, value)).or_default().push(document);
                }
            }
        }
        index
    }

    fn hold(&mut self, document: &'s Document<'a>) {
        let name = (document.kind.name, document.namespace.as_str(), document.name.as_str());
        let fields = holders(name.0);
        if fields.is_empty() || self.held.contains_key(&name) {
            return;
        }
        let mut keys = HashMap::new();
        for field in fields {
            for entry in document.root.get(field).map_or(&[][..], Node::entries) {
                keys.entry(entry.key.as_ref()).or_insert(Held { field, value: &entry.value });
            }
        }
        self.held.insert(name, keys);
    }

    /// What a ConfigMap or Secret holds under `key`, even if it is empty.
    pub(in crate::manifest) fn held(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        key: &str,
    ) -> Option<Held<'s, 'a>> {
        self.held.get(&(kind, namespace, name))?.get(key).copied()
    }

    /// The object of this name.
    pub(in crate::manifest) fn find(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Option<&'s Document<'a>> {
        self.by_name.get(&(kind, namespace, name)).copied()
    }

    /// Objects of a kind, no more than a hint may look at.
    pub(super) fn some(&self, kind: &str) -> impl Iterator<Item = &'s Document<'a>> {
        self.by_kind.get(kind).map_or(&[][..], Vec::as_slice).iter().copied().take(MAX_CANDIDATES)
    }

    /// All objects of a kind with this name, whatever their namespace.
    pub(super) fn anywhere(&self, kind: &str, name: &str) -> Option<&'s Document<'a>> {
        self.by_kind.get(kind)?.iter().copied().find(|document| document.name == name)
    }

    /// Workloads of a namespace, no more than a hint may look at.
    pub(super) fn some_pods(&self, namespace: &str) -> impl Iterator<Item = &'s Document<'a>> {
        self.pods.get(namespace).map_or(&[][..], Vec::as_slice).iter().copied().take(MAX_CANDIDATES)
    }

    /// Workloads of a namespace whose pods may have all these labels: those that have the rarest of them.
    pub(super) fn candidates(&self, namespace: &str, labels: &Node<'_>) -> Vec<&'s Document<'a>> {
        let mut rarest = self.pods.get(namespace).map_or(&[][..], Vec::as_slice);
        for label in labels.entries() {
            let value = label.value.scalar().unwrap_or_default();
            let found = self.by_label.get(&(namespace, &*label.key, value)).map_or(&[][..], Vec::as_slice);
            if found.len() < rarest.len() {
                rarest = found;
            }
        }
        rarest.to_vec()
    }
}
