//! A registry on a loopback port that does what registries do on bad days: fails, hangs up, lies, asks for tokens.
//!
//! Every request is logged, so that a test can say what was asked and what was not.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use i2kit::oci::Digest;

/// Bytes that the registry sends at once.
const CHUNK: usize = 16 * 1024;

/// How long a server's buffers take to empty over loopback, with much to spare.
const FLUSH: Duration = Duration::from_millis(100);

/// How one answer goes wrong. Faults of a path are used up in their order, one a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// This status and no content.
    Status(u16),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// One bit of the body is another.
    Flip,
    /// The whole body, whatever range was asked for.
    NoRange,
    /// So many bytes of the body, and then nothing more on an open connection.
    Stop(usize),
    /// A pause before every chunk of the body.
    Slow(Duration),
    /// More bytes than the blob has.
    Longer,
}

/// The registry; it ends with the test.
#[derive(Clone)]
pub(crate) struct FakeRegistry {
    address: SocketAddr,
    content: Arc<Mutex<Content>>,
}

#[derive(Default)]
struct Content {
    /// Manifests and blobs.
    blobs: HashMap<Digest, Vec<u8>>,
    /// `repository:tag`.
    tags: BTreeMap<String, Digest>,
    /// By the end of the path.
    faults: Vec<(String, VecDeque<Fault>)>,
    /// `METHOD path [range]`.
    log: Vec<String>,
    /// `user:password`; asks for a bearer token when set.
    account: Option<String>,
    /// `WWW-Authenticate` headers of refusals, instead of the usual one.
    challenges: Vec<String>,
    /// What the token server answers, instead of the token.
    token_answer: Option<String>,
}

/// The token that the registry hands out and wants back.
const TOKEN: &str = "let-me-in";

impl FakeRegistry {
    /// Starts a registry that holds nothing.
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = Self { address, content: Arc::default() };
        let app = Router::new().fallback(answer).with_state(registry.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        registry
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// Stores a blob.
    pub(crate) fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.content.lock().unwrap().blobs.insert(digest, bytes.to_vec());
        digest
    }

    /// Points `repository:tag` at a stored manifest.
    pub(crate) fn tag(&self, name: &str, manifest: Digest) {
        self.content.lock().unwrap().tags.insert(name.to_owned(), manifest);
    }

    /// Lets the next requests for a path that ends with `path` go wrong, one fault each.
    pub(crate) fn fail(&self, path: &str, faults: &[Fault]) {
        self.content.lock().unwrap().faults.push((path.to_owned(), faults.iter().copied().collect()));
    }

    /// Wants a token, which only `user:password` gets.
    pub(crate) fn require(&self, account: &str) {
        self.content.lock().unwrap().account = Some(account.to_owned());
    }

    /// Wants a token, and says so with these challenges, a header each; `HOST` stands for its own address.
    pub(crate) fn challenge(&self, challenges: &[&str]) {
        let host = self.host();
        let challenges = challenges.iter().map(|text| text.replace("HOST", &host)).collect();
        self.content.lock().unwrap().challenges = challenges;
    }

    /// Answers this to who asks for a token.
    pub(crate) fn hand_out(&self, answer: &str) {
        self.content.lock().unwrap().token_answer = Some(answer.to_owned());
    }

    /// The requests since the last call.
    pub(crate) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.content.lock().unwrap().log)
    }

    /// Since the last call, the requests for content whose path holds `part`.
    pub(crate) fn asked_for(&self, part: &str) -> Vec<String> {
        self.log().into_iter().filter(|line| line.contains(part)).collect()
    }
}

async fn answer(State(registry): State<FakeRegistry>, request: Request) -> Response {
    let (path, headers) = (request.uri().path().to_owned(), request.headers());
    let range = headers.get(header::RANGE).map(|range| range.to_str().unwrap().to_owned());
    let (fault, found) = {
        let mut content = registry.content.lock().unwrap();
        let line = format!("{} {path} {}", request.method(), range.clone().unwrap_or_default());
        let with = if path == "/token" && headers.contains_key(header::AUTHORIZATION) {
            "with a password"
        } else {
            ""
        };
        content.log.push(format!("{}{}{with}", line.trim_end(), if with.is_empty() { "" } else { " " }));
        if path == "/token" {
            return content.token(headers);
        }
        if let Some(refusal) = content.refusal(headers, &registry.address) {
            return refusal;
        }
        if path == "/v2/" {
            return StatusCode::OK.into_response();
        }
        (content.fault(&path), content.find(&path))
    };
    if let Some(Fault::Status(status)) = fault {
        return StatusCode::from_u16(status).unwrap().into_response();
    }
    if let Some((digest, bytes)) = found {
        return deliver(digest, bytes, range.as_deref(), fault);
    }
    let text = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
    (StatusCode::NOT_FOUND, text).into_response()
}

