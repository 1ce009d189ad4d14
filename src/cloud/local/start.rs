//! Starting the local cloud's process when it is needed, and replacing one of an older program.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use super::home::Home;
use super::wire::Hello;
use super::{client, descriptors};
use crate::cloud::CloudError;

/// How long the process may take to answer: it opens a database and looks through the processes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two attempts.
const POLL: Duration = Duration::from_millis(20);

/// Who this program is.
pub(super) fn hello() -> Hello {
    // The running file, even when its path has been replaced by a newer one meanwhile.
    let built = fs::metadata("/proc/self/exe").map_or(0, |metadata| {
        let nanoseconds = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        u64::try_from(nanoseconds).unwrap_or(0)
    });
    Hello { version: env!("CARGO_PKG_VERSION").to_owned(), built, pid: std::process::id() }
}

/// Whether `running` is older than `this`: then it is replaced. VMs go on meanwhile.
fn is_older(running: &Hello, this: &Hello) -> bool {
    let order = |hello: &Hello| {
        let numbers: Vec<u64> = hello.version.split(['.', '-']).map_while(|part| part.parse().ok()).collect();
        (numbers, hello.built)
    };
    order(running) < order(this)
}

/// Whether there may be a local cloud: without its folder there is none, and everything is empty.
pub(super) fn exists(home: &Home) -> bool {
    home.database().exists()
}

/// Makes sure that a process of this program or a newer one answers.
pub(super) async fn ensure(home: &Home) -> Result<(), CloudError> {
    let this = hello();
    let given_up = Instant::now() + PATIENCE;
    let mut child: Option<Child> = None;
    loop {
        match client::hello(home).await {
            Ok(running) if is_older(&running, &this) => {
                // It answers or it is gone: both will do, since we look again.
                drop(client::stop(home).await);
            }
            Ok(_) => return Ok(()),
            Err(_) if child.is_none() => child = Some(spawn(home)?),
            Err(error) => {
                let exited = child.as_mut().map(Child::try_wait).and_then(Result::ok).flatten();
                if exited.is_some_and(|status| !status.success()) || Instant::now() > given_up {
                    return Err(CloudError::Unreachable { message: complaint(home, error) });
                }
                // It ended well because another one is the local cloud, or was until just now.
                if exited.is_some() {
                    child = None;
                }
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

fn spawn(home: &Home) -> Result<Child, CloudError> {
    home.create()?;
    let log = home.log();
    let log =
        File::options().create(true).append(true).open(&log).map_err(CloudError::file("write", &log))?;
    descriptors::close_on_exec();
    Command::new(&home.executable)
        .arg("local-cloud")
        .env_clear()
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
        })
}

/// What the process said last, for the message that it did not start.
fn complaint(home: &Home, error: CloudError) -> String {
    let error = match error {
        CloudError::Unreachable { message } => message,
        other => other.to_string(),
    };
    let log = fs::read_to_string(home.log()).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let last = lines[lines.len().saturating_sub(5)..].join("\n");
    format!("{error}; {} ends with:\n{last}", home.log().display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(version: &str, built: u64) -> Hello {
        Hello { version: version.into(), built, pid: 1 }
    }

    #[test]
    fn a_newer_program_replaces_an_older_process_and_never_the_other_way_round() {
        assert!(is_older(&hello("0.9.0", 5), &hello("0.10.0", 1)));
        assert!(is_older(&hello("0.1.0", 1), &hello("0.1.0", 2)));
        assert!(!is_older(&hello("0.1.0", 2), &hello("0.1.0", 2)));
        assert!(!is_older(&hello("0.2.0", 1), &hello("0.1.0", 9)));
    }
}
