//! Why a container, or a command in one, did not start. A message stands alone: on the VM's console, in the container's
//! record, or where the command's errors go.

use std::io;

use i2kit_spec::runtime::MAX_ID;

/// The exit code of a container whose program did not start, as kubelet shows it.
pub const START_FAILED: i32 = 128;

/// Why a container or a command in one did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the names that matter.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Something in a container's `config.json` means nothing to this guest.
    #[error("{what}: {value} is not known to this guest")]
    Unknown {
        /// The field.
        what: &'static str,
        /// Its value.
        value: String,
    },
    /// The user of a container is not in its image.
    #[error("user {user:?} is not in the container's {file}")]
    NoUser {
        /// As the image or the manifest gives it.
        user: String,
        /// Where it was looked up.
        file: &'static str,
    },
    /// A number of a user or a group that the kernel would not understand as one.
    #[error("{id} is no number of a user or a group: these are from 0 to {MAX_ID}")]
    IdRange {
        /// The number.
        id: String,
    },
    /// A number of a user or a group that the pod's user namespace does not have.
    #[error(
        "{id} is no number of a user or a group in a pod with hostUsers: false: these are from 0 to {last}"
    )]
    NoIdInNamespace {
        /// The number.
        id: u32,
        /// The greatest that the namespace has.
        last: u32,
    },
    /// The user of a container is root although it must not be.
    #[error("user {user:?} is root, which runAsNonRoot forbids")]
    Root {
        /// As the image or the manifest gives it.
        user: String,
    },
    /// The program of a container is not there or not executable.
    #[error("{program:?} {reason}")]
    Program {
        /// `args[0]`.
        program: String,
        /// Why not.
        reason: String,
        /// Whether there is no such file at all.
        missing: bool,
    },
    /// A value that a container needs did not come.
    #[error("{} is missing", secret_place(secret, key.as_deref()))]
    NoSecret {
        /// The Secret.
        secret: String,
        /// Its key; the whole Secret otherwise.
        key: Option<String>,
    },
    /// A value that a variable cannot have.
    #[error(
        "key {key} of Secret {secret} cannot be a variable: it is not UTF-8 text without zero bytes; mount it as a file"
    )]
    SecretNoText {
        /// The Secret.
        secret: String,
        /// Its key.
        key: String,
    },
    /// The first process of the PID namespace that containers share did not come up.
    #[error("the first process of the pod's PID namespace did not start: {reason}")]
    Pause {
        /// Its error; empty when it was killed.
        reason: String,
    },
    /// A mount of a part of a volume that cannot be made.
    #[error("subPath {path} of volume {volume}: {reason}")]
    SubPath {
        /// The volume.
        volume: String,
        /// The path inside it.
        path: String,
        /// Why not.
        reason: String,
    },
}

impl Error {
    /// The exit code in the place of a command's that did not run, as shells have them.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Program { missing: true, .. } => 127,
            _ => 126,
        }
    }
}

fn secret_place(secret: &str, key: Option<&str>) -> String {
    key.map_or_else(|| format!("Secret {secret}"), |key| format!("key {key} of Secret {secret}"))
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
