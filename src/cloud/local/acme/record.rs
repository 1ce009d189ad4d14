//! What is known of one host at one CA, and when the CA is asked again. Pure.
//!
//! A certificate is renewed after two thirds of its life. After a failure the pauses are doubled, from five minutes to a
//! day: Let's Encrypt allows five failed validations of a host an hour. Times are milliseconds of the wall clock, as a
//! certificate's are; one that was set back makes nothing later than its pause.

use i2kit_spec::status::cut;
use serde::{Deserialize, Serialize};

use crate::cloud::local::proxy::{Challenge, PrivateKey, lifetime};
use crate::manifest::api::AcmeIssuer;
use crate::oci::Digest;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// After the first failure.
const FIRST_PAUSE: u64 = 5 * MINUTE;

/// After many.
const LONGEST_PAUSE: u64 = DAY;

/// The longest pause that a CA is obeyed in.
const LONGEST_WISH: u64 = 7 * DAY;

/// How long other hosts wait for a CA that refused one of them for its number of requests, at most.
const LONGEST_SHARED: u64 = HOUR;

/// So many attempts whose process ended in between are gone on with at once.
const RESUMED: u32 = 3;

/// A pause varies by this part of it.
const JITTER: u64 = 8;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(in crate::cloud::local) struct Want {
    /// The host.
    pub(in crate::cloud::local) host: String,
    /// The CA.
    pub(in crate::cloud::local) issuer: AcmeIssuer,
}

impl Want {
    /// What names its file: the same host at another CA is another one; an address or trust that changes is not.
    pub(super) fn id(&self) -> String {
        let text = format!("{}\n{}", self.issuer.directory, self.host);
        hex::encode(&Digest::of(text.as_bytes()).as_bytes()[..16])
    }

    /// The host of the CA, for messages.
    pub(super) fn authority(&self) -> String {
        let url = url::Url::parse(&self.issuer.directory).ok();
        url.and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_else(|| self.issuer.directory.clone())
    }
}

/// A host at a CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// What is asked for.
    pub(super) want: Want,
    /// The certificate that is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) issued: Option<Issued>,
    /// The order that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) order: Option<Pending>,
    /// Attempts without a certificate since the last one that had one. Counted when they begin: one whose process was
    /// killed is one.
    #[serde(default)]
    pub(super) attempts: u32,
    /// When the last attempt began, or ended.
    #[serde(default)]
    pub(super) since: u64,
    /// How long to wait after that.
    #[serde(default)]
    pub(super) pause: u64,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failure: Option<String>,
    /// Whether it failed for the number of requests.
    #[serde(default)]
    pub(super) limited: bool,
    /// Whether an attempt is under way, or ended with its process.
    #[serde(default)]
    pub(super) under_way: bool,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Issued {
    /// With those between it and the CA, as PEM.
    pub(super) chain: String,
    /// Its key, as PEM.
    pub(super) key: PrivateKey,
    /// When it came.
    pub(super) at: u64,
    /// Its last second, since the Unix epoch.
    pub(super) expires: u64,
}

/// An order that was placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pending {
    /// Where the CA has it.
    pub(super) url: String,
    /// The key that the certificate is to have, as PEM.
    pub(super) key: PrivateKey,
    /// Whether the host is proved by `tls-alpn-01`, and not by `http-01`.
    #[serde(default)]
    pub(super) by_tls: bool,
    /// What the CA is answered. It is answered for as long as there is the order, whichever process placed it: the CA may
    /// look at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) challenge: Option<Challenge>,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// In words.
    pub(super) reason: String,
    /// Whether the order is lost: the next attempt places another one.
    pub(super) is_final: bool,
    /// Whether the CA refused for the number of requests.
    pub(super) limited: bool,
    /// How long the CA asks to wait, in milliseconds.
    pub(super) wish: Option<u64>,
}

impl Record {
    /// Of a host that nothing is known of.
    pub(super) fn new(want: Want) -> Self {
        Self {
            want,
            issued: None,
            order: None,
            attempts: 0,
            since: 0,
            pause: 0,
            failure: None,
            limited: false,
            under_way: false,
        }
    }

    /// Of an earlier process: what it began is gone on with at once, unless that has been so several times.
    pub(super) fn resume(&mut self) {
        if self.under_way && self.attempts <= RESUMED {
            self.pause = 0;
        }
        self.under_way = false;
    }

    /// How long to wait before the next attempt, in milliseconds.
    pub(super) fn wait(&self, now: u64) -> u64 {
        // A clock that was set back does not make it longer.
        self.pause.saturating_sub(now.saturating_sub(self.since))
    }

    /// How long other hosts at the same CA are to wait.
    pub(super) fn shared_wait(&self, now: u64) -> u64 {
        let pause = self.pause.min(LONGEST_SHARED);
        if self.limited { pause.saturating_sub(now.saturating_sub(self.since)) } else { 0 }
    }

    /// An attempt begins: it is counted, with the pause that follows where nobody sees its end.
    pub(super) fn begin(&mut self, now: u64) {
        self.attempts = self.attempts.saturating_add(1);
        self.since = now;
        self.pause = self.varied(pause(self.attempts));
        self.limited = false;
        self.under_way = true;
    }

    /// Whether an order that is placed now is proved by `tls-alpn-01`: by turns, since only one of the two ports may lead here.
    pub(super) fn takes_turn_by_tls(&self) -> bool {
        self.attempts.is_multiple_of(2)
    }

    /// It failed.
    pub(super) fn fail(&mut self, now: u64, failure: Failure) {
        let Failure { mut reason, is_final, limited, wish } = failure;
        // A server chose the text.
        cut(&mut reason);
        self.failure = Some(reason);
        self.limited = limited;
        self.under_way = false;
        self.since = now;
        self.pause = self.pause.max(wish.unwrap_or(0).min(LONGEST_WISH));
        if is_final {
            self.order = None;
        }
    }

