//! What the page is sent as it happens: the fleet whenever it is another one, and lines of containers. Each is a line of
//! JSON. An empty line says that the connection is alive.

use std::time::Duration;

use futures::{FutureExt as _, Stream, StreamExt as _};
use hyper::body::Bytes;
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::site::Connected;
use super::view;
use crate::cli::exit::{Exit, Failure, OrExit as _};
use crate::cli::{logs, status};
use crate::cloud::{Cloud, CloudError, LogLine, LogQuery, Scope};
use crate::manifest::api::Name;
use crate::manifest::support::Answer;
use crate::plan::fleet::Change;
use crate::text;

/// How often an empty line comes when there is nothing else.
const BEAT: Duration = if cfg!(test) { Duration::from_secs(1) } else { Duration::from_secs(10) };

/// How often the fleet is looked at beside its changes, where the cloud measures use and traffic.
const MEASURED: Duration = Duration::from_secs(2);

/// The same where a look costs calls and shows no more than the changes.
const UNMEASURED: Duration = Duration::from_secs(15);

/// Between two looks, however much changes.
const REST: Duration = Duration::from_millis(250);

/// After a watch that ended or failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Lines of each instance that a page begins with.
const TAIL: usize = 500;

/// The longest line of a container that is sent, in characters.
const MAX_LINE: usize = 8192;

/// Lines that are sent at once.
const BATCH: usize = 256;

fn line(value: &impl Serialize) -> Bytes {
    let mut line = serde_json::to_vec(value).expect("lines have only string keys");
    line.push(b'\n');
    line.into()
}

/// The fleet of an environment: now, and whenever it is another one.
pub(super) fn fleets(connected: Connected) -> impl Stream<Item = Bytes> + Send + 'static {
    // One line waits: a browser that is slow gets the newest fleet, and no queue of old ones.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut following = Following::new(&connected, sender.clone());
        tokio::select! {
            () = following.run(connected.looks.as_ref()) => {}
            () = sender.closed() => {}
        }
    });
    futures::stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) })
}

/// What was sent of a fleet.
struct Following {
    sender: mpsc::Sender<Bytes>,
    pace: Duration,
    last: serde_json::Value,
    sent: Instant,
    trouble: Option<String>,
}

impl Following {
    fn new(connected: &Connected, sender: mpsc::Sender<Bytes>) -> Self {
        let support = connected.context.environment.provider.support();
        let is_measured = !matches!(support.answer("i2kit top"), Answer::NotYet | Answer::No);
        let pace = if is_measured { MEASURED } else { UNMEASURED };
        Self { sender, pace, last: serde_json::Value::Null, sent: Instant::now(), trouble: None }
    }

