//! One registry over the network: `oci-client` with its failures sorted into those that pass and those that stay.

use std::time::Duration;

use oci_client::client::{
    BlobResponse, Certificate, CertificateEncoding, Client, ClientConfig, ClientProtocol, SizedStream,
};
use oci_client::errors::OciDistributionError;
use oci_client::{Reference as Name, RegistryOperation};

use super::Error;
use super::credentials::Credentials;
use super::endpoint::{Endpoint, is_loopback};
use super::failure;
use super::retry::Failure;
use super::settings::Proxies;
use crate::oci::{Digest, Reference, media};

/// A host that does not take the connection in this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A host that sends nothing for this long has gone; the download is resumed.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// A proxy address for clients that use none. The library looks for proxies in the process's environment unless it is
/// given one; this one is given with an exception for every host.
const UNUSED_PROXY: &str = "http://127.0.0.1:9";

/// Every host: the wildcard stands for names alone.
const EVERY_HOST: &str = "*,0.0.0.0/0,::/0";

/// Hosts that never go through a proxy, as no other machine can reach them.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// A registry or a mirror.
pub(super) struct Remote {
    /// What messages call it.
    pub(super) host: String,
    client: Client,
    credentials: Credentials,
    plain_http: bool,
}

/// The bytes of a blob from `starts_at` on.
pub(super) struct Body {
    pub(super) stream: SizedStream,
    pub(super) starts_at: u64,
}

/// What is asked for: where, and under which name a user knows it.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) image: &'a Reference,
}

impl Remote {
    /// A client for `endpoint`'s host.
    pub(super) fn new(
        endpoint: &Endpoint,
        proxies: &Proxies,
        credentials: Credentials,
    ) -> Result<Self, Error> {
        let protocol = if endpoint.plain_http { ClientProtocol::Http } else { ClientProtocol::Https };
        let proxy = proxy_for(&endpoint.host, proxies);
        // One bundle without a certificate makes the client trust nobody, and read no files for it.
        let nobody = || Certificate { encoding: CertificateEncoding::Pem, data: Vec::new() };
        let tls_certs_only = if endpoint.is_local { vec![nobody()] } else { Vec::new() };
        let config = ClientConfig {
            protocol,
            tls_certs_only,
            read_timeout: Some(READ_TIMEOUT),
            connect_timeout: Some(CONNECT_TIMEOUT),
            user_agent: concat!("i2kit/", env!("CARGO_PKG_VERSION")),
            https_proxy: proxy.https,
            http_proxy: proxy.http,
            no_proxy: proxy.none_for,
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|error| Error::Client(error.to_string()))?;
        Ok(Self { host: endpoint.host.clone(), client, credentials, plain_http: endpoint.plain_http })
    }

    /// What the tag points at now.
    pub(super) async fn tag_digest(&self, request: Request<'_>, tag: &str) -> Result<Digest, Failure> {
        let Endpoint { host, repository, .. } = request.endpoint;
        let name = Name::with_tag(host.clone(), repository.clone(), tag.to_owned());
        let auth = &self.credentials.auth;
        let digest =
            self.authorized(request, &name, || self.client.fetch_manifest_digest(&name, auth)).await?;
        digest.parse().map_err(|error: crate::oci::DigestError| {
            Failure::final_(self.server_error(request, error.to_string()))
        })
    }

    /// The bytes of a manifest or an index.
    pub(super) async fn manifest(&self, request: Request<'_>, digest: Digest) -> Result<Vec<u8>, Failure> {
        let name = self.name(request, digest);
        let auth = &self.credentials.auth;
        let pull = || self.client.pull_manifest_raw(&name, auth, &media::MANIFESTS);
        let (bytes, _) = self.authorized(request, &name, pull).await?;
        Ok(bytes.to_vec())
    }

    /// The bytes of a blob, from `offset` on when the registry can do that, else from the start. Not verified.
    pub(super) async fn blob(
        &self,
        request: Request<'_>,
        digest: Digest,
        offset: u64,
    ) -> Result<Body, Failure> {
        let name = self.name(request, digest);
        let text = digest.to_string();
        self.client.store_auth_if_needed(&self.host, &self.credentials.auth).await;
        let pull = || self.client.pull_blob_stream_partial(&name, text.as_str(), offset, None);
        Ok(match self.authorized(request, &name, pull).await? {
            BlobResponse::Partial(stream) => Body { stream, starts_at: offset },
            BlobResponse::Full(stream) => Body { stream, starts_at: 0 },
        })
    }

    /// The error for a body that broke off while it was read.
    pub(super) fn broken(&self, request: Request<'_>, error: &std::io::Error) -> Failure {
        self.asked(request).broken(&failure::root(error))
    }

    /// Runs `pull`. When the registry refuses, asks for a token once more: the old one may have ended, and asking
    /// tells why there is none, which the client library otherwise keeps to itself.
    async fn authorized<T, F: Future<Output = Result<T, OciDistributionError>>>(
        &self,
        request: Request<'_>,
        name: &Name,
        pull: impl Fn() -> F,
    ) -> Result<T, Failure> {
        let sort = |error| failure::sort(error, self.asked(request));
        match pull().await {
            Err(OciDistributionError::UnauthorizedError { .. }) => {
                let auth = self.client.auth(name, &self.credentials.auth, RegistryOperation::Pull);
                auth.await.map_err(sort)?;
                pull().await.map_err(sort)
            }
            other => other.map_err(sort),
        }
    }

    fn asked<'a>(&'a self, request: Request<'a>) -> failure::Asked<'a> {
        failure::Asked {
            registry: &self.host,
            image: request.image,
            who: &self.credentials.who,
            plain_http: self.plain_http,
        }
    }

    fn name(&self, request: Request<'_>, digest: Digest) -> Name {
        Name::with_digest(self.host.clone(), request.endpoint.repository.clone(), digest.to_string())
    }

    fn server_error(&self, request: Request<'_>, message: String) -> Error {
        Error::Server { registry: self.host.clone(), image: request.image.to_string(), message }
    }
}

/// The proxies to hand to the client for `host`.
fn proxy_for(host: &str, proxies: &Proxies) -> Proxies {
    if is_loopback(host) || (proxies.https.is_none() && proxies.http.is_none()) {
        let unused = Some(UNUSED_PROXY.to_owned());
        return Proxies { https: unused.clone(), http: unused, none_for: Some(EVERY_HOST.to_owned()) };
    }
    let except = proxies.none_for.as_deref().filter(|hosts| !hosts.is_empty());
    let except = except.map_or_else(|| LOOPBACK.to_owned(), |hosts| format!("{hosts},{LOOPBACK}"));
    Proxies { none_for: Some(except), ..proxies.clone() }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("host", &self.host).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_uses_no_proxy() {
        let proxies = Proxies { http: Some("http://p:3128".into()), ..Proxies::default() };
        assert_eq!(proxy_for("127.0.0.1:5000", &proxies).none_for.as_deref(), Some(EVERY_HOST));
        let found = proxy_for("docker.io", &proxies);
        assert_eq!((found.https, found.http.as_deref()), (None, Some("http://p:3128")));
        assert!(found.none_for.unwrap().contains("127.0.0.0/8"));
        assert_eq!(proxy_for("docker.io", &Proxies::default()).none_for.as_deref(), Some(EVERY_HOST));
    }
}
