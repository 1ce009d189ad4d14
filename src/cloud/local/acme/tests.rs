//! Attempts and what becomes of them, with a CA of the test's own.

mod authority;
mod orders;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use i2kit_spec::status::TEXT_BYTES;
use serde_json::json;
use tokio::sync::Notify;

use self::authority::{Reply, TestAuthority, signed};
use super::files;
use super::handle::{Acme, CHALLENGES, Next, Parts};
use super::order::{self, World};
use super::record::{Failure, HOSTS, LONGEST_WISH, Pending, Record, Want};
use crate::cloud::CloudError;
use crate::cloud::local::ca::Authority;
use crate::cloud::local::clock;
use crate::cloud::local::home::Home;
use crate::cloud::local::log::Log;
use crate::cloud::local::proxy::{Challenge, PrivateKey, Proof, Proxy};
use crate::manifest::api::AcmeIssuer;
use crate::text;

struct Bed {
    _root: tempfile::TempDir,
    home: Home,
    log: Arc<Log>,
    proxy: Proxy,
    changed: Notify,
}

impl Bed {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(&root.path().join("i2kit"), root.path(), PathBuf::new());
        home.create().unwrap();
        let log = Arc::new(Log::open(&root.path().join("log")).unwrap());
        Self { _root: root, home, log, proxy: Proxy::new(), changed: Notify::new() }
    }

    fn parts(&self) -> Parts<'_> {
        Parts { home: &self.home, log: &self.log, proxy: &self.proxy, changed: &self.changed }
    }

    fn open(&self) -> Acme {
        Acme::open(&self.home, &self.log)
    }

    fn file(&self, want: &Want) -> PathBuf {
        self.home.acme().join("hosts").join(format!("{}.json", want.id()))
    }

    fn issued(&self, want: &Want) -> Record {
        let (authority, _) = Authority::make(&self.home).unwrap();
        let signed = authority.sign(std::slice::from_ref(&want.host)).unwrap();
        let mut record = Record::new(want.clone());
        record.succeed(clock::wall(), signed.chain, PrivateKey(signed.key));
        record
    }

    /// An attempt, as if every challenge were answered.
    async fn attempt(&self, record: &mut Record) -> Result<(), Failure> {
        record.begin(clock::wall());
        files::save(&self.home, record).unwrap();
        order::attempt(self, record).await
    }
}

impl World for Bed {
    fn home(&self) -> &Home {
        &self.home
    }

    fn save(&self, record: &Record) -> Result<(), CloudError> {
        files::save(&self.home, record)
    }

    async fn answered(&self, _: &str) -> Result<(), String> {
        Ok(())
    }
}

fn want(host: &str, directory: &str) -> Want {
    let issuer = AcmeIssuer { directory: directory.into(), email: None, ca_bundle: None };
    Want { host: host.into(), issuer }
}

fn wanted(wants: &[Want]) -> BTreeMap<String, Want> {
    wants.iter().map(|want| (want.id(), want.clone())).collect()
}

fn pending(key: &str, challenge: Option<Challenge>) -> Pending {
    Pending {
        url: "https://ca/order".into(),
        key: PrivateKey(key.into()),
        by_tls: false,
        challenge,
        looks: 0,
    }
}

#[test]
fn the_certificate_of_another_ca_is_served_until_the_new_one_has_given_its_own() {
    let bed = Bed::new();
    let (old, new) = (want("a.i2kit.dev", "https://old.ca/dir"), want("a.i2kit.dev", "https://new.ca/dir"));
    let gone = want("b.i2kit.dev", "https://old.ca/dir");
    for record in [bed.issued(&old), bed.issued(&gone)] {
        files::save(&bed.home, &record).unwrap();
    }
    let acme = bed.open();
    let wants = wanted(std::slice::from_ref(&new));
    acme.sweep(&bed.parts(), &wants);
    let found = acme.find(&new);
    assert_eq!(found.served.unwrap().source, "old.ca");
    assert!(found.certificate.is_some());
    let warning = found.warning.unwrap();
    assert!(
        warning.contains("waited for from new.ca") && warning.contains("the last one is served"),
        "{warning}"
    );
    assert!(!bed.file(&gone).exists(), "the certificate of a host that is not wanted any more goes");
    acme.keep(&bed.parts(), bed.issued(&new));
    acme.sweep(&bed.parts(), &wants);
    let found = acme.find(&new);
    assert_eq!((found.served.unwrap().source.as_str(), found.warning), ("new.ca", None));
    assert!(bed.file(&new).exists() && !bed.file(&old).exists());
    acme.sweep(&bed.parts(), &BTreeMap::new());
    assert_eq!(acme.find(&new).certificate, None);
}

