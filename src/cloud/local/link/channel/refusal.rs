//! Why a stream is not opened.

use std::fmt;

use i2kit_spec::control::{MAX_PAYLOAD, TooLong};

/// How many streams a machine may have, as many as its guest opens.
pub(super) const STREAMS: usize = 64;

/// Why a stream was not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The machine has ended.
    Ended,
    /// The channel failed, for this reason, and is opened again.
    Lost(String),
    /// The machine has [`STREAMS`] streams.
    Many,
    /// The command does not fit into a message.
    Long(TooLong),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("the VM does not run"),
            Self::Lost(reason) => write!(
                f,
                "its control channel was lost and is being opened again ({reason}); run the command again in a moment"
            ),
            Self::Many => write!(f, "{STREAMS} commands run in it already; end one of them first"),
            Self::Long(long) => write!(f, "{}", too_long(*long)),
        }
    }
}

/// The message about a command that fits into no message of the channel.
pub(crate) fn too_long(long: TooLong) -> String {
    format!(
        "at most {} KiB of arguments go to the guest, and these are {} bytes; give what is long as a file (`i2kit cp`) or \
         by standard input (`-i`)",
        MAX_PAYLOAD / 1024,
        long.bytes
    )
}
