//! Disks.

use std::collections::BTreeMap;

use i2kit_spec::Bytes;

use super::meta::ObjectMeta;

/// `v1` PersistentVolumeClaim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersistentVolumeClaim {
    /// Name and so on.
    pub meta: ObjectMeta,
    /// The disk.
    pub disk: ClaimSpec,
}

/// `volumeClaimTemplates[]` of a StatefulSet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimTemplate {
    /// The volume's name in the pod.
    pub name: String,
    /// Labels of the disk.
    pub labels: BTreeMap<String, String>,
    /// The disk.
    pub disk: ClaimSpec,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimSpec {
    /// Its size.
    pub size: Bytes,
    /// Name of the storage class; the cloud's usual type by default.
    pub storage_class: Option<String>,
}

/// `storage.k8s.io/v1` StorageClass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageClass {
    /// Name and so on.
    pub meta: ObjectMeta,
    /// The driver of the disks.
    pub provisioner: String,
    /// Such as `type: gp3`.
    pub parameters: BTreeMap<String, String>,
    /// Whether disks may grow.
    pub allow_expansion: bool,
    /// Whether claims that name no class have this one.
    pub is_default: bool,
    /// Whether disks are kept when their claim is destroyed.
    pub retain: bool,
}