#[test]
fn a_ca_that_refuses_for_the_number_of_requests_is_not_asked_for_other_hosts() {
    let bed = Bed::new();
    let acme = bed.open();
    let (first, other) = (want("a.i2kit.dev", "https://ca/dir"), want("b.i2kit.dev", "https://ca/dir"));
    let elsewhere = want("c.i2kit.dev", "https://other.ca/dir");
    let both = wanted(&[first.clone(), other.clone()]);
    assert!(matches!(acme.next(&both), Next::Now(_)));
    let mut record = Record::new(first.clone());
    record.begin(clock::wall());
    record.fail(clock::wall(), Failure { limited: true, wish: Some(600_000), ..Failure::new("too many") });
    acme.keep(&bed.parts(), record);
    let Next::After(wait) = acme.next(&both) else { panic!("the other host is asked for") };
    assert!(wait > Duration::from_mins(9) && wait <= Duration::from_mins(10), "{wait:?}");
    assert!(matches!(acme.next(&wanted(&[first, elsewhere])), Next::Now(next) if next.host == "c.i2kit.dev"));
}

#[test]
fn what_has_been_due_for_longest_goes_first() {
    let bed = Bed::new();
    let acme = bed.open();
    let wants: Vec<Want> =
        (0..20).map(|number| want(&format!("h{number}.i2kit.dev"), "https://ca/dir")).collect();
    let now = clock::wall();
    for (number, want) in (1..).zip(&wants) {
        let mut record = Record::new(want.clone());
        (record.since, record.pause) = (now - 1_000_000, number * 1000);
        acme.keep(&bed.parts(), record);
    }
    let mut left = wanted(&wants);
    for want in &wants {
        let Next::Now(next) = acme.next(&left) else { panic!("{} is due", want.host) };
        assert_eq!(next.host, want.host);
        left.remove(&next.id());
    }
}

#[test]
fn hosts_beyond_the_limit_are_told_of_and_those_of_before_stay() {
    let bed = Bed::new();
    let acme = bed.open();
    let wants: Vec<Want> =
        (0..HOSTS + 500).map(|number| want(&format!("h{number}.i2kit.dev"), "https://ca/dir")).collect();
    let last = wants.last().unwrap();
    acme.keep(&bed.parts(), bed.issued(last));
    // A host of two Ingresses counts once.
    acme.want(wants.iter().take(10).chain(&wants).cloned());
    let left_out = wants.iter().filter(|want| acme.find(want).is_left_out).count();
    assert_eq!(left_out, 500);
    let found = acme.find(last);
    assert!(!found.is_left_out && found.certificate.is_some(), "what has a certificate keeps it");
    let found = acme.find(&wants[HOSTS + 1]);
    assert_eq!((found.is_left_out, found.warning), (true, None));
    // As many challenges as every front can be given, the newest ones.
    for want in wants.iter().take(CHALLENGES + 50) {
        let mut record = Record::new(want.clone());
        record.since =
            1 + want.host.trim_start_matches('h').split('.').next().unwrap().parse::<u64>().unwrap();
        let challenge =
            Challenge { host: want.host.clone(), token: "t".into(), proof: Proof::Http("p".into()) };
        record.order = Some(pending("k", Some(challenge)));
        acme.keep(&bed.parts(), record);
    }
    let answered = acme.challenges();
    assert_eq!((answered.len(), answered[0].host.as_str()), (CHALLENGES, "h149.i2kit.dev"));
}

