//! The local cloud as the tool sees it: the [`Cloud`] interface over the process's socket.

mod connection;
mod exec;
mod recovery;
mod start;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use http_body_util::BodyStream;
use hyper::Response;
use hyper::body::{Bytes, Incoming};
use i2kit_spec::replica::ReplicaStatus;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, Lines};
use tokio_util::io::StreamReader;

use self::connection::{post, post_raw, unreachable};
pub use self::recovery::{Lost, destroy_lost};
use self::start::attended;
use super::home::Home;
use super::lock;
use super::machine::secrets;
use super::wire::{Applied, Apply, Console, Exec, Inspect, Logs, OrderReplica, Replica};
use crate::cloud::exec::{Command, Session};
use crate::cloud::secret::Key;
use crate::cloud::{
    ByteStream, Cloud, CloudError, LogLine, LogQuery, LogStream, Materials, ReplicaAnswer, ReplicaOrder,
    Scope, Updates, watch,
};
use crate::manifest::api::{Name, Secret};
use crate::plan::act::{Act, PlannedAct};
use crate::plan::fleet::{Fleet, Generation};

/// How often a question is asked when the process dies under it.
const ATTEMPTS: u32 = 3;

/// How long after a look that found no local cloud the next one comes.
const ABSENT: Duration = Duration::from_millis(250);

/// How long an act may take that only changes records: the longest wait in it is that for a slow disk.
const QUICK: Duration = Duration::from_mins(1);

/// One environment of the local cloud. Its process is started by the first question that needs it.
#[derive(Debug, Clone)]
pub struct LocalCloud {
    home: Home,
    environment: String,
    /// Whether its process is started where none answers.
    starts: bool,
    /// Read once, so that what was asked for is what is put.
    key: OnceLock<Key>,
}

/// The process that is the local cloud and the version of its program, when there is one that answers. Starts none.
pub(super) async fn running(home: &Home) -> Option<(u32, String)> {
    connection::hello(home).await.ok().map(|hello| (hello.pid, hello.version))
}

impl LocalCloud {
    /// The environment of that name. Nothing is started yet.
    pub fn new(home: Home, environment: &str) -> Self {
        Self { home, environment: environment.to_owned(), starts: true, key: OnceLock::new() }
    }

    /// The same, asked for as long as its process runs: none is started, and none is replaced.
    #[must_use]
    pub fn without_starts(self) -> Self {
        Self { starts: false, ..self }
    }

    /// Makes sure that a process answers.
    async fn ensure(&self) -> Result<(), CloudError> {
        if self.starts { start::ensure(&self.home).await } else { start::answers(&self.home).await }
    }

    /// The environments that the local cloud holds something of, by name. Starts nothing where it has no records.
    pub async fn environments(&self) -> Result<Vec<String>, CloudError> {
        if !start::exists(&self.home).await {
            return Ok(Vec::new());
        }
        self.ask("/v1/environments", &(), true).await
    }

    fn key(&self) -> Result<&Key, CloudError> {
        if let Some(key) = self.key.get() {
            return Ok(key);
        }
        let key = secrets::open(&self.home.secrets())?;
        Ok(self.key.get_or_init(|| key))
    }

    /// Asks the process, and asks the next one when it dies under the question; an act that was applied already is
    /// recognised then. `is_quick` bounds the answer's time.
    async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        question: &impl Serialize,
        is_quick: bool,
    ) -> Result<T, CloudError> {
        let mut attempt = 1;
        loop {
            self.ensure().await?;
            let answer = post(&self.home, path, question);
            match attended(&self.home, is_quick.then_some(QUICK), answer).await {
                Err(CloudError::Unreachable { .. }) if attempt < ATTEMPTS => attempt += 1,
                answer => return answer,
            }
        }
    }

    /// The next line of a watch, which is begun where there is none.
    async fn next_fleet(
        &self,
        question: &Inspect,
        lines: &mut Option<AnswerLines>,
    ) -> Result<Fleet, CloudError> {
        if lines.is_none() {
            if !start::exists(&self.home).await {
                tokio::time::sleep(ABSENT).await;
                return Ok(Fleet { environment: self.environment.clone(), ..Fleet::default() });
            }
            self.ensure().await?;
            let answer = attended(&self.home, None, post_raw(&self.home, "/v1/watch", question)).await?;
            *lines = Some(answer_lines(answer));
        }
        let Some(open) = lines else { return Err(unreachable("watch")("no answer")) };
        let next = async { open.next_line().await.map_err(unreachable("watch")) };
        let line = attended(&self.home, None, next).await?;
        let line = line.ok_or_else(|| unreachable("watch")("its process ended"))?;
        serde_json::from_str(&line).map_err(unreachable("watch"))
    }

    /// Writes the values of Secrets that a new revision or an Ingress names by these versions, so that no value is ever on
    /// the way to another process but the VM's and the proxy's.
    fn put_secrets(&self, named: &[&String], materials: &Materials) -> Result<(), CloudError> {
        for secret in &materials.secrets {
            let version = self.key()?.version(secret)?;
            if named.contains(&&version) {
                self.home.create()?;
                secrets::put(&self.home.secrets(), self.key()?, secret)?;
            }
        }
        Ok(())
    }
}

