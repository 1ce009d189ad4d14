//! Images from the local Docker daemon, over its socket: two requests of its API.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::archive::Input;
use super::contract::MAX_DOCUMENT;
use crate::oci::Reference;
use crate::registry::error::Error;

/// How long the daemon may take to begin an answer. An export begins after the daemon has packed the first layer.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(2);

/// The Docker daemon behind a socket.
#[derive(Debug)]
pub(super) struct Daemon {
    socket: PathBuf,
}

impl Daemon {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }
}

#[async_trait]
impl Input for Daemon {
    fn place(&self) -> String {
        format!("the Docker daemon at {}", self.socket.display())
    }

    /// The daemon's own id of the image.
    async fn state(&self, image: &Reference) -> Result<String, Error> {
        let socket = &self.socket;
        let response = get(socket, image, "json").await?;
        let limit = usize::try_from(MAX_DOCUMENT).unwrap_or(usize::MAX);
        let body = http_body_util::Limited::new(response.into_body(), limit);
        let bytes = body.collect().await.map_err(|error| unreachable(socket, error.to_string()))?.to_bytes();
        let value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| unreachable(socket, error.to_string()))?;
        let id = value.get("Id").and_then(serde_json::Value::as_str);
        id.map(str::to_owned).ok_or_else(|| unreachable(socket, "the answer names no image id".to_owned()))
    }

    /// The image as `docker save` would write it.
    async fn open(&self, image: &Reference) -> Result<(Box<dyn Read + Send>, Option<u64>), Error> {
        let body = get(&self.socket, image, "get").await?.into_body();
        let stream = body.into_data_stream().map_err(std::io::Error::other);
        Ok((Box::new(SyncIoBridge::new(StreamReader::new(Box::pin(stream)))), None))
    }
}

async fn get(socket: &Path, image: &Reference, what: &str) -> Result<Response<Incoming>, Error> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, request(socket, image, what)).await;
    let response = answer.unwrap_or_else(|_| Err("it does not answer".to_owned()));
    let response = response.map_err(|reason| unreachable(socket, reason))?;
    match response.status() {
        StatusCode::OK => Ok(response),
        StatusCode::NOT_FOUND => Err(Error::DaemonImage { image: name(image) }),
        status => Err(unreachable(socket, format!("it answers with status {status}"))),
    }
}

async fn request(socket: &Path, image: &Reference, what: &str) -> Result<Response<Incoming>, String> {
    let stream = tokio::net::UnixStream::connect(socket).await.map_err(|error| error.to_string())?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    // Ends by itself with the answer's body, or when the daemon closes.
    tokio::spawn(connection);
    let request = Request::get(format!("/images/{}/{what}", name(image)))
        .header(hyper::header::HOST, "docker")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    sender.send_request(request).await.map_err(|error| error.to_string())
}

/// The name that the daemon knows: it has no notion of the digest that we pin an image to.
fn name(image: &Reference) -> String {
    match (&image.tag, &image.digest) {
        (None, Some(digest)) => format!("{}/{}@{digest}", image.registry, image.repository),
        _ => Reference { digest: None, ..image.clone() }.to_string(),
    }
}

fn unreachable(socket: &Path, reason: String) -> Error {
    Error::Daemon { socket: socket.to_owned(), reason }
}