/// What is damaged of a record, with its host.
type Damage = (&'static str, fn(&mut Record));

#[test]
fn a_file_whose_certificate_or_key_is_damaged_has_the_ca_asked_anew_and_no_other_host() {
    let bed = Bed::new();
    let host = |name: &str| want(&format!("{name}.i2kit.dev"), "https://ca/dir");
    let damage: [Damage; 5] = [
        ("good", |_| {}),
        ("chain", |record| record.issued.as_mut().unwrap().chain.replace_range(60..64, "\u{e9}\u{1b}")),
        ("key", |record| record.issued.as_mut().unwrap().key.0.truncate(60)),
        ("other", |record| {
            record.issued.as_mut().unwrap().key.0 = rcgen::KeyPair::generate().unwrap().serialize_pem();
        }),
        ("order", |record| record.order = Some(pending("-----BEGIN PRIVATE KEY-----", None))),
    ];
    for (name, damage) in damage {
        let mut record = bed.issued(&host(name));
        damage(&mut record);
        files::save(&bed.home, &record).unwrap();
    }
    let acme = bed.open();
    for name in ["chain", "key", "other"] {
        let found = acme.find(&host(name));
        assert_eq!((found.certificate, found.served), (None, None), "{name}");
        let warning = found.warning.unwrap();
        assert!(warning.contains("the certificate that was stored cannot be served"), "{warning}");
        assert!(warning.contains("one of the local authority is served meanwhile"), "{warning}");
        let Next::Now(next) = acme.next(&wanted(&[host("good"), host(name)])) else { panic!("{name} waits") };
        assert_eq!(next, host(name));
    }
    let found = acme.find(&host("order"));
    assert!(found.certificate.is_some() && found.warning.unwrap().contains("the key that was stored"));
    assert_eq!(acme.find(&host("good")).warning, None);
    assert!(acme.find(&host("good")).certificate.is_some());
    assert!(matches!(acme.next(&wanted(&[host("good")])), Next::After(_)));
}

#[test]
fn a_clock_that_was_set_back_is_written_down_where_it_is_noticed() {
    let bed = Bed::new();
    let acme = bed.open();
    let want = want("a.i2kit.dev", "https://ca/dir");
    let mut record = Record::new(want.clone());
    let ahead = clock::wall() + 1_000_000_000_000;
    record.begin(ahead);
    record.fail(ahead, Failure::new("no"));
    acme.keep(&bed.parts(), record);
    acme.catch_up(&bed.parts());
    let stored = files::load(&bed.home).unwrap().records.remove(&want.id()).unwrap();
    assert!(stored.since <= clock::wall(), "{}", stored.since);
}

#[tokio::test]
async fn what_a_look_is_put_off_for_is_no_failure_and_the_order_is_kept() {
    let bed = Bed::new();
    let ca = TestAuthority::start(&bed.home).await;
    let mut record = Record::new(ca.want("a.i2kit.dev"));
    let limited = || {
        let problem = json!({"type": "urn:ietf:params:acme:error:rateLimited", "detail": "later"});
        let Reply(_, headers, body) = Reply::json(&problem);
        Reply(429, headers, body)
    };
    let date =
        httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_millis(clock::wall() + 600_000));
    // At the authorization, and then at the order: as JSON with seconds, and as a page with a date.
    ca.play("pending", move |path| (path == "/authorization").then(|| limited().with("Retry-After", "120")));
    let failure = bed.attempt(&mut record).await.unwrap_err();
    assert!(failure.reason.contains("later") && failure.reason.contains("rateLimited"), "{failure:?}");
    assert_eq!((failure.wish, failure.counts, failure.is_final), (Some(120_000), false, false));
    record.fail(clock::wall(), failure);
    assert_eq!((record.attempts, record.pause), (0, 120_000));
    let order = record.order.clone().unwrap();
    for status in [429, 503] {
        let date = date.clone();
        let page = move || Reply(status, vec![], b"<html>".to_vec()).with("Retry-After", &date);
        ca.play("pending", move |path| (path == "/order").then(&page));
        let failure = bed.attempt(&mut record).await.unwrap_err();
        assert!(failure.reason.contains(&format!("it answered with {status} ")), "{failure:?}");
        assert!(failure.wish.is_some_and(|wish| (1_000..=600_000).contains(&wish)), "{failure:?}");
        // A CA that is down is one of the failures after which pauses grow.
        assert_eq!((failure.counts, failure.limited), (status == 503, status == 429));
        record.fail(clock::wall(), failure);
        assert_eq!((record.order.as_ref(), ca.asked("/orders")), (Some(&order), 0));
    }
    // A problem of the CA's own loses no order either.
    let down = json!({"type": "urn:ietf:params:acme:error:serverInternal"});
    ca.play("pending", move |path| (path == "/order").then(|| Reply(500, vec![], down.to_string().into())));
    let failure = bed.attempt(&mut record).await.unwrap_err();
    assert!(!failure.is_final && failure.reason.contains("the status 500"), "{failure:?}");
    // A refusal of a further order is a failure, whose pause is the CA's.
    record.order = None;
    ca.play("pending", move |path| (path == "/orders").then(|| limited().with("Retry-After", "7200")));
    let failure = bed.attempt(&mut record).await.unwrap_err();
    assert_eq!((failure.wish, failure.counts, failure.limited), (Some(7_200_000), true, true));
    record.order = Some(order);
    ca.play("pending", |_| None);
    bed.attempt(&mut record).await.unwrap();
    assert_eq!((ca.asked("/orders"), record.issued.is_some()), (0, true));
}

