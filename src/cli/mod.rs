//! The command line: arguments are given a meaning, handed to the rooms, and turned into an exit code. One file a verb.
//!
//! [`run()`] is all of it. [`exit`] has the exit codes; what a verb says goes through [`crate::report`].
//!
//! ```no_run
//! let code = i2kit::cli::run(["i2kit", "check", "app.yaml"].map(Into::into));
//! ```

mod addresses;
mod args;
mod bounded;
mod build;
mod ca;
mod cache;
mod carry_out;
mod check;
mod completions;
mod connection;
mod console;
mod context;
mod convert;
mod cp;
mod dashboard;
mod deploy;
mod destroy;
mod diff;
mod environment;
mod events;
mod exec;
pub mod exit;
mod explain;
mod features;
mod gc;
mod history;
mod input_files;
mod kustomize;
mod local_cloud;
mod local_network;
mod local_proxy;
mod logs;
mod named;
mod output;
mod plan;
mod preflight;
mod prepare;
mod preview;
mod profiles;
mod reading;
mod replicas;
mod restart;
mod rollback;
mod run;
mod scale;
mod schema;
mod secrets;
mod signals;
mod status;
mod summary;
mod tables;
mod terminal;
#[cfg(test)]
mod test_cloud;
mod top;
mod traffic;
mod trial;
pub mod unpack;
mod volume;
mod wait;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use clap::error::{ContextKind, ContextValue};

use self::args::{Arguments, Output, Verb};
use self::exit::{Exit, Failure, OrExit as _};
use crate::report::{self, Format};

/// Runs the command line `arguments`, the program's name first, to its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let tip = kubectl_tip(&error);
            // Help and version are results; everything else is about a wrong command line.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Success };
            let _ = error.print();
            if let Some(tip) = tip {
                report::message(&tip);
            }
            return exit.into();
        }
    };
    let format = match arguments.global.output {
        Output::Text => Format::Text,
        Output::Json => Format::Json,
    };
    match dispatch(arguments, format) {
        Ok(exit) => exit,
        Err(Failure { exit, error }) => {
            if let Some(error) = error {
                report::failure(format, sentence(&error));
            }
            exit.into()
        }
    }
}

/// The verb of ours that does what a verb of kubectl does, where that is called otherwise.
fn kubectl_tip(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(verb)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let ours = match verb.as_str() {
        "get" | "describe" => "status",
        "apply" | "create" => "deploy",
        "delete" => "destroy",
        "rollout" => "restart`, `i2kit history`, `i2kit rollback` or `i2kit wait",
        _ => return None,
    };
    Some(format!("tip: what `kubectl {verb}` does, `i2kit {ours}` does here"))
}

/// What happened and what led to it, each once: some errors repeat in their own words what led to them.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            let colon = if text.is_empty() { "" } else { ": " };
            text = text + colon + &cause;
        }
    }
    text
}