    /// It has a certificate.
    pub(super) fn succeed(&mut self, now: u64, chain: String, key: PrivateKey) {
        // One that cannot be read is not stored: see `order`.
        let (from, expires) = lifetime(&chain).unwrap_or_default();
        let life = expires.saturating_sub(from) * 1000;
        let issued = Issued { chain, key, at: now, expires };
        *self = Self { issued: Some(issued), since: now, ..Self::new(self.want.clone()) };
        // From when it came, not from its own times: a clock that is wrong must not have it renewed without end.
        self.pause = self.varied(life / 3 * 2).max(1000);
    }

    /// The last second of the certificate, since the Unix epoch.
    pub(super) fn expires(&self) -> Option<u64> {
        self.issued.as_ref().map(|issued| issued.expires)
    }

    /// A little less than `pause`, so that hosts that began at once do not go on at once: by what nobody else knows, the
    /// key, where there is one.
    fn varied(&self, pause: u64) -> u64 {
        let key =
            self.issued.as_ref().map(|issued| &issued.key).or(self.order.as_ref().map(|order| &order.key));
        let key = key.map_or("", |key| key.0.as_str());
        let text = format!("{}\n{key}\n{}\n{}", self.want.host, self.attempts, self.since);
        let digest = Digest::of(text.as_bytes());
        let random = digest.as_bytes().iter().take(4).fold(0, |number, byte| number << 8 | u64::from(*byte));
        pause - (pause / JITTER) * random / u64::from(u32::MAX)
    }
}

/// The pause after so many failures, without jitter.
fn pause(attempts: u32) -> u64 {
    let doubled = 1_u64.checked_shl(attempts.saturating_sub(1).min(32)).unwrap_or(u64::MAX);
    FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let issuer =
            AcmeIssuer { directory: "https://ca.example.com/dir".into(), email: None, ca_bundle: None };
        Record::new(Want { host: "shop.example.com".into(), issuer })
    }

    fn failure(limited: bool, wish: Option<u64>) -> Failure {
        Failure { reason: "no".into(), is_final: false, limited, wish }
    }

    #[test]
    fn pauses_double_up_to_a_day_and_vary() {
        let mut record = record();
        let now = 1_000_000_000;
        assert_eq!(record.wait(now), 0, "nothing was tried yet");
        let mut last = 0;
        for attempt in 1..=40 {
            record.begin(now);
            record.fail(now, failure(false, None));
            let (wait, most) = (record.wait(now), pause(attempt));
            assert!(wait <= most && wait >= most - most / JITTER, "{attempt}: {wait} of {most}");
            assert!(wait >= last || most == DAY, "{attempt}");
            last = wait;
        }
        assert_eq!(pause(40), DAY);
        // Fewer than five in the first hour.
        let within_an_hour = (1..).scan(0, |sum, attempt| {
            let at = *sum;
            *sum += pause(attempt) - pause(attempt) / JITTER;
            Some(at)
        });
        assert!(within_an_hour.take_while(|at| *at < HOUR).count() <= 4);
    }

    #[test]
    fn an_attempt_whose_process_was_killed_counts() {
        let mut record = record();
        record.begin(5_000);
        let stored: Record = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        assert_eq!(stored, record);
        assert!(stored.wait(5_000) > 4 * MINUTE);
        assert_eq!(stored.wait(5_000 + FIRST_PAUSE), 0);
        // A clock that was set back a year waits no longer than the pause.
        assert!(stored.wait(0) <= FIRST_PAUSE);
        // Its successor goes on at once, but not without end.
        for killed in 1..=RESUMED + 2 {
            let mut next = record.clone();
            next.resume();
            assert_eq!(next.wait(5_000) == 0, killed <= RESUMED, "{killed}");
            next.begin(5_000);
            record = next;
        }
        record.fail(5_000, failure(false, None));
        record.attempts = 1;
        record.resume();
        assert!(record.wait(5_000) > 0, "it ended, and not with its process");
    }

    #[test]
    fn a_ca_is_obeyed_within_bounds_and_other_hosts_wait_an_hour_at_most() {
        let mut record = record();
        record.begin(0);
        record.fail(0, failure(true, Some(30 * DAY)));
        assert_eq!(record.wait(0), LONGEST_WISH);
        assert_eq!(record.shared_wait(0), HOUR);
        assert_eq!(record.shared_wait(2 * HOUR), 0);
        record.begin(LONGEST_WISH);
        record.fail(LONGEST_WISH, failure(false, Some(1)));
        assert!(record.wait(LONGEST_WISH) > FIRST_PAUSE, "it asked for less than the pause");
        assert_eq!(record.shared_wait(LONGEST_WISH), 0);
    }

    #[test]
    fn an_order_is_kept_until_it_is_lost() {
        let mut record = record();
        record.order = Some(Pending {
            url: "https://ca/1".into(),
            key: PrivateKey("k".into()),
            by_tls: false,
            challenge: None,
        });
        record.fail(0, failure(false, None));
        assert!(record.order.is_some());
        record.fail(0, Failure { is_final: true, ..failure(false, None) });
        assert!(record.order.is_none());
    }

    #[test]
    fn another_ca_is_another_record_and_another_address_is_not() {
        let want = record().want;
        let with = |change: &dyn Fn(&mut AcmeIssuer)| {
            let mut other = want.clone();
            change(&mut other.issuer);
            other.id()
        };
        assert_ne!(want.id(), with(&|issuer| issuer.directory.push('x')));
        assert_eq!(want.id(), with(&|issuer| issuer.email = Some("a@b.example".into())));
        assert_eq!(want.authority(), "ca.example.com");
    }
}
