//! One attempt to get a certificate: the account, the order, the proof that the host leads here, the certificate. Each
//! step begins with what the one before it saved.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use instant_acme::{
    Account, AuthorizationStatus, ChallengeHandle, ChallengeStatus, ChallengeType, Error, Identifier, Key,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;

use super::files::{self, StoredAccount};
use super::http::Requests;
use super::record::{Failure, Pending, Record, Want};
use crate::cloud::CloudError;
use crate::cloud::local::clock;
use crate::cloud::local::home::Home;
use crate::cloud::local::proxy::{Certificate, Challenge, Flaw, PrivateKey, Proof, examine, lifetime};

/// How long a CA may take to look at a host, and to sign.
const PATIENCE: Duration = Duration::from_mins(2);

/// What an attempt needs beside the CA.
pub(super) trait World: Send + Sync {
    /// The folders.
    fn home(&self) -> &Home;
    /// Writes the record, before the next step.
    fn save(&self, record: &Record) -> Result<(), CloudError>;
    /// Returns once every front answers the challenge of this token, which is saved.
    fn answered(&self, token: &str) -> impl Future<Output = Result<(), String>> + Send;
}

/// Goes on with the record's order, or places one. The record has the certificate afterwards.
pub(super) async fn attempt(world: &impl World, record: &mut Record) -> Result<(), Failure> {
    let requests =
        Requests::new(&record.want.issuer).map_err(|error| failed(&record.want, &error.to_string()))?;
    let result = steps(world, record, &requests).await;
    result.map_err(|mut failure| {
        failure.wish = requests.wish().map(|wish| u64::try_from(wish.as_millis()).unwrap_or(u64::MAX));
        failure
    })
}

async fn steps(world: &impl World, record: &mut Record, requests: &Requests) -> Result<(), Failure> {
    let want = record.want.clone();
    let (mut order, key) = placed(world, record, requests).await?;
    let policy = RetryPolicy::new().initial_delay(Duration::from_millis(500)).timeout(PATIENCE);
    let step = |error: &Error| failure(&want, error);
    if order.state().status == OrderStatus::Pending {
        prove(world, record, &mut order).await?;
        // Also after an error: the authorization says more than the order.
        let polled = order.poll_ready(&policy).await;
        if order.state().status == OrderStatus::Invalid {
            return Err(invalid(&want, &mut order).await);
        }
        polled.map_err(|error| step(&error))?;
    }
    match order.state().status {
        OrderStatus::Invalid => return Err(invalid(&want, &mut order).await),
        OrderStatus::Ready => {
            let request =
                signing_request(&want.host, &key).map_err(|error| failed(&want, &error.to_string()))?;
            order.finalize_csr(&request).await.map_err(|error| step(&error))?;
        }
        OrderStatus::Pending | OrderStatus::Processing | OrderStatus::Valid => {}
    }
    let chain = match order.state().status {
        OrderStatus::Valid => order.certificate().await.map_err(|error| step(&error))?,
        _ => Some(order.poll_certificate(&policy).await.map_err(|error| step(&error))?),
    };
    let chain = chain.ok_or_else(|| failed(&want, "the order has no certificate"))?;
    let now = clock::wall();
    check(&want, &chain, &key, now)?;
    record.succeed(now, chain, key);
    world.save(record).map_err(|error| local(&error))
}

