//! `i2kit exec`: a command in a container, connected to this terminal or to these pipes.

use std::io::Read as _;
use std::process::ExitCode;

use futures::StreamExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::args::ExecArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::terminal::{self, Raw};
use super::{connection, named};
use crate::cloud::Cloud;
use crate::cloud::exec::{Command, Input, Output, Session, Size};
use crate::report::{self, Events};

/// Runs the command and ends as it does.
pub(super) async fn run(context: &Context, args: &ExecArgs) -> Result<ExitCode, Failure> {
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let instance = named::running_with(&fleet, &args.name, args.container.as_deref())?;
    let mut terminal = args.tty;
    if terminal && !terminal::is_terminal() {
        context.events.warn("standard input is no terminal: the command gets none either");
        terminal = false;
    }
    let size = terminal::size().unwrap_or(Size { rows: 24, columns: 80 });
    let command = Command {
        container: args.container.clone(),
        command: args.command.clone(),
        input: args.stdin,
        terminal: terminal.then_some(size),
    };
    let session = begin(&context.events, cloud.as_ref(), &instance.id, &command).await?;
    let raw = (terminal && args.stdin).then(Raw::enter).transpose().or_exit(Exit::Failure)?;
    let outcome = tokio::select! {
        outcome = attach(session, args.stdin, terminal) => outcome,
        // In raw mode Ctrl-C is a key that goes to the command.
        _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted.into()),
    };
    drop(raw);
    outcome
}

/// Begins a command, and warns when its VM does not answer.
pub(super) async fn begin(
    events: &Events,
    cloud: &dyn Cloud,
    instance: &str,
    command: &Command,
) -> Result<Session, Failure> {
    let Session { input, output } = cloud.exec(instance, command).await.or_exit(Exit::Cloud)?;
    let (events, instance) = (events.clone(), instance.to_owned());
    let output = output.inspect(move |event| {
        if matches!(event, Ok(Output::Unanswered)) {
            events.warn(format!(
                "the guest of {instance} has not answered yet; the command begins when it does and ends with the VM, \
                 Ctrl-C gives up"
            ));
        }
    });
    Ok(Session { input, output: output.boxed() })
}

/// Carries bytes both ways until the command ends.
async fn attach(session: Session, stdin: bool, terminal: bool) -> Result<ExitCode, Failure> {
    let Session { input, mut output } = session;
    if terminal {
        tokio::spawn(follow_size(input.clone()));
    }
    if stdin {
        let input = input.clone();
        std::thread::spawn(move || send_input(&input));
    }
    while let Some(event) = output.next().await {
        let taken = match event.or_exit(Exit::Cloud)? {
            Output::Out(bytes) => report::bytes(&bytes, false),
            Output::Err(bytes) => report::bytes(&bytes, true),
            Output::Unanswered => true,
            // Exit codes of processes have eight bits.
            Output::Ended(code) => return Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(u8::MAX))),
        };
        if !taken {
            // Whoever read our output is gone; so is the reason for the command.
            return Ok(ExitCode::SUCCESS);
        }
    }
    Err(Failure::new(Exit::Cloud, anyhow::anyhow!("the command's connection ended without its exit code")))
}

/// Sends standard input on. Runs on a thread that is left behind when the command ends: a read of a terminal cannot be
/// called off.
fn send_input(input: &mpsc::Sender<Input>) {
    let mut stdin = std::io::stdin().lock();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let sent = match stdin.read(&mut buffer) {
            Ok(length) if length > 0 => input.blocking_send(Input::Bytes(buffer[..length].to_vec())),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(()),
            _ => {
                let _ = input.blocking_send(Input::End);
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn follow_size(input: mpsc::Sender<Input>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    while changes.recv().await.is_some() {
        if let Some(size) = terminal::size()
            && input.send(Input::Resize(size)).await.is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::test_cloud::{Late, recorded};

    #[tokio::test]
    async fn a_guest_that_does_not_answer_is_a_warning_and_is_waited_for() {
        let (events, said) = recorded();
        let session = begin(&events, &Late::default(), "web-1-abcde", &Command::default()).await.unwrap();
        let ended = attach(session, false, false).await.unwrap();
        assert_eq!(format!("{ended:?}"), format!("{:?}", ExitCode::from(3)));
        let said = said.lock().unwrap().join("\n");
        assert!(said.starts_with("warning: the guest of web-1-abcde has not answered yet"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}