fn dispatch(arguments: Arguments, format: Format) -> Result<ExitCode, Failure> {
    let Arguments { verb, global } = arguments;
    let file = global.environment.or_else(context::environment_file);
    let context = || context::context(file.as_deref(), format, global.quiet);
    let exit = match verb {
        // The command's own exit code is the result.
        Verb::Exec(args) => return block_on(exec::run(&context()?, &args)),
        Verb::Cp(args) => wait(cp::run(&context()?, &args)),
        Verb::Console(args) => wait(console::run(&context()?, &args)),
        Verb::Check(args) => {
            let environment = environment::read(file.as_deref()).or_exit(Exit::Environment)?;
            check::run(&args, &environment, format)
        }
        Verb::Explain(args) => explain::run(&args, format),
        Verb::Schema(args) => schema::run(&args),
        Verb::Convert(args) => convert::run(&args, format),
        Verb::Completions { shell } => completions::run(shell),
        Verb::LocalCloud { verb: None } => block_on_threads(1, local_cloud::serve(&context()?)),
        Verb::LocalCloud { verb: Some(verb) } => wait(local_cloud::run(&context()?, &verb)),
        // Without a runtime: a process with a second thread may not enter a user namespace.
        Verb::LocalNetwork(args) => local_network::hold(args),
        Verb::LocalVm(args) => local_network::become_program(args),
        // It starts copies of itself, and so has one thread.
        Verb::LocalDoor { state, resume } => local_cloud::door(&state, resume),
        Verb::LocalProxy { role } => local_proxy::run(&context()?, role),
        Verb::Plan(args) => wait(plan::run(&context()?, &args)),
        Verb::Diff(args) => wait(diff::run(&context()?, &args)),
        Verb::Build(args) => wait(build::run(&context()?, &args)),
        Verb::Deploy(args) => wait(deploy::run(&context()?, &args)),
        Verb::Preview(set) => block_on(preview::run(&context()?, &set)),
        Verb::Status(args) => wait(status::run(&context()?, &args)),
        Verb::Events(args) => wait(events::run(&context()?, &args)),
        Verb::Dashboard(args) => block_on(dashboard::run(&context()?, &args)),
        Verb::Replicas(args) => wait(replicas::run(&context()?, &args)),
        Verb::Top(args) => wait(top::run(&context()?, &args)),
        Verb::Logs(args) => wait(logs::run(&context()?, &args)),
        Verb::History(args) => wait(history::run(&context()?, &args)),
        Verb::Rollback(args) => wait(rollback::run(&context()?, &args)),
        Verb::Restart(args) => wait(restart::run(&context()?, &args)),
        Verb::Run(args) => wait(run::run(&context()?, &args)),
        Verb::Scale(args) => wait(scale::run(&context()?, &args)),
        Verb::Wait(args) => wait(wait::run(&context()?, &args)),
        Verb::Preflight(args) => wait(preflight::run(&context()?, args)),
        Verb::IamPolicy(args) => preflight::policy(&context()?, &args),
        Verb::Trial(args) => block_on(trial::run(&context()?, &args)),
        Verb::Gc(args) => wait(gc::run(&context()?, &args)),
        Verb::Destroy(args) => wait(destroy::run(&context()?, &args)),
        Verb::Volume { verb } => wait(volume::run(&context()?, &verb)),
        Verb::Ca { verb } => ca::run(&context()?, verb),
        Verb::Cache { verb } => cache::run(&context()?, &verb),
    };
    exit.map(ExitCode::from)
}

/// Runs an asynchronous verb. An interrupt drops it where it is: everything that must go on is done by the cloud, and
/// running the verb again converges.
fn wait(verb: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    block_on(async {
        tokio::select! {
            // A verb that has something to say about an interrupt notices it first.
            biased;
            outcome = verb => outcome,
            _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
        }
    })
}

/// How long a thread for work that blocks is kept without any. They take turns, so that the local cloud would keep as many as
/// have a message of a guest to read in this time, with the memory that each of them once used.
const IDLE_THREAD: Duration = Duration::from_secs(1);

/// Runs an asynchronous verb that takes care of interrupts itself.
fn block_on<T>(verb: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    block_on_threads(2, verb)
}

/// As [`block_on`], with that many worker threads. The local cloud has one: what arrives at rest is a little now and then, and with a
/// second worker each event wakes both.
fn block_on_threads<T>(threads: usize, verb: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_keep_alive(IDLE_THREAD)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failure, error))?;
    let outcome = runtime.block_on(verb);
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn verbs_of_kubectl_lead_to_ours() {
        let tip = |verb: &str| {
            let error = Arguments::try_parse_from(["i2kit", verb, "pods"]).unwrap_err();
            kubectl_tip(&error).unwrap_or_default()
        };
        assert_eq!(tip("get"), "tip: what `kubectl get` does, `i2kit status` does here");
        assert!(tip("apply").contains("`i2kit deploy`") && tip("frob").is_empty());
    }

    #[test]
    fn manifests_are_named_by_option_too() {
        let parse = |arguments: &[&str]| Arguments::try_parse_from([&["i2kit"][..], arguments].concat());
        for verb in ["check", "plan", "diff", "build", "deploy", "preview", "destroy", "convert", "preflight"]
        {
            assert!(parse(&[verb, "-f", "a.yaml", "--filename", "-"]).is_ok(), "{verb}");
        }
        assert!(parse(&["deploy"]).is_err() && parse(&["destroy", "--all", "-f", "a.yaml"]).is_err());
        assert!(parse(&["events", "--metrics"]).is_err() && parse(&["status", "--metrics"]).is_ok());
    }

    #[test]
    fn a_cause_in_the_middle_is_said_once_too() {
        let cause = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let said = Err::<(), _>(cause()).context(format!("{}; mend that", cause())).unwrap_err();
        assert_eq!(sentence(&said), format!("{}; mend that", cause()));
    }

    #[test]
    fn a_cause_is_said_once() {
        let cause = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let with = format!("read x: {}", cause());
        let said = Err::<(), _>(cause()).context(with.clone()).context("cannot start").unwrap_err();
        assert_eq!(sentence(&said), format!("cannot start: {with}"));
    }
}
