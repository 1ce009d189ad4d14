//! One attempt to get a certificate: the account, the order, the proof that the host leads here, the certificate. Each
//! step begins with what the one before it saved.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use i2kit_spec::status::TEXT_BYTES;
use instant_acme::{
    Account, AuthorizationStatus, Challenge as AcmeChallenge, ChallengeHandle, ChallengeStatus,
    ChallengeType, Error, Identifier, Key, NewOrder, Order, OrderState, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;

use super::files::{self, StoredAccount};
use super::http::{Last, Requests, Unexplained};
use super::record::{Failure, Pending, Record, Want};
use super::shown::at;
use crate::cloud::CloudError;
use crate::cloud::local::clock;
use crate::cloud::local::home::Home;
use crate::cloud::local::proxy::{Certificate, Challenge, Flaw, PrivateKey, Proof, examine, lifetime};

/// How long a CA may take to look at a host, and to sign.
const PATIENCE: Duration = Duration::from_mins(2);

/// How long one attempt may take in all: others wait meanwhile.
const ATTEMPT: Duration = Duration::from_mins(10);

/// The longest chain of certificates, as PEM.
const MAX_CHAIN: usize = 64 << 10;

/// The longest URL and the longest token of a CA: both are written down.
const MAX_NAME: usize = 2048;

/// How often a certificate is looked at that is expired by this computer's clock: the clock may be wrong, but it may also have
/// expired before it was fetched.
const LOOKS: u32 = 8;

/// What an attempt needs beside the CA.
pub(super) trait World: Send + Sync {
    /// The folders.
    fn home(&self) -> &Home;
    /// Writes the record, before the next step.
    fn save(&self, record: &Record) -> Result<(), CloudError>;
    /// Returns once every front answers the challenge of this token, which is saved.
    fn answered(&self, token: &str) -> impl Future<Output = Result<(), String>> + Send;
}

/// Goes on with the record's order, or places one. The record has the certificate afterwards, and is not saved with it yet.
pub(super) async fn attempt(world: &impl World, record: &mut Record) -> Result<(), Failure> {
    let want = record.want.clone();
    let requests = Requests::new(&want.issuer).map_err(|error| failed(&want, &error.to_string()))?;
    let result = within(ATTEMPT, &want, steps(world, record, &requests)).await;
    result.map_err(|mut failure| {
        let Last { wish, is_look } = requests.last();
        let wish = wish.map(|wish| u64::try_from(wish.as_millis()).unwrap_or(u64::MAX));
        // Who only looked and is put off has not failed.
        failure.counts &= !(failure.limited && is_look && wish.is_some());
        failure.wish = failure.wish.max(wish);
        failure
    })
}

/// The outcome of these steps, unless they take longer than `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    want: &Want,
    steps: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let late = |_| failed(want, &format!("the attempt took more than {} minutes", limit.as_secs() / 60));
    tokio::time::timeout(limit, steps).await.map_err(late)?
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
            // A key that is none would be none the next time.
            let request =
                signing_request(&want.host, &key).map_err(|error| lost(&want, &error.to_string()))?;
            if let Err(error) = order.finalize_csr(&request).await {
                // A process that was killed had sent the request already: the CA takes it once.
                let has_begun =
                    |now: &OrderState| matches!(now.status, OrderStatus::Processing | OrderStatus::Valid);
                if !(is_refusal(&error) && order.refresh().await.is_ok_and(has_begun)) {
                    return Err(step(&error));
                }
            }
        }
        OrderStatus::Pending | OrderStatus::Processing | OrderStatus::Valid => {}
    }
    let chain = match order.state().status {
        OrderStatus::Valid => order.certificate().await,
        _ => order.poll_certificate(&policy).await.map(Some),
    };
    let state = order.state();
    if state.status == OrderStatus::Valid && state.certificate.is_none() {
        return Err(lost(&want, "the order is valid, and does not say where its certificate is"));
    }
    let chain = chain.map_err(|error| step(&error))?;
    let chain = chain.ok_or_else(|| failed(&want, "the order has no certificate"))?;
    let now = clock::wall();
    check(&want, &chain, &key, now).map_err(|failure| looked(record, failure))?;
    record.succeed(now, chain, key);
    Ok(())
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
            Err(error) => {
                let failure = failure(&want, &error);
                // An answer that is no order would be none the next time.
                if !failure.is_final && !matches!(error, Error::Json(_)) {
                    return Err(failure);
                }
                // The CA answered, and has no such order any more.
                record.order = None;
                world.save(record).map_err(|error| Failure::local(&error))?;
            }
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
    bounded(&want, order.url())?;
    let key = KeyPair::generate().map_err(|error| failed(&want, &error.to_string()))?;
    let key = PrivateKey(key.serialize_pem());
    let by_tls = record.takes_turn_by_tls();
    let url = order.url().to_owned();
    record.order = Some(Pending { url, key: key.clone(), by_tls, challenge: None, looks: 0 });
    world.save(record).map_err(|error| Failure::local(&error))?;
    Ok((order, key))
}

