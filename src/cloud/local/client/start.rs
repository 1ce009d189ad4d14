//! Starting the local cloud's process when it is needed, and replacing one of an older program.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::{self, Absent};
use crate::cloud::CloudError;
use crate::cloud::local::home::Home;
use crate::cloud::local::lock::{holder, is_stopped, silent, slow};
use crate::cloud::local::machine::descriptors;
use crate::cloud::local::wire::Hello;
use crate::cloud::local::{lost, store};

/// How long the process may take to answer: it opens a database, looks through the processes, and tries whether this host gives a
/// network. A host that is emulated on a busy one was seen to take more than twenty seconds.
const PATIENCE: Duration = Duration::from_mins(2);

/// How long one that ends may take until its lock is free.
const LOCK_FREE: Duration = Duration::from_secs(5);

/// How long an answer is waited for before the process is asked whether it is there, and again and again.
const HEARTBEAT: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(5) };

/// How often a process that listens and says nothing is asked before it counts as one that does not answer.
const SILENCES: u32 = 4;

/// Between two attempts.
const POLL: Duration = Duration::from_millis(20);

/// Whether there may be a local cloud. Without a database there is none, unless a process holds its lock, or VMs or disks
/// tell that the database is lost.
pub(super) async fn exists(home: &Home) -> bool {
    let given_up = Instant::now() + LOCK_FREE;
    loop {
        if home.database().exists() || home.volumes().exists() || lost::exist(home) {
            return true;
        }
        // One that has just removed everything is about to end; one that runs on writes its database anew.
        let held = holder(home).is_some();
        if !held || Instant::now() > given_up {
            return held;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Makes sure that a process of this program or a newer one answers.
pub(super) async fn ensure(home: &Home) -> Result<(), CloudError> {
    let this = Hello::of_this_program();
    let given_up = Instant::now() + PATIENCE;
    let mut child: Option<Started> = None;
    loop {
        match connection::hello(home).await {
            Ok(running) if running.is_older_than(&this) => {
                // One whose records this program cannot read goes on.
                store::check_version(&home.database())?;
                // It answers or it is gone: both will do, since we look again.
                drop(connection::stop(home).await);
            }
            Ok(_) => return Ok(()),
            Err(Absent::Silent) => {
                if Instant::now() > given_up || holder(home).is_some_and(is_stopped) {
                    return Err(silent(home));
                }
            }
            Err(Absent::Gone(error)) => {
                let exited =
                    child.as_mut().map(|child| child.process.try_wait()).and_then(Result::ok).flatten();
                let holder = holder(home);
                if let (Some(child), Some(status)) = (&child, exited)
                    && !status.success()
                {
                    return Err(child.complaint(home));
                }
                if holder.is_some_and(is_stopped) {
                    return Err(silent(home));
                }
                if Instant::now() > given_up {
                    return Err(unreached(home, &error, holder));
                }
                // It ended well because another one is the local cloud, or was until just now.
                if exited.is_some() {
                    child = None;
                }
                // Whoever holds the lock listens soon, or again.
                if child.is_none() && holder.is_none() {
                    child = Some(spawn(home)?);
                }
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Makes sure that a process answers, whichever program's it is. Starts none and ends none.
pub(super) async fn answers(home: &Home) -> Result<(), CloudError> {
    match connection::hello(home).await {
        Ok(_) => Ok(()),
        Err(Absent::Silent) => Err(silent(home)),
        Err(Absent::Gone(_)) => {
            let message =
                "its process does not run; `i2kit status` starts it, and machines and traffic go on without it".into();
            Err(CloudError::Unreachable { message })
        }
    }
}

/// Waits for `answer` for as long as the process shows that it is there, and at most for `limit`.
pub(super) async fn attended<T>(
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
            matches!(connection::hello(home).await, Err(Absent::Silent))
        };
        let is_silent = tokio::select! {
            answer = &mut answer => return answer,
            is_silent = look => is_silent,
        };
        silences = if is_silent { silences + 1 } else { 0 };
        let late = given_up.is_some_and(|given_up| tokio::time::Instant::now() > given_up);
        let stopped = is_silent && holder(home).is_some_and(is_stopped);
        if stopped || silences >= SILENCES {
            return Err(silent(home));
        }
        if late {
            return Err(slow(home));
        }
    }
}

/// A process that this one started.
#[derive(Debug)]
struct Started {
    process: Child,
    /// How long the log was before.
    logged: u64,
}

impl Started {
    /// What it said before it ended.
    fn complaint(&self, home: &Home) -> CloudError {
        let said = || -> std::io::Result<String> {
            let mut log = File::open(home.log())?;
            log.seek(SeekFrom::Start(self.logged))?;
            let mut text = String::new();
            log.read_to_string(&mut text)?;
            Ok(text)
        };
        let said = said().unwrap_or_default();
        // Behind the lines of the log, which begin with a time.
        let words: Vec<&str> =
            said.lines().filter(|line| !line.starts_with(|c: char| c.is_ascii_digit())).collect();
        let words = words.join("\n");
        let words = words.trim().trim_start_matches("error: ");
        let log = home.log();
        let message = match words {
            // The log is on the same disk, which did not take what it said.
            "" if has_no_room(home) => format!(
                "its process ended at once: no room is left where {} lies; make room there and run the command again",
                home.state.display()
            ),
            "" => format!("its process ended at once; {} may tell why", log.display()),
            words => format!("its process did not start: {words}"),
        };
        CloudError::Unreachable { message }
    }
}

/// Whether the disk of the local cloud's folder is full.
fn has_no_room(home: &Home) -> bool {
    rustix::fs::statvfs(&home.state).is_ok_and(|found| found.f_bavail == 0)
}

fn spawn(home: &Home) -> Result<Started, CloudError> {
    home.create()?;
    let log = home.log();
    let log =
        File::options().create(true).append(true).open(&log).map_err(CloudError::file("write", &log))?;
    let logged = log.metadata().map_or(0, |metadata| metadata.len());
    descriptors::close_on_exec();
    let process = Command::new(&home.executable)
        .arg("local-cloud")
        .env_clear()
        // glibc's allocator keeps a heap a thread, eight a processor, and returns little of what a burst of starts took.
        .env("MALLOC_ARENA_MAX", "2")
        .envs(home.environment.iter().map(|(name, value)| (name, value)))
        // Not where it happened to be called, which may be unmounted or have another environment file.
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|error| CloudError::Program {
            program: home.executable.display().to_string(),
            message: error.to_string(),
        })?;
    Ok(Started { process, logged })
}

/// No process answered in all that time.
fn unreached(home: &Home, error: &CloudError, holder: Option<u32>) -> CloudError {
    let error = match error {
        CloudError::Unreachable { message } => message.clone(),
        other => other.to_string(),
    };
    let log = fs::read_to_string(home.log()).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let last = lines[lines.len().saturating_sub(5)..].join("\n");
    let who = holder.map_or_else(String::new, |pid| {
        format!("; process {pid} holds {}, and its VMs go on when it is ended", home.lock().display())
    });
    CloudError::Unreachable { message: format!("{error}{who}; {} ends with:\n{last}", home.log().display()) }
}
