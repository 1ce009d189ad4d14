//! The port `i2kit.secrets` of a local VM: one message with the values of the pod's Secrets, from host to
//! guest, once. `docs/formats.md` has the bytes.
//!
//! The bytes are a contract with guests of older images: a change raises [`SECRETS_VERSION`] and docs/formats.md. Nothing here
//! reads a port or a file.

use std::collections::BTreeMap;

/// The name of the virtio-serial port.
pub const SECRETS_PORT: &str = "i2kit.secrets";

/// The version of the message that this crate writes and reads.
pub const SECRETS_VERSION: u16 = 1;

/// Bytes before the body: what it is, its version, and the body's length.
pub const SECRETS_HEADER: usize = MAGIC.len() + 2 + 4;

/// The most bytes that a body may have: a Secret has at most 1 MiB in Kubernetes, and pods name few.
pub const SECRETS_LIMIT: usize = 16 << 20;

const MAGIC: &[u8; 10] = b"i2kit-sec\n";

/// Secrets by name, each a map of its keys to their values.
pub type SecretValues = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

/// Why a message is refused. No reason shows a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretsError {
    /// It does not begin as one.
    Magic,
    /// It is of another version.
    Version(u16),
    /// It is too long.
    Length(usize),
    /// It ends early, or has bytes after its end.
    Cut,
    /// A name is not UTF-8.
    Name,
    /// A name is there twice.
    Twice,
}

impl std::fmt::Display for SecretsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Magic => f.write_str("what came is no message with Secrets"),
            Self::Version(found) => {
                write!(f, "a message of version {found} came, and this guest reads version {SECRETS_VERSION}")
            }
            Self::Length(length) => {
                write!(f, "a message of {length} bytes came, at most {SECRETS_LIMIT} are read")
            }
            Self::Cut => f.write_str("the message does not end where it says"),
            Self::Name => f.write_str("a name in the message is no text"),
            Self::Twice => f.write_str("a name is twice in the message"),
        }
    }
}

impl std::error::Error for SecretsError {}

/// The message with these values, or its length when that is more than a guest reads.
pub fn encode_secrets(secrets: &SecretValues) -> Result<Vec<u8>, SecretsError> {
    let mut body = Vec::new();
    let number = |body: &mut Vec<u8>, length: usize| {
        let length = u32::try_from(length).map_err(|_| SecretsError::Length(length))?;
        body.extend_from_slice(&length.to_be_bytes());
        Ok(())
    };
    number(&mut body, secrets.len())?;
    for (name, keys) in secrets {
        number(&mut body, name.len())?;
        body.extend_from_slice(name.as_bytes());
        number(&mut body, keys.len())?;
        for (key, value) in keys {
            number(&mut body, key.len())?;
            body.extend_from_slice(key.as_bytes());
            number(&mut body, value.len())?;
            body.extend_from_slice(value);
        }
    }
    if body.len() > SECRETS_LIMIT {
        return Err(SecretsError::Length(body.len()));
    }
    let mut message = MAGIC.to_vec();
    message.extend_from_slice(&SECRETS_VERSION.to_be_bytes());
    number(&mut message, body.len())?;
    message.extend_from_slice(&body);
    Ok(message)
}

/// The length of the body that follows a header.
pub fn secrets_length(header: &[u8; SECRETS_HEADER]) -> Result<usize, SecretsError> {
    let Some([high, low, a, b, c, d]) = header.strip_prefix(MAGIC) else { return Err(SecretsError::Magic) };
    let version = u16::from_be_bytes([*high, *low]);
    if version != SECRETS_VERSION {
        return Err(SecretsError::Version(version));
    }
    let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
    if length > SECRETS_LIMIT { Err(SecretsError::Length(length)) } else { Ok(length) }
}

/// The values in a body.
pub fn decode_secrets(body: &[u8]) -> Result<SecretValues, SecretsError> {
    let mut rest = body;
    let mut secrets = SecretValues::new();
    for _ in 0..number(&mut rest)? {
        let name = text(&mut rest)?;
        let mut keys = BTreeMap::new();
        for _ in 0..number(&mut rest)? {
            let key = text(&mut rest)?;
            if keys.insert(key, bytes(&mut rest)?.to_vec()).is_some() {
                return Err(SecretsError::Twice);
            }
        }
        if secrets.insert(name, keys).is_some() {
            return Err(SecretsError::Twice);
        }
    }
    if rest.is_empty() { Ok(secrets) } else { Err(SecretsError::Cut) }
}

fn number(rest: &mut &[u8]) -> Result<usize, SecretsError> {
    let (number, after) = rest.split_first_chunk::<4>().ok_or(SecretsError::Cut)?;
    *rest = after;
    usize::try_from(u32::from_be_bytes(*number)).map_err(|_| SecretsError::Cut)
}

fn bytes<'b>(rest: &mut &'b [u8]) -> Result<&'b [u8], SecretsError> {
    let length = number(rest)?;
    let (found, after) = rest.split_at_checked(length).ok_or(SecretsError::Cut)?;
    *rest = after;
    Ok(found)
}

fn text(rest: &mut &[u8]) -> Result<String, SecretsError> {
    String::from_utf8(bytes(rest)?.to_vec()).map_err(|_| SecretsError::Name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SecretValues {
        let keys =
            |pairs: &[(&str, &[u8])]| pairs.iter().map(|(k, v)| ((*k).to_owned(), v.to_vec())).collect();
        [("db".to_owned(), keys(&[("password", b"x"), ("raw", &[0, 255])])), ("empty".to_owned(), keys(&[]))]
            .into()
    }

    #[test]
    fn a_message_reads_back() {
        let message = encode_secrets(&sample()).unwrap();
        let (header, body) = message.split_first_chunk::<SECRETS_HEADER>().unwrap();
        assert_eq!(secrets_length(header), Ok(body.len()));
        assert_eq!(decode_secrets(body), Ok(sample()));
        assert_eq!(&message[..12], b"i2kit-sec\n\0\x01");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let message = encode_secrets(&sample()).unwrap();
        let body = &message[SECRETS_HEADER..];
        for cut in 0..body.len() {
            assert_eq!(decode_secrets(&body[..cut]), Err(SecretsError::Cut), "{cut}");
        }
        assert_eq!(decode_secrets(&[body, b"x"].concat()), Err(SecretsError::Cut));
        let header = |bytes: &[u8]| secrets_length(bytes.first_chunk::<SECRETS_HEADER>().unwrap());
        assert_eq!(header(b"GET / HTTP/1.1\r\n"), Err(SecretsError::Magic));
        assert_eq!(header(b"i2kit-sec\n\0\x02\0\0\0\0"), Err(SecretsError::Version(2)));
        assert_eq!(header(b"i2kit-sec\n\0\x01\xff\0\0\0"), Err(SecretsError::Length(0xff00_0000)));
    }
}
