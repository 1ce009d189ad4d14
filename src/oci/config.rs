//! The image configuration: what an image says of how it wants to be run.
//!
//! Source of the format: <https://github.com/opencontainers/image-spec/blob/main/config.md>. Unknown fields are
//! ignored here, unlike in manifests: images are made by other tools, which add fields of their own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::DiffId;

/// The image configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Processor architecture in Go's words, such as `amd64`.
    pub architecture: String,
    /// Operating system in Go's words.
    pub os: String,
    /// Execution defaults.
    #[serde(default)]
    pub config: ContainerConfig,
    /// The layers' identities.
    pub rootfs: RootFs,
}

/// The layers of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Base layer first.
    pub diff_ids: Vec<DiffId>,
}

/// Execution defaults of an image. Absent and `null` lists are both empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// User, `user:group`, or their numbers; empty is root.
    pub user: String,
    /// `NAME=VALUE` entries.
    #[serde(deserialize_with = "null_is_empty")]
    pub env: Vec<String>,
    /// The program and its fixed arguments.
    #[serde(deserialize_with = "null_is_empty")]
    pub entrypoint: Vec<String>,
    /// Default arguments, or the whole command when there is no entrypoint.
    #[serde(deserialize_with = "null_is_empty")]
    pub cmd: Vec<String>,
    /// Working directory; empty is `/`.
    pub working_dir: String,
    /// The signal that asks the program to end, such as `SIGQUIT`; empty is SIGTERM.
    pub stop_signal: String,
    /// Ports such as `80/tcp`, as keys.
    #[serde(deserialize_with = "null_is_empty")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    /// Labels.
    #[serde(deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
}

fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_absences_are_empty() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["a"],"Entrypoint":null,"New":1},
            "rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.config.cmd, ["a"]);
        assert!(config.config.entrypoint.is_empty());
        assert!(config.config.labels.is_empty());
    }
}
