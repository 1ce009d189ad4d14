//! Questions to the local cloud's process, and its answers.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cloud::CloudError;
use crate::cloud::local::home::{Home, SOCKET};
use crate::cloud::local::wire::Hello;
use crate::cloud::local::{lock, socket};

/// How long the process may take to say who it is. It does so at once, unless it is stopped or the machine is very busy.
const HELLO: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(5) };

/// Why there is no [`Hello`].
#[derive(Debug)]
pub(super) enum Absent {
    /// A process listens, or did, and does not answer.
    Silent,
    /// Nobody listens.
    Gone(CloudError),
}

/// Asks the process who it is.
pub(super) async fn hello(home: &Home) -> Result<Hello, Absent> {
    let question = async {
        let answer = send(home, Method::GET, "/v1/hello", Bytes::new()).await?;
        read(answer).await
    };
    let answer = tokio::time::timeout(HELLO, question).await;
    answer.map_err(|_| Absent::Silent)?.map_err(Absent::Gone)
}

/// Ends the process; its VMs go on.
pub(super) async fn stop(home: &Home) -> Result<(), CloudError> {
    let question = send(home, Method::POST, "/v1/stop", Bytes::new());
    tokio::time::timeout(HELLO, question).await.map_err(|_| lock::silent(home))?.map(drop)
}

pub(super) async fn post<T: DeserializeOwned>(
    home: &Home,
    path: &str,
    body: &impl Serialize,
) -> Result<T, CloudError> {
    read(post_raw(home, path, body).await?).await
}

pub(super) async fn post_raw(
    home: &Home,
    path: &str,
    body: &impl Serialize,
) -> Result<Response<Incoming>, CloudError> {
    let body = serde_json::to_vec(body).map_err(unreachable("write a question"))?;
    let answer = send(home, Method::POST, path, body.into()).await?;
    if answer.status().is_success() { Ok(answer) } else { Err(refusal(answer).await) }
}

/// Why the process refused.
pub(super) async fn refusal(answer: Response<Incoming>) -> CloudError {
    let refused = answer.status() == StatusCode::UNPROCESSABLE_ENTITY;
    let bytes = match answer.into_body().collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) => return unreachable("read an answer")(error),
    };
    let understood = refused.then(|| serde_json::from_slice(&bytes).ok()).flatten();
    understood.unwrap_or_else(|| CloudError::Unreachable {
        message: format!(
            "its process did not understand the question (is it of another version?): {}",
            String::from_utf8_lossy(&bytes)
        ),
    })
}

async fn send(
    home: &Home,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Response<Incoming>, CloudError> {
    let stream = socket::connect(&home.state, SOCKET).await.map_err(unreachable("connect"))?;
    socket::check_peer(&stream).map_err(unreachable("connect"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(unreachable("connect"))?;
    // Ends with the answer's last byte, or with an error that the answer's reader sees as well.
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "local-cloud")
        .header("content-type", "application/json")
        .body(Full::new(body))
        .map_err(unreachable("ask"))?;
    sender.send_request(request).await.map_err(unreachable("ask"))
}

async fn read<T: DeserializeOwned>(answer: Response<Incoming>) -> Result<T, CloudError> {
    let bytes = answer.into_body().collect().await.map_err(unreachable("read an answer"))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(unreachable("read an answer"))
}

pub(super) fn unreachable<E: std::fmt::Display>(action: &'static str) -> impl FnOnce(E) -> CloudError {
    move |error| CloudError::Unreachable { message: format!("cannot {action}: {error}") }
}
