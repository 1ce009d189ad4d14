//! Requests to a CA: over TLS alone, with bounds on time and on what is read.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::http::response::Parts;
use hyper::{Method, Request, Response, StatusCode, Uri};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient, Problem};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Url};
use serde_json::Value;

use super::record::LONGEST_WISH;
use crate::cloud::local::clock;
use crate::manifest::api::AcmeIssuer;

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(10);

/// Of one request, with its answer.
const REQUEST: Duration = Duration::from_secs(30);

/// The longest answer: a chain of certificates is some kilobytes.
const MAX_ANSWER: usize = 1 << 20;

/// The longest `caBundle`: it is written down with every host.
const MAX_BUNDLE: usize = 64 << 10;

/// Parts of a problem that are read.
const PARTS: usize = 8;

/// Why a CA cannot be asked as it is named in an environment file.
pub(in crate::cloud::local) fn refusal(issuer: &AcmeIssuer) -> Option<String> {
    let AcmeIssuer { directory, email, ca_bundle } = issuer;
    let is_url = Url::parse(directory).is_ok_and(|url| {
        url.scheme() == "https"
            && url.host_str().is_some()
            && url.username().is_empty()
            && url.password().is_none()
    });
    // As the library reads it, which panics at what it cannot read.
    if !is_url || directory.parse::<Uri>().is_err() {
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
    if let Some(length) = ca_bundle.as_ref().map(String::len).filter(|length| *length > MAX_BUNDLE) {
        return Some(format!("`caBundle` has {MAX_BUNDLE} bytes (64 KiB) at most, got {length}"));
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
    last: Arc<Mutex<Last>>,
}

/// What is known of the last request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Last {
    /// How long the answer asked to wait, where it was a refusal.
    pub(super) wish: Option<Duration>,
    /// Whether it asked for nothing but to see something: an order, an authorization, the directory.
    pub(super) is_look: bool,
}

/// An answer that is neither what was asked for nor a problem in the form of ACME.
#[derive(Debug, thiserror::Error)]
#[error("it answered with {status}, and without a reason that can be read")]
pub(super) struct Unexplained {
    /// What it said of the request.
    pub(super) status: StatusCode,
    /// Whether the request was one of an account: an order and what belongs to it are asked for by such ones alone.
    pub(super) is_signed: bool,
}

impl Unexplained {
    /// Whether the CA does not have any more what it was asked for.
    pub(super) fn is_gone(&self) -> bool {
        self.is_signed && matches!(self.status, StatusCode::NOT_FOUND | StatusCode::GONE)
    }
}

impl Requests {
    /// A client that trusts what the system trusts, and what the environment names. It goes by no HTTP proxy.
    pub(super) fn new(issuer: &AcmeIssuer) -> Result<Self, reqwest::Error> {
        // An error means that one is installed.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder()
            .connect_timeout(CONNECT)
            .timeout(REQUEST)
            .https_only(true)
            .no_proxy()
            .redirect(Policy::none());
        if let Some(pem) = &issuer.ca_bundle {
            client = client.tls_certs_merge(Certificate::from_pem_bundle(pem.as_bytes())?);
        }
        Ok(Self { client: client.build()?, last: Arc::default() })
    }

    /// The last request.
    pub(super) fn last(&self) -> Last {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_last(&self, last: Last) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }

    async fn ask(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await;
        let body = body.to_bytes();
        let is_look = head.method != Method::POST || is_empty(&body);
        self.set_last(Last { wish: None, is_look });
        let url = Url::parse(&head.uri.to_string()).map_err(other)?;
        let mut headers = head.headers;
        let agent = concat!("i2kit/", env!("CARGO_PKG_VERSION"), " instant-acme");
        headers.insert(hyper::header::USER_AGENT, HeaderValue::from_static(agent));
        let is_directory = head.method == Method::GET;
        let is_signed = head.method == Method::POST;
        let asked = self.client.request(head.method, url).headers(headers).body(body);
        let mut answer = asked.send().await.map_err(|error| other(root(&error)))?;
        let status = answer.status();
        let mut headers = answer.headers().clone();
        let wish = headers.remove(RETRY_AFTER).and_then(|value| pause(value.to_str().ok()?, clock::wall()));
        if let Some(wish) = wish {
            // In seconds, and within bounds: the library adds whatever there is to the time, which may overflow.
            headers
                .insert(RETRY_AFTER, HeaderValue::from(wish.as_secs() + u64::from(wish.subsec_nanos() > 0)));
        }
        let is_refusal = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        self.set_last(Last { wish: wish.filter(|_| is_refusal), is_look });
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| other(root(&error)))? {
            if bytes.len() + chunk.len() > MAX_ANSWER {
                return Err(other(format!("the answer is longer than {MAX_ANSWER} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            let problem = if is_directory { None } else { problem(status, &bytes) };
            bytes = problem.ok_or_else(|| other(Unexplained { status, is_signed }))?;
        } else if is_directory && !names_nonces(&bytes) {
            return Err(other("the URL of its directory leads to none: it names no `newNonce`"));
        }
        let mut response = Response::builder().status(status);
        if let Some(known) = response.headers_mut() {
            *known = headers;
        }
        let (parts, ()): (Parts, ()) = response.body(()).map_err(other)?.into_parts();
        Ok(BytesResponse { parts, body: Box::new(Bytes::from(bytes)) })
    }
}

/// Whether a request has no payload: it asks to see something (RFC 8555, 6.3).
fn is_empty(body: &[u8]) -> bool {
    let body: Option<Value> = serde_json::from_slice(body).ok();
    body.is_some_and(|body| body.get("payload").and_then(Value::as_str) == Some(""))
}

/// Whether a directory has what every request begins with. The library panics where that is no URL.
fn names_nonces(directory: &[u8]) -> bool {
    let directory: Option<Value> = serde_json::from_slice(directory).ok();
    let url = directory.as_ref().and_then(|directory| directory.get("newNonce")?.as_str());
    url.is_some_and(|url| url.parse::<Uri>().is_ok())
}

/// A problem (RFC 8555, 6.7) with the status that it came with, and no more parts than are shown; `None` where the
/// answer is none.
fn problem(status: StatusCode, bytes: &[u8]) -> Option<Vec<u8>> {
    if !status.is_client_error() && !status.is_server_error() {
        return None;
    }
    serde_json::from_slice::<Problem>(bytes).ok()?;
    let mut problem: Value = serde_json::from_slice(bytes).ok()?;
    let fields = problem.as_object_mut()?;
    fields.insert("status".into(), status.as_u16().into());
    if let Some(parts) = fields.get_mut("subproblems").and_then(Value::as_array_mut) {
        parts.truncate(PARTS);
    }
    serde_json::to_vec(&problem).ok()
}

/// How long `Retry-After` asks to wait (RFC 9110, 10.2.3), at the time `now` in milliseconds since the Unix epoch: seconds, or a
/// date. A week at most.
fn pause(value: &str, now: u64) -> Option<Duration> {
    let value = value.trim();
    let millis = if !value.is_empty() && value.bytes().all(|c| c.is_ascii_digit()) {
        // More digits than a number has are a long time.
        value.parse().unwrap_or(u64::MAX).saturating_mul(1000)
    } else {
        let date = httpdate::parse_http_date(value).ok()?;
        let date = date.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(date.as_millis()).unwrap_or(u64::MAX).saturating_sub(now)
    };
    Some(Duration::from_millis(millis.min(LONGEST_WISH)))
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
    use crate::mutations::survive;

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
            (serde_json::json!({"directory": "https://ca.example.com/a dir"}), "https://"),
            (serde_json::json!({"directory": "https://cä.example.com/"}), "https://"),
            (serde_json::json!({"email": "ops"}), "one address"),
            (serde_json::json!({"email": "a@b, c@d"}), "one address"),
            (serde_json::json!({"email": "a@b?subject=x"}), "one address"),
            (serde_json::json!({"caBundle": "ca.pem"}), "caBundle"),
            (serde_json::json!({"caBundle": "x".repeat(MAX_BUNDLE + 1)}), "64 KiB"),
        ] {
            let reason = refused(json.clone()).unwrap_or_default();
            assert!(reason.contains(wanted), "{json}: {reason}");
        }
        assert!(serde_json::from_value::<AcmeIssuer>(serde_json::json!({"mail": "a@b"})).is_err());
    }

    #[test]
    fn a_pause_is_seconds_or_a_date_and_a_week_at_most() {
        let now = 784_111_777_000;
        for (value, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("18446744073709551615", Some(LONGEST_WISH / 1000)),
            ("99999999999999999999999", Some(LONGEST_WISH / 1000)),
            // The three forms of a date, the time `now` and a minute.
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            ("Sun Nov  6 08:50:37 1994", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(LONGEST_WISH / 1000)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(pause(value, now), seconds.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn a_problem_has_the_status_that_it_came_with_and_few_parts() {
        let part = r#"{"type":"x","detail":"y"}"#;
        let text = format!(r#"{{"status":200,"detail":"no","subproblems":[{}]}}"#, [part; 1000].join(","));
        let read = problem(StatusCode::FORBIDDEN, text.as_bytes()).unwrap();
        let read: Problem = serde_json::from_slice(&read).unwrap();
        assert_eq!((read.status, read.subproblems.len()), (Some(403), PARTS));
        for (status, text) in
            [(403, "<html>"), (403, "[]"), (403, ""), (403, r#"{"subproblems":1}"#), (301, "{}"), (101, "{}")]
        {
            assert_eq!(
                problem(StatusCode::from_u16(status).unwrap(), text.as_bytes()),
                None,
                "{status} {text}"
            );
        }
    }

    #[test]
    fn whatever_a_ca_answers_is_bounded() {
        let seeds = [
            r#"{"type":"urn:ietf:params:acme:error:malformed","detail":"no","subproblems":[{"type":"x","detail":"y"}]}"#,
            r#"{"newNonce":"https://ca.example/nonce","newAccount":"https://ca.example/account"}"#,
            "Sun, 06 Nov 1994 08:50:37 GMT",
            "120",
        ];
        let bytes = seeds.map(str::as_bytes);
        assert!(problem(StatusCode::FORBIDDEN, bytes[0]).is_some() && names_nonces(bytes[1]));
        survive(&seeds.map(Vec::from), 4000, |bytes| {
            if let Some(read) = problem(StatusCode::FORBIDDEN, bytes) {
                let read: Problem = serde_json::from_slice(&read).unwrap();
                assert!(read.status == Some(403) && read.subproblems.len() <= PARTS);
            }
            let _ = (names_nonces(bytes), is_empty(bytes));
            let wish = std::str::from_utf8(bytes).ok().and_then(|text| pause(text, 784_111_777_000));
            assert!(wish.is_none_or(|wish| wish <= Duration::from_millis(LONGEST_WISH)));
        });
    }
}
