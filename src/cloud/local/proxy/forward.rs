//! One request: its host and path are looked up, the head is made what the next hop may see, bodies pass through as they
//! come, and an `Upgrade` becomes a tunnel.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http_body_util::{Either, Full};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use tokio_util::io::InspectReader;
use tokio_util::sync::CancellationToken;

use super::backend::{Lease, Servers};
use super::connection::{Busy, ConnectionEntry};
use super::outgoing::{Outgoing, Sent, Unanswered};
use super::routing::{self, Hosts, Routing};
use super::tally::{Counter, Tally};
use super::termination::Machines;
use crate::cloud::local::sources::Sources;

/// Headers that are between two neighbours only, beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// What a front does with its clients, as one value that is replaced whole.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Whose requests are answered.
    pub(super) sources: Sources,
    /// Whether a CA may come to see the answer to a challenge, from whatever address it has.
    pub(super) is_challenged: bool,
    pub(super) routing: Routing,
    /// By the numbers of the routing.
    pub(super) pools: Vec<Target>,
    /// Counts what no rule is about.
    pub(super) others: Arc<Counter>,
    /// The hosts that are served with TLS alone, and the port with TLS, if it is open.
    pub(super) redirect: Option<(Hosts, Option<u16>)>,
    /// Answers to CAs that want to see that a host leads here: by token, the host and the key authorization.
    pub(super) challenges: BTreeMap<String, (String, String)>,
    /// Of a port of a Service: where its connections go, of which nothing else here is.
    pub(super) machines: Option<Machines>,
}

/// Where a CA asks for the answer to a challenge (RFC 8555, 8.3).
const CHALLENGES: &str = "/.well-known/acme-challenge/";

/// Where requests go.
#[derive(Debug)]
pub(super) struct Target {
    /// The name of the Service.
    pub(super) service: String,
    pub(super) servers: Arc<Servers>,
    pub(super) counter: Arc<Counter>,
}

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub(super) client: IpAddr,
    pub(super) local: SocketAddr,
    pub(super) tls: bool,
}

