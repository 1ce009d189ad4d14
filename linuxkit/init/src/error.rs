//! What can go wrong in the guest. Every message ends up on the VM's console, where it must make sense alone.

use std::io;

/// Why the guest cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the names that matter.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The image was written for another guest.
    #[error(
        "{path} is of version {found}, and this guest reads version {expected}: build the image with an i2kit of the \
         guest's version, or make the guest anew with scripts/guest"
    )]
    PodVersion {
        /// The file.
        path: String,
        /// Its version.
        found: u64,
        /// Ours.
        expected: u32,
    },
    /// A file of the image does not follow the contract.
    #[error("{path}: {source}")]
    Json {
        /// The file.
        path: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// No disk has a partition of this name.
    #[error("no partition named {name} after {seconds} s; seen: {seen}. Is the image's disk attached?")]
    NoPartition {
        /// The GPT partition name.
        name: String,
        /// How long was waited.
        seconds: u64,
        /// The names of the partitions that are there.
        seen: String,
    },
    /// A partition is not among those that the kernel was started with the root hashes of.
    #[error("partition {name} cannot be verified: {reason}; this disk was not built for this kernel")]
    Unverified {
        /// The GPT partition name.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A kernel command line parameter cannot be understood.
    #[error("kernel command line: {parameter}={value}: {reason}")]
    Parameter {
        /// Its name.
        parameter: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A container, or what containers share, cannot be made.
    #[error(transparent)]
    Container(#[from] i2kit_container::Error),
    /// A value of the pod or of the kernel that this guest does not know.
    #[error("{what}: {value} is not known to this guest")]
    Unknown {
        /// The field.
        what: &'static str,
        /// Its value.
        value: String,
    },
    /// What makes the machine this one did not come, or cannot be understood.
    #[error("the identity of this machine: {reason}")]
    Identity {
        /// Why not.
        reason: String,
    },
    /// The host's message with the Secrets cannot be understood.
    #[error("the Secrets of the pod: {reason}")]
    Secrets {
        /// Why not.
        reason: String,
    },
    /// A command was to run in a container that does not run.
    #[error("{container} does not run")]
    NotRunning {
        /// The container.
        container: String,
    },
    /// A command was to run in a container that the pod does not have.
    #[error("the pod has no container {name:?}; it has {names}")]
    NoContainer {
        /// The name that was given.
        name: String,
        /// Those that there are.
        names: String,
    },
    /// More commands than can be served.
    #[error("{limit} commands are under way already; end one of them first")]
    TooMany {
        /// How many there may be.
        limit: usize,
    },
    /// The program that talks to the cloud failed; its reason is on the console.
    #[error("what this pod needs of the cloud could not be fetched: its program ended with {status}")]
    Cloud {
        /// How it ended.
        status: String,
    },
    /// The machine is of a Job that needs it for nothing.
    #[error("its Job has nothing left to do")]
    NothingToDo,
    /// The program that talks to the cloud could not tell how the pod ended; its reason is on the console.
    #[error("the end of the pod could not be told to the cloud: its program ended with {status}")]
    Untold {
        /// How it ended.
        status: String,
    },
    /// What was done in a process of its own went wrong.
    #[error("{message}")]
    Apart {
        /// Its error.
        message: String,
    },
    /// No network interface appeared.
    #[error("no network interface besides lo: is a network device attached?")]
    NoInterface,
}

impl Error {
    /// The exit code in the place of a command's that did not run, as shells have them.
    pub(crate) fn exit_code(&self) -> i32 {
        match self {
            Self::Container(error) => error.exit_code(),
            _ => 126,
        }
    }
}

/// Gives an error of the system its context.
pub(crate) trait Doing<T> {
    /// Names what was being done.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|error| Error::Io { what: what(), source: error.into() })
    }
}
