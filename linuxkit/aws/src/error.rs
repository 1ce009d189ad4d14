//! What can go wrong between the VM and AWS. Every message ends up on the VM's console, where it must make sense alone.

use std::io;

/// HTTP's "content too large".
const TOO_LARGE: u16 = 413;

/// Parts of the words of refusals that pass: the service has too much to do, the credentials are about to be renewed, or the group
/// has a machine that comes or goes.
const PASSING: [&str; 4] = ["Throttl", "Expired", "ScalingActivityInProgress", "ResourceContention"];

/// Why a service did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A system call or a connection failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A service refused.
    #[error("{action}: status {status}: {reason}")]
    Refused {
        /// What was asked.
        action: String,
        /// The HTTP status.
        status: u16,
        /// The service's words.
        reason: String,
    },
    /// An answer that cannot be understood.
    #[error("{what}: {reason}")]
    Answer {
        /// Whose answer.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The instance has no role, and so no credentials.
    #[error("the instance has no role: its launch template must name an instance profile")]
    NoRole,
    /// The user data is of another version.
    #[error("user data is of version {found}, and this guest reads version {expected}: build the image anew")]
    Version {
        /// Its own message.
        found: u64,
        /// Ours.
        expected: u32,
    },
}

impl Error {
    /// Whether the same call may succeed later.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::Io { .. } | Self::NoRole => true,
            Self::Refused { status, reason, .. } => {
                *status >= 500 || *status == 429 || PASSING.iter().any(|word| reason.contains(word))
            }
            Self::Answer { .. } | Self::Version { .. } => false,
        }
    }

    /// Whether what was sent is at fault, so that it is refused however often it is sent: also where it is too large, and the
    /// answer comes from something in front of the service.
    pub(crate) fn is_invalid(&self) -> bool {
        matches!(self, Self::Refused { status, reason, .. } if *status == TOO_LARGE
            || ["InvalidParameter", "Validation", "Serialization"].iter().any(|kind| reason.starts_with(kind)))
    }

    /// Whether the role may not do it. One that was just made may a moment later.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Self::Refused { reason, .. } if reason.contains("AccessDenied"))
    }
}

/// Gives an error of the system its context.
pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_for_what_it_is_is_told_from_what_may_pass() {
        let refused = |status, reason: &str| Error::Refused {
            action: "PutLogEvents".into(),
            status,
            reason: reason.into(),
        };
        assert!(refused(400, "InvalidParameterException: too old").is_invalid());
        assert!(refused(413, ": ").is_invalid());
        assert!(!refused(400, "ThrottlingException: Rate exceeded").is_invalid());
        assert!(!refused(503, "").is_invalid() && refused(503, "").passes());
        for busy in ["ScalingActivityInProgress: Activity is in progress", "ResourceContention: try again"] {
            assert!(refused(400, busy).passes() && !refused(400, busy).is_invalid(), "{busy}");
        }
        assert!(!refused(400, "ValidationError: desiredSize equals minSize").passes());
    }
}
