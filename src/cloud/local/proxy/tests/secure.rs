//! TLS: certificates by host, their replacement, ALPN, redirects.

use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::cloud::local::clock;
use crate::cloud::local::proxy::tls::{Flaw, examine, lifetime};
use crate::cloud::local::proxy::wanted::{Challenge, Proof};

pub(super) struct Signer {
    _folder: tempfile::TempDir,
    authority: Authority,
}

impl Signer {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(&folder.path().join("i2kit"), folder.path(), std::path::PathBuf::new());
        let (authority, _) = Authority::make(&home).unwrap();
        Self { _folder: folder, authority }
    }

    pub(super) fn certificate(&self, hosts: &[&str]) -> Certificate {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let signed = self.authority.sign(&hosts).unwrap();
        Certificate { hosts, chain: signed.chain, key: PrivateKey(signed.key) }
    }

    /// What trusts this authority alone.
    fn connector(&self, protocols: &[&str]) -> TlsConnector {
        self.connector_of(protocols, rustls::ALL_VERSIONS)
    }

    /// The same, with these versions of TLS.
    pub(super) fn connector_of(
        &self,
        protocols: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        let pem = self.authority.pem().unwrap();
        roots.add(rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }

    pub(super) async fn connect(
        &self,
        bed: &Bed,
        host: &str,
        protocols: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(bed.address(true)).await?;
        self.connector(protocols).connect(ServerName::try_from(host.to_owned()).unwrap(), stream).await
    }
}

