//! What can go wrong with a cloud.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a cloud did not do what it was asked. It travels from the local cloud's process to the tool as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum CloudError {
    /// A thing that was named does not exist.
    #[error("there is no {what} {name}; `i2kit status` lists what exists")]
    NotFound {
        /// `group`, `revision 3 of`, `image` and so on.
        what: String,
        /// Its name.
        name: String,
    },
    /// Somebody else's act came in between: the environment has another generation than the act was planned on.
    #[error("{message}; run the command again to plan from what is there now")]
    Outdated {
        /// What was done, and by whom.
        message: String,
    },
    /// An act contradicts what is there.
    #[error("{message}; run the command again to plan from what is there now")]
    Conflict {
        /// What was found instead.
        message: String,
    },
    /// What was asked for cannot be.
    #[error("{message}")]
    Refused {
        /// Why, and what to do.
        message: String,
    },
    /// The thing is needed by something else.
    #[error("{what} is in use by {user}")]
    InUse {
        /// What was to go.
        what: String,
        /// What needs it.
        user: String,
    },
    /// The cloud cannot be reached.
    #[error("cannot reach the cloud: {message}")]
    Unreachable {
        /// What was tried and what happened.
        message: String,
    },
    /// The cloud's API refused or failed.
    #[error("{operation} failed: {code}{}{message}; {advice}", if message.is_empty() { "" } else { ": " })]
    Api {
        /// The call.
        operation: String,
        /// The error's code in the cloud's words.
        code: String,
        /// Its text.
        message: String,
        /// What to do about it.
        advice: Box<str>,
        /// Whether it may pass by itself, such as throttling or a broken connection.
        transient: bool,
    },
    /// The cloud has no way to do it.
    #[error("{what} does not work on this cloud yet; {advice}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What to do instead.
        advice: String,
    },
    /// A VM cannot do what was asked of it.
    #[error("{instance}: {message}")]
    Guest {
        /// The VM.
        instance: String,
        /// What it said, or that it said nothing.
        message: String,
    },
    /// A program that is needed cannot be run.
    #[error("cannot run {program}: {message}")]
    Program {
        /// Its name.
        program: String,
        /// What happened and what to install.
        message: String,
    },
    /// A file or folder cannot be used.
    #[error("cannot {action} {}: {message}", path.display())]
    File {
        /// `read`, `write`, `link` and so on.
        action: String,
        /// Where.
        path: PathBuf,
        /// The operating system's words.
        message: String,
    },
    /// The state database cannot be used.
    #[error("the cloud's database failed: {message}")]
    Store {
        /// The database's words.
        message: String,
    },
    /// What the state database holds is lost, while there are VMs of it.
    #[error("the cloud's database failed: {message}")]
    Lost {
        /// What is lost, and the way out.
        message: String,
    },
    /// The fake cloud was told to fail here.
    #[error("injected fault: {0}")]
    Injected(String),
}

impl CloudError {
    /// Whether the same question may be answered soon, without anybody mending anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Api { transient, .. } => *transient,
            _ => false,
        }
    }

    /// A cloud that has no place for Secrets.
    pub(crate) fn no_secrets() -> Self {
        Self::Unsupported {
            what: "a pod with Secrets".into(),
            advice: "deploy it to the local cloud, or have its containers fetch them".into(),
        }
    }

    /// A file error; the adapter of `map_err`. One of a full disk says what to do.
    pub(crate) fn file(action: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let (action, path) = (action.to_owned(), path.to_owned());
        move |error| {
            let message = match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => format!("{error}; make room there"),
                _ => error.to_string(),
            };
            Self::File { action, path, message }
        }
    }

    /// Something that does not exist.
    pub(crate) fn not_found(what: impl Into<String>, name: &impl ToString) -> Self {
        Self::NotFound { what: what.into(), name: name.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::kinds;

    /// Errors are of all clouds: which one it is, its own messages say.
    #[test]
    fn errors_name_no_cloud() {
        let text = || "it".to_owned();
        let all = [
            CloudError::NotFound { what: text(), name: text() },
            CloudError::Outdated { message: text() },
            CloudError::Conflict { message: text() },
            CloudError::InUse { what: text(), user: text() },
            CloudError::Unreachable { message: text() },
            CloudError::Api {
                operation: text(),
                code: text(),
                message: text(),
                advice: text().into(),
                transient: false,
            },
            CloudError::Unsupported { what: text(), advice: text() },
            CloudError::Guest { instance: text(), message: text() },
            CloudError::Program { program: text(), message: text() },
            CloudError::File { action: text(), path: PathBuf::new(), message: text() },
            CloudError::Store { message: text() },
            CloudError::Lost { message: text() },
            CloudError::Injected(text()),
        ];
        for error in all {
            let shown = error.to_string().to_lowercase();
            for cloud in kinds::supports() {
                let named = shown.split(|c: char| !c.is_alphanumeric()).any(|word| word == cloud.provider);
                assert!(!named, "{shown}");
            }
        }
    }

    #[test]
    fn a_full_disk_says_what_to_do() {
        let shown = |code| {
            let error = std::io::Error::from_raw_os_error(code);
            CloudError::file("write", Path::new("/state/file"))(error).to_string()
        };
        let full = "cannot write /state/file: No space left on device (os error 28); make room there";
        assert_eq!(shown(rustix::io::Errno::NOSPC.raw_os_error()), full);
        assert!(shown(rustix::io::Errno::DQUOT.raw_os_error()).ends_with("; make room there"));
        assert!(shown(rustix::io::Errno::ACCESS.raw_os_error()).ends_with("(os error 13)"));
    }

    #[test]
    fn what_passes_by_itself_is_transient() {
        assert!(CloudError::Unreachable { message: String::new() }.is_transient());
        assert!(!CloudError::Store { message: String::new() }.is_transient());
    }
}
