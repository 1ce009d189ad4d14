//! TLS for probes and hooks that ask by HTTPS. As Kubernetes does, it believes any certificate: the question is whether the
//! container answers, and it is asked over the VM's own address.
//!
//! What verifies signatures and reads private keys is left out for that reason, and of ciphers and key exchanges what
//! servers have beside the usual ones: the guest is small.

use std::sync::Arc;

use rustix::rand::GetRandomFlags;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::{cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, IpAddr, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::SigningKey;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
    SupportedCipherSuite,
};

use crate::connection::Timed;

/// AES, which TLS 1.3 asks of every server, and what goes with it in TLS 1.2.
const CIPHERS: [SupportedCipherSuite; 6] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
];

/// Speaks TLS over a connection. The handshake takes place with the first bytes that are written.
pub(crate) fn over(stream: Timed, host: &str) -> Result<StreamOwned<ClientConnection, Timed>, Error> {
    let provider = CryptoProvider {
        cipher_suites: CIPHERS.to_vec(),
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1],
        signature_verification_algorithms: WebPkiSupportedAlgorithms { all: &[], mapping: &[] },
        secure_random: &Kernel,
        key_provider: &Kernel,
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    // A name that no certificate could have is not sent to the server, like an address.
    let nobody = ServerName::IpAddress(IpAddr::V4([0; 4].into()));
    let name = ServerName::try_from(host.to_owned()).unwrap_or(nobody);
    Ok(StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, stream))
}

/// The kernel's random numbers; and no private keys, because the supervisor has none.
#[derive(Debug)]
struct Kernel;

impl SecureRandom for Kernel {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        let mut filled = 0;
        while filled < buffer.len() {
            let length = rustix::rand::getrandom(&mut buffer[filled..], GetRandomFlags::empty());
            filled += length.map_err(|_| GetRandomFailed)?;
        }
        Ok(())
    }
}

impl KeyProvider for Kernel {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        Err(Error::General("the supervisor has no private keys".into()))
    }
}

/// Takes everybody's certificate.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    /// What servers may sign with: all that TLS has, since nothing is verified.
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP521_SHA512,
            SignatureScheme::ED25519,
            SignatureScheme::ED448,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PKCS1_SHA256,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA512,
            SignatureScheme::RSA_PKCS1_SHA1,
            SignatureScheme::ECDSA_SHA1_Legacy,
        ]
    }
}
