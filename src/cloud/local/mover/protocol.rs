//! The protocol of the front door's control socket: requests and answers as JSON, each with its length in front.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::routes::{Counted, Report, Routes};
use crate::cloud::local::wire::Hello;

/// The socket, inside the local cloud's folder.
pub(crate) const SOCKET: &str = "door.sock";

/// The longest message, in bytes: the routes of ten thousand machines have a tenth of it.
pub(crate) const MAX_MESSAGE: usize = 32 << 20;

/// The bytes of a message's length, the most significant one first.
pub(crate) const LENGTH: usize = 4;

/// What the local cloud asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Request {
    /// Who are you?
    Hello,
    /// Carry this from now on, and nothing else. Answered with a report.
    Apply(Routes),
    /// What is carried?
    Report,
    /// What was counted?
    Traffic,
    /// Carry in this environment's own network too. The descriptors of [`Given`](super::client::Given) come with it.
    Give {
        /// The environment.
        environment: String,
    },
    /// Have this program take over, whose table has this layout.
    Upgrade {
        /// Its path.
        program: PathBuf,
        /// The layout of its table.
        layout: u64,
    },
    /// End.
    Stop,
}

/// What the front door answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum DoorAnswer {
    /// Who it is.
    Hello(Hello),
    /// What is carried.
    Report(Report),
    /// What was counted.
    Traffic(Counted),
    /// It is done, or begun.
    Done,
    /// It is not done.
    Refused(String),
}

/// A message with its length in front.
pub(crate) fn frame(message: &impl Serialize) -> Vec<u8> {
    let body = serde_json::to_vec(message).unwrap_or_default();
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), body.as_slice()].concat()
}

/// The message that `bytes` begin with, and how many bytes it has with its length; nothing while some are missing.
///
/// # Errors
/// It is longer than [`MAX_MESSAGE`].
pub(crate) fn unframe(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, String> {
    let Some(length) = bytes.first_chunk::<LENGTH>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE {
        return Err(format!("a message of {length} bytes; at most {MAX_MESSAGE} are read"));
    }
    Ok(bytes.get(LENGTH..LENGTH + length).map(|body| (body, LENGTH + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_once_it_is_whole() {
        let framed = frame(&Request::Report);
        for cut in 0..framed.len() {
            assert_eq!(unframe(&framed[..cut]).unwrap(), None);
        }
        let two = [framed.clone(), framed.clone()].concat();
        let (body, length) = unframe(&two).unwrap().unwrap();
        assert_eq!(length, framed.len());
        assert_eq!(serde_json::from_slice::<Request>(body).unwrap(), Request::Report);
        assert!(unframe(&[255; 8]).unwrap_err().contains("at most"));
    }
}
