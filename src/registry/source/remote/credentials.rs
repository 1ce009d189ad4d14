//! Credentials for registries, from docker's `config.json` and the helper programs that it names.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use base64::Engine as _;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use reqwest::header::HeaderValue;

/// The names under which docker keeps the credentials of Docker Hub. The first is what `docker login` writes.
pub(super) const DOCKER_HUB: [&str; 3] = ["https://index.docker.io/v1/", "docker.io", "index.docker.io"];

/// The user name that goes with an identity token. Azure's registries hand out such tokens and take them as the
/// password of this user.
pub(super) const TOKEN_USER: &str = "00000000-0000-0000-0000-000000000000";

/// Who asks a registry, and with what secret.
#[derive(Debug)]
pub(super) struct Credentials {
    /// None for everybody.
    pub(super) secret: Option<Secret>,
    /// For messages, such as `user ann`.
    pub(super) who: String,
}

/// A user's name and password. Its debug form shows the name alone.
#[derive(PartialEq, Eq)]
pub(super) struct Secret {
    /// The name.
    pub(super) user: String,
    password: String,
}

impl Credentials {
    /// Those of `user`.
    pub(super) fn of(user: String, password: String) -> Self {
        Self { who: format!("user {user}"), secret: Some(Secret { user, password }) }
    }
}

impl Secret {
    /// The `Authorization` header for it.
    pub(super) fn basic(&self) -> HeaderValue {
        let text = format!("{}:{}", self.user, self.password);
        let text = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text));
        let mut value = HeaderValue::try_from(text).expect("base64 is good in a header");
        value.set_sensitive(true);
        value
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The credentials for `registry` in the file `config`, or those of nobody. The warning explains why there are none though
/// there should be. Runs helper programs, so it blocks.
pub(super) fn find(config: Option<&Path>, registry: &str) -> (Credentials, Option<String>) {
    let Some(config) = config else { return (anonymous(), None) };
    let own = [registry];
    let servers = if registry == "docker.io" { DOCKER_HUB.as_slice() } else { own.as_slice() };
    for server in servers {
        let file = match File::open(config) {
            Ok(file) => BufReader::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (anonymous(), None),
            Err(error) => return (anonymous(), Some(format!("{}: {error}", config.display()))),
        };
        match docker_credential::get_credential_from_reader(file, server) {
            Ok(DockerCredential::UsernamePassword(user, password)) if !user.is_empty() => {
                return (Credentials::of(user, password), None);
            }
            Ok(DockerCredential::UsernamePassword(..)) => {}
            Ok(DockerCredential::IdentityToken(token)) => {
                let who = "the holder of an identity token".to_owned();
                let secret = Secret { user: TOKEN_USER.to_owned(), password: token };
                return (Credentials { secret: Some(secret), who }, None);
            }
            Err(error) if is_nothing(&error) => {}
            Err(error) => {
                let warning = format!("credentials of {registry} in {}: {error}", config.display());
                return (anonymous(), Some(warning));
            }
        }
    }
    (anonymous(), None)
}

fn anonymous() -> Credentials {
    Credentials { secret: None, who: "an anonymous user".to_owned() }
}

/// Whether the error only means that nobody has logged in. Helpers print that, with a failing exit code.
fn is_nothing(error: &CredentialRetrievalError) -> bool {
    match error {
        CredentialRetrievalError::NoCredentialConfigured => true,
        CredentialRetrievalError::HelperFailure { stdout, stderr, .. } => {
            format!("{stdout}{stderr}").contains("credentials not found")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn secret(user: &str, password: &str) -> Secret {
        Secret { user: user.into(), password: password.into() }
    }

    fn find_in(config: &str, registry: &str) -> (Credentials, Option<String>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(config.as_bytes()).unwrap();
        find(Some(file.path()), registry)
    }

    #[test]
    fn credentials_are_found_by_host() {
        // ann:secret
        let config = r#"{"auths":{"registry.example:5000":{"auth":"YW5uOnNlY3JldA=="},"https://index.docker.io/v1/":{"auth":"Ym9iOmh1Yg=="}}}"#;
        let (found, warning) = find_in(config, "registry.example:5000");
        assert_eq!(found.secret, Some(secret("ann", "secret")));
        assert_eq!((found.who.as_str(), warning), ("user ann", None));
        assert_eq!(find_in(config, "docker.io").0.secret, Some(secret("bob", "hub")));
        assert_eq!(find_in(config, "ghcr.io").0.secret, None);
    }

    #[test]
    fn an_identity_token_is_a_password() {
        let config = r#"{"auths":{"a.azurecr.io":{"auth":"MDow","identitytoken":"t"}}}"#;
        assert_eq!(find_in(config, "a.azurecr.io").0.secret, Some(secret(TOKEN_USER, "t")));
    }

    #[test]
    fn a_missing_file_means_nobody_and_a_broken_one_warns() {
        let missing = Path::new("/nonexistent/config.json");
        let (found, warning) = find(Some(missing), "docker.io");
        assert_eq!((found.secret, warning), (None, None));
        assert!(find_in("{", "docker.io").1.is_some());
        let helper = r#"{"credHelpers":{"ghcr.io":"that-does-not-exist"}}"#;
        assert!(find_in(helper, "ghcr.io").1.unwrap().contains("ghcr.io"));
    }
}