impl Content {
    fn find(&self, path: &str) -> Option<(Digest, Vec<u8>)> {
        let (rest, last) = path.strip_prefix("/v2/")?.rsplit_once('/')?;
        let digest = match last.parse() {
            Ok(digest) => digest,
            Err(_) => *self.tags.get(&format!("{}:{last}", rest.strip_suffix("/manifests")?))?,
        };
        Some((digest, self.blobs.get(&digest)?.clone()))
    }

    fn fault(&mut self, path: &str) -> Option<Fault> {
        let (_, faults) =
            self.faults.iter_mut().find(|(end, faults)| path.ends_with(end) && !faults.is_empty())?;
        faults.pop_front()
    }

    fn refusal(&self, headers: &HeaderMap, address: &SocketAddr) -> Option<Response> {
        if self.account.is_none() && self.challenges.is_empty() {
            return None;
        }
        let given = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap());
        if given == Some(format!("Bearer {TOKEN}").as_str()) {
            return None;
        }
        if !self.challenges.is_empty() {
            let headers: HeaderMap = (self.challenges.iter())
                .map(|text| (header::WWW_AUTHENTICATE, text.parse().unwrap()))
                .collect();
            return Some((StatusCode::UNAUTHORIZED, headers).into_response());
        }
        let challenge = format!("Bearer realm=\"http://{address}/token\",service=\"fake\"");
        Some((StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response())
    }

    fn token(&self, headers: &HeaderMap) -> Response {
        use base64::Engine as _;
        if let Some(answer) = &self.token_answer {
            return answer.clone().into_response();
        }
        if self.account.is_none() {
            return format!(r#"{{"token":"{TOKEN}"}}"#).into_response();
        }
        let account = self.account.as_deref().unwrap_or_default();
        let wanted = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(account));
        match headers.get(header::AUTHORIZATION) {
            Some(given) if given.to_str().unwrap() == wanted => {
                format!(r#"{{"token":"{TOKEN}"}}"#).into_response()
            }
            _ => (StatusCode::UNAUTHORIZED, "incorrect username or password").into_response(),
        }
    }
}

fn deliver(digest: Digest, mut bytes: Vec<u8>, range: Option<&str>, fault: Option<Fault>) -> Response {
    let total = bytes.len();
    let start =
        range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let start = start.filter(|_| !matches!(fault, Some(Fault::NoRange)));
    if start.is_some_and(|start| start >= total) {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    }
    match fault {
        Some(Fault::Flip) => bytes[total / 2] ^= 1,
        Some(Fault::Longer) => bytes.extend_from_slice(&[0; 100]),
        _ => {}
    }
    let bytes = bytes.split_off(start.unwrap_or(0));
    let length = bytes.len();
    let sent = match fault {
        Some(Fault::Cut(count) | Fault::Stop(count)) => &bytes[..count.min(length)],
        _ => &bytes[..],
    };
    let mut chunks: Vec<std::io::Result<Vec<u8>>> =
        sent.chunks(CHUNK).map(|chunk| Ok(chunk.to_vec())).collect();
    if matches!(fault, Some(Fault::Cut(_))) {
        chunks.push(Err(std::io::Error::other("cut")));
    }
    let pause = if let Some(Fault::Slow(pause)) = fault { pause } else { Duration::ZERO };
    let stops = matches!(fault, Some(Fault::Stop(_)));
    let end = futures::stream::once(std::future::pending()).take(usize::from(stops));
    let stream = futures::stream::iter(chunks).then(move |chunk| async move {
        // Before the end comes, what was sent has to leave the server's buffers.
        let pause = if chunk.is_err() { FLUSH } else { pause };
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        chunk
    });
    let stream = stream.chain(end);
    let response = Response::builder()
        .status(if start.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK })
        .header(header::CONTENT_LENGTH, length)
        .header("docker-content-digest", digest.to_string());
    let response = match start {
        Some(start) => response.header(header::CONTENT_RANGE, format!("bytes {start}-{}/{total}", total - 1)),
        None => response,
    };
    response.body(Body::from_stream(stream)).unwrap()
}
