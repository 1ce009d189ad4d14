//! The identity of a replicated group: one Ed25519 key pair with a certificate that it signed itself, made at the group's first
//! deployment. Its replicas have it together, and trust no other. It goes the way of all Secrets' values: no plan, image, event
//! or argument has it.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ED25519};

use super::CloudError;
use crate::manifest::api::{Name, Secret, SecretValue};
use i2kit_spec::replica::{IDENTITY_CERTIFICATE, IDENTITY_KEY};

/// A new identity for `group`, as the Secret `name`. Its certificate is for the group's name and does not expire: whoever
/// checks it compares it with its own.
pub fn new(name: &Name, group: &Name) -> Result<Secret, CloudError> {
    let failed = |error: rcgen::Error| CloudError::Store {
        message: format!("cannot make the key pair of {group}: {error}"),
    };
    let key = KeyPair::generate_for(&PKCS_ED25519).map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{}/{}", group.namespace, group.name));
    let certificate = params.self_signed(&key).map_err(failed)?;
    let value = |text: String| SecretValue::new(text.into_bytes());
    let data = [
        (IDENTITY_KEY.to_owned(), value(key.serialize_pem())),
        (IDENTITY_CERTIFICATE.to_owned(), value(certificate.pem())),
    ];
    Ok(Secret { name: name.clone(), kind: "kubernetes.io/tls".into(), data: data.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_identity_is_another_and_is_not_printed() {
        let name = |name: &str| Name { namespace: "shop".into(), name: name.into() };
        let made = || new(&name("db.replica.i2kit.dev"), &name("db")).unwrap();
        let (one, other) = (made(), made());
        assert_ne!(one.data[IDENTITY_KEY], other.data[IDENTITY_KEY]);
        let text = |key: &str| String::from_utf8(one.data[key].reveal().to_vec()).unwrap();
        assert!(text(IDENTITY_CERTIFICATE).starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(text(IDENTITY_KEY).contains("PRIVATE KEY-----"));
        assert!(!format!("{one:?}").contains("PRIVATE"));
    }
}
