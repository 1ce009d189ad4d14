//! Versions of Secrets' values, which plans and launch specs name instead of the values.

use hmac::{Hmac, KeyInit as _, Mac as _};
use i2kit_spec::secrets::{SecretsError, encode_secrets};
use sha2::Sha256;

use super::{CloudError, random};
use crate::manifest::api::Secret;

/// Bytes of a version that its name shows: nobody finds two values with one version.
const VERSION_BYTES: usize = 16;

/// Bytes of a key.
pub(super) const KEY_BYTES: usize = 32;

/// What versions are made with. Without it nobody can try values until their version comes out.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Key(pub(super) [u8; KEY_BYTES]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// A new one.
    pub(super) fn random() -> Result<Self, CloudError> {
        random().map(Self)
    }

    /// The version of a Secret's values.
    pub(super) fn version(&self, secret: &Secret) -> Result<String, CloudError> {
        let mut hash = Hmac::<Sha256>::new_from_slice(&self.0).expect("any length is a key's");
        hash.update(secret.name.namespace.as_bytes());
        hash.update(b"/");
        hash.update(&message(secret)?);
        Ok(hex::encode(&hash.finalize().into_bytes()[..VERSION_BYTES]))
    }
}

/// The message of the secrets port with this Secret alone.
pub(super) fn message(secret: &Secret) -> Result<Vec<u8>, CloudError> {
    let keys = secret.data.iter().map(|(key, value)| (key.clone(), value.reveal().to_vec())).collect();
    encode_secrets(&[(secret.name.name.clone(), keys)].into()).map_err(too_long)
}

/// A pod's Secrets that are longer than what VMs are given.
pub(super) fn too_long(error: SecretsError) -> CloudError {
    CloudError::Unsupported {
        what: format!("a pod whose Secrets are too long ({error})"),
        advice: "make them shorter, or have its containers fetch them".into(),
    }
}