/// The order that was placed before, where the CA still has it, or a new one; with the key of its certificate.
async fn placed(
    world: &impl World,
    record: &mut Record,
    requests: &Requests,
) -> Result<(Order, PrivateKey), Failure> {
    let want = record.want.clone();
    let mut account = account(world.home(), &want, requests, false).await?;
    if let Some(pending) = record.order.clone() {
        match account.order(pending.url).await {
            Ok(order) => return Ok((order, pending.key)),
            // The CA answered, and has no such order any more.
            Err(Error::Api(_)) => {
                record.order = None;
                world.save(record).map_err(|error| local(&error))?;
            }
            Err(error) => return Err(failure(&want, &error)),
        }
    }
    let identifiers = [Identifier::Dns(want.host.clone())];
    let placing = NewOrder::new(&identifiers);
    let placed = match account.new_order(&placing).await {
        // A CA that forgot the account gets it anew, with the same key.
        Err(Error::Api(problem)) if is(&problem, "accountDoesNotExist") => {
            account = self::account(world.home(), &want, requests, true).await?;
            account.new_order(&placing).await
        }
        placed => placed,
    };
    let order = placed.map_err(|error| failure(&want, &error))?;
    let key = KeyPair::generate().map_err(|error| failed(&want, &error.to_string()))?;
    let key = PrivateKey(key.serialize_pem());
    let by_tls = record.takes_turn_by_tls();
    record.order = Some(Pending { url: order.url().to_owned(), key: key.clone(), by_tls, challenge: None });
    world.save(record).map_err(|error| local(&error))?;
    Ok((order, key))
}

/// The account at the CA, which is made where there is none, or `again` where the CA lost it. Its key is saved first, so
/// that a run that was killed finds the same account.
async fn account(home: &Home, want: &Want, requests: &Requests, again: bool) -> Result<Account, Failure> {
    let directory = &want.issuer.directory;
    let failure = |error: Error| failure(want, &error);
    let stored = files::load_account(home, directory).map_err(|error| local(&error))?;
    let mut stored = if let Some(stored) = stored {
        stored
    } else {
        let (_, key) = Key::generate_pkcs8().map_err(failure)?;
        let key = PrivateKey(STANDARD.encode(key.secret_pkcs8_der()));
        let stored = StoredAccount { key, url: None, email: None };
        files::save_account(home, directory, &stored).map_err(|error| local(&error))?;
        stored
    };
    let unusable =
        || failed(want, "the key of the account cannot be read; remove the folder `acme` of the local cloud");
    let bytes = STANDARD.decode(&stored.key.0).map_err(|_| unusable())?;
    let builder = Account::builder_with_http(Box::new(requests.clone()));
    let account = if let Some(url) = stored.url.clone().filter(|_| !again) {
        let key = PrivatePkcs8KeyDer::from(bytes);
        builder.from_parts(url, key, directory.clone()).await.map_err(failure)?
    } else {
        let key = Key::from_pkcs8_der(PrivatePkcs8KeyDer::from(bytes.as_slice())).map_err(|_| unusable())?;
        let private = PrivatePkcs8KeyDer::from(bytes.clone());
        let made = builder.create_from_key((key, private.into()), directory.clone()).await;
        let (account, _credentials) = made.map_err(failure)?;
        stored.url = Some(account.id().to_owned());
        stored.email = None;
        files::save_account(home, directory, &stored).map_err(|error| local(&error))?;
        account
    };
    if stored.email != want.issuer.email {
        let contact = want.issuer.email.as_ref().map(|email| format!("mailto:{email}"));
        let contacts: Vec<&str> = contact.as_deref().into_iter().collect();
        account.update_contacts(&contacts).await.map_err(failure)?;
        stored.email.clone_from(&want.issuer.email);
        files::save_account(home, directory, &stored).map_err(|error| local(&error))?;
    }
    Ok(account)
}

