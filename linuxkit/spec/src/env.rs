//! Environment variables, and the values that are known at boot alone: fields of the instance and keys of Secrets.
//!
//! No image holds such a value: the plan names it, and the guest looks it up when it boots.

use serde::{Deserialize, Serialize};

/// The environment of a container that has variables which are known at boot alone. The host leaves everything that
/// could depend on them to the guest, so that `$(VAR)` means the same wherever the value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LateEnvironment {
    /// The manifest's variables in their order. They win over `config.json`'s, which are the image's.
    pub env: Vec<EnvVar>,
    /// Whether `$(VAR)` is expanded in `config.json`'s arguments: those of a manifest are, those of an image are not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expand_args: bool,
    /// Destinations of the mounts whose source is expanded: those with a `subPathExpr`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expand_mounts: Vec<String>,
}

/// One variable: `env[]` of a container, or an entry of `envFrom[]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvVar {
    /// Its name; of a whole Secret the prefix of each key's name.
    pub name: String,
    /// Where its value comes from.
    pub value: EnvValue,
}

/// Where the value of a variable comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum EnvValue {
    /// The manifest's text; `$(VAR)` is expanded with the variables before it.
    Written(String),
    /// A known text without expansion: the value of a ConfigMap's key, a label, a limit.
    Fixed(String),
    /// A field of the instance.
    Instance(InstanceField),
    /// A key of a Secret; without it the variable is not set.
    Secret(SecretKey),
    /// All keys of a Secret, a variable each.
    WholeSecret(SecretName),
}

impl EnvValue {
    /// Whether the value is known at boot alone.
    pub const fn is_late(&self) -> bool {
        matches!(self, Self::Instance(_) | Self::Secret(_) | Self::WholeSecret(_))
    }
}

/// A field of a pod that only the running instance knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum InstanceField {
    /// The instance's name: `metadata.name`.
    Name,
    /// The index of a StatefulSet's member: the number at the end of the instance's name.
    Ordinal,
    /// An id that no other boot has: `metadata.uid`.
    Uid,
    /// The instance's id in its cloud: `spec.nodeName`.
    NodeName,
    /// The instance's address: `status.podIP`, `status.hostIP`.
    Ip,
    /// All its addresses, divided by commas: `status.podIPs`, `status.hostIPs`.
    Ips,
    /// The index of an Indexed Job's machine; empty of others: the annotation and the label
    /// [`Self::INDEX_ANNOTATION`].
    CompletionIndex,
    /// The machine's processors, in units of this many thousandths, rounded up.
    CpuMillis(u64),
    /// The machine's memory, in units of this many bytes, rounded up.
    MemoryBytes(u64),
}

impl InstanceField {
    /// The variable that each container of an Indexed Job has.
    pub const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

    /// The annotation, and the label, that pods of an Indexed Job have in Kubernetes.
    pub const INDEX_ANNOTATION: &str = "batch.kubernetes.io/job-completion-index";
}

/// A key of a Secret of the pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKey {
    /// The Secret's name.
    pub secret: String,
    /// The key.
    pub key: String,
    /// Whether it may be missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// A Secret of the pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretName {
    /// The Secret's name.
    pub secret: String,
    /// Whether it may be missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}
