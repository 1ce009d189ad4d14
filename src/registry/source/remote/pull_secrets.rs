//! Credentials from Secrets that manifests name in `imagePullSecrets`.
//!
//! A Secret holds docker's `config.json`, or in its older form what is below `auths` there. Only passwords are read from it:
//! programs that it names as helpers are never run, since a manifest may come from somebody else.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde::Deserialize;

use super::credentials::{Credentials, DOCKER_HUB};
use crate::registry::settings::PullSecret;

/// Docker's `config.json`.
#[derive(Deserialize)]
struct Config {
    auths: BTreeMap<String, Auth>,
}

/// The credentials for a registry: `auth` is base64 of `user:password`, and wins as it does for docker.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    #[serde(rename = "auth")]
    basic: String,
    username: String,
    password: String,
}

/// The credentials for `registry` of the first Secret that has some, and what is wrong with Secrets.
pub(super) fn find(secrets: &[PullSecret], registry: &str) -> (Option<Credentials>, Vec<String>) {
    let mut warnings = Vec::new();
    for secret in secrets {
        let Some(auths) = read(&secret.document) else {
            warnings.push(format!(
                "{}: no JSON as `docker login` writes it into config.json, with `auths`; going on without it",
                secret.name
            ));
            continue;
        };
        // The registry itself before a path in it: a client has the same credentials for all of its images.
        let mut named: Vec<_> = auths.iter().filter(|(server, _)| is_of(server, registry)).collect();
        named.sort_by_key(|(server, _)| server.len());
        if let Some(credentials) = named.into_iter().find_map(|(_, auth)| auth.credentials()) {
            return (Some(credentials), warnings);
        }
    }
    (None, warnings)
}

fn read(document: &[u8]) -> Option<BTreeMap<String, Auth>> {
    let config = serde_json::from_slice::<Config>(document).map(|config| config.auths);
    config.or_else(|_| serde_json::from_slice(document)).ok()
}

/// Whether credentials for `server`, which may be an address with a path, are for that registry.
fn is_of(server: &str, registry: &str) -> bool {
    let bare = server.split_once("://").map_or(server, |(_, rest)| rest);
    let host = bare.split('/').next().unwrap_or_default();
    let is_hub = |host: &str| DOCKER_HUB.contains(&host) || host == "registry-1.docker.io";
    host.eq_ignore_ascii_case(registry) || (is_hub(registry) && is_hub(host))
}

impl Auth {
    fn credentials(&self) -> Option<Credentials> {
        if self.basic.is_empty() {
            return (!self.username.is_empty())
                .then(|| Credentials::of(self.username.clone(), self.password.clone()));
        }
        let bytes = base64::engine::general_purpose::STANDARD.decode(self.basic.trim()).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (user, password) = text.split_once(':')?;
        (!user.is_empty())
            .then(|| Credentials::of(user.to_owned(), password.trim_end_matches('\0').to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(document: &str) -> PullSecret {
        PullSecret { name: "Secret default/registry".to_owned(), document: document.into() }
    }

    /// The `Authorization` that a registry is given.
    fn given(documents: &[&str], registry: &str) -> Option<String> {
        let secrets: Vec<PullSecret> = documents.iter().map(|document| secret(document)).collect();
        let (found, warnings) = find(&secrets, registry);
        assert!(warnings.is_empty(), "{warnings:?}");
        let value = found?.secret?.basic();
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(value.to_str().unwrap().strip_prefix("Basic ").unwrap())
            .unwrap();
        Some(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn credentials_are_found_as_kubectl_and_docker_write_them() {
        // `kubectl create secret docker-registry`, and ann:a:b in base64.
        let kubectl = r#"{"auths":{"https://index.docker.io/v1/":{"username":"ann","password":"a:b","email":"a@b","auth":"YW5uOmE6Yg=="}}}"#;
        assert_eq!(given(&[kubectl], "docker.io").unwrap(), "ann:a:b");
        assert_eq!(given(&[kubectl], "registry.example"), None);
        let plain = r#"{"auths":{"registry.example:5000":{"username":"bob","password":"p"}}}"#;
        assert_eq!(given(&[plain], "registry.example:5000").unwrap(), "bob:p");
        assert_eq!(given(&[plain], "registry.example"), None, "another port is another registry");
        let older = r#"{"https://registry.example/v1/":{"auth":"YW5uOmE6Yg=="}}"#;
        assert_eq!(given(&[older], "registry.example").unwrap(), "ann:a:b");
        // The first Secret that has some, and the registry before a path in it.
        assert_eq!(given(&[kubectl, older, plain], "registry.example:5000").unwrap(), "bob:p");
        let paths = r#"{"auths":{"r.example/team":{"username":"team","password":"1"},"r.example":{"username":"all","password":"2"}}}"#;
        assert_eq!(given(&[paths], "r.example").unwrap(), "all:2");
    }

    #[test]
    fn what_a_secret_names_as_a_program_is_never_run() {
        let helpers = r#"{"auths":{"r.example":{}},"credsStore":"evil","credHelpers":{"r.example":"evil"}}"#;
        assert_eq!(given(&[helpers], "r.example"), None);
    }

    #[test]
    fn a_secret_that_cannot_be_read_is_named_and_not_shown() {
        for document in ["", "hunter2", "[]", r#"{"auths": "hunter2"}"#] {
            let (found, warnings) = find(&[secret(document)], "r.example");
            assert!(found.is_none(), "{document}");
            assert!(warnings[0].starts_with("Secret default/registry: "), "{warnings:?}");
            assert!(!warnings[0].contains("hunter2"));
        }
        assert!(!format!("{:?}", secret("hunter2")).contains("hunter2"));
    }
}
