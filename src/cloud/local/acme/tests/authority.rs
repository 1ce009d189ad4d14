//! A CA on loopback that gives any host a certificate, but for the answers that a test has in its place.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::cloud::local::acme::Want;
use crate::cloud::local::acme::record::Record;
use crate::cloud::local::ca::Authority;
use crate::cloud::local::home::Home;
use crate::manifest::api::AcmeIssuer;

/// An answer: the status, headers, the body.
pub(super) struct Reply(pub(super) u16, pub(super) Vec<(&'static str, String)>, pub(super) Vec<u8>);

impl Reply {
    pub(super) fn json(value: &Value) -> Self {
        Self(200, vec![], value.to_string().into_bytes())
    }

    pub(super) fn with(mut self, header: &'static str, value: &str) -> Self {
        self.1.push((header, value.to_owned()));
        self
    }
}

type Script = Box<dyn FnMut(&str) -> Option<Reply> + Send>;

/// The CA. A request is named by its path, such as `/order`.
pub(super) struct TestAuthority {
    pub(super) issuer: AcmeIssuer,
    inside: Arc<Inside>,
}

struct Inside {
    url: String,
    hosts: PathBuf,
    asked: Mutex<Vec<String>>,
    script: Mutex<Script>,
    status: Arc<Mutex<&'static str>>,
}

impl TestAuthority {
    /// Starts one, whose certificates are for the keys that the folder of `home` has.
    pub(super) async fn start(home: &Home) -> Self {
        let (authority, _) = Authority::make(home).unwrap();
        let signed = authority.sign(&["127.0.0.1".to_owned()]).unwrap();
        let chain =
            CertificateDer::pem_slice_iter(signed.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(signed.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let inside = Arc::new(Inside {
            url: url.clone(),
            hosts: home.acme().join("hosts"),
            asked: Mutex::default(),
            script: Mutex::new(Box::new(|_| None)),
            status: Arc::new(Mutex::new("pending")),
        });
        let served = Arc::clone(&inside);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, inside) = (acceptor.clone(), Arc::clone(&served));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(Arc::clone(&inside), request));
                    let builder = hyper::server::conn::http1::Builder::new();
                    drop(builder.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        let directory = format!("{url}/directory");
        let issuer = AcmeIssuer { directory, email: None, ca_bundle: Some(authority.pem().unwrap()) };
        Self { issuer, inside }
    }

    pub(super) fn want(&self, host: &str) -> Want {
        Want { host: host.into(), issuer: self.issuer.clone() }
    }

    /// Has these answers given in place of its own from now on, and orders begin with this status.
    pub(super) fn play(
        &self,
        status: &'static str,
        script: impl FnMut(&str) -> Option<Reply> + Send + 'static,
    ) {
        *self.inside.script.lock().unwrap() = Box::new(script);
        *self.inside.status.lock().unwrap() = status;
        self.inside.asked.lock().unwrap().clear();
    }

    /// The status of its order, which a script may change.
    pub(super) fn status(&self) -> Arc<Mutex<&'static str>> {
        Arc::clone(&self.inside.status)
    }

    /// How often it was asked for a path since then.
    pub(super) fn asked(&self, path: &str) -> usize {
        self.inside.asked.lock().unwrap().iter().filter(|asked| *asked == path).count()
    }

    /// All requests since then.
    pub(super) fn requests(&self) -> usize {
        self.inside.asked.lock().unwrap().len()
    }
}

async fn answer(
    inside: Arc<Inside>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    assert!(request.method() != Method::POST || request.into_body().collect().await.is_ok());
    inside.asked.lock().unwrap().push(path.clone());
    let scripted = (inside.script.lock().unwrap())(&path);
    let Reply(status, headers, body) = scripted.unwrap_or_else(|| inside.own(&path));
    let mut response = Response::builder().status(status).header("Replay-Nonce", "bm9uY2U");
    for (name, value) in headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(Bytes::from(body))).unwrap())
}

impl Inside {
    fn own(&self, path: &str) -> Reply {
        let url = |path: &str| format!("{}{path}", self.url);
        let mut status = self.status.lock().unwrap();
        match path {
            "/directory" => Reply::json(&json!({
                "newNonce": url("/nonce"), "newAccount": url("/account"), "newOrder": url("/orders"),
            })),
            "/account" => Reply::json(&json!({})).with("Location", &url("/account/1")),
            "/authorization" => Reply::json(&json!({
                "status": if *status == "pending" { "pending" } else { "valid" },
                "identifier": {"type": "dns", "value": "any"},
                "challenges": [
                    {"type": "http-01", "url": url("/challenge"), "token": "dG9rZW4", "status": "pending"},
                ],
            })),
            "/challenge" => {
                *status = "ready";
                Reply::json(
                    &json!({"type": "http-01", "url": url(path), "token": "dG9rZW4", "status": "processing"}),
                )
            }
            "/orders" | "/order" | "/finalize" => {
                *status = if path == "/finalize" { "valid" } else { *status };
                let state = json!({
                    "status": *status, "authorizations": [url("/authorization")],
                    "finalize": url("/finalize"), "certificate": url("/certificate"),
                });
                Reply::json(&state).with("Location", &url("/order"))
            }
            "/certificate" => Reply(200, vec![], self.chain((2020, 2090)).into_bytes()),
            _ => Reply::json(&json!({})),
        }
    }

    /// A certificate for the order that is written down, from one year until another.
    fn chain(&self, years: (i32, i32)) -> String {
        let files = std::fs::read_dir(&self.hosts).unwrap().map(|entry| std::fs::read(entry.unwrap().path()));
        let mut records = files.filter_map(|text| serde_json::from_slice::<Record>(&text.ok()?).ok());
        let (want, order) = records.find_map(|record| Some((record.want, record.order?))).unwrap();
        signed(&want.host, &order.key.0, years)
    }
}

/// A certificate of a host, from one year until another, for this key.
pub(super) fn signed(host: &str, key: &str, (from, until): (i32, i32)) -> String {
    let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    params.self_signed(&KeyPair::from_pem(key).unwrap()).unwrap().pem()
}
