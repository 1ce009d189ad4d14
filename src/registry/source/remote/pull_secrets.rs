//! Credentials from Secrets that manifests name in `imagePullSecrets`.
//!
//! A Secret holds docker's `config.json`, or in its older form what is below `auths` there. Only passwords are read from it:
//! programs that it names as helpers are never run, since a manifest may come from somebody else.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::credentials::{Credentials, DOCKER_HUB, TOKEN_USER};
use crate::registry::error::USER_OF;
use crate::registry::settings::PullSecret;

/// Base64 with its padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

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
    /// Instead of a password.
    #[serde(rename = "identitytoken")]
    token: String,
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
        if let Some(found) = named.iter().find_map(|(_, auth)| auth.credentials()) {
            // Some registries have a token in the place of the user, too: it is not shown.
            let who = format!("{USER_OF}{}", secret.name);
            return (Some(Credentials { who, ..found }), warnings);
        }
        if named.iter().any(|(_, auth)| !auth.basic.is_empty()) {
            warnings.push(format!(
                "{}: `auth` of {registry} is not base64 of USER:PASSWORD; going on without it",
                secret.name
            ));
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
    host.eq_ignore_ascii_case(registry) || (is_hub(registry) && is_hub(host)) || covers(host, registry)
}

/// Whether a name with a `*` for whole labels, as Kubernetes takes them, is about that registry.
fn covers(pattern: &str, registry: &str) -> bool {
    let (pattern, registry): (Vec<&str>, Vec<&str>) =
        (pattern.split('.').collect(), registry.split('.').collect());
    let fits = |(pattern, label): (&&str, &&str)| *pattern == "*" || pattern.eq_ignore_ascii_case(label);
    pattern.len() == registry.len() && pattern.iter().zip(&registry).all(fits)
}

impl Auth {
    fn credentials(&self) -> Option<Credentials> {
        if !self.token.is_empty() {
            return Some(Credentials::of(TOKEN_USER.to_owned(), self.token.clone()));
        }
        let given = (self.username.clone(), self.password.clone());
        let (user, password) = self.user().unwrap_or(given);
        (!user.is_empty() && !password.is_empty()).then(|| Credentials::of(user, password))
    }

    /// User and password of `auth`.
    fn user(&self) -> Option<(String, String)> {
        let text = String::from_utf8(BASE64.decode(self.basic.trim()).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
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
    fn tokens_wildcards_and_base64_without_padding_are_read_and_what_cannot_be_is_told() {
        let token = r#"{"auths":{"r.example":{"auth":"MDA6","identitytoken":"t"}}}"#;
        assert_eq!(given(&[token], "r.example").unwrap(), format!("{TOKEN_USER}:t"));
        // Without a password or a token docker's own file is asked.
        assert_eq!(given(&[r#"{"auths":{"r.example":{"username":"ann"}}}"#], "r.example"), None);
        let wildcard = r#"{"auths":{"*.dkr.*.example":{"auth":"YW5uOmE6Yg"}}}"#;
        assert_eq!(given(&[wildcard], "1.dkr.eu.example").unwrap(), "ann:a:b");
        assert_eq!(given(&[wildcard], "1.2.dkr.eu.example"), None);
        let (found, warnings) = find(&[secret(r#"{"auths":{"r.example":{"auth":"hunter2"}}}"#)], "r.example");
        assert!(found.is_none() && warnings[0].contains("r.example") && !warnings[0].contains("hunter2"));
        let (found, _) =
            find(&[secret(r#"{"auths":{"r.example":{"auth":"aHVudGVyMjpodW50ZXIy"}}}"#)], "r.example");
        assert_eq!(found.unwrap().who, "the user of Secret default/registry");
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