/// The account at the CA, which is made where there is none, or `again` where the CA lost it; with the address of `want`.
async fn account(home: &Home, want: &Want, requests: &Requests, again: bool) -> Result<Account, Failure> {
    let (account, mut stored) = known(home, want, requests, again).await?;
    if stored.email == want.issuer.email {
        return Ok(account);
    }
    let contact = want.issuer.email.as_ref().map(|email| format!("mailto:{email}"));
    let contacts: Vec<&str> = contact.as_deref().into_iter().collect();
    let updated = account.update_contacts(&contacts).await;
    let is_forgotten = matches!(&updated, Err(Error::Api(problem)) if is(problem, "accountDoesNotExist"));
    if is_forgotten && !again {
        return Box::pin(self::account(home, want, requests, true)).await;
    }
    updated.map_err(|error| of_account(want, &error))?;
    stored.email.clone_from(&want.issuer.email);
    files::save_account(home, &want.issuer.directory, &stored).map_err(|error| Failure::local(&error))?;
    Ok(account)
}

/// The account, whichever address the CA has of it, and what is stored of it. Its key is saved first, so that a run that was
/// killed finds the same account.
async fn known(
    home: &Home,
    want: &Want,
    requests: &Requests,
    again: bool,
) -> Result<(Account, StoredAccount), Failure> {
    let directory = &want.issuer.directory;
    let failure = |error: Error| of_account(want, &error);
    let stored = files::load_account(home, directory).map_err(|error| Failure::local(&error))?;
    let mut stored = if let Some(stored) = stored {
        stored
    } else {
        let (_, key) = Key::generate_pkcs8().map_err(failure)?;
        let key = PrivateKey(STANDARD.encode(key.secret_pkcs8_der()));
        let stored = StoredAccount { key, url: None, email: None };
        files::save_account(home, directory, &stored).map_err(|error| Failure::local(&error))?;
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
        bounded(want, account.id())?;
        stored.url = Some(account.id().to_owned());
        stored.email = None;
        files::save_account(home, directory, &stored).map_err(|error| Failure::local(&error))?;
        account
    };
    Ok((account, stored))
}

/// A failure that is the account's: it says nothing about an order.
fn of_account(want: &Want, error: &Error) -> Failure {
    Failure { is_final: false, ..failure(want, error) }
}

/// Shows the CA that the host leads here.
async fn prove(world: &impl World, record: &mut Record, order: &mut Order) -> Result<(), Failure> {
    let want = &record.want.clone();
    let mut refused = None;
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
        if !is_token(&token) {
            return Err(lost(want, "the CA's challenge has a token that is none (RFC 8555, 8.3)"));
        }
        if let Some(pending) = &mut record.order {
            pending.challenge = Some(Challenge { host: want.host.clone(), token: token.clone(), proof });
        }
        world.save(record).map_err(|error| Failure::local(&error))?;
        world.answered(&token).await.map_err(|reason| failed(want, &reason))?;
        if challenge.status == ChallengeStatus::Pending
            && let Err(error) = challenge.set_ready().await
        {
            // Maybe a process that was killed had told the CA already. It is asked below: the challenge borrows the authorization.
            // An order of one host has one authorization.
            refused = Some((error, token));
            break;
        }
    }
    match refused {
        Some((error, token)) if !(is_refusal(&error) && has_looked(order, &token).await) => {
            Err(failure(want, &error))
        }
        _ => Ok(()),
    }
}

/// Whether the CA looks at the challenge of this token, or has looked: it was told to by a process that was killed.
async fn has_looked(order: &mut Order, token: &str) -> bool {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(now) = authorization.refresh().await else { return false };
        let is_told =
            |known: &AcmeChallenge| known.token == token && known.status != ChallengeStatus::Pending;
        if now.status == AuthorizationStatus::Pending && !now.challenges.iter().any(is_told) {
            return false;
        }
    }
    true
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

/// Whether a text is a token of a challenge: letters and digits of base64url.
fn is_token(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
}

