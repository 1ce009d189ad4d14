//! Supervision of the local cloud's long tasks: channels, health checks, listeners, name servers, journals.
//!
//! A task that ends with an error, or panics, is started again after a back-off. Its reason is written to the log once
//! while it stays the same, and `status` shows it as a warning for as long as the task fails.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::log::Log;

/// When a task that failed is started again.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// The first pause before it is started again; doubled with each further failure.
    first: Duration,
    /// The longest pause.
    max: Duration,
    /// A task that runs for this long works: its warning goes, and its pauses begin with the first one again.
    proven: Duration,
}

/// Short at first, since most failures are a file or a socket that is there a moment later; a cause that lasts, such as
/// a full disk, is looked at every five seconds.
const TIMES: Times =
    Times { first: Duration::from_millis(100), max: Duration::from_secs(5), proven: Duration::from_secs(10) };

/// The tasks that fail at present, by name.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    failing: Mutex<BTreeMap<String, String>>,
}

impl Tasks {
    /// The tasks that fail at present: `NAME: REASON`, a line each.
    pub(super) fn failing(&self) -> Vec<String> {
        self.lock().iter().map(|(name, reason)| format!("{name}: {reason}; it is tried again")).collect()
    }

    /// Whether `name` fails at present, and so is tried again by somebody.
    pub(super) fn is_failing(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note that `name` fails. Returns whether the reason differs from the last one.
    pub(super) fn fail(&self, name: &str, reason: String) -> bool {
        self.lock().insert(name.to_owned(), reason.clone()) != Some(reason)
    }

    /// Takes note of how a part of a task went that is done again and again whatever becomes of it. A reason is written to the
    /// log once while it stays the same.
    pub(super) fn tell<E: fmt::Display>(&self, log: &Log, name: &str, done: Result<(), E>) {
        match done.map_err(|error| error.to_string()) {
            Ok(()) if self.forget(name) => log.write(format_args!("{name}: works again")),
            Err(reason) if self.fail(name, reason.clone()) => {
                log.write(format_args!("{name}: {reason}; it is tried again until it works"));
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// `name` does not fail any more, or there is no such thing any more. Returns whether it failed before.
    pub(super) fn forget(&self, name: &str) -> bool {
        self.lock().remove(name).is_some()
    }
}

/// Runs the task `name` until it ends well or `cancel` is cancelled, which drops it where it waits. `make` gives the
/// task anew for each run.
pub(super) async fn supervise<M, F, E>(
    tasks: Arc<Tasks>,
    log: Arc<Log>,
    name: String,
    cancel: CancellationToken,
    make: M,
) where
    M: FnMut() -> F,
    F: Future<Output = Result<(), E>>,
    E: fmt::Display,
{
    let name = &name;
    supervise_at(TIMES, &tasks, &log, name, &cancel, make).await;
    tasks.forget(name);
}

async fn supervise_at<M, F, E>(
    times: Times,
    tasks: &Tasks,
    log: &Log,
    name: &str,
    cancel: &CancellationToken,
    mut make: M,
) where
    M: FnMut() -> F,
    F: Future<Output = Result<(), E>>,
    E: fmt::Display,
{
    let mut pause = times.first;
    loop {
        let started = Instant::now();
        let mut task = std::pin::pin!(std::panic::AssertUnwindSafe(make()).catch_unwind());
        let mut failing = tasks.lock().contains_key(name);
        let ended = loop {
            tokio::select! {
                ended = &mut task => break ended,
                () = cancel.cancelled() => return,
                // It runs for long enough: what it failed of is over.
                () = tokio::time::sleep(times.proven), if failing => {
                    failing = false;
                    if tasks.forget(name) {
                        log.write(format_args!("{name}: works again"));
                    }
                }
            }
        };
        let reason = match ended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => format!("panicked: {}", panic_text(&*panic)),
        };
        if started.elapsed() >= times.proven {
            pause = times.first;
        }
        if tasks.fail(name, reason.clone()) {
            log.write(format_args!("{name}: {reason}; it is started again until it works"));
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = cancel.cancelled() => return,
        }
        pause = (pause * 2).min(times.max);
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Pauses that a test need not wait for, and a proof that it does not wait for unless it wants to.
    const QUICK: Times = Times {
        first: Duration::from_millis(1),
        max: Duration::from_millis(2),
        proven: Duration::from_hours(1),
    };

    fn log() -> (tempfile::TempDir, Arc<Log>) {
        let folder = tempfile::tempdir().unwrap();
        let log = Arc::new(Log::open(&folder.path().join("log")).unwrap());
        (folder, log)
    }

    #[test]
    fn a_part_that_fails_is_told_once_and_does_not_end_the_task() {
        let (folder, log) = log();
        let tasks = Tasks::default();
        for _ in 0..3 {
            tasks.tell(&log, "rules", Err("refused"));
        }
        assert_eq!(tasks.failing(), ["rules: refused; it is tried again"]);
        for _ in 0..2 {
            tasks.tell::<String>(&log, "rules", Ok(()));
        }
        assert!(tasks.failing().is_empty());
        drop(log);
        let text = std::fs::read_to_string(folder.path().join("log")).unwrap();
        let said = |words: &str| text.matches(words).count();
        assert_eq!((said("rules: refused"), said("rules: works again")), (1, 1), "{text}");
    }

    #[tokio::test]
    async fn a_task_that_fails_is_started_again_and_its_reason_told_once() {
        let (folder, log) = log();
        let tasks = Arc::new(Tasks::default());
        let runs = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&tasks);
        let make = || {
            let run = runs.fetch_add(1, Ordering::Relaxed);
            let seen = Arc::clone(&seen);
            async move {
                match run {
                    0..3 => Err("disk full".to_owned()),
                    3 => {
                        assert_eq!(seen.failing(), ["channel of web-1: disk full; it is tried again"]);
                        panic!("a fault")
                    }
                    _ => Ok(()),
                }
            }
        };
        supervise_at(QUICK, &tasks, &log, "channel of web-1", &CancellationToken::new(), make).await;
        assert_eq!(runs.load(Ordering::Relaxed), 5);
        drop(log);
        let text = std::fs::read_to_string(folder.path().join("log")).unwrap();
        assert_eq!(text.matches("disk full").count(), 1, "{text}");
        assert_eq!(text.matches("panicked: a fault").count(), 1, "{text}");
    }

    #[tokio::test]
    async fn a_task_that_works_again_is_no_warning() {
        let (folder, log) = log();
        let tasks = Arc::new(Tasks::default());
        let runs = AtomicU32::new(0);
        let cancel = CancellationToken::new();
        let times = Times { proven: Duration::from_millis(20), ..QUICK };
        let make = || {
            let run = runs.fetch_add(1, Ordering::Relaxed);
            async move {
                if run > 0 {
                    std::future::pending::<()>().await;
                }
                Err("once")
            }
        };
        let works_again = async {
            while runs.load(Ordering::Relaxed) < 2 || !tasks.failing().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            cancel.cancel();
        };
        tokio::join!(supervise_at(times, &tasks, &log, "x", &cancel, make), works_again);
        drop(log);
        let text = std::fs::read_to_string(folder.path().join("log")).unwrap();
        assert!(text.contains("x: works again"), "{text}");
    }
}
