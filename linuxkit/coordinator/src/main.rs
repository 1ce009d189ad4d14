//! The coordinator of a replicated pod: the sidecar that orders the requests of its clients, so that each replica executes the same ones in
//! the same order.
//!
//! # Reading order
//!
//! 1. [`config`], [`node_run`]: what it is told, how it begins and ends.
//! 2. [`node`], [`node_tasks`], [`node_service`]: a request of a client, and what goes on all the time.
//! 3. [`order`] and [`log`]: how commands are ordered and kept. [`wire`]: how replicas talk.
//! 4. [`machine`]: what happens to a command that is ordered. [`state`]: how the application is handled.
//! 5. [`front`], [`admin`], [`metrics`], [`control`]: clients, probes, figures, what changes the group. [`member`], [`node_members`], [`node_snapshots`]: first start, new replicas.

mod admin;
mod command;
mod config;
mod control;
mod front;
mod lock;
mod log;
mod machine;
mod member;
mod memory;
mod metrics;
mod node;
mod node_control;
mod node_members;
mod node_quorum;
mod node_run;
mod node_service;
mod node_snapshots;
mod node_status;
mod node_tasks;
mod node_tells;
mod order;
mod report;
mod silent;
mod state;
mod wire;

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::Settings;
use crate::order::timing::Timing;
pub(crate) use report::report;

/// The one place that reads the environment.
#[expect(clippy::disallowed_methods, reason = "the environment is read here, and handed down as a value")]
fn settings() -> Result<Settings, config::ConfigError> {
    let read = |name: &str| std::env::var(name).ok();
    let (replica, instance) =
        (read(i2kit_spec::replica::CONFIG_VARIABLE), read(i2kit_spec::replica::INSTANCE_VARIABLE));
    Settings::parse(replica.as_deref(), instance.as_deref(), read("I2KIT_REPLICA_PLACE").as_deref())
}

async fn run(settings: Settings) -> Result<(), String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let timing = Timing::new(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default());
    let ends = async move {
        terminate.recv().await;
    };
    node_run::run(settings, timing, ends).await
}

fn main() -> ExitCode {
    // The group's key is in this memory: no other process of the pod may read it, whatever namespaces they share.
    if let Err(error) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
    {
        report!("the coordinator does not start: its memory cannot be closed to other processes: {error}");
        return ExitCode::FAILURE;
    }
    let settings = match settings() {
        Ok(settings) => settings,
        Err(error) => {
            report!("the coordinator does not start: {error}");
            return ExitCode::from(2);
        }
    };
    // One thread: what it does is wait, and the log has a thread of its own.
    let runtime =
        match tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build() {
            Ok(runtime) => runtime,
            Err(error) => {
                report!("the coordinator does not start: {error}");
                return ExitCode::FAILURE;
            }
        };
    let ended = runtime.block_on(run(settings));
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report!("the coordinator ends: {error}");
            ExitCode::FAILURE
        }
    }
}
