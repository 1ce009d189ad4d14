//! Settings of registries and images, as plain values. The environment file and the process's environment are
//! read elsewhere and handed down; nothing here looks around.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Blobs fetched at once: enough to hide a registry's latency, few enough that buffers stay small.
const CONCURRENCY: usize = 4;

/// Where images come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// By host and port as references write them, such as `docker.io` or `registry.example:5000`.
    pub registries: BTreeMap<String, RegistrySettings>,
    /// Images that do not come from a registry, by reference.
    pub images: BTreeMap<String, ImageSource>,
    /// Docker's `config.json`, which holds credentials. A file that does not exist means anonymous access.
    pub docker_config: Option<PathBuf>,
    /// Secrets of manifests with credentials, which are asked before docker's own file.
    #[serde(skip)]
    pub pull_secrets: Vec<PullSecret>,
    /// The Docker daemon's socket.
    pub docker_socket: PathBuf,
    /// Proxies on the way to registries. Loopback addresses never use one.
    pub proxies: Proxies,
    /// Blobs fetched at once.
    pub concurrency: usize,
    /// How long registries may take.
    #[serde(skip)]
    pub patience: Patience,
}

/// Credentials for registries that a manifest brings along.
#[derive(Clone, PartialEq, Eq)]
pub struct PullSecret {
    /// For messages, such as `Secret shop/registry`.
    pub name: String,
    /// Docker's `config.json`, or what is below `auths` in it.
    pub document: Vec<u8>,
}

impl fmt::Debug for PullSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullSecret").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How long a registry may take before it counts as gone. Tests have less of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The wait before the second attempt; each further one is twice as long.
    pub first_wait: Duration,
    /// A host that sends nothing for this long has gone; a download is resumed.
    pub silence: Duration,
    /// A manifest or a token must have come within this time.
    pub document: Duration,
    /// Within each such time a download must bring [`Patience::progress`].
    pub window: Duration,
    /// Bytes: what comes slower would take days for an ordinary layer.
    pub progress: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first_wait: Duration::from_millis(200),
            silence: Duration::from_secs(30),
            document: Duration::from_mins(1),
            window: Duration::from_secs(30),
            progress: 64 * 1024,
        }
    }
}

/// What differs from registry to registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RegistrySettings {
    /// Registries to ask first, in this order: `host[:port][/prefix]`.
    pub mirrors: Vec<String>,
    /// Whether to speak http without TLS. By default only loopback addresses do; those are also expected to hand
    /// out blobs and tokens themselves. A loopback registry that sends its clients to other hosts needs the word.
    pub plain_http: Option<bool>,
}

/// A place that holds an image, other than a registry. Relative paths have been made absolute by the reader of the
/// environment file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SourceKeys", into = "SourceKeys")]
pub enum ImageSource {
    /// A folder in the OCI image layout.
    Layout(PathBuf),
    /// A file made by `docker save` or an OCI archive, compressed or not.
    Archive(PathBuf),
    /// The local Docker daemon.
    Daemon,
}

/// An [`ImageSource`] as it is written: one key of three. YAML libraries do not agree on how an enum is written, and
/// a map of one key is what people expect.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct SourceKeys {
    #[serde(skip_serializing_if = "Option::is_none")]
    layout: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    archive: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon: Option<bool>,
}

impl TryFrom<SourceKeys> for ImageSource {
    type Error = &'static str;

    fn try_from(keys: SourceKeys) -> Result<Self, Self::Error> {
        match (keys.layout, keys.archive, keys.daemon) {
            (Some(folder), None, None) => Ok(Self::Layout(folder)),
            (None, Some(file), None) => Ok(Self::Archive(file)),
            (None, None, Some(true)) => Ok(Self::Daemon),
            _ => Err("an image's source is one of `layout: FOLDER`, `archive: FILE` and `daemon: true`"),
        }
    }
}

impl From<ImageSource> for SourceKeys {
    fn from(source: ImageSource) -> Self {
        match source {
            ImageSource::Layout(folder) => Self { layout: Some(folder), ..Self::default() },
            ImageSource::Archive(file) => Self { archive: Some(file), ..Self::default() },
            ImageSource::Daemon => Self { daemon: Some(true), ..Self::default() },
        }
    }
}

/// The usual three variables.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Proxies {
    /// `HTTPS_PROXY`.
    pub https: Option<String>,
    /// `HTTP_PROXY`.
    pub http: Option<String>,
    /// `NO_PROXY`.
    pub none_for: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            registries: BTreeMap::new(),
            images: BTreeMap::new(),
            docker_config: None,
            pull_secrets: Vec::new(),
            docker_socket: "/var/run/docker.sock".into(),
            proxies: Proxies::default(),
            concurrency: CONCURRENCY,
            patience: Patience::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_file_reads_as_one_would_write_it() {
        let text = "
registries:
  docker.io: { mirrors: [127.0.0.1:5000] }
  registry.example:5000: { plainHttp: true }
images:
  app:dev: { layout: /images/app }
  old:1: { archive: /images/old.tar }
  mine: { daemon: true }
";
        let settings: Settings = serde_yaml::from_str(text).unwrap();
        assert_eq!(settings.registries["docker.io"].mirrors, ["127.0.0.1:5000"]);
        assert_eq!(settings.registries["registry.example:5000"].plain_http, Some(true));
        assert_eq!(settings.images["app:dev"], ImageSource::Layout("/images/app".into()));
        assert_eq!(settings.images["mine"], ImageSource::Daemon);
        assert_eq!(settings.concurrency, CONCURRENCY);
    }

    #[test]
    fn a_source_is_one_of_three() {
        for text in ["{}", "{ daemon: false }", "{ layout: a, archive: b }", "{ folder: a }"] {
            assert!(serde_yaml::from_str::<ImageSource>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_misspelt_key_is_refused() {
        let error = serde_yaml::from_str::<RegistrySettings>("plainHTTP: true").unwrap_err();
        assert!(error.to_string().contains("plainHTTP"), "{error}");
    }
}
