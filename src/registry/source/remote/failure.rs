//! Errors of the client library and of registries, sorted into errors with advice and whether to try again.

use std::error::Error as StdError;

use serde::Deserialize;

use super::retry::{Failure, Retry};
use crate::oci::Reference;
use crate::registry::error::Error;

/// Longest piece of a server's own text in a message.
const MAX_TEXT: usize = 200;

/// A request: what, of which registry, with whose credentials.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) registry: &'a str,
    pub(super) image: &'a Reference,
    pub(super) who: &'a str,
    pub(super) plain_http: bool,
}

/// Error document of registries (distribution specification, "Errors").
#[derive(Deserialize)]
struct Envelope {
    errors: Vec<Told>,
}

/// One error of an [`Envelope`].
#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

impl Asked<'_> {
    /// The failure of a request that got no answer, or of an answer that broke off.
    pub(super) fn transport(self, error: &reqwest::Error) -> Failure {
        if error.is_connect() {
            self.no_connection(error)
        } else if error.is_builder() || error.is_redirect() {
            self.useless(&root(error))
        } else {
            self.broken(&root(error))
        }
    }

    /// The failure of an answer that is neither success nor a question for credentials; `text` is how it starts.
    pub(super) fn refused(self, code: u16, text: &str) -> Failure {
        if (400..500).contains(&code)
            && let Ok(Envelope { errors }) = serde_json::from_str(text)
            && let Some(first) = errors.into_iter().next()
        {
            return self.told(code, &first);
        }
        self.status(code, text)
    }

    /// The failure of an answer that no client can use.
    pub(super) fn useless(self, message: &str) -> Failure {
        self.server(message, Retry::Never)
    }

    pub(super) fn unauthorized(self) -> Failure {
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

    /// The registry's own error code. Registries made before the codes answer with a status alone.
    fn told(self, status: u16, told: &Told) -> Failure {
        let (code, message) = (told.code.as_deref().unwrap_or_default(), told.message.as_deref());
        match code {
            "MANIFEST_UNKNOWN" | "NAME_UNKNOWN" | "BLOB_UNKNOWN" | "MANIFEST_BLOB_UNKNOWN" | "NOT_FOUND" => {
                self.not_found()
            }
            "UNAUTHORIZED" | "DENIED" => self.unauthorized(),
            "TOOMANYREQUESTS" => self.rate_limited(),
            code => self.status(status, &format!("{code} {}", message.unwrap_or_default())),
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
        } else if is_about_names(&reason) {
            "check the name and the network".to_owned()
        } else if registry.contains(':') && reason.contains("refused") {
            // The port is written down, and with another protocol it would be the same one.
            "check that it runs, and the port".to_owned()
        } else if self.plain_http {
            format!("check that it runs; if it speaks TLS, {}", setting(false))
        } else {
            format!("check the name and the network; if it does not speak TLS, {}", setting(true))
        };
        Failure { error: self.unreachable(reason, hint), retry: Retry::Connect }
    }
}

/// Whether no address was found, so that no protocol was spoken.
fn is_about_names(reason: &str) -> bool {
    ["lookup", "resolve", "not known", "No address"].iter().any(|word| reason.contains(word))
}

/// The innermost cause, the system's error; the layers above repeat the address.
pub(super) fn root(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, text: &str) -> (String, Retry) {
        let image = "registry.example/app:1".parse().unwrap();
        let asked = Asked { registry: "registry.example", image: &image, who: "user ann", plain_http: false };
        let Failure { error, retry } = asked.refused(code, text);
        (error.to_string(), retry)
    }

    #[test]
    fn statuses_lead_to_advice() {
        let (text, retry) = refused(404, "text");
        assert!(text.starts_with("registry.example has no `registry.example/app:1`"), "{text}");
        assert_eq!(retry, Retry::Never);
        let (text, retry) = refused(401, "text");
        assert!(text.contains("to user ann: run `docker login registry.example`"), "{text}");
        assert_eq!(retry, Retry::Never);
        assert_eq!(refused(503, "text").1, Retry::Transient);
        assert_eq!(refused(429, "text").1, Retry::Transient);
        assert_eq!(refused(400, "text").1, Retry::Never);
    }

    #[test]
    fn advice_about_protocols_is_given_where_they_can_be_the_cause() {
        let advice = |registry: &str, plain_http: bool, reason: &str| {
            let image = "registry.example/app:1".parse().unwrap();
            let asked = Asked { registry, image: &image, who: "user ann", plain_http };
            asked.no_connection(&std::io::Error::other(reason.to_owned())).error.to_string()
        };
        let lookup = advice("registy.example", false, "failed to lookup address information: Name not known");
        assert!(lookup.ends_with("check the name and the network"), "{lookup}");
        let refused = advice("registry.example:5000", true, "Connection refused (os error 111)");
        assert!(refused.ends_with("check that it runs, and the port"), "{refused}");
        for (registry, plain_http, reason) in [
            ("registry.example", true, "Connection refused (os error 111)"),
            ("registry.example", false, "received corrupt message of type InvalidContentType"),
            ("registry.example:5000", false, "connection reset"),
        ] {
            let text = advice(registry, plain_http, reason);
            assert!(text.contains(&format!("`plainHttp: {}`", !plain_http)), "{text}");
        }
    }

    #[test]
    fn told_errors_are_read_like_statuses() {
        let error = |code| refused(400, &format!(r#"{{"errors":[{{"code":"{code}","message":null}}]}}"#));
        assert!(error("MANIFEST_UNKNOWN").0.contains("has no"));
        assert!(error("DENIED").0.contains("docker login"));
        assert_eq!(error("TOOMANYREQUESTS").1, Retry::Transient);
        assert!(error("ODD").0.contains("status 400 ODD"));
    }

    #[test]
    fn what_a_server_says_is_cut_and_has_no_control_characters() {
        let (text, _) = refused(500, &format!("\u{1b}]0;x\u{7}\n{}", "y".repeat(5000)));
        assert!(text.len() < 400 && !text.contains(char::is_control), "{text:?}");
    }
}
