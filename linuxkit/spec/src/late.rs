//! What an image does not hold because it is known at boot alone: facts of the VM, and the values of Secrets.

use serde::{Deserialize, Serialize};

/// The environment of a container that has variables which are known at boot alone. The host leaves everything that
/// could depend on them to the guest, so that `$(VAR)` means the same wherever the value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LateEnvironment {
    /// The manifest's variables in their order. They win over `config.json`'s, which are the image's.
    pub env: Vec<LateVariable>,
    /// Whether `$(VAR)` is expanded in `config.json`'s arguments: those of a manifest are, those of an image are not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expand_args: bool,
    /// Destinations of the mounts whose source is expanded: those with a `subPathExpr`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expand_mounts: Vec<String>,
}

/// A variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LateVariable {
    /// Its name, or of a whole Secret what is put before the name of each key.
    pub name: String,
    /// Where its value comes from.
    pub value: LateValue,
}

/// Where the value of a variable comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum LateValue {
    /// As written; `$(VAR)` is expanded with the variables before it.
    Written(String),
    /// As it is here.
    Fixed(String),
    /// A fact of the VM.
    Instance(InstanceField),
    /// A key of a Secret; without it the variable is not set.
    Secret(SecretKey),
    /// All keys of a Secret, a variable each.
    WholeSecret(SecretName),
}

/// What only the running instance knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum InstanceField {
    /// The instance's name: `metadata.name`.
    Name,
    /// An id that no other boot has: `metadata.uid`.
    Uid,
    /// The instance's id in its cloud: `spec.nodeName`.
    NodeName,
    /// The instance's address: `status.podIP`, `status.hostIP`.
    Ip,
    /// All its addresses, divided by commas.
    Ips,
    /// The machine's processors, in units of this many thousandths, rounded up.
    CpuMillis(u64),
    /// The machine's memory, in units of this many bytes, rounded up.
    MemoryBytes(u64),
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
