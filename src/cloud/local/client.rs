//! The local cloud as the tool sees it: the [`Cloud`] interface over the process's socket.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _};
use http_body_util::{BodyExt as _, BodyStream, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::AsyncBufReadExt as _;
use tokio_util::io::StreamReader;

use super::home::{Home, SOCKET};
use super::secrets;
use super::wire::{Call, Console, Exec, Hello, Logs, Verb};
use super::{socket, start};
use crate::cloud::exec::{Command, Session};
use crate::cloud::secret::Key;
use crate::cloud::{ByteStream, Cloud, CloudError, LogLine, LogQuery, LogStream, NewRevision};
use crate::image::DiskImage;
use crate::manifest::api::{Name, Secret};
use crate::plan::fleet::{BalancerSpec, Fleet, GroupSettings};
use crate::plan::image::ImageId;

/// How often a verb is said when the process dies under it.
const ATTEMPTS: u32 = 3;

/// One environment of the local cloud. Its process is started by the first verb that needs it.
#[derive(Debug, Clone)]
pub struct LocalCloud {
    home: Home,
    environment: String,
    /// Read once, so that what was asked for is what is put.
    key: OnceLock<Key>,
}

impl LocalCloud {
    /// The environment of that name. Nothing is started yet.
    pub fn new(home: Home, environment: &str) -> Self {
        Self { home, environment: environment.to_owned(), key: OnceLock::new() }
    }

    fn key(&self) -> Result<&Key, CloudError> {
        if let Some(key) = self.key.get() {
            return Ok(key);
        }
        let key = secrets::open(&self.home.secrets())?;
        Ok(self.key.get_or_init(|| key))
    }

    async fn call<T: DeserializeOwned>(&self, verb: Verb) -> Result<T, CloudError> {
        let call = Call { environment: self.environment.clone(), verb };
        let mut attempt = 1;
        loop {
            start::ensure(&self.home).await?;
            match post(&self.home, "/v1/call", &call).await {
                // The process died under the question. Every verb may be said twice, so it is said to the next one.
                Err(CloudError::Unreachable { .. }) if attempt < ATTEMPTS => attempt += 1,
                answer => return answer,
            }
        }
    }

    async fn tell(&self, verb: Verb) -> Result<(), CloudError> {
        self.call::<Value>(verb).await.map(drop)
    }

    /// As [`Self::tell`], for verbs that have nothing to do where there is no local cloud.
    async fn tell_existing(&self, verb: Verb) -> Result<(), CloudError> {
        if start::exists(&self.home) { self.tell(verb).await } else { Ok(()) }
    }
}

/// Who answers.
pub(super) async fn hello(home: &Home) -> Result<Hello, CloudError> {
    let answer = send(home, Method::GET, "/v1/hello", Bytes::new()).await?;
    read(answer).await
}

/// Ends the process; its VMs go on.
pub(super) async fn stop(home: &Home) -> Result<(), CloudError> {
    send(home, Method::POST, "/v1/stop", Bytes::new()).await.map(drop)
}

async fn post<T: DeserializeOwned>(home: &Home, path: &str, body: &impl Serialize) -> Result<T, CloudError> {
    read(post_raw(home, path, body).await?).await
}

async fn post_raw(home: &Home, path: &str, body: &impl Serialize) -> Result<Response<Incoming>, CloudError> {
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

#[async_trait]
impl Cloud for LocalCloud {
    async fn observe(&self) -> Result<Fleet, CloudError> {
        if !start::exists(&self.home) {
            return Ok(Fleet { environment: self.environment.clone(), ..Fleet::default() });
        }
        self.call(Verb::Observe).await
    }

    async fn put_image(&self, image: &DiskImage) -> Result<(), CloudError> {
        self.tell(Verb::PutImage { image: image.clone() }).await
    }

    async fn delete_images(&self, images: &[ImageId]) -> Result<(), CloudError> {
        self.tell_existing(Verb::DeleteImages { images: images.to_vec() }).await
    }

    async fn secret_versions(&self, secrets: &[Secret]) -> Result<BTreeMap<Name, String>, CloudError> {
        if secrets.is_empty() {
            return Ok(BTreeMap::new());
        }
        let key = self.key()?;
        secrets.iter().map(|secret| Ok((secret.name.clone(), key.version(secret)?))).collect()
    }

    /// Written by the tool itself, so that no value is ever on the way to another process but the VM's.
    async fn put_secret(&self, secret: &Secret) -> Result<(), CloudError> {
        self.home.create()?;
        secrets::put(&self.home.secrets(), self.key()?, secret)
    }

    async fn put_balancer(&self, spec: &BalancerSpec) -> Result<(), CloudError> {
        self.tell(Verb::PutBalancer { spec: spec.clone() }).await
    }

    async fn delete_balancer(&self, name: &Name) -> Result<(), CloudError> {
        self.tell_existing(Verb::DeleteBalancer { name: name.clone() }).await
    }

    async fn put_group(&self, name: &Name, settings: &GroupSettings) -> Result<(), CloudError> {
        self.tell(Verb::PutGroup { name: name.clone(), settings: settings.clone() }).await
    }

    async fn put_revision(&self, group: &Name, revision: &NewRevision) -> Result<(), CloudError> {
        self.tell(Verb::PutRevision { group: group.clone(), revision: revision.clone() }).await
    }

    async fn delete_revisions(&self, group: &Name, revisions: &[u32]) -> Result<(), CloudError> {
        let revisions = revisions.to_vec();
        self.tell_existing(Verb::DeleteRevisions { group: group.clone(), revisions }).await
    }

    async fn start_refresh(&self, group: &Name, to: u32, replicas: u32) -> Result<(), CloudError> {
        self.tell(Verb::StartRefresh { group: group.clone(), to, replicas }).await
    }

    async fn cancel_refresh(&self, group: &Name) -> Result<(), CloudError> {
        self.tell(Verb::CancelRefresh { group: group.clone() }).await
    }

    async fn set_replicas(&self, group: &Name, replicas: u32) -> Result<(), CloudError> {
        self.tell(Verb::SetReplicas { group: group.clone(), replicas }).await
    }

    async fn delete_group(&self, group: &Name) -> Result<(), CloudError> {
        self.tell_existing(Verb::DeleteGroup { group: group.clone() }).await
    }

    async fn logs(&self, query: &LogQuery) -> Result<LogStream, CloudError> {
        if !start::exists(&self.home) {
            return Err(CloudError::not_found("group", &query.group));
        }
        start::ensure(&self.home).await?;
        let logs = Logs { environment: self.environment.clone(), query: query.clone() };
        let answer = post_raw(&self.home, "/v1/logs", &logs).await?;
        let bytes = BodyStream::new(answer.into_body())
            .map_ok(|frame| frame.into_data().unwrap_or_default())
            .map_err(std::io::Error::other);
        let lines = StreamReader::new(Box::pin(bytes)).lines();
        let lines = futures::stream::try_unfold(lines, async |mut lines| {
            let Some(line) = lines.next_line().await.map_err(unreachable("read logs"))? else {
                return Ok(None);
            };
            let line: LogLine = serde_json::from_str(&line).map_err(unreachable("read logs"))?;
            Ok(Some((line, lines)))
        });
        Ok(lines.boxed())
    }

    async fn exec(&self, instance: &str, command: &Command) -> Result<Session, CloudError> {
        if !start::exists(&self.home) {
            return Err(CloudError::not_found("VM", &instance));
        }
        start::ensure(&self.home).await?;
        let environment = self.environment.clone();
        let exec = Exec { environment, instance: instance.to_owned(), command: command.clone() };
        super::exec::start(&self.home, &exec).await
    }

    async fn console(&self, instance: &str) -> Result<ByteStream, CloudError> {
        if !start::exists(&self.home) {
            return Err(CloudError::not_found("VM", &instance));
        }
        start::ensure(&self.home).await?;
        let asked = Console { environment: self.environment.clone(), instance: instance.to_owned() };
        let answer = post_raw(&self.home, "/v1/console", &asked).await?;
        let bytes = BodyStream::new(answer.into_body())
            .map_ok(|frame| frame.into_data().unwrap_or_default().to_vec())
            .map_err(|error| unreachable("read the console")(error));
        Ok(bytes.boxed())
    }

    async fn release(&self) -> Result<(), CloudError> {
        if !start::exists(&self.home) {
            return Ok(());
        }
        let ended: bool = self.call(Verb::Release).await?;
        // Whoever asks for the end wants to find nothing afterwards. The folder is the last thing to go.
        for _ in 0..250 {
            if !ended || !self.home.state.exists() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        Ok(())
    }
}
