//! Any bytes of the host at the port of the identity, in one piece or in two: the same is found, an error or an identity that is written
//! as a message that is found again, and little is kept.

use i2kit_spec::identity::{IDENTITY_LIMIT, Identity, IdentityError, encode_identity, take_identity};

/// All that is found in what comes in these pieces, up to the first error.
fn found(pieces: &[&[u8]]) -> Vec<Result<Identity, IdentityError>> {
    let (mut bytes, mut all) = (Vec::new(), Vec::new());
    for piece in pieces {
        bytes.extend_from_slice(piece);
        while let Some(one) = take_identity(&mut bytes).transpose() {
            all.push(one);
            if all.last().is_some_and(Result::is_err) {
                return all;
            }
        }
        assert!(bytes.len() <= IDENTITY_LIMIT + 64, "{} bytes are kept", bytes.len());
    }
    all
}

/// Fails when something does not hold.
pub(crate) fn run(data: &[u8]) {
    let all = found(&[data]);
    let (head, tail) = data.split_at(data.len() / 2);
    assert_eq!(all, found(&[head, tail]));
    for identity in all.into_iter().flatten() {
        let Some(mut message) = encode_identity(&identity) else { continue };
        assert_eq!(take_identity(&mut message), Ok(Some(identity)));
    }
}