/// An answer's body: the machine's as it comes, or a line of the proxy's own.
pub(super) struct AnswerBody {
    inner: Either<Incoming, Full<Bytes>>,
    /// Of a machine's answer; given back when it is whole.
    lease: Option<Lease>,
    /// Held until the answer is sent.
    _busy: Option<Busy>,
    /// Ends with it.
    tally: Option<Tally>,
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let (Poll::Ready(Some(Ok(frame))), Some(tally)) = (&polled, &self.tally) {
            tally.counter().sent(frame.data_ref().map_or(0, Bytes::len));
        }
        let is_whole = matches!(polled, Poll::Ready(None)) || self.inner.is_end_stream();
        if is_whole && let Some(mut lease) = self.lease.take() {
            lease.done();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer of the proxy itself.
pub(super) fn own(status: StatusCode, text: &str) -> Response<AnswerBody> {
    let body = Full::new(Bytes::from(format!("{text}\n")));
    let mut response =
        Response::new(AnswerBody { inner: Either::Right(body), lease: None, _busy: None, tally: None });
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// Answers a request, and counts it.
pub(super) async fn answer(
    table: &Table,
    origin: Origin,
    request: Request<Incoming>,
    entry: Arc<ConnectionEntry>,
    busy: Busy,
) -> Response<AnswerBody> {
    let began = Instant::now();
    let (target, asked) = routed(table, origin, &request);
    let mut tally = Tally::new(target.map_or(&table.others, |target| &target.counter), began);
    let mut response = match (asked, target) {
        (Err(refusal), _) => refusal,
        (Ok(asked), Some(target)) => {
            let counter = tally.counter();
            passed((target, &asked, origin), request, (entry, busy), counter).await
        }
        (Ok(_), None) => own(StatusCode::NOT_FOUND, "no rule of the Ingress matches this host and path"),
    };
    tally.answered(response.status());
    response.body_mut().tally = Some(tally);
    response
}

/// Where a request goes, if a rule is about it, and what it is for; or the answer of the proxy itself.
fn routed<'t>(
    table: &'t Table,
    origin: Origin,
    request: &Request<Incoming>,
) -> (Option<&'t Target>, Result<Asked, Response<AnswerBody>>) {
    let asked = match asked(request) {
        Ok(asked) => asked,
        Err(refused) => return (None, Err(own(StatusCode::BAD_REQUEST, refused))),
    };
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return (None, Err(own(StatusCode::METHOD_NOT_ALLOWED, "this method is not forwarded")));
    }
    let token = asked.path.strip_prefix(CHALLENGES).filter(|_| !origin.tls);
    // A token that is nobody's here is of a client behind the Ingress.
    if let Some((_, authorization)) =
        token.and_then(|token| table.challenges.get(token)).filter(|(host, _)| *host == asked.host)
    {
        return (None, Err(challenge(authorization)));
    }
    // It may have connected before the ranges changed, or as a CA may.
    if !table.sources.admit(origin.client) {
        let mut refusal = own(StatusCode::FORBIDDEN, "requests from this address are not answered");
        refusal.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return (None, Err(refusal));
    }
    let found = match table.routing.route(&asked.host, &asked.path) {
        Ok(found) => found.and_then(|number| table.pools.get(number)),
        Err(refused) => return (None, Err(own(StatusCode::BAD_REQUEST, refused))),
    };
    if let Some((hosts, port)) = table.redirect.as_ref().filter(|_| !origin.tls)
        && hosts.cover(&asked.host)
    {
        // Without TLS nothing of it is served, also where there is no TLS now.
        let closed = || own(StatusCode::SERVICE_UNAVAILABLE, "this host has TLS, whose port is not open");
        let answer = port.map_or_else(closed, |port| redirect(&asked, port, request.uri()));
        return (found, Err(answer));
    }
    (found, Ok(asked))
}

/// Passes a request on to a machine. A tunnel holds the place of the connection that it was, and ends with it.
async fn passed(
    (target, asked, origin): (&Target, &Asked, Origin),
    mut request: Request<Incoming>,
    (entry, busy): (Arc<ConnectionEntry>, Busy),
    counter: &Arc<Counter>,
) -> Response<AnswerBody> {
    let servers = &target.servers;
    let upgrade = upgrade(&request).filter(|_| !servers.http2);
    let upgraded = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let outgoing = outgoing(request, (asked, origin, counter), servers.http2, upgrade.as_ref());
    let (mut response, lease) = match servers.send(outgoing).await {
        Ok(answered) => answered,
        Err(reason) => return failure(reason, &target.service),
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = upgraded else {
            return own(StatusCode::BAD_GATEWAY, "the server switched protocols without being asked");
        };
        let server = hyper::upgrade::on(&mut response);
        let ended = entry.activity.stop.clone();
        tokio::spawn(tunnel((client, server), ended, Arc::clone(counter), (lease, busy, entry)));
        return switched(&response);
    }
    incoming(response, lease, busy)
}

/// What a request is for.
#[derive(Debug)]
struct Asked {
    /// As rules have hosts.
    host: String,
    /// As the client wrote it, with its port.
    authority: Authority,
    /// As rules have paths.
    path: String,
}

/// Reads host and path; the reason where there are none.
fn asked(request: &Request<Incoming>) -> Result<Asked, &'static str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let named = hosts.next();
    if hosts.next().is_some() {
        return Err("a request has one Host");
    }
    let read = |value: &HeaderValue| Authority::try_from(value.as_bytes()).ok();
    let named = named.map(|value| read(value).ok_or("the Host is no host")).transpose()?;
    // What the request line has goes before the header (RFC 9112, 3.2.2); in HTTP/2 both must agree (RFC 9113, 8.3.1).
    let authority = match (request.uri().authority().cloned(), named) {
        (Some(line), Some(named)) if line != named => {
            return Err("the Host is another one than that of the request's target");
        }
        (Some(authority), _) | (None, Some(authority)) => authority,
        (None, None) => return Err("a request has a Host"),
    };
    let host = routing::host(authority.as_str()).ok_or("the Host is no host")?.into_owned();
    let path = request.uri().path();
    if !path.starts_with('/') {
        // `OPTIONS *`
        return Err("the path begins with a slash");
    }
    let path =
        routing::normal(path).ok_or("the path has the elements . or .., or a % that encodes nothing")?;
    Ok(Asked { host, authority, path: path.into_owned() })
}