/// Lines of an answer that goes on.
type AnswerLines = Lines<StreamReader<BoxStream<'static, std::io::Result<Bytes>>, Bytes>>;

fn answer_lines(answer: Response<Incoming>) -> AnswerLines {
    let bytes = BodyStream::new(answer.into_body())
        .map_ok(|frame| frame.into_data().unwrap_or_default())
        .map_err(std::io::Error::other);
    StreamReader::new(bytes.boxed()).lines()
}

#[async_trait]
impl Cloud for LocalCloud {
    async fn inspect(&self, scope: &Scope) -> Result<Fleet, CloudError> {
        if !start::exists(&self.home).await {
            return Ok(Fleet { environment: self.environment.clone(), ..Fleet::default() });
        }
        let question = Inspect { environment: self.environment.clone(), scope: scope.clone() };
        self.ask("/v1/inspect", &question, true).await
    }

    async fn apply(&self, act: &PlannedAct, materials: &Materials) -> Result<Generation, CloudError> {
        if act.act.is_deletion() && !start::exists(&self.home).await {
            return Ok(Generation::default());
        }
        let image = match &act.act {
            Act::PutImage { image } => Some(materials.image(*image)?.clone()),
            _ => None,
        };
        match &act.act {
            Act::PutRevision { revision, .. } => {
                self.put_secrets(&revision.launch.secrets.values().flatten().collect::<Vec<_>>(), materials)?;
            }
            Act::PutBalancer { spec } => {
                let certificates = spec.http.iter().flat_map(|http| &http.secrets);
                self.put_secrets(&certificates.map(|secret| &secret.version).collect::<Vec<_>>(), materials)?;
            }
            _ => {}
        }
        let question = Apply { environment: self.environment.clone(), act: act.clone(), image };
        let Applied { generation, ends } = self.ask("/v1/apply", &question, question.is_quick()).await?;
        // Whoever asks for the end wants to find nothing afterwards. The folder is the last thing to go.
        for _ in 0..250 {
            // With disks in it the folder stays.
            if !ends || !self.home.state.exists() || lock::holder(&self.home).is_none() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(generation)
    }

    /// Goes on with the next process when one dies.
    fn watch<'c>(&'c self, scope: &Scope) -> Updates<'c> {
        let question = Inspect { environment: self.environment.clone(), scope: scope.clone() };
        let fleets = futures::stream::try_unfold((question, None), move |(question, mut lines)| async move {
            let mut attempt = 1;
            loop {
                match self.next_fleet(&question, &mut lines).await {
                    Err(CloudError::Unreachable { .. }) if attempt < ATTEMPTS => {
                        lines = None;
                        attempt += 1;
                    }
                    fleet => return Ok(Some((fleet?, (question, lines)))),
                }
            }
        });
        watch::updates(fleets)
    }

    async fn secret_versions(&self, secrets: &[Secret]) -> Result<BTreeMap<Name, String>, CloudError> {
        if secrets.is_empty() {
            return Ok(BTreeMap::new());
        }
        let key = self.key()?;
        secrets.iter().map(|secret| Ok((secret.name.clone(), key.version(secret)?))).collect()
    }

    async fn logs(&self, query: &LogQuery) -> Result<LogStream, CloudError> {
        if !start::exists(&self.home).await {
            return Err(CloudError::not_found("group", &query.group));
        }
        self.ensure().await?;
        let logs = Logs { environment: self.environment.clone(), query: query.clone() };
        let answer = attended(&self.home, None, post_raw(&self.home, "/v1/logs", &logs)).await?;
        let lines = answer_lines(answer);
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
        self.ensure().await?;
        let environment = self.environment.clone();
        let exec = Exec { environment, instance: instance.to_owned(), command: command.clone() };
        attended(&self.home, None, exec::start(&self.home, &exec)).await
    }

    async fn replica(&self, instance: &str) -> Result<ReplicaStatus, CloudError> {
        if !start::exists(&self.home).await {
            return Err(CloudError::not_found("VM", &instance));
        }
        let asked = Replica { environment: self.environment.clone(), instance: instance.to_owned() };
        self.ask("/v1/replica", &asked, true).await
    }

    async fn order_replica(&self, instance: &str, order: &ReplicaOrder) -> Result<ReplicaAnswer, CloudError> {
        if !start::exists(&self.home).await {
            return Err(CloudError::not_found("VM", &instance));
        }
        let (environment, instance) = (self.environment.clone(), instance.to_owned());
        self.ask("/v1/replica-order", &OrderReplica { environment, instance, order: order.clone() }, false)
            .await
    }

    async fn console(&self, instance: &str) -> Result<ByteStream, CloudError> {
        if !start::exists(&self.home).await {
            return Err(CloudError::not_found("VM", &instance));
        }
        self.ensure().await?;
        let asked = Console { environment: self.environment.clone(), instance: instance.to_owned() };
        let answer = attended(&self.home, None, post_raw(&self.home, "/v1/console", &asked)).await?;
        let bytes = BodyStream::new(answer.into_body())
            .map_ok(|frame| frame.into_data().unwrap_or_default().to_vec())
            .map_err(|error| unreachable("read the console")(error));
        Ok(bytes.boxed())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::cloud::local::home::SOCKET;
    use crate::cloud::local::socket;
    use crate::cloud::local::wire::Hello;

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

    async fn apply(cloud: &LocalCloud, act: Act) -> Result<(), CloudError> {
        let act = PlannedAct { act, generation: Generation(1), by: "test".into() };
        cloud.apply(&act, &Materials::default()).await.map(drop)
    }

    #[tokio::test]
    async fn a_look_without_starts_starts_nothing() {
        let root = tempfile::tempdir().unwrap();
        // What it would start ends at once, and leaves a file.
        let program = root.path().join("i2kit");
        let ran = root.path().join("ran");
        std::fs::write(&program, format!("#!/bin/sh\n: > {}\n", ran.display())).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let home = Home::new(&root.path().join("state"), root.path(), program);
        home.create().unwrap();
        std::fs::write(home.database(), "").unwrap();
        let cloud = LocalCloud::new(home, "local").without_starts();
        for error in [cloud.observe().await.unwrap_err(), cloud.environments().await.unwrap_err()] {
            assert!(error.to_string().contains("does not run; `i2kit status` starts it"), "{error}");
        }
        let watched = cloud.watch(&Scope::Environment).next().await.unwrap();
        assert!(watched.is_err() && !ran.exists());
        // The same cloud with starts would have run it.
        let cloud = LocalCloud { starts: true, ..cloud };
        drop(tokio::time::timeout(Duration::from_secs(2), cloud.observe()).await);
        assert!(ran.exists());
    }

    #[tokio::test]
    async fn a_process_that_does_not_answer_is_named_by_every_verb() {
        // It never says a word, says one when a verb begins, or stops while the verb waits.
        let cases = (0..3).flat_map(|hellos| (0..10).map(move |verb| (hellos, verb)));
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
                1 => apply(&cloud, Act::Scale { group, replicas: 1 }).await,
                2 => apply(&cloud, Act::DeleteGroup { group }).await,
                3 => apply(&cloud, Act::Release).await,
                4 => cloud.logs(&query).await.map(drop),
                5 => cloud.console("web-1").await.map(drop),
                6 => cloud.exec("web-1", &Command::default()).await.map(drop),
                7 => cloud.environments().await.map(drop),
                8 => cloud.replica("web-1").await.map(drop),
                _ => apply(&cloud, Act::DeleteImages { images: vec![] }).await,
            };
            let error = result.unwrap_err().to_string();
            assert!(error.contains("does not answer"), "verb {verb} after {hellos} hellos: {error}");
        });
        futures::future::join_all(asked).await;
    }
}
