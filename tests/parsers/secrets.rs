//! Any bytes as the message of the secrets port: an error, or values that are written as the same bytes again, as long
//! as their names are in order.

use i2kit_spec::secrets::{SECRETS_HEADER, decode_secrets, encode_secrets, secrets_length};

/// Fails when something does not hold.
pub(crate) fn run(data: &[u8]) {
    if let Some((header, _)) = data.split_first_chunk::<SECRETS_HEADER>() {
        let _ = secrets_length(header);
    }
    if let Ok(values) = decode_secrets(data) {
        let message = encode_secrets(&values).expect("what was read is no longer than what was given");
        assert_eq!(decode_secrets(&message[SECRETS_HEADER..]), Ok(values));
    }
}