#[tokio::test]
async fn nothing_that_a_ca_says_ends_an_attempt_otherwise_than_with_a_short_reason() {
    let bed = Bed::new();
    let ca = TestAuthority::start(&bed.home).await;
    let wide = "é\u{1b}[2J\u{202e}\n".repeat(10_000);
    let part = json!({"detail": "é".repeat(500), "identifier": {"type": "dns", "value": "é".repeat(500)}});
    let problem = |detail: &str, parts: usize| {
        let text = json!({"type": detail, "detail": detail, "subproblems": vec![&part; parts]}).to_string();
        Reply(403, vec![], text.into_bytes())
    };
    let text = |status, text: &str| Reply(status, vec![], text.as_bytes().to_vec());
    let directory =
        |nonce: &str| Reply::json(&json!({"newNonce": nonce, "newAccount": "a", "newOrder": "b"}));
    let order = |key: &str, value: &str, location: &str| {
        let mut order = json!({"status": "pending", "authorizations": [], "finalize": "https://127.0.0.1/"});
        order[key] = value.into();
        Reply::json(&order).with("Location", location)
    };
    let token = |token: &str| {
        let challenge =
            json!({"type": "http-01", "url": "https://127.0.0.1/", "token": token, "status": "pending"});
        let identifier = json!({"type": "dns", "value": "a"});
        Reply::json(&json!({"status": "pending", "identifier": identifier, "challenges": [challenge]}))
    };
    let scripts: Vec<(&str, Reply, &str)> = vec![
        ("/orders", problem(&wide, 0), "␛[2J"),
        ("/orders", problem("no", 400), "; for \"é"),
        ("/orders", text(403, "[]"), "403 Forbidden"),
        ("/orders", text(502, &"<html>é".repeat(100_000)), "502 Bad Gateway"),
        ("/orders", text(301, "{}").with("Location", "https://127.0.0.1/"), "301 Moved"),
        ("/orders", text(200, &"x".repeat(2 << 20)), "longer than 1048576 bytes"),
        ("/orders", order("status", &wide, "https://127.0.0.1/"), "unknown variant"),
        ("/orders", order("finalize", "x", "http://127.0.0.1/"), "scheme"),
        ("/orders", order("finalize", "x", &"x".repeat(5000)), "a URL of more than 2048"),
        ("/directory", text(404, &wide), "404 Not Found"),
        ("/directory", text(200, &wide), "newNonce"),
        ("/directory", directory("no URL \u{1}é"), "newNonce"),
        ("/directory", directory("http://127.0.0.1/"), ""),
        ("/nonce", text(503, ""), "503 Service Unavailable"),
        ("/account", text(418, ""), "418 I'm a teapot"),
        ("/account", Reply::json(&json!({})).with("Location", &"x".repeat(5000)), "a URL of more than 2048"),
        ("/authorization", token("../\"\r\n<script>"), "RFC 8555, 8.3"),
        ("/authorization", token(&"a".repeat(5000)), "RFC 8555, 8.3"),
        ("/certificate", text(200, &wide), "cannot be served"),
        ("/certificate", text(200, &"-----BEGIN".repeat(10_000)), "more than 65536 bytes"),
    ];
    for (path, answer, words) in scripts {
        // An account anew each time, too.
        drop(fs::remove_dir_all(bed.home.acme()));
        let shown = format!("{path} {} {words}", answer.0);
        let mut answer = Some(answer);
        ca.play("pending", move |asked| if asked == path { answer.take() } else { None });
        let failure = bed.attempt(&mut Record::new(ca.want("a.i2kit.dev"))).await.unwrap_err();
        assert!(failure.reason.contains(words), "{shown}: {}", failure.reason);
        assert!(failure.reason.len() <= TEXT_BYTES, "{shown}: {}", failure.reason.len());
        assert!(!failure.reason.chars().any(text::is_hidden), "{shown}: {}", failure.reason);
    }
}

