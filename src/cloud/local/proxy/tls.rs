//! TLS of the proxy: the certificate of each client by the host that it names (SNI), replaced while connections go on.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, InconsistentKeys, ServerConfig, SignatureScheme};

use super::wanted::{Certificate, Challenge, Proof};

/// The provider of algorithms.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider()))
}

/// The certificates of a front.
#[derive(Debug, Default)]
pub(crate) struct Certificates(RwLock<ByHost>);

#[derive(Debug, Default)]
struct ByHost {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows `*`, with its dot.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    first: Option<Arc<CertifiedKey>>,
    /// For CAs that want to see that a host leads here: by host, the challenge's token and the certificate.
    challenges: HashMap<String, (String, Arc<CertifiedKey>)>,
}

/// The protocol of the challenge `tls-alpn-01` (RFC 8737). A connection that speaks it carries nothing.
pub(crate) const CHALLENGE: &[u8] = b"acme-tls/1";

impl ByHost {
    /// The certificate of a host in small letters.
    fn of(&self, host: &str) -> Option<&Arc<CertifiedKey>> {
        let wildcard = || self.wildcard.get(&host[host.find('.')?..]);
        self.exact.get(host).or_else(wildcard)
    }
}

impl Certificates {
    /// Serves these from now on. One that cannot be used is left out; why is returned.
    pub(crate) fn set(&self, certificates: &[Certificate], challenges: &[Challenge]) -> Vec<String> {
        let mut next = ByHost::default();
        let mut refused = Vec::new();
        for certificate in certificates {
            let key = match certified(&certificate.chain, &certificate.key.0) {
                Ok(key) => Arc::new(key),
                Err(reason) => {
                    refused.push(format!("the certificate of {}: {reason}", certificate.hosts.join(", ")));
                    continue;
                }
            };
            next.first.get_or_insert_with(|| Arc::clone(&key));
            for host in &certificate.hosts {
                let host = host.to_ascii_lowercase();
                let (hosts, host) = match host.strip_prefix('*') {
                    Some(suffix) => (&mut next.wildcard, suffix.to_owned()),
                    None => (&mut next.exact, host),
                };
                hosts.entry(host).or_insert_with(|| Arc::clone(&key));
            }
        }
        for Challenge { host, token, proof } in challenges {
            let Proof::Tls(Certificate { chain, key, .. }) = proof else { continue };
            // No client but a CA understands its critical extension (RFC 8737, 3), the check of keys neither.
            match loaded(chain, &key.0) {
                Ok(key) => {
                    // Of two for one host the first one, which is that of the attempt that began last.
                    let (host, answer) = (host.to_ascii_lowercase(), (token.clone(), Arc::new(key)));
                    next.challenges.entry(host).or_insert(answer);
                }
                Err(reason) => refused.push(format!("the certificate of a challenge for {host}: {reason}")),
            }
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
        refused
    }

    fn challenge(&self, host: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.challenges.get(&host?.to_ascii_lowercase()).map(|(_, key)| Arc::clone(key))
    }

    /// Whether the challenge of this token is answered.
    pub(crate) fn proves(&self, token: &str) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.challenges.values().any(|(known, _)| known == token)
    }

    fn find(&self, host: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let named = host.map(str::to_ascii_lowercase).and_then(|host| known.of(&host));
        named.or(known.first.as_ref()).cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut protocols = hello.alpn().into_iter().flatten();
        // Who speaks it speaks nothing else, and is shown nothing else (RFC 8737, 3).
        if protocols.next() == Some(CHALLENGE) && protocols.next().is_none() {
            return self.challenge(hello.server_name());
        }
        self.find(hello.server_name())
    }
}

/// How the proxy speaks TLS with these certificates: versions 1.2 and 1.3; with clients of Ingresses HTTP/2 before HTTP/1.1.
/// At a port of a Service no protocol is agreed on: what machines speak is not known.
pub(crate) fn config(
    certificates: &Arc<Certificates>,
    is_http: bool,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider()));
    let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(certificates) as _;
    let mut config =
        builder.with_safe_default_protocol_versions()?.with_no_client_auth().with_cert_resolver(resolver);
    if is_http {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), CHALLENGE.to_vec()];
    }
    Ok(Arc::new(config))
}

/// How the proxy speaks TLS to machines, where a Service asks for that.
pub(crate) fn to_machines() -> Result<Arc<ClientConfig>, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(Arc::new(Any)).with_no_client_auth()))
}

