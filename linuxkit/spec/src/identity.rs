//! The port `i2kit.identity` of a local VM: what makes it this VM and no other, from host to guest, once. `docs/formats.md` has
//! the bytes.
//!
//! The guest asks until it has an answer, and says when it took it. A host may be killed amid an answer, so that another one begins
//! where the first was cut off: each has a length and a checksum, and the reader looks for the next beginning. The bytes are a
//! contract with guests of older images: a change raises [`IDENTITY_VERSION`] and docs/formats.md. Nothing here reads a port.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::control::checksum::crc32;

/// The name of the virtio-serial port.
pub const IDENTITY_PORT: &str = "i2kit.identity";

/// The version of the message that this crate writes and reads.
pub const IDENTITY_VERSION: u16 = 1;

/// What the guest writes for as long as it waits: it wants its identity.
pub const IDENTITY_WANTED: &[u8; 12] = b"i2kit-id? 1\n";

/// What the guest writes when it has it.
pub const IDENTITY_TAKEN: &[u8; 12] = b"i2kit-id! 1\n";

/// The most bytes that a message may have behind its header: names and addresses are some hundred.
pub const IDENTITY_LIMIT: usize = 16 << 10;

/// The number of random bytes: as many as the kernel counts for a full pool.
pub const SEED_BYTES: usize = 32;

const MAGIC: &[u8; 9] = b"i2kit-id\n";

/// Bytes before the body: what it is, its version, the body's length and its checksum.
const HEADER: usize = MAGIC.len() + 2 + 4 + 4;

/// What makes a VM this one.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Identity {
    /// Parameters as on the kernel's command line, those of [`crate::cmdline`]: its name, its index, its addresses.
    pub parameters: String,
    /// The Ethernet address of its first network interface, where that is not the device's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<[u8; 6]>,
    /// Nanoseconds since the Unix epoch, when the message was written.
    pub time: u64,
    /// Bytes that nobody can guess and no other VM gets, for the kernel's random numbers.
    pub seed: [u8; SEED_BYTES],
}

/// Without the seed, which is nobody's business.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { parameters, hardware, time, seed: _ } = self;
        let mut shown = f.debug_struct("Identity");
        shown.field("parameters", parameters).field("hardware", hardware).field("time", time);
        shown.finish_non_exhaustive()
    }
}

/// Why what came is no identity, whatever comes after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityError {
    /// It is of another version.
    Version(u16),
    /// Its bytes are right, and what they say is not known.
    Content(String),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(found) => {
                write!(
                    f,
                    "a message of version {found} came, and this guest reads version {IDENTITY_VERSION}"
                )
            }
            Self::Content(reason) => write!(f, "the message says what this guest does not know: {reason}"),
        }
    }
}

impl std::error::Error for IdentityError {}

/// The message with this identity; nothing where it is longer than a guest reads.
pub fn encode_identity(identity: &Identity) -> Option<Vec<u8>> {
    let body = serde_json::to_vec(identity).ok().filter(|body| body.len() <= IDENTITY_LIMIT)?;
    let length = u32::try_from(body.len()).ok()?;
    let mut message = MAGIC.to_vec();
    message.extend_from_slice(&IDENTITY_VERSION.to_be_bytes());
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(&crc32(&[&body]).to_be_bytes());
    message.extend_from_slice(&body);
    Some(message)
}

/// The first whole message in `bytes`, from which it is taken with what is before it; nothing where more must come. What belongs
/// to no whole message is taken too, so that `bytes` stays no longer than a message and its header.
pub fn take_identity(bytes: &mut Vec<u8>) -> Result<Option<Identity>, IdentityError> {
    loop {
        let start = bytes.windows(MAGIC.len()).position(|window| window == MAGIC);
        // Its beginning may have come at the very end.
        let start = start.unwrap_or_else(|| bytes.len().saturating_sub(MAGIC.len() - 1));
        bytes.drain(..start);
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let Some(fields) = header.strip_prefix(MAGIC) else {
            // What begins as a message is shorter than that.
            bytes.drain(..1);
            continue;
        };
        let version = u16::from_be_bytes([fields[0], fields[1]]);
        let number =
            |at: usize| u32::from_be_bytes([fields[at], fields[at + 1], fields[at + 2], fields[at + 3]]);
        let (length, sum) = (usize::try_from(number(2)).unwrap_or(usize::MAX), number(6));
        if length > IDENTITY_LIMIT {
            bytes.drain(..1);
            continue;
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        if crc32(&[body]) != sum {
            bytes.drain(..1);
            continue;
        }
        // Only now: of a message that was cut off right before its version, the next one's first bytes would be taken for that.
        if version != IDENTITY_VERSION {
            return Err(IdentityError::Version(version));
        }
        let read = serde_json::from_slice(body).map_err(|error| IdentityError::Content(error.to_string()));
        bytes.drain(..HEADER + length);
        return read.map(Some);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Identity {
        Identity {
            parameters: "i2kit.instance=web-1 i2kit.net=10.0.2.15/24,10.0.2.2,10.0.2.3".into(),
            hardware: Some([2, 0, 0, 0, 0, 7]),
            time: 1_700_000_000_000_000_001,
            seed: [9; SEED_BYTES],
        }
    }

    #[test]
    fn an_identity_reads_back_wherever_its_bytes_are_cut() {
        let message = encode_identity(&sample()).unwrap();
        assert_eq!(&message[..11], b"i2kit-id\n\0\x01");
        for cut in 0..message.len() {
            let mut bytes = message[..cut].to_vec();
            assert_eq!(take_identity(&mut bytes), Ok(None), "{cut}");
            bytes.extend_from_slice(&message[cut..]);
            assert_eq!(take_identity(&mut bytes), Ok(Some(sample())), "{cut}");
            assert!(bytes.is_empty());
        }
    }

    #[test]
    fn a_message_is_found_behind_one_that_was_cut_off() {
        let message = encode_identity(&sample()).unwrap();
        for cut in 0..message.len() {
            let mut bytes = [&message[..cut], &message, &message].concat();
            assert_eq!(take_identity(&mut bytes), Ok(Some(sample())), "{cut}");
        }
    }

    #[test]
    fn what_this_guest_does_not_know_is_an_error() {
        let mut message = encode_identity(&sample()).unwrap();
        message[10] = 7;
        assert_eq!(take_identity(&mut message), Err(IdentityError::Version(7)));
        let body = br#"{"parameters":"","time":1,"seed":[],"novel":true}"#;
        let mut message = MAGIC.to_vec();
        message.extend_from_slice(&IDENTITY_VERSION.to_be_bytes());
        message.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
        message.extend_from_slice(&crc32(&[body]).to_be_bytes());
        message.extend_from_slice(body);
        assert!(matches!(take_identity(&mut message), Err(IdentityError::Content(_))));
        let long = Identity { parameters: "x".repeat(IDENTITY_LIMIT), ..sample() };
        assert_eq!(encode_identity(&long), None);
    }

    #[test]
    fn the_seed_is_not_shown() {
        assert!(!format!("{:?}", sample()).contains('9'), "{:?}", sample());
    }
}