#[tokio::test]
async fn a_pause_without_end_is_a_week_and_brings_nothing_down() {
    let bed = Bed::new();
    let ca = TestAuthority::start(&bed.home).await;
    ca.play("processing", |path| {
        let state = json!({"status": "processing", "authorizations": [], "finalize": "https://127.0.0.1/"});
        (path == "/order").then(|| Reply::json(&state).with("Retry-After", "18446744073709551615"))
    });
    let failure = bed.attempt(&mut Record::new(ca.want("a.i2kit.dev"))).await.unwrap_err();
    let wish = failure.wish.unwrap();
    assert!(wish <= LONGEST_WISH && wish > LONGEST_WISH - 600_000, "{failure:?}");
}

#[tokio::test]
async fn a_certificate_that_is_never_valid_or_no_more_is_refused() {
    let bed = Bed::new();
    let ca = TestAuthority::start(&bed.home).await;
    for (years, words) in [
        ((2020, 2020), "no time at which it is valid"),
        ((2090, 2020), "no time at which it is valid"),
        ((2019, 2020), "it expired at 2020-01-01 00:00:00 UTC by the clock of this computer"),
    ] {
        let mut record = Record::new(ca.want("a.i2kit.dev"));
        let file = bed.file(&record.want);
        ca.play("ready", move |path| {
            if path != "/certificate" {
                return None;
            }
            let stored: Record = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
            let chain = signed(&stored.want.host, &stored.order.unwrap().key.0, years);
            Some(Reply(200, vec![], chain.into_bytes()))
        });
        let failure = bed.attempt(&mut record).await.unwrap_err();
        // One that has expired by this clock may be good by another one.
        assert_eq!(failure.is_final, years != (2019, 2020), "{years:?}");
        assert!(failure.reason.contains(words), "{years:?}: {}", failure.reason);
        assert!(record.issued.is_none());
    }
}

#[tokio::test]
async fn a_certificate_that_cannot_be_written_is_served_and_the_ca_is_not_asked_again() {
    let bed = Bed::new();
    let ca = TestAuthority::start(&bed.home).await;
    let acme = bed.open();
    let want = ca.want("a.i2kit.dev");
    let wants = wanted(std::slice::from_ref(&want));
    acme.want(wants.values().cloned());
    let file = bed.file(&want);
    ca.play("ready", {
        let file = file.clone();
        move |path| {
            if path != "/certificate" {
                return None;
            }
            // From here on nothing can take the place of the file.
            let stored: Record = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
            fs::remove_file(&file).unwrap();
            fs::create_dir(&file).unwrap();
            let chain = signed(&stored.want.host, &stored.order.unwrap().key.0, (2020, 2090));
            Some(Reply(200, vec![], chain.into_bytes()))
        }
    });
    acme.ask(&bed.parts(), want.clone()).await;
    for _ in 0..3 {
        let found = acme.find(&want);
        assert!(found.certificate.is_some(), "{found:?}");
        let warning = found.warning.unwrap();
        assert!(warning.contains("is not written") && warning.contains("tried again"), "{warning}");
        assert!(matches!(acme.next(&wants), Next::After(pause) if pause > Duration::from_hours(24)));
        acme.catch_up(&bed.parts());
    }
    assert_eq!(ca.asked("/orders"), 1);
    fs::remove_dir(&file).unwrap();
    acme.catch_up(&bed.parts());
    assert_eq!(acme.find(&want).warning, None);
    let stored = files::load(&bed.home).unwrap().records.remove(&want.id()).unwrap();
    assert!(stored.issued.is_some() && stored.failure.is_none());
}

#[tokio::test]
async fn no_ca_is_asked_for_a_host_whose_record_cannot_be_written_and_others_go_on() {
    let bed = Bed::new();
    let ca = TestAuthority::start(&bed.home).await;
    let acme = bed.open();
    let (stuck, other) = (ca.want("a.i2kit.dev"), ca.want("b.i2kit.dev"));
    let wants = wanted(&[stuck.clone(), other.clone()]);
    acme.want(wants.values().cloned());
    // Where it is written first, there is a folder.
    let new = format!(".new-{}-{}.json", std::process::id(), stuck.id());
    fs::create_dir_all(bed.file(&stuck).with_file_name(new)).unwrap();
    ca.play("ready", |_| None);
    acme.ask(&bed.parts(), stuck.clone()).await;
    assert_eq!(ca.requests(), 0);
    let Next::Now(next) = acme.next(&wants) else { panic!("the other host waits") };
    assert_eq!(next, other);
    acme.ask(&bed.parts(), next).await;
    assert!(acme.find(&other).certificate.is_some());
    let warning = acme.find(&stuck).warning.unwrap();
    assert!(warning.contains("cannot write") && warning.contains("tried again at"), "{warning}");
    let Next::After(wait) = acme.next(&wants) else { panic!("it is tried again at once") };
    assert!(wait <= Duration::from_mins(1), "{wait:?}");
}

