//! One registry over the network, by the distribution specification: what a tag points at, documents, blobs. All that
//! it answers is bounded: a document by its size, a body by the speed at which it comes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE, WWW_AUTHENTICATE,
};
use reqwest::{Client, Method, NoProxy, Proxy, Response, StatusCode, Url};
use tokio::sync::Mutex;

use super::challenge::{self, Challenges};
use super::credentials::Credentials;
use super::endpoint::{Endpoint, is_loopback};
use super::failure;
use super::retry::Failure;
use crate::oci::{Digest, Reference, media};
use crate::registry::error::Error;
use crate::registry::settings::{Patience, Proxies};
use crate::registry::source::contract::MAX_DOCUMENT;
use crate::report::Events;

/// A host that does not take the connection in this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest answer of a token server that is read. Real tokens have a few KiB.
const MAX_TOKEN: u64 = 1024 * 1024;

/// Bytes read of an error's body: more than any message needs.
const MAX_REFUSAL: u64 = 64 * 1024;

/// Where Docker Hub's registry is; `docker.io` is its name in references alone.
const DOCKER_HUB: (&str, &str) = ("docker.io", "index.docker.io");

/// The header with the digest of a manifest.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// A proxy address for clients that use none. The library looks for proxies in the process's environment unless it is
/// given one; this one is given with an exception for every host.
const UNUSED_PROXY: &str = "http://127.0.0.1:9";

/// Every host: the wildcard stands for names alone.
const EVERY_HOST: &str = "*,0.0.0.0/0,::/0";

/// Hosts that never go through a proxy, as no other machine can reach them.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// A registry or a mirror.
pub(super) struct RegistryClient {
    /// What messages call it.
    pub(super) host: String,
    /// How long it may take.
    pub(super) patience: Patience,
    client: Client,
    credentials: Credentials,
    plain_http: bool,
    is_local: bool,
    events: Events,
    /// The `Authorization` of each repository that asked for one.
    tokens: Mutex<HashMap<String, HeaderValue>>,
    /// Whether the warning was given that the password is sent to a host of another domain.
    warned: AtomicBool,
}

/// The bytes of a blob from `starts_at` on.
pub(super) struct Body {
    pub(super) stream: BoxStream<'static, Result<hyper::body::Bytes, reqwest::Error>>,
    pub(super) starts_at: u64,
}

/// What is asked for: where, and under which name a user knows it.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) image: &'a Reference,
}

