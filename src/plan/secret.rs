//! The Secrets that a pod names. Their values are never here: a plan knows names and keyed hashes.

use std::collections::BTreeMap;

use i2kit_spec::{EnvValue, LateContent};

use crate::manifest::api::{FileContent, Name, ObjectSet, PodSpec, VolumeSource};

/// The Secrets that have certificates of Ingresses, each with an Ingress that names it.
pub fn of_ingresses(set: &ObjectSet) -> BTreeMap<Name, &Name> {
    let named = set.ingresses.iter().flat_map(|ingress| {
        let name = &ingress.meta.name;
        let full = |secret: &str| Name { namespace: name.namespace.clone(), name: secret.to_owned() };
        ingress.tls_secrets.iter().map(move |tls| (full(&tls.secret), name))
    });
    named.collect()
}

/// The Secrets that containers of the pod use, each with whether it is optional.
pub fn named(pod: &PodSpec) -> BTreeMap<String, bool> {
    let mut found: BTreeMap<String, bool> = BTreeMap::new();
    let mut add = |name: &str, optional: bool| {
        let entry = found.entry(name.to_owned()).or_insert(true);
        *entry &= optional;
    };
    let mut mounted = Vec::new();
    for container in pod.init_containers.iter().chain(&pod.containers) {
        for variable in &container.env {
            match &variable.value {
                EnvValue::Secret(key) => add(&key.secret, key.optional),
                EnvValue::WholeSecret(whole) => add(&whole.secret, whole.optional),
                EnvValue::Written(_) | EnvValue::Fixed(_) | EnvValue::Instance(_) => {}
            }
        }
        mounted.extend(container.volume_mounts.iter().map(|mount| mount.volume.as_str()));
    }
    for volume in pod.volumes.iter().filter(|volume| mounted.contains(&volume.name.as_str())) {
        let VolumeSource::Files(files) = &volume.source else { continue };
        for file in files {
            match &file.content {
                FileContent::Late(LateContent::Secret(key)) => add(&key.secret, key.optional),
                FileContent::Late(LateContent::WholeSecret(whole)) => add(&whole.secret, whole.optional),
                FileContent::Bytes(_) | FileContent::Late(LateContent::Instance(_)) => {}
            }
        }
    }
    found
}