/// Takes any certificate of a machine, as balancers of other clouds do: pods sign their own, and the network between the proxy
/// and its machines is this host's.
#[derive(Debug)]
struct Any;

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A chain with its key, if they belong together.
fn certified(chain: &str, key: &str) -> Result<CertifiedKey, String> {
    let certified = loaded(chain, key)?;
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err("the key is not that of the certificate".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// A chain with its key.
fn loaded(chain: &str, key: &str) -> Result<CertifiedKey, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("it is no PEM: {error}"))?;
    if chain.is_empty() {
        return Err("it holds no certificate (`-----BEGIN CERTIFICATE-----`)".into());
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| "its key is no private key as PEM (PKCS #8, PKCS #1 or SEC 1)".to_owned())?;
    let key = provider().key_provider.load_private_key(key).map_err(|_| {
        "its key is of a kind that is not supported: use RSA, ECDSA P-256 or P-384, or Ed25519".to_owned()
    })?;
    Ok(CertifiedKey::new(chain, key))
}

/// The time of a certificate, from and until, in seconds since the Unix epoch; `None` for what is no certificate.
pub(crate) fn lifetime(chain: &str) -> Option<(u64, u64)> {
    let leaf = CertificateDer::pem_slice_iter(chain.as_bytes()).next()?.ok()?;
    let certificate = webpki::EndEntityCert::try_from(&leaf).ok()?;
    // What is too early and too late for any certificate.
    let Some(webpki::Error::CertNotValidYet { not_before, .. }) = validity(&certificate, 0) else {
        return None;
    };
    let Some(webpki::Error::CertExpired { not_after, .. }) = validity(&certificate, END) else { return None };
    Some((not_before.as_secs(), not_after.as_secs()))
}

/// What is wrong with a certificate that is to be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It cannot be served at all.
    Unusable(String),
    /// Clients refuse it, or will soon: it is served nevertheless, as other Ingress controllers do.
    Refused(String),
}

/// Looks at a certificate and its key, as PEM, for these hosts at the time `now`, in seconds since the Unix epoch.
pub(crate) fn examine(chain: &str, key: &str, hosts: &[String], now: u64) -> Vec<Flaw> {
    if let Err(reason) = certified(chain, key) {
        return vec![Flaw::Unusable(reason)];
    }
    let Some(Ok(leaf)) = CertificateDer::pem_slice_iter(chain.as_bytes()).next() else { return vec![] };
    let Ok(certificate) = webpki::EndEntityCert::try_from(&leaf) else {
        return vec![Flaw::Unusable("it is no X.509 certificate of version 3".into())];
    };
    let mut flaws = Vec::new();
    match validity(&certificate, now) {
        Some(webpki::Error::CertExpired { not_after, .. }) => {
            let days = now.saturating_sub(not_after.as_secs()) / DAY;
            flaws.push(Flaw::Refused(format!("it expired {days} days ago")));
        }
        Some(webpki::Error::CertNotValidYet { not_before, .. }) => {
            let hours = not_before.as_secs().saturating_sub(now) / 3600;
            flaws.push(Flaw::Refused(format!("it is not valid before {hours} hours have passed")));
        }
        _ => {
            if let Some(webpki::Error::CertExpired { not_after, .. }) = validity(&certificate, now + SOON) {
                let days = not_after.as_secs().saturating_sub(now) / DAY;
                flaws.push(Flaw::Refused(format!("it expires in {days} days")));
            }
        }
    }
    let is_covered = |host: &&String| {
        // A certificate for `*.a` covers any host of one label before `.a`.
        let sample = host.replacen('*', "i2kit-any", 1);
        let name = ServerName::try_from(sample).ok();
        name.is_some_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok())
    };
    let others: Vec<&str> = hosts.iter().filter(|host| !is_covered(host)).map(String::as_str).collect();
    if !others.is_empty() {
        flaws.push(Flaw::Refused(format!("it is not for {}", others.join(", "))));
    }
    flaws
}

const DAY: u64 = 24 * 60 * 60;

/// The year 9999 and some: after every time that a certificate can have.
const END: u64 = 300_000 * DAY * 10;

/// A certificate that expires within this time is warned of.
const SOON: u64 = 7 * DAY;

/// What is wrong with the certificate at a time. Its time is looked at before its authority, and of authorities there are
/// none here.
fn validity(certificate: &webpki::EndEntityCert<'_>, time: u64) -> Option<webpki::Error> {
    let time = UnixTime::since_unix_epoch(Duration::from_secs(time));
    let algorithms = provider().signature_verification_algorithms.all;
    let usage = webpki::KeyUsage::server_auth();
    certificate.verify_for_usage(algorithms, &[], &[], time, usage, None, None).err()
}