impl RegistryClient {
    /// A client for `endpoint`'s host.
    pub(super) fn new(
        endpoint: &Endpoint,
        (proxies, patience): (&Proxies, Patience),
        credentials: Credentials,
        events: Events,
    ) -> Result<Self, Error> {
        let proxy = proxy_for(&endpoint.host, proxies);
        let except = || proxy.none_for.as_deref().and_then(NoProxy::from_string);
        let mut client = Client::builder()
            .user_agent(concat!("i2kit/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(patience.silence);
        if endpoint.is_local {
            // Without a certificate the client trusts nobody, and reads no files for it.
            client = client.tls_certs_only([]);
        }
        let failed = |error: reqwest::Error| Error::Client(failure::root(&error));
        if let Some(address) = &proxy.https {
            client = client.proxy(Proxy::https(address).map_err(failed)?.no_proxy(except()));
        }
        if let Some(address) = &proxy.http {
            client = client.proxy(Proxy::http(address).map_err(failed)?.no_proxy(except()));
        }
        Ok(Self {
            host: endpoint.host.clone(),
            patience,
            client: client.build().map_err(failed)?,
            credentials,
            plain_http: endpoint.plain_http,
            is_local: endpoint.is_local,
            events,
            tokens: Mutex::default(),
            warned: AtomicBool::new(false),
        })
    }

    /// What the tag points at now.
    pub(super) async fn tag_digest(&self, request: Request<'_>, tag: &str) -> Result<Digest, Failure> {
        let path = format!("manifests/{tag}");
        let answer = self.ask(&Method::HEAD, request, &path, &manifests()).await?;
        if let Some(digest) = answer.headers().get(CONTENT_DIGEST) {
            let text = String::from_utf8_lossy(digest.as_bytes()).into_owned();
            let wrong = |error: crate::oci::DigestError| self.asked(request).useless(&error.to_string());
            return text.parse().map_err(wrong);
        }
        let answer = self.ask(&Method::GET, request, &path, &manifests()).await?;
        Ok(Digest::of(&self.document(request, answer, MAX_DOCUMENT).await?))
    }

    /// The bytes of a manifest or an index.
    pub(super) async fn manifest(&self, request: Request<'_>, digest: Digest) -> Result<Vec<u8>, Failure> {
        let answer = self.ask(&Method::GET, request, &format!("manifests/{digest}"), &manifests()).await?;
        self.document(request, answer, MAX_DOCUMENT).await
    }

    /// The bytes of a blob, from `offset` on when the registry can do that, else from the start. Not verified.
    pub(super) async fn blob(
        &self,
        request: Request<'_>,
        digest: Digest,
        offset: u64,
    ) -> Result<Body, Failure> {
        let range = HeaderValue::try_from(format!("bytes={offset}-")).expect("a number is good in a header");
        let headers = HeaderMap::from_iter([(RANGE, range)]);
        let answer = self.ask(&Method::GET, request, &format!("blobs/{digest}"), &headers).await?;
        let starts_at = if answer.status() == StatusCode::PARTIAL_CONTENT {
            first_byte(answer.headers()).unwrap_or(offset)
        } else {
            0
        };
        if starts_at != 0 && starts_at != offset {
            return Err(self.asked(request).useless("it sent another range than it was asked for"));
        }
        Ok(Body { stream: answer.bytes_stream().boxed(), starts_at })
    }

    /// The error for a body that broke off while it was read.
    pub(super) fn broken(&self, request: Request<'_>, reason: &str) -> Failure {
        self.asked(request).broken(reason)
    }

    /// The good answer to a request below the repository. When the registry refuses, asks for a token and once more:
    /// there may have been none, or the old one may have ended.
    async fn ask(
        &self,
        method: &Method,
        request: Request<'_>,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Response, Failure> {
        let repository = &request.endpoint.repository;
        let scheme = if self.plain_http { "http" } else { "https" };
        let host = if self.host == DOCKER_HUB.0 { DOCKER_HUB.1 } else { &self.host };
        let text = format!("{scheme}://{host}/v2/{repository}/{path}");
        let url = Url::parse(&text).map_err(|error| self.asked(request).useless(&error.to_string()))?;
        let known = self.tokens.lock().await.get(repository).cloned();
        let answer = self.send(method, request, &url, headers, known.as_ref()).await?;
        let answer = if answer.status() == StatusCode::UNAUTHORIZED {
            let Some(token) = self.token(request, known, answer.headers()).await? else {
                return Err(self.asked(request).unauthorized());
            };
            self.send(method, request, &url, headers, Some(&token)).await?
        } else {
            answer
        };
        match answer.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(answer),
            status => {
                let text = start(answer, MAX_REFUSAL, self.patience.document).await;
                Err(self.asked(request).refused(status.as_u16(), &text))
            }
        }
    }

    async fn send(
        &self,
        method: &Method,
        request: Request<'_>,
        url: &Url,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, Failure> {
        let mut asked = self.client.request(method.clone(), url.clone()).headers(headers.clone());
        if let Some(value) = authorization {
            // A redirect to another host or port goes without it.
            asked = asked.header(AUTHORIZATION, value);
        }
        self.answer(request, asked).await
    }

    async fn answer(
        &self,
        request: Request<'_>,
        asked: reqwest::RequestBuilder,
    ) -> Result<Response, Failure> {
        match tokio::time::timeout(self.patience.document, asked.send()).await {
            Ok(answer) => answer.map_err(|error| self.asked(request).transport(&error)),
            Err(_) => Err(self.slow(request)),
        }
    }

    /// What opens the repository, by the challenges of a refusal; none when there is nothing to show. One task asks for
    /// all: `refused` is what was shown in vain.
    async fn token(
        &self,
        request: Request<'_>,
        refused: Option<HeaderValue>,
        headers: &HeaderMap,
    ) -> Result<Option<HeaderValue>, Failure> {
        let repository = &request.endpoint.repository;
        let mut tokens = self.tokens.lock().await;
        let newer = tokens.get(repository).filter(|token| Some(*token) != refused.as_ref());
        if let Some(newer) = newer {
            return Ok(Some(newer.clone()));
        }
        let Challenges { bearer, basic } = challenge::read(headers.get_all(WWW_AUTHENTICATE));
        let value = match (bearer, &self.credentials.secret) {
            (Some(bearer), _) => self.bearer(request, &bearer).await?,
            (None, Some(secret)) if basic => secret.basic(),
            _ => return Ok(None),
        };
        tokens.insert(repository.clone(), value.clone());
        Ok(Some(value))
    }

    /// Asks a token server.
    async fn bearer(&self, request: Request<'_>, bearer: &challenge::Bearer) -> Result<HeaderValue, Failure> {
        let asked = self.asked(request);
        let mut url = Url::parse(&bearer.realm)
            .map_err(|_| asked.useless("it names no address where tokens are to be had"))?;
        if self.credentials.secret.is_some() {
            self.check_realm(request, &url)?;
        }
        url.query_pairs_mut()
            .append_pair("scope", &format!("repository:{}:pull", request.endpoint.repository))
            .extend_pairs(bearer.service.iter().map(|service| ("service", service)));
        let mut question = self.client.get(url);
        if let Some(secret) = &self.credentials.secret {
            question = question.header(AUTHORIZATION, secret.basic());
        }
        let answer = self.answer(request, question).await?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::TOO_MANY_REQUESTS => return Err(asked.refused(429, "")),
            status if status.is_server_error() => {
                let text = start(answer, MAX_REFUSAL, self.patience.document).await;
                return Err(asked.refused(status.as_u16(), &text));
            }
            _ => return Err(asked.unauthorized()),
        }
        let text = self.document(request, answer, MAX_TOKEN).await?;
        let token = challenge::token(&text).ok_or_else(|| asked.useless("its token server gave no token"))?;
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| asked.useless("its token server gave a token that no header can carry"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Refuses to show the password where others can read it on the way, and warns once when another domain gets it.
    fn check_realm(&self, request: Request<'_>, realm: &Url) -> Result<(), Failure> {
        let host = realm.host_str().unwrap_or_default();
        // The password of a registry on this machine is not sent elsewhere in the clear.
        let may_be_plain = self.plain_http && (!self.is_local || is_loopback(host));
        if realm.scheme() != "https" && !(realm.scheme() == "http" && may_be_plain) {
            return Err(Failure::final_(Error::PlainRealm {
                registry: self.host.clone(),
                image: request.image.to_string(),
                realm: format!("{}://{host}", realm.scheme()),
            }));
        }
        if !challenge::is_same_domain(&self.host, host) && !self.warned.swap(true, Ordering::Relaxed) {
            self.events.note(format!(
                "{} has the password of {} checked by {host}",
                self.host, self.credentials.who
            ));
        }
        Ok(())
    }

    /// The whole body of `answer`, which must not be longer than `limit` bytes.
    async fn document(&self, request: Request<'_>, answer: Response, limit: u64) -> Result<Vec<u8>, Failure> {
        let too_large = || {
            Failure::final_(Error::Document {
                registry: self.host.clone(),
                image: request.image.to_string(),
                limit,
            })
        };
        if answer.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let read = async {
            let mut stream = answer.bytes_stream();
            let mut bytes = Vec::new();
            while let Some(piece) = stream.next().await {
                let piece = piece.map_err(|error| self.asked(request).transport(&error))?;
                if (bytes.len() + piece.len()) as u64 > limit {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&piece);
            }
            Ok(bytes)
        };
        match tokio::time::timeout(self.patience.document, read).await {
            Ok(read) => read,
            Err(_) => Err(self.slow(request)),
        }
    }

    fn slow(&self, request: Request<'_>) -> Failure {
        let seconds = self.patience.document.as_secs();
        self.broken(request, &format!("it did not answer within {seconds} s"))
    }

    fn asked<'a>(&'a self, request: Request<'a>) -> failure::Asked<'a> {
        failure::Asked {
            registry: &self.host,
            image: request.image,
            who: &self.credentials.who,
            plain_http: self.plain_http,
        }
    }
}

/// The first bytes of a body, as text.
async fn start(answer: Response, limit: u64, patience: Duration) -> String {
    let mut bytes = Vec::new();
    let mut stream = answer.bytes_stream();
    let read = async {
        while let Some(Ok(piece)) = stream.next().await {
            let room = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(bytes.len());
            bytes.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.len() >= room {
                break;
            }
        }
    };
    // What has come until then is enough.
    let _ = tokio::time::timeout(patience, read).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The header that asks for manifests and indexes.
fn manifests() -> HeaderMap {
    let types = HeaderValue::try_from(media::MANIFESTS.join(", ")).expect("media types are good in a header");
    HeaderMap::from_iter([(ACCEPT, types)])
}

/// The offset of a partial answer in its blob, when it has one.
fn first_byte(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// The proxies to hand to the client for `host`.
fn proxy_for(host: &str, proxies: &Proxies) -> Proxies {
    if is_loopback(host) || (proxies.https.is_none() && proxies.http.is_none()) {
        let unused = Some(UNUSED_PROXY.to_owned());
        return Proxies { https: unused.clone(), http: unused, none_for: Some(EVERY_HOST.to_owned()) };
    }
    let except = proxies.none_for.as_deref().filter(|hosts| !hosts.is_empty());
    let except = except.map_or_else(|| LOOPBACK.to_owned(), |hosts| format!("{hosts},{LOOPBACK}"));
    Proxies { none_for: Some(except), ..proxies.clone() }
}

impl std::fmt::Debug for RegistryClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryClient").field("host", &self.host).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_uses_no_proxy() {
        let proxies = Proxies { http: Some("http://p:3128".into()), ..Proxies::default() };
        assert_eq!(proxy_for("127.0.0.1:5000", &proxies).none_for.as_deref(), Some(EVERY_HOST));
        let found = proxy_for("docker.io", &proxies);
        assert_eq!((found.https, found.http.as_deref()), (None, Some("http://p:3128")));
        assert!(found.none_for.unwrap().contains("127.0.0.0/8"));
        assert_eq!(proxy_for("docker.io", &Proxies::default()).none_for.as_deref(), Some(EVERY_HOST));
    }

    #[test]
    fn a_part_of_a_blob_says_where_it_starts() {
        let at = |text: &'static str| {
            first_byte(&HeaderMap::from_iter([(CONTENT_RANGE, HeaderValue::from_static(text))]))
        };
        assert_eq!(at("bytes 17-99/100"), Some(17));
        for odd in ["bytes */100", "17-99", "bytes 99999999999999999999-1/2", ""] {
            assert_eq!(at(odd), None, "{odd}");
        }
    }
}
