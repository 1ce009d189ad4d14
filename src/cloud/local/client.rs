//! The local cloud as the tool sees it: the [`Cloud`] interface over the process's socket.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

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
use super::machine::secrets;
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

/// How long the process may take to say who it is. It does so at once, unless it is stopped or the machine is very busy.
const HELLO: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(5) };

/// How long an answer is waited for before the process is asked whether it is there, and again and again.
const HEARTBEAT: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(5) };

/// How long a verb may take that only changes what is recorded: the longest wait in it is that for a slow disk.
const QUICK: Duration = Duration::from_mins(1);

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
            let answer = post(&self.home, "/v1/call", &call);
            match attended(&self.home, call.verb.is_quick().then_some(QUICK), answer).await {
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
        if start::exists(&self.home).await { self.tell(verb).await } else { Ok(()) }
    }
}

/// Why nobody says who it is.
#[derive(Debug)]
pub(super) enum Absent {
    /// Somebody listens, or did, and says nothing.
    Silent,
    /// Nobody listens.
    Gone(CloudError),
}

/// Who answers.
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
    tokio::time::timeout(HELLO, question).await.map_err(|_| start::silent(home))?.map(drop)
}

/// Waits for `answer` for as long as the process shows that it is there, and at most for `limit`.
async fn attended<T>(
    home: &Home,
    limit: Option<Duration>,
    answer: impl Future<Output = Result<T, CloudError>>,
) -> Result<T, CloudError> {
    let mut answer = std::pin::pin!(answer);
    let given_up = limit.map(|limit| tokio::time::Instant::now() + limit);
    let mut silences = 0;
    loop {
        // One that is gone has closed the connection, which ends the answer.
        let look = async {
            tokio::time::sleep(HEARTBEAT).await;
            matches!(hello(home).await, Err(Absent::Silent))
        };
        let is_silent = tokio::select! {
            answer = &mut answer => return answer,
            is_silent = look => is_silent,
        };
        silences = if is_silent { silences + 1 } else { 0 };
        let late = given_up.is_some_and(|given_up| tokio::time::Instant::now() > given_up);
        let stopped = is_silent && start::holder(home).is_some_and(start::is_stopped);
        if late || stopped || silences >= start::SILENCES {
            return Err(start::silent(home));
        }
    }
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
        if !start::exists(&self.home).await {
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
        if !start::exists(&self.home).await {
            return Err(CloudError::not_found("group", &query.group));
        }
        start::ensure(&self.home).await?;
        let logs = Logs { environment: self.environment.clone(), query: query.clone() };
        let answer = attended(&self.home, None, post_raw(&self.home, "/v1/logs", &logs)).await?;
        let bytes = BodyStream::new(answer.into_body())
            .map_ok(|frame| frame.into_data().unwrap_or_default())
            .map_err(std::io::Error::other);
        let lines = StreamReader::new(Box::pin(bytes)).lines();
        let lines = futures::stream::try_unfold((lines, self.home.clone()), async |(mut lines, home)| {
            let next = async { lines.next_line().await.map_err(unreachable("read logs")) };
            let Some(line) = attended(&home, None, next).await? else { return Ok(None) };
            let line: LogLine = serde_json::from_str(&line).map_err(unreachable("read logs"))?;
            Ok(Some((line, (lines, home))))
        });
        Ok(lines.boxed())
    }

    async fn exec(&self, instance: &str, command: &Command) -> Result<Session, CloudError> {
        if !start::exists(&self.home).await {
            return Err(CloudError::not_found("VM", &instance));
        }
        start::ensure(&self.home).await?;
        let environment = self.environment.clone();
        let exec = Exec { environment, instance: instance.to_owned(), command: command.clone() };
        attended(&self.home, None, super::exec::start(&self.home, &exec)).await
    }

    async fn console(&self, instance: &str) -> Result<ByteStream, CloudError> {
        if !start::exists(&self.home).await {
            return Err(CloudError::not_found("VM", &instance));
        }
        start::ensure(&self.home).await?;
        let asked = Console { environment: self.environment.clone(), instance: instance.to_owned() };
        let answer = attended(&self.home, None, post_raw(&self.home, "/v1/console", &asked)).await?;
        let bytes = BodyStream::new(answer.into_body())
            .map_ok(|frame| frame.into_data().unwrap_or_default().to_vec())
            .map_err(|error| unreachable("read the console")(error));
        Ok(bytes.boxed())
    }

    async fn release(&self) -> Result<(), CloudError> {
        if !start::exists(&self.home).await {
            return Ok(());
        }
        let ended: bool = self.call(Verb::Release).await?;
        // Whoever asks for the end wants to find nothing afterwards. The folder is the last thing to go.
        for _ in 0..250 {
            if !ended || !self.home.state.exists() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A local cloud that says who it is so many times, and nothing else.
    fn stand_in(root: &tempfile::TempDir, mut hellos: u32) -> LocalCloud {
        let home = Home::new(&root.path().join("state"), root.path(), PathBuf::from("/nonexistent"));
        home.create().unwrap();
        std::fs::write(home.database(), "").unwrap();
        let listener = socket::listen(&home.state, SOCKET).unwrap();
        tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let length = stream.read(&mut request).await.unwrap();
                if hellos > 0 && request[..length].starts_with(b"GET /v1/hello") {
                    hellos -= 1;
                    let hello = Hello { version: "999.0.0".into(), built: u64::MAX, pid: 1 };
                    let body = serde_json::to_string(&hello).unwrap();
                    let length = body.len();
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
                open.push(stream);
            }
        });
        LocalCloud::new(home, "local")
    }

    #[tokio::test]
    async fn a_process_that_does_not_answer_is_named_by_every_verb() {
        // It never says a word, says one when a verb begins, or stops while the verb waits.
        let cases = (0..3).flat_map(|hellos| (0..8).map(move |verb| (hellos, verb)));
        let asked = cases.map(async |(hellos, verb)| {
            let group = Name { namespace: "default".into(), name: "web".into() };
            let root = tempfile::tempdir().unwrap();
            let cloud = stand_in(&root, hellos);
            let query = LogQuery {
                group: group.clone(),
                instance: None,
                container: None,
                tail: None,
                previous: false,
                since_seconds: None,
                follow: true,
            };
            let result = match verb {
                0 => cloud.observe().await.map(drop),
                1 => cloud.set_replicas(&group, 1).await,
                2 => cloud.delete_group(&group).await,
                3 => cloud.release().await,
                4 => cloud.logs(&query).await.map(drop),
                5 => cloud.console("web-1").await.map(drop),
                6 => cloud.exec("web-1", &Command::default()).await.map(drop),
                _ => cloud.delete_images(&[]).await,
            };
            let error = result.unwrap_err().to_string();
            assert!(error.contains("does not answer"), "verb {verb} after {hellos} hellos: {error}");
        });
        futures::future::join_all(asked).await;
    }
}
