//! Starts a container: clones a process into its cgroup and namespaces, builds its root, takes its rights away, and lets it
//! become the configured program. Runs commands in containers that run.
//!
//! It knows nothing of when and how often a container is started, of probes or of the host. PID 1 calls it in a VM;
//! `tests/start` calls it without one, as root of any Linux machine.
//!
//! - [`Spec`] is a container: its entry of `pod.json`, its `config.json` and its layers.
//! - [`Sandbox`] is what the containers of a pod share.
//! - [`start()`] gives a [`Started`] process; [`execute`] and [`execute_attached`] run commands beside it.
//! - [`cgroup`], [`users`], [`pod_files`] and [`start_pause`] make what has to be there before.
//!
//! ```no_run
//! # fn run(spec: &i2kit_container::Spec) -> Result<(), i2kit_container::Error> {
//! i2kit_container::cgroup::make_tree()?;
//! i2kit_container::pod_files::make_shared_memory(false)?;
//! let started = i2kit_container::start(spec, &i2kit_container::Sandbox::default())?;
//! # let _ = started;
//! # Ok(())
//! # }
//! ```

pub mod cgroup;
mod child;
mod devices;
mod error;
#[cfg(test)]
mod example;
mod instance;
mod mounts;
#[cfg(test)]
#[path = "../../../tests/support/mutations.rs"]
mod mutations;
pub mod oom;
mod pause;
pub mod pod_files;
mod privileges;
mod profile;
mod program;
mod sandbox;
mod seccomp;
pub mod secrets;
mod spec;
mod start;
mod streams;
mod subpath;
mod syscalls;
mod terminal;
mod text;
mod user;
pub mod users;
mod variables;

pub use self::child::{SCRATCH, make_scratch};
pub use self::error::{Error, START_FAILED};
pub use self::instance::{Instance, memory, processors};
pub use self::pause::start as start_pause;
pub use self::sandbox::Sandbox;
pub use self::spec::Spec;
pub use self::start::{Attached, Started, execute, execute_attached, start};
pub use self::text::one_line;