/// The answer to a challenge.
fn challenge(authorization: &str) -> Response<AnswerBody> {
    let body = Full::new(Bytes::from(authorization.to_owned()));
    let mut response =
        Response::new(AnswerBody { inner: Either::Right(body), lease: None, _busy: None, tally: None });
    let bytes = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, bytes);
    response
}

/// To the same place with TLS. Who came by a host without a port came to port 80, be it one that leads to this one, and
/// finds TLS at port 443 likewise.
fn redirect(asked: &Asked, port: u16, uri: &Uri) -> Response<AnswerBody> {
    let is_default = port == 443 || asked.authority.port().is_none();
    let port = if is_default { String::new() } else { format!(":{port}") };
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let Ok(location) = HeaderValue::try_from(format!("https://{}{port}{path}", asked.host)) else {
        return own(StatusCode::BAD_REQUEST, "the path cannot be redirected");
    };
    let mut response = own(StatusCode::PERMANENT_REDIRECT, "use https");
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// The protocol that a request asks to go over to. HTTP/2 is none: a machine that went over to it could be asked for
/// paths that no rule is about.
fn upgrade(request: &Request<Incoming>) -> Option<HeaderValue> {
    let wants = request.version() == Version::HTTP_11 && names(request.headers(), "upgrade");
    let protocol = request.headers().get(header::UPGRADE).filter(|_| wants)?.clone();
    let is_http2 =
        protocol.to_str().ok()?.split(',').any(|token| token.trim().to_ascii_lowercase().starts_with("h2"));
    (!is_http2 && request.body().is_end_stream()).then_some(protocol)
}

/// Whether `Connection` names a token.
fn names(headers: &HeaderMap, token: &str) -> bool {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|found| found.trim().eq_ignore_ascii_case(token))
}

/// Removes what is between two neighbours only.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        // Nobody may have these removed that the next hop needs: it would see another request.
        .filter(|name| {
            ![header::HOST, header::CONTENT_LENGTH, header::COOKIE, header::AUTHORIZATION].contains(name)
        })
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP).chain(&[KEEP_ALIVE, PROXY_CONNECTION]) {
        headers.remove(name);
    }
}

