//! Sorts what the client library reports into errors that say what to do, and whether to try again.

use std::error::Error as StdError;

use oci_client::errors::{OciDistributionError, OciErrorCode};

use super::Error;
use super::retry::{Failure, Retry};
use crate::oci::Reference;

/// Longest piece of a server's own text in a message.
const MAX_TEXT: usize = 200;

/// What was asked, of whom, by whom.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) registry: &'a str,
    pub(super) image: &'a Reference,
    pub(super) who: &'a str,
    pub(super) plain_http: bool,
}

/// The failure that `error` is.
pub(super) fn sort(error: OciDistributionError, asked: Asked<'_>) -> Failure {
    match error {
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
            asked.unauthorized()
        }
        OciDistributionError::RegistryError { envelope, .. } => asked.envelope(&envelope.errors),
        OciDistributionError::ServerError { code, message, .. } => asked.status(code, &message),
        OciDistributionError::RequestError(error) if error.is_connect() => asked.no_connection(&error),
        OciDistributionError::RequestError(error) if error.is_builder() || error.is_redirect() => {
            asked.server(&root(&error), Retry::Never)
        }
        OciDistributionError::RequestError(error) => asked.broken(&root(&error)),
        OciDistributionError::IoError(error) => asked.broken(&error.to_string()),
        other => asked.server(&other.to_string(), Retry::Never),
    }
}

impl Asked<'_> {
    fn unauthorized(self) -> Failure {
        let Self { registry, image, who, .. } = self;
        Failure::final_(Error::Unauthorized {
            registry: registry.to_owned(),
            image: image.to_string(),
            who: who.to_owned(),
        })
    }

    fn not_found(self) -> Failure {
        Failure::final_(Error::NotFound { registry: self.registry.to_owned(), image: self.image.to_string() })
    }

    fn rate_limited(self) -> Failure {
        let error = Error::RateLimited { registry: self.registry.to_owned() };
        Failure { error, retry: Retry::Transient }
    }

    fn server(self, message: &str, retry: Retry) -> Failure {
        let message: String = message.trim().chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect();
        let error =
            Error::Server { registry: self.registry.to_owned(), image: self.image.to_string(), message };
        Failure { error, retry }
    }

    fn status(self, code: u16, message: &str) -> Failure {
        let retry = if matches!(code, 408 | 425 | 500..=599) { Retry::Transient } else { Retry::Never };
        match code {
            401 | 403 => self.unauthorized(),
            404 | 410 => self.not_found(),
            429 => self.rate_limited(),
            // What Go's servers, which most registries are, say to a client without TLS.
            400 if self.plain_http && message.contains("HTTPS server") => {
                let hint = format!(
                    "set `plainHttp: false` for `{}` under `registries` in the environment file",
                    self.registry
                );
                let reason = "it speaks TLS".to_owned();
                Failure::final_(self.unreachable(reason, hint))
            }
            _ => self.server(&format!("status {code} {message}"), retry),
        }
    }

    fn envelope(self, errors: &[oci_client::errors::OciError]) -> Failure {
        let Some(first) = errors.first() else { return self.server("an error without words", Retry::Never) };
        match &first.code {
            OciErrorCode::ManifestUnknown
            | OciErrorCode::NameUnknown
            | OciErrorCode::BlobUnknown
            | OciErrorCode::ManifestBlobUnknown
            | OciErrorCode::NotFound => self.not_found(),
            OciErrorCode::Unauthorized | OciErrorCode::Denied => self.unauthorized(),
            OciErrorCode::Toomanyrequests => self.rate_limited(),
            code => self.server(&format!("{code:?} {}", first.message), Retry::Never),
        }
    }

    fn unreachable(self, reason: String, hint: String) -> Error {
        Error::Unreachable { registry: self.registry.to_owned(), image: self.image.to_string(), reason, hint }
    }

    /// The failure of an answer that broke off while it was read.
    pub(super) fn broken(self, reason: &str) -> Failure {
        let hint = "the network or the registry is overloaded: run the command again, what has come is kept";
        Failure { error: self.unreachable(reason.to_owned(), hint.to_owned()), retry: Retry::Transient }
    }

    /// Nothing was asked yet: the address, the port or the protocol may be wrong.
    fn no_connection(self, error: &(dyn StdError + 'static)) -> Failure {
        let registry = self.registry;
        let reason = root(error);
        let setting = |value: bool| {
            format!("set `plainHttp: {value}` for `{registry}` under `registries` in the environment file")
        };
        let hint = if reason.contains("certificate") {
            "add the certificate of its authority to the system's, or name it in SSL_CERT_FILE".to_owned()
        } else if reason.contains("InvalidContentType") {
            format!("it does not speak TLS: {}", setting(true))
        } else if self.plain_http {
            format!("check that it runs; if it speaks TLS, {}", setting(false))
        } else {
            format!("check the name and the network; if it does not speak TLS, {}", setting(true))
        };
        Failure { error: self.unreachable(reason, hint), retry: Retry::Connect }
    }
}

/// The innermost cause, which says what the system said; the layers above repeat the address.
pub(super) fn root(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use oci_client::errors::{OciEnvelope, OciError};

    use super::*;

    fn sorted(error: OciDistributionError) -> (String, Retry) {
        let image = "registry.example/app:1".parse().unwrap();
        let asked = Asked { registry: "registry.example", image: &image, who: "user ann", plain_http: false };
        let Failure { error, retry } = sort(error, asked);
        (error.to_string(), retry)
    }

    fn status(code: u16) -> OciDistributionError {
        OciDistributionError::ServerError { code, url: String::new(), message: "text".into() }
    }

    #[test]
    fn statuses_lead_to_advice() {
        let (text, retry) = sorted(status(404));
        assert!(text.starts_with("registry.example has no `registry.example/app:1`"), "{text}");
        assert_eq!(retry, Retry::Never);
        let (text, retry) = sorted(status(401));
        assert!(text.contains("to user ann: run `docker login registry.example`"), "{text}");
        assert_eq!(retry, Retry::Never);
        assert_eq!(sorted(status(503)).1, Retry::Transient);
        assert_eq!(sorted(status(429)).1, Retry::Transient);
        assert_eq!(sorted(status(400)).1, Retry::Never);
    }

    #[test]
    fn envelopes_are_read_like_statuses() {
        let error = |code| OciDistributionError::RegistryError {
            envelope: OciEnvelope {
                errors: vec![OciError { code, message: String::new(), detail: serde_json::Value::Null }],
            },
            url: String::new(),
        };
        assert!(sorted(error(OciErrorCode::ManifestUnknown)).0.contains("has no"));
        assert!(sorted(error(OciErrorCode::Denied)).0.contains("docker login"));
        assert_eq!(sorted(error(OciErrorCode::Toomanyrequests)).1, Retry::Transient);
    }
}
