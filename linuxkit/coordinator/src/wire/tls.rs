//! The identity of a group: all replicas have one key pair, and take nobody with another certificate.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};

/// Certificates that the file may have: the group's own, and others while they are exchanged.
const MAX_PINS: usize = 8;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// A file cannot be read.
    #[error("{0} cannot be read: {1}; deploy the group again, its Secret has the key pair")]
    File(String, String),
    /// Key and certificate are not usable.
    #[error("the group's key pair is not usable: {0}; deploy the group again with a new one")]
    Pair(#[from] rustls::Error),
}

/// Both sides of connections between replicas.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// For connections that others make.
    pub(crate) server: Arc<ServerConfig>,
    /// For connections to others.
    pub(crate) client: Arc<ClientConfig>,
}

impl Identity {
    /// Reads `tls.key` and `tls.crt` of `folder`. The first certificate is shown; each of them is taken from others.
    pub(crate) fn load(folder: &Path) -> Result<Self, IdentityError> {
        let read = |name: &str| {
            let path = folder.join(name);
            let shown = path.display().to_string();
            fs::read(path).map_err(|error| IdentityError::File(shown, error.to_string()))
        };
        Self::new(
            &read(i2kit_spec::replica::IDENTITY_CERTIFICATE)?,
            &read(i2kit_spec::replica::IDENTITY_KEY)?,
        )
    }

    /// The same of texts.
    pub(crate) fn new(certificates: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let pem =
            |name: &str, error: &dyn std::fmt::Display| IdentityError::File(name.into(), error.to_string());
        let pins: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificates)
            .take(MAX_PINS)
            .collect::<Result<_, _>>()
            .map_err(|error| pem("tls.crt", &error))?;
        let first = pins.first().cloned().ok_or_else(|| pem("tls.crt", &"it has no certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| pem("tls.key", &error))?;
        let provider = Arc::new(ring::default_provider());
        let pinned = Arc::new(Pinned { pins, provider: provider.clone() });
        let versions = [&rustls::version::TLS13];
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)?
            .with_client_cert_verifier(pinned.clone())
            .with_single_cert(vec![first.clone()], key.clone_key())?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .dangerous()
            .with_custom_certificate_verifier(pinned)
            .with_client_auth_cert(vec![first], key)?;
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }
}

/// Takes certificates that are byte for byte one of the group's, and whoever proves to have the key.
#[derive(Debug)]
struct Pinned {
    pins: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let known = self.pins.iter().any(|pin| pin.as_ref() == certificate.as_ref());
        if known { Ok(()) } else { Err(CertificateError::ApplicationVerificationFailure.into()) }
    }
}

/// How both sides check signatures: of TLS 1.3 alone.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General("TLS 1.2 is not spoken".into()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls13_signature(message, certificate, signed, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(certificate).map(|()| ServerCertVerified::assertion())
    }

    signatures!();
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(certificate).map(|()| ClientCertVerified::assertion())
    }

    signatures!();
}