/// Refuses a URL that is too long to be written down.
fn bounded(want: &Want, url: &str) -> Result<(), Failure> {
    if url.len() <= MAX_NAME {
        return Ok(());
    }
    Err(failed(want, &format!("the CA gives a URL of more than {MAX_NAME} bytes")))
}

/// Refuses a certificate that cannot be served for the host. One that is refused for its time alone does not cost the order:
/// the clock may be wrong, and the CA has few certificates of a host a week.
fn check(want: &Want, chain: &str, key: &PrivateKey, now: u64) -> Result<(), Failure> {
    let refused = |reason: &str| lost(want, &format!("its certificate cannot be served: {reason}"));
    if chain.len() > MAX_CHAIN {
        return Err(refused(&format!("with its chain it has more than {MAX_CHAIN} bytes")));
    }
    for flaw in examine(chain, &key.0, std::slice::from_ref(&want.host), now / 1000) {
        match flaw {
            Flaw::Unusable(reason) => return Err(refused(&reason)),
            Flaw::Refused(reason) if reason.contains("it is not for") => return Err(refused(&reason)),
            // Of times: they are looked at below.
            Flaw::Refused(_) => {}
        }
    }
    match lifetime(chain) {
        Some((from, until)) if from < until && until > now / 1000 => Ok(()),
        Some((from, until)) if from < until => {
            let reason = format!("it expired at {} by the clock of this computer", at(until));
            Err(Failure { is_final: false, ..refused(&reason) })
        }
        _ => Err(refused("there is no time at which it is valid")),
    }
}

/// Takes note of a look at a certificate that was refused for its time alone. The last one costs the order.
fn looked(record: &mut Record, failure: Failure) -> Failure {
    let Some(order) = record.order.as_mut().filter(|_| !failure.is_final) else { return failure };
    order.looks += 1;
    Failure { is_final: order.looks >= LOOKS, ..failure }
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
    let joined = reasons.join("; ");
    lost(want, if reasons.is_empty() { "the order is invalid" } else { &joined })
}

/// A failure that another attempt may go on from.
fn failed(want: &Want, reason: &str) -> Failure {
    Failure::new(&format!("{}: {reason}", want.authority()))
}

/// A failure that the order does not outlive.
fn lost(want: &Want, reason: &str) -> Failure {
    Failure { is_final: true, ..failed(want, reason) }
}

fn failure(want: &Want, error: &Error) -> Failure {
    match error {
        Error::Api(problem) => {
            let limited = is(problem, "rateLimited") || problem.status == Some(429);
            // What the CA cannot do now says nothing about the order.
            let is_final = !limited && problem.status.is_none_or(|status| status < 500);
            Failure { is_final, limited, ..failed(want, &shown(problem)) }
        }
        Error::Timeout(Some(at)) => {
            let wish = at.saturating_duration_since(Instant::now());
            let wish = u64::try_from(wish.as_millis()).unwrap_or(u64::MAX);
            Failure { wish: Some(wish), ..failed(want, &error.to_string()) }
        }
        Error::Other(reason) => {
            let answer = reason.downcast_ref::<Unexplained>();
            let limited = answer.is_some_and(|answer| answer.status == StatusCode::TOO_MANY_REQUESTS);
            // As a problem with this status says, though not in the form of one.
            let is_final = answer.is_some_and(Unexplained::is_gone);
            Failure { is_final, limited, ..failed(want, &error.to_string()) }
        }
        error => failed(want, &error.to_string()),
    }
}

/// Whether the CA has answered, and does not do what it was asked for.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Api(_))
}

/// Whether a problem is of an ACME kind (RFC 8555, 6.7).
fn is(problem: &instant_acme::Problem, kind: &str) -> bool {
    problem.r#type.as_deref().and_then(|known| known.strip_prefix("urn:ietf:params:acme:error:"))
        == Some(kind)
}

/// A problem in the CA's words, of which as much is read as can be shown.
fn shown(problem: &instant_acme::Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    let kind = kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(kind);
    let status = || format!("it answered with the status {}, without a reason", problem.status.unwrap_or(0));
    let start = |text: &str| text.chars().take(TEXT_BYTES).collect::<String>();
    let mut text = problem.detail.as_deref().map_or_else(status, start);
    for part in &problem.subproblems {
        if text.len() > TEXT_BYTES {
            break;
        }
        text = format!("{text}; {}", start(&part.to_string()));
    }
    if kind.is_empty() { text } else { format!("{text} ({})", start(kind)) }
}
