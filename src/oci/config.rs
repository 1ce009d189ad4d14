//! The image configuration: how an image asks to be run.
//!
//! Source of the format: <https://github.com/opencontainers/image-spec/blob/main/config.md>. Unknown fields are
//! ignored here, unlike in manifests: images are made by other tools, which add fields of their own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::DiffId;
use super::null;

/// The image configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Processor architecture in Go's words, such as `amd64`.
    #[serde(default, deserialize_with = "null::is_empty")]
    pub architecture: String,
    /// Operating system in Go's words.
    #[serde(default, deserialize_with = "null::is_empty")]
    pub os: String,
    /// Execution defaults.
    #[serde(default, deserialize_with = "null::is_empty")]
    pub config: ContainerConfig,
    /// The layers' identities.
    #[serde(default, deserialize_with = "null::is_empty")]
    pub rootfs: RootFs,
}

/// The layers of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RootFs {
    /// Base layer first.
    #[serde(default, deserialize_with = "null::is_empty")]
    pub diff_ids: Vec<DiffId>,
}

/// Execution defaults of an image. Absent and `null` lists are both empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// User, `user:group`, or their numbers; empty is root.
    #[serde(deserialize_with = "null::is_empty")]
    pub user: String,
    /// `NAME=VALUE` entries.
    #[serde(deserialize_with = "null::in_list")]
    pub env: Vec<String>,
    /// The program and its fixed arguments.
    #[serde(deserialize_with = "null::in_list")]
    pub entrypoint: Vec<String>,
    /// Default arguments, or the whole command when there is no entrypoint.
    #[serde(deserialize_with = "null::in_list")]
    pub cmd: Vec<String>,
    /// Working directory; empty is `/`.
    #[serde(deserialize_with = "null::is_empty")]
    pub working_dir: String,
    /// The signal that asks the program to end, such as `SIGQUIT`; empty is SIGTERM.
    #[serde(deserialize_with = "null::is_empty")]
    pub stop_signal: String,
    /// Ports such as `80/tcp`, as keys.
    #[serde(deserialize_with = "null::is_empty")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    /// Labels.
    #[serde(deserialize_with = "null::in_map")]
    pub labels: BTreeMap<String, String>,
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
        let fields = r#"{"User":null,"ExposedPorts":null,"Env":null,"Entrypoint":null,"Cmd":null,"Volumes":null,
            "WorkingDir":null,"Labels":null,"StopSignal":null}"#;
        for (config, rootfs) in [
            (fields, r#"{"type":"layers","diff_ids":null}"#),
            ("null", "null"),
            (r#"{"Labels":{"a":null},"Cmd":[null]}"#, "{}"),
        ] {
            let text =
                format!(r#"{{"architecture":"amd64","os":"linux","config":{config},"rootfs":{rootfs}}}"#);
            let read: ImageConfig = serde_json::from_str(&text).unwrap();
            assert!(read.rootfs.diff_ids.is_empty() && read.config.user.is_empty(), "{text}");
        }
        let nothing: ImageConfig = serde_json::from_str(r#"{"architecture":null}"#).unwrap();
        assert_eq!(nothing.config, ContainerConfig::default());
    }
}