#[tokio::test]
async fn no_ca_is_asked_for_a_host_whose_record_cannot_be_read_until_it_can_be() {
    let bed = Bed::new();
    let ca = TestAuthority::start(&bed.home).await;
    let (stuck, other) = (ca.want("a.i2kit.dev"), ca.want("b.i2kit.dev"));
    let wants = wanted(&[stuck.clone(), other.clone()]);
    files::save(&bed.home, &bed.issued(&stuck)).unwrap();
    // A link is not followed.
    let (file, elsewhere) = (bed.file(&stuck), bed.home.acme().join("elsewhere"));
    fs::rename(&file, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
    let acme = bed.open();
    acme.want(wants.values().cloned());
    for _ in 0..2 {
        acme.ask(&bed.parts(), stuck.clone()).await;
        acme.catch_up(&bed.parts());
        acme.sweep(&bed.parts(), &wants);
    }
    assert!(ca.requests() == 0 && file.is_symlink());
    let warning = acme.find(&stuck).warning.unwrap();
    assert!(warning.contains("cannot read") && warning.contains("once it can be read"), "{warning}");
    assert!(matches!(acme.next(&wants), Next::Now(next) if next == other));
    let only = wanted(std::slice::from_ref(&stuck));
    assert!(matches!(acme.next(&only), Next::After(wait) if wait <= Duration::from_mins(1)));
    fs::rename(&elsewhere, &file).unwrap();
    acme.catch_up(&bed.parts());
    let found = acme.find(&stuck);
    assert!(found.certificate.is_some() && found.warning.is_none(), "{found:?}");
    assert!(matches!(acme.next(&only), Next::After(wait) if wait > Duration::from_mins(1)));
    assert_eq!(ca.requests(), 0);
}

#[tokio::test]
async fn a_record_that_is_damaged_as_a_whole_is_moved_aside_and_the_ca_asked() {
    let bed = Bed::new();
    let ca = TestAuthority::start(&bed.home).await;
    let want = ca.want("a.i2kit.dev");
    let file = bed.file(&want);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "{").unwrap();
    let acme = bed.open();
    ca.play("ready", |_| None);
    acme.ask(&bed.parts(), want.clone()).await;
    assert!(acme.find(&want).certificate.is_some());
    assert_eq!(fs::read_to_string(file.with_extension("json.broken")).unwrap(), "{");
}

#[tokio::test]
async fn an_account_that_the_ca_forgot_is_made_anew_also_where_its_address_changes() {
    let bed = Bed::new();
    let ca = TestAuthority::start(&bed.home).await;
    ca.play("ready", |_| None);
    bed.attempt(&mut Record::new(ca.want("a.i2kit.dev"))).await.unwrap();
    let mut want = ca.want("a.i2kit.dev");
    want.issuer.email = Some("ops@example.com".into());
    let problem = json!({"type": "urn:ietf:params:acme:error:accountDoesNotExist", "detail": "who?"});
    let mut forgotten = Some(Reply(400, vec![], problem.to_string().into()));
    ca.play("ready", move |path| {
        let known = || Reply::json(&json!({"status": "valid"}));
        (path == "/account/1").then(|| forgotten.take().unwrap_or_else(known))
    });
    let mut record = Record::new(want.clone());
    bed.attempt(&mut record).await.unwrap();
    assert_eq!((ca.asked("/account"), ca.asked("/account/1")), (1, 2));
    let stored = files::load_account(&bed.home, &want.issuer.directory).unwrap().unwrap();
    assert_eq!((stored.email, record.issued.is_some()), (want.issuer.email, true));
}

#[tokio::test]
async fn an_attempt_that_does_not_end_is_given_up() {
    let never = std::future::pending::<Result<(), Failure>>();
    let want = want("a.i2kit.dev", "https://ca/dir");
    let failure = order::within(Duration::from_millis(1), &want, never).await.unwrap_err();
    assert!(failure.reason.contains("took more than") && failure.counts && !failure.is_final, "{failure:?}");
}