    /// Follows until the browser is gone.
    async fn run(&mut self, cloud: &dyn Cloud) {
        let mut ticks = tokio::time::interval(self.pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Changes that no look has shown yet, and when the next look may be.
        let mut changes: Vec<Change> = vec![];
        let mut due: Option<Instant> = None;
        let mut rested = Instant::now();
        loop {
            // The first update is what there is, which the first look shows.
            let mut updates = cloud.watch(&Scope::Environment).skip(1);
            loop {
                tokio::select! {
                    update = updates.next() => {
                        match update {
                            Some(Ok(update)) if update.changes.is_empty() => continue,
                            Some(Ok(update)) => changes.extend(update.changes),
                            // The look says what is wrong.
                            Some(Err(_)) => {}
                            None => break,
                        }
                        due.get_or_insert(rested);
                        continue;
                    }
                    () = tokio::time::sleep_until(due.unwrap_or(rested)), if due.is_some() => {}
                    _ = ticks.tick() => {}
                }
                due = None;
                if !self.look(cloud, std::mem::take(&mut changes)).await {
                    return;
                }
                rested = Instant::now() + REST;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Sends the fleet as it is now, if it is another one. Returns whether the browser is still there.
    async fn look(&mut self, cloud: &dyn Cloud, changes: Vec<Change>) -> bool {
        let told: Vec<String> = changes.into_iter().filter_map(told).collect();
        let mut found = cloud.inspect(&Scope::Detailed);
        let found = loop {
            // The page is alive while the cloud is not.
            match tokio::time::timeout(BEAT, &mut found).await {
                Ok(found) => break found,
                Err(_) if self.wait().await => {}
                Err(_) => return false,
            }
        };
        match found {
            Ok(fleet) => {
                let now = view::of(&fleet);
                if now == self.last && told.is_empty() && self.trouble.is_none() {
                    return self.beat().await;
                }
                self.trouble = None;
                self.last = now;
                self.send(line(&json!({ "fleet": self.last, "changes": told }))).await
            }
            Err(error) => self.fail(text::visible(&error.to_string()).into_owned()).await,
        }
    }

    /// Says that the cloud has not answered, and goes on waiting for it.
    async fn wait(&mut self) -> bool {
        self.fail(format!("It has not answered for {} seconds, and is waited for.", BEAT.as_secs())).await
    }

    async fn fail(&mut self, message: String) -> bool {
        if self.trouble.as_ref() == Some(&message) {
            return self.beat().await;
        }
        let said = line(&json!({ "trouble": message }));
        self.trouble = Some(message);
        self.send(said).await
    }

    async fn beat(&mut self) -> bool {
        self.sent.elapsed() < BEAT || self.send(Bytes::from_static(b"\n")).await
    }

    async fn send(&mut self, line: Bytes) -> bool {
        self.sent = Instant::now();
        self.sender.send(line).await.is_ok()
    }
}

/// A change in the words of `status --watch`.
fn told(change: Change) -> Option<String> {
    Some(text::line(&status::change_line(change)?).into_owned())
}

/// The lines of a group, or of one instance or container of it: those of before, and those to come.
pub(super) async fn logs(
    connected: &Connected,
    group: Name,
    instance: Option<String>,
    container: Option<String>,
) -> Result<impl Stream<Item = Bytes> + Send + 'static, Failure> {
    let query = LogQuery {
        group,
        instance,
        container,
        tail: Some(TAIL),
        previous: false,
        since_seconds: None,
        follow: true,
    };
    let lines = connected.looks.logs(&query).await.or_exit(Exit::Cloud)?;
    let batches = lines.ready_chunks(BATCH);
    Ok(futures::stream::unfold((batches, false), |(mut batches, ended)| async move {
        if ended {
            return None;
        }
        let next = tokio::time::timeout(BEAT, batches.next().fuse()).await;
        let (bytes, ended) = match next {
            Err(_) => (Bytes::from_static(b"\n"), false),
            Ok(None) => (line(&json!({ "end": true })), true),
            Ok(Some(batch)) => {
                let ended = batch.iter().any(Result::is_err);
                let lines: Vec<Bytes> = batch.iter().map(printed).collect();
                (lines.concat().into(), ended)
            }
        };
        Some((bytes, (batches, ended)))
    }))
}

/// A line of a container as the page has it: what acts on a terminal or turns text around is visible, as in `i2kit logs`.
fn printed(found: &Result<LogLine, CloudError>) -> Bytes {
    match found {
        Ok(found) => {
            let mut printed = logs::shown(&found.text);
            if let Some((end, _)) = printed.char_indices().nth(MAX_LINE) {
                printed.truncate(end);
                printed.push('…');
            }
            line(&json!({
                "instance": text::line(&found.instance),
                "container": found.container.as_deref().map(text::line),
                "time": found.time.as_deref().map(text::line),
                "text": printed,
            }))
        }
        Err(error) => line(&json!({ "trouble": text::visible(&error.to_string()) })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_container_acts_on_nothing_and_has_a_bound() {
        let found = LogLine {
            instance: "web-1\u{202e}".into(),
            container: None,
            time: None,
            text: format!("<script>alert(1)</script>\u{1b}[2J\n{}\r", "x".repeat(MAX_LINE)),
        };
        let value: serde_json::Value = serde_json::from_slice(&printed(&Ok(found))).unwrap();
        let text = value["text"].as_str().unwrap();
        assert!(text.starts_with("<script>alert(1)</script>␛[2J␊xxx"), "{text}");
        assert!(text.ends_with("x…") && text.chars().count() == MAX_LINE + 1);
        assert_eq!(value["instance"], "web-1\\u{202e}");
    }
}
