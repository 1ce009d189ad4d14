//! The environment file: where to deploy, and where images come from. Strict: an unknown key is an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::cloud::kinds;
use crate::cloud::provider::Provider;
use crate::registry::{ImageSource, RegistrySettings};

/// The file that is read when it exists and no other is named.
pub(super) const DEFAULT_FILE: &str = "environment.yml";

/// The longest name of an environment.
pub(super) const LONGEST_NAME: usize = 32;

/// The environment without a file.
const DEFAULT_NAME: &str = "local";

/// An environment file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Environment {
    /// The file that it was read from; empty when there is none.
    #[serde(skip)]
    pub file: PathBuf,
    /// The environment's name: part of everything that is created.
    pub name: String,
    /// The cloud.
    #[serde(default = "kinds::default", deserialize_with = "kinds::deserialize")]
    pub provider: Arc<dyn Provider>,
    /// How to reach registries, by host (and port).
    #[serde(default)]
    pub registries: BTreeMap<String, RegistrySettings>,
    /// Images that come from elsewhere than a registry, by the reference that manifests use.
    #[serde(default)]
    pub images: BTreeMap<String, ImageSource>,
    /// Values of Secrets that are in no manifest, by name or `NAMESPACE/NAME`: a folder with a file a key, or a file of
    /// `KEY=VALUE` lines. Relative paths are relative to this file.
    #[serde(default)]
    pub secrets: BTreeMap<String, PathBuf>,
    /// The folder of the profiles of system calls that pods name as `localhostProfile`.
    pub seccomp_profiles: Option<PathBuf>,
}

/// Why an environment file is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum EnvironmentError {
    /// It cannot be read.
    #[error("cannot read the environment file {}: {source}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what an environment file looks like.
    #[error("{}: {source}", .file.display())]
    Form {
        /// The file.
        file: PathBuf,
        /// What and where.
        source: serde_yaml::Error,
    },
    /// The name cannot be part of other names.
    #[error("{}: name `{name}` must be lower-case letters, digits and `-`, at most 32, beginning with a letter", .file.display())]
    Name {
        /// The file.
        file: PathBuf,
        /// The name.
        name: String,
    },
}

impl Default for Environment {
    fn default() -> Self {
        Self {
            file: PathBuf::new(),
            name: DEFAULT_NAME.into(),
            provider: kinds::default(),
            registries: BTreeMap::new(),
            images: BTreeMap::new(),
            secrets: BTreeMap::new(),
            seccomp_profiles: None,
        }
    }
}

/// Reads `file`, or [`DEFAULT_FILE`] if it exists, or gives the default environment.
pub(super) fn read(file: Option<&Path>) -> Result<Environment, EnvironmentError> {
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && file.is_none() => {
            return Ok(Environment::default());
        }
        Err(source) => return Err(EnvironmentError::Read { file: path.to_owned(), source }),
    };
    parse(path, &text)
}

fn parse(file: &Path, text: &str) -> Result<Environment, EnvironmentError> {
    let mut environment: Environment = serde_yaml::from_str(text)
        .map_err(|source| EnvironmentError::Form { file: file.to_owned(), source })?;
    file.clone_into(&mut environment.file);
    let name = &environment.name;
    let good = (1..=LONGEST_NAME).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !good {
        return Err(EnvironmentError::Name { file: file.to_owned(), name: name.clone() });
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    for source in environment.images.values_mut() {
        match source {
            ImageSource::Layout(path) | ImageSource::Archive(path) => *path = folder.join(&*path),
            ImageSource::Daemon => {}
        }
    }
    for path in environment.secrets.values_mut().chain(&mut environment.seccomp_profiles) {
        *path = folder.join(&*path);
    }
    Ok(environment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file_is_read() {
        let text = "name: staging
provider: {type: local}
registries:
  docker.io: {mirrors: ['127.0.0.1:5000'], plainHttp: true}
images:
  app:1: {layout: images/app}
  tool: {daemon: true}
seccompProfiles: profiles
";
        let environment = parse(Path::new("/etc/e.yml"), text).unwrap();
        assert_eq!(environment.images["app:1"], ImageSource::Layout("/etc/images/app".into()));
        assert_eq!(environment.seccomp_profiles, Some("/etc/profiles".into()));
        assert_eq!(environment.registries["docker.io"].plain_http, Some(true));
    }

    #[test]
    fn unknown_keys_and_names_are_refused() {
        let error = |text| parse(Path::new("e.yml"), text).unwrap_err().to_string();
        assert!(error("name: a\nregion: x\n").contains("unknown field `region`"));
        assert!(error("name: a\nprovider: {type: gcp}\n").contains("unknown variant `gcp`"));
        assert!(error("name: A_b\n").contains("name `A_b` must be"));
        assert!(error("name: a\nprovider: {type: local, zone: z}\n").contains("unknown field `zone`"));
        assert!(error("name: a\nprovider: {zone: z}\n").contains("missing field `type`"));
    }
}
