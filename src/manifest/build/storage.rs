//! Secrets, disks, accounts.

use std::collections::BTreeMap;

use super::object::{Object, Read};
use super::scope::Scope;
use super::volume::{decode, disk};
use crate::manifest::api::{
    ClaimTemplate, PersistentVolumeClaim, Secret, SecretValue, ServiceAccount, StorageClass,
};
use crate::manifest::support::Annotation;

/// `v1` Secret.
pub(super) fn secret(object: Object<'_>, scope: &Scope<'_>) -> Read<Secret> {
    let mut data = BTreeMap::new();
    for (key, text) in object.map("data")? {
        data.insert(key, SecretValue::new(decode(&text).ok_or_else(|| object.missing("data"))?));
    }
    for (key, text) in object.map("stringData")? {
        data.insert(key, SecretValue::new(text.into_bytes()));
    }
    Ok(Secret { name: scope.meta(object)?.name, kind: object.text("type")?, data })
}

/// `v1` PersistentVolumeClaim.
pub(super) fn claim(object: Object<'_>, scope: &Scope<'_>) -> Read<PersistentVolumeClaim> {
    Ok(PersistentVolumeClaim { meta: scope.meta(object)?, disk: disk(object.object("spec")?)? })
}

/// `volumeClaimTemplates[]`.
pub(super) fn claim_template(object: Object<'_>) -> Read<ClaimTemplate> {
    let meta = object.object("metadata")?;
    Ok(ClaimTemplate {
        name: meta.text("name")?,
        labels: meta.map("labels")?,
        disk: disk(object.object("spec")?)?,
    })
}

/// `storage.k8s.io/v1` StorageClass.
pub(super) fn storage_class(object: Object<'_>, scope: &Scope<'_>) -> Read<StorageClass> {
    let meta = scope.meta(object)?;
    let is_default = |prefix: &str| {
        let key = format!("{prefix}kubernetes.io/is-default-class");
        meta.annotations.get(&key).is_some_and(|value| value == "true")
    };
    Ok(StorageClass {
        is_default: is_default("storageclass.") || is_default("storageclass.beta."),
        meta,
        provisioner: object.text("provisioner")?,
        parameters: object.map("parameters")?,
        allow_expansion: object.flag("allowVolumeExpansion")?,
        retain: object.text("reclaimPolicy")? == "Retain",
    })
}

/// `v1` ServiceAccount.
pub(super) fn service_account(object: Object<'_>, scope: &Scope<'_>) -> Read<ServiceAccount> {
    let meta = scope.meta(object)?;
    let role = scope.clouds().value(&meta.annotations, Annotation::Role).map(str::to_owned);
    let secrets = object.objects("imagePullSecrets")?.into_iter().map(|item| item.text("name"));
    Ok(ServiceAccount { role, image_pull_secrets: secrets.collect::<Read<_>>()?, meta })
}
