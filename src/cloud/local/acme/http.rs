//! Requests to a CA: over TLS alone, with bounds on time and on what is read.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use hyper::header::RETRY_AFTER;
use hyper::{Request, Response, StatusCode};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Url};

use crate::manifest::api::AcmeIssuer;

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(10);

/// Of one request, with its answer.
const REQUEST: Duration = Duration::from_secs(30);

/// The longest answer: a chain of certificates is some kilobytes.
const MAX_ANSWER: usize = 1 << 20;

/// Why a CA cannot be asked as it is named in an environment file.
pub(in crate::cloud::local) fn refusal(issuer: &AcmeIssuer) -> Option<String> {
    let AcmeIssuer { directory, email, ca_bundle } = issuer;
    let is_url = Url::parse(directory).is_ok_and(|url| {
        url.scheme() == "https"
            && url.host_str().is_some()
            && url.username().is_empty()
            && url.password().is_none()
    });
    if !is_url {
        return Some(format!(
            "`directory` is the URL of an ACME server, which begins with `https://`, got `{directory}`"
        ));
    }
    if let Some(email) = email {
        let is_plain =
            |part: &str| !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || c.is_control());
        let parts: Vec<&str> = email.split('@').collect();
        if parts.len() != 2 || !parts.iter().all(|part| is_plain(part)) || email.contains([',', '?', ':']) {
            return Some(format!("`email` is one address such as ops@example.com, got `{email}`"));
        }
    }
    let bundle = ca_bundle.as_ref().map(|pem| Certificate::from_pem_bundle(pem.as_bytes()));
    match bundle {
        Some(Err(error)) => Some(format!("`caBundle` holds certificates as PEM: {error}")),
        Some(Ok(certificates)) if certificates.is_empty() => {
            Some("`caBundle` holds no certificate (`-----BEGIN CERTIFICATE-----`)".into())
        }
        _ => None,
    }
}

/// A client of one CA.
#[derive(Debug, Clone)]
pub(super) struct Requests {
    client: Client,
    retry_after: Arc<Mutex<Option<Duration>>>,
}

impl Requests {
    /// A client that trusts what the system trusts, and what the environment names.
    pub(super) fn new(issuer: &AcmeIssuer) -> Result<Self, reqwest::Error> {
        // An error means that one is installed.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder()
            .connect_timeout(CONNECT)
            .timeout(REQUEST)
            .https_only(true)
            .redirect(Policy::none());
        if let Some(pem) = &issuer.ca_bundle {
            client = client.tls_certs_merge(Certificate::from_pem_bundle(pem.as_bytes())?);
        }
        Ok(Self { client: client.build()?, retry_after: Arc::default() })
    }

    /// How long the last refusal asked to wait.
    pub(super) fn wish(&self) -> Option<Duration> {
        *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await;
        let url = Url::parse(&head.uri.to_string()).map_err(other)?;
        let mut headers = head.headers;
        let agent = concat!("i2kit/", env!("CARGO_PKG_VERSION"), " instant-acme");
        headers.insert(hyper::header::USER_AGENT, hyper::header::HeaderValue::from_static(agent));
        let asked = self.client.request(head.method, url).headers(headers).body(body.to_bytes());
        let mut answer = asked.send().await.map_err(|error| other(root(&error)))?;
        let is_refusal =
            matches!(answer.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let wish = answer.headers().get(RETRY_AFTER).filter(|_| is_refusal);
        let wish = wish.and_then(|value| value.to_str().ok()?.trim().parse().ok()).map(Duration::from_secs);
        *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner) = wish;
        let mut response = Response::builder().status(answer.status());
        if let Some(headers) = response.headers_mut() {
            headers.clone_from(answer.headers());
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| other(root(&error)))? {
            if bytes.len() + chunk.len() > MAX_ANSWER {
                return Err(other(format!("the answer is longer than {MAX_ANSWER} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        if answer.status().is_server_error() && serde_json::from_slice::<serde_json::Value>(&bytes).is_err() {
            return Err(other(format!("it answered with {}", answer.status())));
        }
        let (parts, ()) = response.body(()).map_err(other)?.into_parts();
        Ok(BytesResponse { parts, body: Box::new(Bytes::from(bytes)) })
    }
}

impl HttpClient for Requests {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        Box::pin(self.clone().ask(request))
    }
}

fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Other(error.into())
}

/// The reason below an error: those above it say that a request failed.
fn root(error: &reqwest::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_is_named_by_a_url_with_tls() {
        let issuer = |json: serde_json::Value| serde_json::from_value::<AcmeIssuer>(json).unwrap();
        let refused = |json| refusal(&issuer(json));
        let nothing = issuer(serde_json::json!({}));
        assert_eq!(refusal(&nothing), None);
        assert_eq!(nothing.directory, "https://acme-v02.api.letsencrypt.org/directory");
        assert_eq!(refused(serde_json::json!({"email": "ops@example.com"})), None);
        for (json, wanted) in [
            (serde_json::json!({"directory": "http://ca.example.com/dir"}), "https://"),
            (serde_json::json!({"directory": "https://user:word@ca.example.com/dir"}), "https://"),
            (serde_json::json!({"directory": "letsencrypt"}), "https://"),
            (serde_json::json!({"email": "ops"}), "one address"),
            (serde_json::json!({"email": "a@b, c@d"}), "one address"),
            (serde_json::json!({"email": "a@b?subject=x"}), "one address"),
            (serde_json::json!({"caBundle": "ca.pem"}), "caBundle"),
        ] {
            let reason = refused(json.clone()).unwrap_or_default();
            assert!(reason.contains(wanted), "{json}: {reason}");
        }
        assert!(serde_json::from_value::<AcmeIssuer>(serde_json::json!({"mail": "a@b"})).is_err());
    }
}