/// The request as a machine is to see it.
fn outgoing(
    request: Request<Incoming>,
    (asked, origin, counter): (&Asked, Origin, &Arc<Counter>),
    http2: bool,
    upgrade: Option<&HeaderValue>,
) -> Outgoing {
    let (mut parts, body) = request.into_parts();
    let trailers =
        parts.headers.get_all(header::TE).iter().any(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    strip(&mut parts.headers);
    // The proxy itself asks the client for the body when a machine takes it.
    parts.headers.remove(header::EXPECT);
    join_cookies(&mut parts.headers);
    forwarded(&mut parts.headers, asked, origin);
    let path = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    let mut uri = hyper::http::uri::Parts::default();
    uri.path_and_query = Some(path);
    if http2 {
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(asked.authority.clone());
        parts.headers.remove(header::HOST);
        parts.version = Version::HTTP_2;
        if trailers {
            parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    } else {
        if let Ok(host) = HeaderValue::try_from(asked.authority.as_str()) {
            parts.headers.insert(header::HOST, host);
        }
        parts.version = Version::HTTP_11;
        if let Some(protocol) = upgrade {
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(header::UPGRADE, protocol.clone());
        }
    }
    parts.uri = Uri::from_parts(uri).unwrap_or_default();
    parts.extensions.clear();
    let twice = parts.method.is_idempotent() && body.is_end_stream() && upgrade.is_none();
    let again = twice.then(|| parts.clone());
    let (body, passed) = Sent::new(body, counter);
    Outgoing { request: Request::from_parts(parts, Either::Left(body)), again, parts: passed }
}

/// HTTP/2 sends a cookie a header, HTTP/1.1 all in one (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let cookies: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Whether a header is what a proxy tells a server of the client, or may be taken for it: servers that hand headers over
/// as variables (CGI, WSGI, Rack) make no difference between `_` and `-`.
fn is_of_proxies(name: &HeaderName) -> bool {
    const NAMES: [&str; 9] = [
        "forwarded",
        "x-real-ip",
        "x-scheme",
        "x-url-scheme",
        "x-original-forwarded-for",
        "front-end-https",
        "client-ip",
        "x-client-ip",
        "true-client-ip",
    ];
    let name = name.as_str();
    name.contains('_') || name.starts_with("x-forwarded-") || NAMES.contains(&name)
}

/// Who asked, by which scheme and host. Headers of the client about that are not passed on.
fn forwarded(headers: &mut HeaderMap, asked: &Asked, origin: Origin) {
    let told: Vec<HeaderName> = headers.keys().filter(|name| is_of_proxies(name)).cloned().collect();
    for name in told {
        headers.remove(name);
    }
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    let client = origin.client.to_string();
    set(FORWARDED_FOR, &client);
    set(REAL_IP, &client);
    set(FORWARDED_PROTO, if origin.tls { "https" } else { "http" });
    set(FORWARDED_HOST, asked.authority.as_str());
    set(FORWARDED_PORT, &origin.local.port().to_string());
}

/// A machine's answer as the client is to see it.
fn incoming(response: Response<Incoming>, mut lease: Lease, busy: Busy) -> Response<AnswerBody> {
    let (mut parts, body) = response.into_parts();
    strip(&mut parts.headers);
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let lease = if body.is_end_stream() {
        lease.done();
        None
    } else {
        Some(lease)
    };
    Response::from_parts(
        parts,
        AnswerBody { inner: Either::Left(body), lease, _busy: Some(busy), tally: None },
    )
}

/// `101 Switching Protocols`, as the machine answered it.
fn switched(response: &Response<Incoming>) -> Response<AnswerBody> {
    let mut answer = Response::new(AnswerBody {
        inner: Either::Right(Full::default()),
        lease: None,
        _busy: None,
        tally: None,
    });
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let mut headers = response.headers().clone();
    let protocol = headers.get(header::UPGRADE).cloned();
    strip(&mut headers);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        headers.insert(header::UPGRADE, protocol);
    }
    *answer.headers_mut() = headers;
    answer
}

/// Bytes both ways between a client and a machine that have gone over to another protocol.
async fn tunnel<T>(
    (client, server): (hyper::upgrade::OnUpgrade, hyper::upgrade::OnUpgrade),
    ended: CancellationToken,
    counter: Arc<Counter>,
    held: T,
) {
    let carry = async {
        if let (Ok(client), Ok(server)) = tokio::join!(client, server) {
            let mut client = InspectReader::new(TokioIo::new(client), |bytes| counter.received(bytes.len()));
            let mut server = InspectReader::new(TokioIo::new(server), |bytes| counter.sent(bytes.len()));
            // A reset by either side ends both.
            drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
        }
    };
    tokio::select! {
        () = carry => {}
        () = ended.cancelled() => {}
    }
    drop(held);
}

/// The answer to a request that no machine answered.
fn failure(reason: Unanswered, service: &str) -> Response<AnswerBody> {
    let (status, text) = match reason {
        Unanswered::NoServer => (StatusCode::SERVICE_UNAVAILABLE, "has no healthy instance"),
        Unanswered::Unreached => (StatusCode::BAD_GATEWAY, "accepts no connection"),
        Unanswered::Late => (StatusCode::GATEWAY_TIMEOUT, "took too long"),
        Unanswered::Broken => (StatusCode::BAD_GATEWAY, "closed the connection without a whole answer"),
        Unanswered::Unreadable => (
            StatusCode::BAD_GATEWAY,
            "answered with what is no HTTP, or with a head of more than 64 KiB or 100 lines",
        ),
        Unanswered::Full => (
            StatusCode::SERVICE_UNAVAILABLE,
            "cannot be asked now: the HTTP proxy has as many connections to machines as it may",
        ),
    };
    own(status, &format!("the Service {service} {text}"))
}
