//! The step of a trial that kills this program: a deployment of its own process, again and again, each time further on.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::manifest::{KILLED, Workload, service};
use super::stage::{Findings, Stage, deploy_args, failed, group};
use crate::cli::context::Context;
use crate::cli::deploy;
use crate::cli::exit::{Exit, Failure};

/// The port of the Service.
const PORT: u16 = 81;

/// The page of the group: no other one serves it, so that its image is new.
const PAGE: u8 = 100;

/// What a process reports when it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// Anything.
    Any,
    /// The beginning of a task that begins with this.
    Begun(&'static str),
    /// A part of such a task.
    Part(&'static str),
    /// Its end.
    Ended(&'static str),
}

/// The moments, in the order in which a deployment comes to them.
const MOMENTS: [(&str, Sign); 11] = [
    ("its first words", Sign::Any),
    ("the image is begun", Sign::Begun("image ")),
    ("blocks are about to be sent", Sign::Begun("upload ")),
    ("a block was sent", Sign::Part("upload ")),
    ("the image is there", Sign::Ended("image ")),
    ("the balancer is begun", Sign::Begun("balancer ")),
    ("the balancer is there", Sign::Ended("balancer ")),
    ("the revision is begun", Sign::Begun("revision ")),
    ("the revision is there", Sign::Ended("revision ")),
    ("machines are about to be started", Sign::Begun("start ")),
    ("machines are started", Sign::Ended("start ")),
];

/// How many processes are killed: each at the next moment, or at a later one where the one before came further than that.
const KILLS: usize = 10;

/// Tasks of a process by their ids, as its reports tell them.
#[derive(Debug, Default)]
struct Tasks(BTreeMap<String, String>);

impl Tasks {
    /// The last of the moments that a report is.
    fn moment(&mut self, report: &Value) -> Option<usize> {
        let text = |key: &str| report[key].as_str().unwrap_or_default();
        let (kind, id) = (text("event"), text("id"));
        if kind == "task-started" {
            // Steps of a plan have a mark in front.
            let title = text("title").trim_start_matches(['+', '~', '-', '.', ' ']);
            self.0.insert(id.to_owned(), title.to_owned());
        }
        let title = self.0.get(id).map(String::as_str).unwrap_or_default();
        let is_it = |sign: Sign| match sign {
            Sign::Any => !kind.is_empty(),
            Sign::Begun(start) => kind == "task-started" && title.starts_with(start),
            Sign::Part(start) => kind == "task-progress" && title.starts_with(start),
            Sign::Ended(start) => kind == "task-finished" && title.starts_with(start),
        };
        MOMENTS.iter().rposition(|(_, sign)| is_it(*sign))
    }
}

/// How a process ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// It was killed at this moment.
    Killed(usize),
    /// It came to the end of its deployment before.
    Done,
}

/// Step 10: killed at ten moments, a deployment comes to the same end.
pub(super) async fn kills(stage: &Stage<'_>, found: &Findings) -> Result<(), Failure> {
    let workload = Workload { name: KILLED, image: &stage.args.image, page: PAGE, replicas: 1 };
    let text = workload.manifest() + &service(KILLED, KILLED, "LoadBalancer", PORT);
    let manifest = stage.write("resumed.yaml", &text)?;
    let mut kills = 0_usize;
    for (wanted, (planned, _)) in MOMENTS.into_iter().enumerate().take(KILLS) {
        found.push(match killed(start(stage, &manifest)?, wanted).await? {
            End::Killed(moment) => {
                kills += 1;
                format!("killed: {}", MOMENTS[moment].0)
            }
            End::Done => format!("came to its end before it could be killed when {planned}"),
        });
    }
    let deployed = stage.deploy(&text, true).await?;
    let group = group(&deployed.fleet, KILLED)?;
    let revisions = group.revisions.len();
    if !group.is_settled_at(1) || revisions != 1 {
        return Err(failed(format!(
            "after the last run the group has {revisions} revisions and is not settled at the first"
        )));
    }
    if kills == 0 {
        return Err(failed("no process was killed: each one came to its end before"));
    }
    found.push(format!(
        "{kills} of {KILLS} processes were killed, and the run after them left one revision with one machine"
    ));
    Ok(())
}

/// Starts this program with a deployment that lasts no longer than its standard input: where the trial itself is killed,
/// nobody goes on. It is in a group of processes of its own, so that a terminal's Ctrl-C is for the trial alone.
fn start(stage: &Stage<'_>, manifest: &Path) -> Result<Child, Failure> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let child = Command::new(program)
        .args(["trial", "--output", "json", "--environment"])
        .arg(&stage.context.environment.file)
        .arg("--deploy")
        .arg(manifest)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start this program again")?;
    Ok(child)
}

/// Reads what a process reports, and kills it at a moment or at a later one. One that fails by itself is an error.
async fn killed(mut child: Child, wanted: usize) -> Result<End, Failure> {
    let mut tasks = Tasks::default();
    let stderr = child.stderr.take().context("the program has no standard error")?;
    let mut lines = BufReader::new(stderr).lines();
    let mut said = None;
    while let Some(line) = lines.next_line().await.context("cannot read what the program says")? {
        let report: Value = serde_json::from_str(&line).unwrap_or_default();
        // The last words of one that fails are no moment to kill it.
        if report["event"] == "error" {
            said = report["message"].as_str().map(str::to_owned);
            continue;
        }
        if let Some(moment) = tasks.moment(&report).filter(|moment| *moment >= wanted) {
            child.kill().await.context("cannot kill the program")?;
            return Ok(End::Killed(moment));
        }
    }
    let status = child.wait().await.context("cannot wait for the program")?;
    if status.success() {
        return Ok(End::Done);
    }
    Err(failed(format!(
        "a deployment failed before it could be killed: {}",
        said.unwrap_or_else(|| status.to_string())
    )))
}

/// Deploys a manifest of a trial for as long as standard input lasts: the trial holds its other end.
pub(super) async fn deploy_while_asked(context: &Context, manifest: &Path) -> Result<Exit, Failure> {
    let args = deploy_args(manifest, true);
    tokio::select! {
        ended = Box::pin(deploy::run(context, &args)) => ended,
        _ = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin().lock(), &mut io::sink())) => {
            Err(Failure::silent(Exit::Interrupted))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn moments_are_found_in_what_a_process_reports() {
        let mut tasks = Tasks::default();
        let mut moment = |report: Value| tasks.moment(&report);
        assert_eq!(moment(json!({"event": "note", "message": "x"})), Some(0));
        let started =
            |id: &str, title: &str| json!({"event": "task-started", "id": id, "title": title, "total": null});
        assert_eq!(moment(started("step-0", "+ image 0123")), Some(1));
        assert_eq!(moment(started("upload snap-1", "upload 5 of 5 blocks to snap-1")), Some(2));
        assert_eq!(moment(json!({"event": "task-progress", "id": "upload snap-1", "done": 1})), Some(3));
        assert_eq!(moment(json!({"event": "task-finished", "id": "step-0", "outcome": "done"})), Some(4));
        assert_eq!(moment(started("step-1", "+ balancer resumed: 81/TCP")), Some(5));
        assert_eq!(moment(started("step-2", "~ start resumed: 1 VM of revision 1")), Some(9));
        assert_eq!(moment(json!({"event": "task-finished", "id": "step-2", "outcome": "done"})), Some(10));
        assert_eq!(moment(Value::Null), None);
    }

    #[tokio::test]
    async fn a_process_that_fails_by_itself_is_no_kill() {
        let say = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdin(Stdio::piped()).stderr(Stdio::piped());
            command.kill_on_drop(true).spawn().unwrap()
        };
        let note = r#"echo '{"event": "note", "message": "x"}' >&2"#;
        let failing = format!(r#"{note}; echo '{{"event": "error", "message": "no room"}}' >&2; exit 7"#);
        let failure = killed(say(&failing), MOMENTS.len()).await.unwrap_err();
        let told = failure.error.unwrap().to_string();
        assert_eq!(told, "a deployment failed before it could be killed: no room");
        assert_eq!(killed(say(&format!("{note}; exec sleep 1000")), 0).await.unwrap(), End::Killed(0));
        let at_once = r#"echo '{"event": "error", "message": "no room"}' >&2; exit 7"#;
        assert!(killed(say(at_once), 0).await.is_err(), "its last words are no moment");
        assert_eq!(killed(say(note), MOMENTS.len()).await.unwrap(), End::Done);
        assert!(
            killed(say("exit 3"), 0).await.unwrap_err().error.unwrap().to_string().contains("exit status: 3")
        );
    }
}