#[tokio::test]
async fn certificates_go_by_host_and_both_versions_of_http_are_spoken() {
    let (one, two) = (Signer::new(), Signer::new());
    let mut front = front(&[mirror().await]);
    let address = front.host.to_string();
    front.certificates = vec![one.certificate(&["a.test", &address]), two.certificate(&["*.b.test"])];
    let bed = Bed::new(front);
    for (signer, host, wanted) in [
        (&one, "a.test", true),
        (&one, "A.test", true),
        (&one, "other.test", false),
        (&two, "x.b.test", true),
        (&two, "x.y.b.test", false),
        (&one, "x.b.test", false),
        // A client that names no host has the first one.
        (&one, address.as_str(), true),
    ] {
        assert_eq!(signer.connect(&bed, host, &[]).await.is_ok(), wanted, "{host}");
    }
    let stream = one.connect(&bed, "a.test", &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(driver);
    let request = Request::get("https://a.test/x").body(Empty::<Bytes>::new()).unwrap();
    let body = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    assert!(body.contains("x-forwarded-proto: https") && body.contains("GET /x HTTP/1.1"), "{body}");
    let mut stream = one.connect(&bed, "a.test", &["http/1.1"]).await.unwrap();
    stream.write_all(b"GET /y HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    drop(stream.read_to_string(&mut answer).await);
    assert!(answer.contains("GET /y HTTP/1.1"), "{answer}");
}

#[tokio::test]
async fn requests_without_tls_are_sent_to_it_unless_both_are_wanted() {
    let signer = Signer::new();
    let mut front = front(&[named("plain").await]);
    front.certificates = vec![signer.certificate(&["a.test"])];
    front.tls = vec![Some("a.test".into())];
    let mut bed = Bed::new(front);
    let port = bed.address(true).port();
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let answer = bed.raw("GET /p?q=%20 HTTP/1.1\r\nHost: A.test:80\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 308"), "{answer}");
    assert!(answer.contains(&format!("location: https://a.test{port}/p?q=%20\r\n")), "{answer}");
    // A host without TLS has no other place.
    let answer = bed.raw("GET /p HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("plain"), "{answer}");
    // A host with TLS is never served without it, also when there is no certificate for it.
    let mut front = bed.front();
    front.certificates.clear();
    bed.serve(front);
    let answer = bed.raw("GET /p HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 308"), "{answer}");
    let mut front = bed.front();
    front.redirect = false;
    bed.serve(front);
    assert_eq!(bed.get("/").await.1, "plain");
}

#[tokio::test]
async fn a_ca_finds_the_answer_to_its_challenge_and_nobody_else_finds_another_site() {
    let (signer, prover) = (Signer::new(), Signer::new());
    let mut front = front(&[named("pod").await]);
    front.certificates = vec![signer.certificate(&["a.test"])];
    front.tls = vec![Some("a.test".into())];
    let challenge =
        |host: &str, token: &str, proof| Challenge { host: host.into(), token: token.into(), proof };
    front.challenges = vec![
        challenge("a.test", "one", Proof::Http("one.thumb".into())),
        challenge("b.test", "two", Proof::Tls(prover.certificate(&["b.test"]))),
    ];
    let mut bed = Bed::new(front);
    let ask = async |bed: &Bed, host: &str, token: &str| {
        let path = format!("/.well-known/acme-challenge/{token}");
        bed.raw(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
    };
    // Without TLS, and whether or not the host has TLS.
    let answer = ask(&bed, "A.test", "one").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\none.thumb"), "{answer}");
    assert!(ask(&bed, "a.test", "other").await.starts_with("HTTP/1.1 308"));
    // A token of another host, or of a client behind the Ingress, is the pod's.
    for token in ["one", "other", "two"] {
        assert!(ask(&bed, "c.test", token).await.ends_with("pod"), "{token}");
    }
    // Where TLS is at another port, who came to port 80 is sent to 443.
    let answer = bed.raw("GET /p HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await;
    assert!(answer.contains("location: https://a.test/p\r\n"), "{answer}");
    let mut stream = prover.connect(&bed, "b.test", &["acme-tls/1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"acme-tls/1"[..]));
    assert_eq!(said(&mut stream).await, "", "it carries nothing");
    // Nor does one that names a protocol beside it which nobody speaks.
    let mut stream = signer.connect(&bed, "a.test", &["acme-tls/1", "other"]).await.unwrap();
    assert_eq!(said(&mut stream).await, "");
    assert!(
        prover.connect(&bed, "b.test", &["h2", "acme-tls/1"]).await.is_err(),
        "it speaks other protocols too"
    );
    assert!(prover.connect(&bed, "a.test", &["acme-tls/1"]).await.is_err());
    assert!(signer.connect(&bed, "a.test", &["acme-tls/1"]).await.is_err(), "a site is no answer");
    let tokens: Vec<String> = bed.server.report().challenges.into_iter().collect();
    assert_eq!(tokens, ["one", "two"]);
    // Nobody knows from where a CA asks: it is answered, and nothing else is, whatever the ranges are.
    let mut front = bed.front();
    front.source_ranges = vec!["192.0.2.0/24".into()];
    bed.serve(front);
    assert!(ask(&bed, "a.test", "one").await.ends_with("one.thumb"));
    for host in ["a.test", "c.test"] {
        assert!(ask(&bed, host, "other").await.starts_with("HTTP/1.1 403"), "{host}");
    }
    let mut front = bed.front();
    front.source_ranges.clear();
    front.challenges.clear();
    bed.serve(front);
    assert!(ask(&bed, "a.test", "one").await.starts_with("HTTP/1.1 308"));
    assert!(bed.server.report().challenges.is_empty());
}

/// What a host answers on a connection.
async fn said(stream: &mut TlsStream<TcpStream>) -> String {
    let mut answer = String::new();
    drop(stream.write_all(b"GET / HTTP/1.1\r\nHost: c.test\r\nConnection: close\r\n\r\n").await);
    drop(stream.read_to_string(&mut answer).await);
    answer
}

#[tokio::test]
async fn a_challenge_is_reported_where_it_is_answered_alone() {
    let prover = Signer::new();
    let http = |token: &str| Challenge {
        host: "a.test".into(),
        token: token.into(),
        proof: Proof::Http("x.thumb".into()),
    };
    let tls = |token: &str, certificate| Challenge {
        host: "b.test".into(),
        token: token.into(),
        proof: Proof::Tls(certificate),
    };
    let damaged = || Certificate { chain: "none".into(), ..prover.certificate(&["b.test"]) };
    let mut plain = front(&[named("pod").await]);
    plain.challenges = vec![http("http"), tls("tls", prover.certificate(&["b.test"]))];
    let mut bed = Bed::new(plain.clone());
    let reported = |bed: &Bed| bed.server.report().challenges.into_iter().collect::<Vec<_>>();
    assert_eq!(reported(&bed), ["http"], "there is no port with TLS");
    // A front without that port takes no answer from one that has it.
    let mut secure = Front { host: host(), ..plain.clone() };
    secure.tls = vec![Some("b.test".into())];
    bed.wanted.0.insert("test/default/secure".into(), secure.clone());
    bed.server.apply(&bed.wanted);
    assert_eq!(reported(&bed), ["http", "tls"]);
    // A front that has the port, and not the answer.
    secure.challenges = vec![http("http"), tls("tls", damaged())];
    bed.wanted.0.insert("test/default/secure".into(), secure.clone());
    bed.server.apply(&bed.wanted);
    assert_eq!(reported(&bed), ["http"]);
    // Of two for one host the first is shown.
    secure.challenges =
        vec![tls("first", prover.certificate(&["b.test"])), tls("second", prover.certificate(&["b.test"]))];
    bed.serve(secure);
    assert_eq!(reported(&bed), ["first"]);
}

#[tokio::test]
async fn a_certificate_is_replaced_under_traffic() {
    let signers = [Signer::new(), Signer::new()];
    let mut front = front(&[named("on").await]);
    front.certificates = vec![signers[0].certificate(&["a.test"])];
    let mut bed = Bed::new(front);
    let mut kept = signers[0].connect(&bed, "a.test", &[]).await.unwrap();
    for round in 0..20 {
        let signer = &signers[round % 2];
        let mut front = bed.front();
        front.certificates = vec![signer.certificate(&["a.test"])];
        bed.serve(front);
        assert!(signer.connect(&bed, "a.test", &[]).await.is_ok());
        assert!(signers[(round + 1) % 2].connect(&bed, "a.test", &[]).await.is_err());
        // What stands goes on with what it began with.
        kept.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 1024];
        let read = kept.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
    }
    // One that cannot be used leaves a warning, and what it was for is not served.
    let mut front = bed.front();
    front.certificates[0].key = PrivateKey(signers[0].certificate(&["x"]).key.0);
    bed.serve(front);
    let warnings = bed.server.report().warnings;
    assert!(warnings["test"][0].contains("the key is not that of the certificate"), "{warnings:?}");
}

#[test]
fn flaws_of_certificates_are_found() {
    let signer = Signer::new();
    let good = signer.certificate(&["a.test", "*.b.test"]);
    let now = clock::wall() / 1000;
    let day = 24 * 60 * 60;
    let (from, until) = lifetime(&good.chain).unwrap();
    assert!(from < now && until > now + 89 * day && until < now + 92 * day, "{from} {now} {until}");
    assert_eq!((lifetime("nonsense"), lifetime(&good.key.0)), (None, None));
    let hosts = |hosts: &[&str]| hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let look = |hosts: &[String], now| examine(&good.chain, &good.key.0, hosts, now);
    assert_eq!(look(&hosts(&["a.test", "*.b.test", "x.b.test"]), now), []);
    assert_eq!(look(&hosts(&["c.test"]), now), [Flaw::Refused("it is not for c.test".into())]);
    let Flaw::Refused(soon) = &look(&hosts(&["a.test"]), now + 85 * day)[0] else { panic!("soon") };
    assert!(soon.starts_with("it expires in "), "{soon}");
    let Flaw::Refused(gone) = &look(&hosts(&["a.test"]), now + 100 * day)[0] else { panic!("gone") };
    assert!(gone.starts_with("it expired "), "{gone}");
    let Flaw::Refused(early) = &look(&hosts(&["a.test"]), now - 10 * day)[0] else { panic!("early") };
    assert!(early.starts_with("it is not valid before"), "{early}");
    let other = signer.certificate(&["a.test"]);
    for (chain, key) in [
        (good.chain.as_str(), other.key.0.as_str()),
        ("nonsense", good.key.0.as_str()),
        (good.chain.as_str(), "nonsense"),
        (good.key.0.as_str(), good.key.0.as_str()),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", good.key.0.as_str()),
    ] {
        assert!(matches!(examine(chain, key, &[], now)[..], [Flaw::Unusable(_)]), "{chain}");
    }
}