/// Shows the CA that the host leads here.
async fn prove(world: &impl World, record: &mut Record, order: &mut Order) -> Result<(), Failure> {
    let want = &record.want.clone();
    let mut authorizations = order.authorizations();
    while let Some(found) = authorizations.next().await {
        let mut authorization = found.map_err(|error| failure(want, &error))?;
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        let mut kinds = [ChallengeType::Http01, ChallengeType::TlsAlpn01];
        // As it was begun with: the CA may be about to look.
        if record.order.as_ref().is_some_and(|order| order.by_tls) {
            kinds.reverse();
        }
        let offered =
            |kind: &ChallengeType| authorization.challenges.iter().any(|known| known.r#type == *kind);
        let Some(kind) = kinds.into_iter().find(offered) else {
            return Err(failed(want, "the CA offers neither http-01 nor tls-alpn-01 for this host"));
        };
        let Some(mut challenge) = authorization.challenge(kind.clone()) else { continue };
        let proof = proof(&want.host, &kind, &challenge).map_err(|error| failed(want, &error.to_string()))?;
        let token = challenge.token.clone();
        if let Some(pending) = &mut record.order {
            pending.challenge = Some(Challenge { host: want.host.clone(), token: token.clone(), proof });
        }
        world.save(record).map_err(|error| local(&error))?;
        world.answered(&token).await.map_err(|reason| failed(want, &reason))?;
        if challenge.status == ChallengeStatus::Pending {
            challenge.set_ready().await.map_err(|error| failure(want, &error))?;
        }
    }
    Ok(())
}

fn proof(host: &str, kind: &ChallengeType, challenge: &ChallengeHandle<'_>) -> Result<Proof, rcgen::Error> {
    let authorization = challenge.key_authorization();
    if *kind == ChallengeType::Http01 {
        return Ok(Proof::Http(authorization.as_str().to_owned()));
    }
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(authorization.digest().as_ref())];
    let key = KeyPair::generate()?;
    let signed = params.self_signed(&key)?;
    Ok(Proof::Tls(Certificate {
        hosts: vec![host.to_owned()],
        chain: signed.pem(),
        key: PrivateKey(key.serialize_pem()),
    }))
}

fn signing_request(host: &str, key: &PrivateKey) -> Result<Vec<u8>, rcgen::Error> {
    let key = KeyPair::from_pem(&key.0)?;
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(&key)?.der().to_vec())
}

/// Refuses a certificate that cannot be served for the host.
fn check(want: &Want, chain: &str, key: &PrivateKey, now: u64) -> Result<(), Failure> {
    let lost = |reason: &str| Failure { is_final: true, ..failed(want, reason) };
    for flaw in examine(chain, &key.0, std::slice::from_ref(&want.host), now / 1000) {
        match flaw {
            Flaw::Unusable(reason) => {
                return Err(lost(&format!("its certificate cannot be served: {reason}")));
            }
            Flaw::Refused(reason) if reason.contains("it is not for") => {
                return Err(lost(&format!("its certificate cannot be served: {reason}")));
            }
            // Of times: those of this computer may be the wrong ones.
            Flaw::Refused(_) => {}
        }
    }
    lifetime(chain).map(drop).ok_or_else(|| lost("its certificate has no time"))
}

/// Why the CA does not believe that the host leads here.
async fn invalid(want: &Want, order: &mut Order) -> Failure {
    let mut reasons: Vec<String> = order.state().error.iter().map(shown).collect();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_ok() {
            reasons.extend(
                authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref()).map(shown),
            );
        }
    }
    reasons.dedup();
    let reason = if reasons.is_empty() { "the order is invalid".to_owned() } else { reasons.join("; ") };
    Failure { is_final: true, ..failed(want, &reason) }
}

/// A failure that another attempt may go on from.
fn failed(want: &Want, reason: &str) -> Failure {
    let reason = format!("{}: {reason}", want.authority());
    Failure { reason, is_final: false, limited: false, wish: None }
}

fn failure(want: &Want, error: &Error) -> Failure {
    let Error::Api(problem) = error else {
        return failed(want, &error.to_string());
    };
    let limited = is(problem, "rateLimited") || problem.status == Some(429);
    Failure { limited, is_final: !limited, ..failed(want, &shown(problem)) }
}

/// Of this computer's files.
fn local(error: &CloudError) -> Failure {
    Failure { reason: error.to_string(), is_final: false, limited: false, wish: None }
}

/// Whether a problem is of an ACME kind (RFC 8555, 6.7).
fn is(problem: &instant_acme::Problem, kind: &str) -> bool {
    problem.r#type.as_deref().and_then(|known| known.strip_prefix("urn:ietf:params:acme:error:"))
        == Some(kind)
}

/// A problem in the CA's words.
fn shown(problem: &instant_acme::Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    let kind = kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(kind);
    let mut text = problem.detail.clone().unwrap_or_else(|| "without a reason".to_owned());
    for part in &problem.subproblems {
        text = format!("{text}; {part}");
    }
    if kind.is_empty() { text } else { format!("{text} ({kind})") }
}
