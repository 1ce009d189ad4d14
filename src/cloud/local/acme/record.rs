//! What is known of one host at one CA, and when the CA is asked again. Pure.
//!
//! A certificate is renewed after two thirds of its life. After a failure the pauses are doubled, from five minutes to a
//! day: Let's Encrypt allows five failed validations of a host an hour. Times are milliseconds of the wall clock, as a
//! certificate's are; one that was set back makes nothing later than its pause, and one that is earlier than a certificate
//! came has it left alone.

use std::{mem, slice};

use i2kit_spec::status::{TEXT_BYTES, cut};
use rcgen::KeyPair;
use serde::{Deserialize, Serialize};

use crate::cloud::CloudError;
use crate::cloud::local::proxy::{Challenge, Flaw, PrivateKey, examine, lifetime};
use crate::manifest::api::AcmeIssuer;
use crate::oci::Digest;
use crate::text;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Hosts at most, so that no manifest makes work without end.
pub(super) const HOSTS: usize = 1000;

/// After the first failure.
const FIRST_PAUSE: u64 = 5 * MINUTE;

/// After many.
const LONGEST_PAUSE: u64 = DAY;

/// The longest pause that a CA is obeyed in.
pub(super) const LONGEST_WISH: u64 = 7 * DAY;

/// After an attempt that is not counted: one that the CA put off, or one that this computer could not write down.
const SHORTEST_WISH: u64 = MINUTE;

/// Before a renewal, whatever life a CA gives.
const SHORTEST_RENEWAL: u64 = 30_000;

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
    /// How often its certificate was refused for its time alone.
    #[serde(default)]
    pub(super) looks: u32,
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
    /// Whether it is among those after which pauses are doubled.
    pub(super) counts: bool,
}

impl Failure {
    /// One that another attempt may go on from. A server may have chosen the text: it is cut, and can be shown.
    pub(super) fn new(reason: &str) -> Self {
        let mut reason: String = reason.chars().take(TEXT_BYTES + 1).collect();
        reason = text::line(&reason).into_owned();
        cut(&mut reason);
        Self { reason, is_final: false, limited: false, wish: None, counts: true }
    }

    /// One of this computer's files: the CA is not to blame, nor is it asked.
    pub(super) fn local(error: &CloudError) -> Self {
        Self { counts: false, ..Self::new(&error.to_string()) }
    }
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

    /// How long to wait before the next attempt, in milliseconds. By a clock that is known to be wrong none begins.
    pub(super) fn wait(&self, now: u64) -> u64 {
        let pause = self.pause.saturating_sub(now.saturating_sub(self.since));
        pause.max(self.arrives_in(now))
    }

    /// How long before the certificate in hand came it is by the clock: more than nothing means that the clock is wrong, as
    /// that of a computer that begins in 1970. A certificate that ended before it came says nothing.
    fn arrives_in(&self, now: u64) -> u64 {
        let issued = self.issued.as_ref().filter(|issued| issued.at <= issued.expires.saturating_mul(1000));
        issued.map_or(0, |issued| issued.at.saturating_sub(now))
    }

    /// When the next attempt is due, on the wall clock.
    pub(super) fn due(&self) -> u64 {
        self.since.saturating_add(self.pause)
    }

    /// Counts pauses from `now` where the clock was set back since they began: otherwise they would not end before the clock
    /// is where it was. A renewal comes before the certificate ends nevertheless. Where the certificate in hand came later
    /// than `now`, the clock is wrong and will be set right: then pauses stay, or every host were due at once. Whether anything
    /// changed.
    pub(super) fn turn_back(&mut self, now: u64) -> bool {
        if self.since <= now {
            return false;
        }
        if self.arrives_in(now) > 0 {
            // Other hosts do not wait for a time that may be far away.
            return mem::take(&mut self.limited);
        }
        self.since = now;
        if let Some(issued) = &mut self.issued {
            issued.at = issued.at.min(now);
            let left = issued.expires.saturating_mul(1000).saturating_sub(now);
            self.pause = if self.attempts == 0 { self.pause.min(left / 3 * 2) } else { self.pause };
        }
        true
    }

    /// Forgets what of a record that was read cannot be used, so that the CA is asked anew. Says what that was.
    pub(super) fn mend(&mut self, now: u64) -> Option<String> {
        let host = slice::from_ref(&self.want.host);
        let flaws =
            self.issued.as_ref().map(|issued| examine(&issued.chain, &issued.key.0, host, now / 1000));
        let unusable = flaws.into_iter().flatten().find_map(|flaw| match flaw {
            Flaw::Unusable(reason) => Some(reason),
            Flaw::Refused(_) => None,
        });
        let certificate = unusable.map(|reason| {
            self.issued = None;
            // The pause was that before a renewal; one after failures is the CA's.
            self.pause = if self.attempts == 0 { 0 } else { self.pause };
            format!("the certificate that was stored cannot be served: {reason}")
        });
        let is_damaged = |order: &mut Pending| KeyPair::from_pem(&order.key.0).is_err();
        let order =
            self.order.take_if(is_damaged).map(|_| "the key that was stored cannot be read".to_owned());
        let told: Vec<String> = certificate.into_iter().chain(order).collect();
        if told.is_empty() {
            return None;
        }
        let reason = told.join("; ");
        self.failure = Some(Failure::new(&reason).reason);
        Some(reason)
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
        let Failure { reason, is_final, limited, wish, counts } = failure;
        self.failure = Some(reason);
        self.limited = limited;
        self.under_way = false;
        self.since = now;
        let wish = wish.unwrap_or(0).min(LONGEST_WISH);
        if counts {
            self.pause = self.pause.max(wish);
        } else {
            self.attempts = self.attempts.saturating_sub(1);
            self.pause = wish.max(SHORTEST_WISH);
        }
        if is_final {
            self.order = None;
        }
    }

    /// It has a certificate.
    pub(super) fn succeed(&mut self, now: u64, chain: String, key: PrivateKey) {
        // One that cannot be read is not stored: see `order`.
        let (from, expires) = lifetime(&chain).unwrap_or_default();
        // What is left of it where it came late, such as an order's that was valid long ago: it is not due after its end.
        let left = expires.saturating_mul(1000).saturating_sub(now);
        let life = expires.saturating_sub(from).saturating_mul(1000).min(left);
        let issued = Issued { chain, key, at: now, expires };
        *self = Self { issued: Some(issued), since: now, ..Self::new(self.want.clone()) };
        // From when it came, not from its own times: a clock that is wrong must not have it renewed without end.
        self.pause = self.varied(life / 3 * 2).max(SHORTEST_RENEWAL);
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
        let random = digest.as_bytes().iter().take(4).fold(0, |number, byte| number << 8 | u128::from(*byte));
        // A CA may give a life of centuries.
        let less = u128::from(pause / JITTER) * random / u128::from(u32::MAX);
        pause.saturating_sub(u64::try_from(less).unwrap_or(0))
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
        Failure { limited, wish, ..Failure::new("no") }
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
    fn a_clock_that_was_set_back_makes_no_pause_longer() {
        let (now, year) = (400 * DAY, 365 * DAY);
        let mut record = record();
        record.begin(now);
        record.fail(now, failure(true, None));
        let back = now - year;
        assert!(record.turn_back(back) && !record.turn_back(back), "it is noticed once");
        for after in [FIRST_PAUSE, DAY] {
            assert_eq!((record.wait(back + after), record.shared_wait(back + after)), (0, 0), "{after}");
        }
        // A renewal counts from then on, and comes before the certificate's end.
        record.issued = Some(Issued {
            chain: String::new(),
            key: PrivateKey(String::new()),
            at: now,
            expires: (back + 9 * DAY) / 1000,
        });
        (record.since, record.pause, record.attempts) = (now, 60 * DAY, 0);
        assert!(record.turn_back(back));
        assert_eq!((record.wait(back), record.issued.unwrap().at), (6 * DAY, back));
    }

    /// A certificate, by its lifetime in seconds.
    fn chain(from: u64, until: u64) -> String {
        let time = |seconds| rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(seconds);
        let mut params = rcgen::CertificateParams::new(vec!["shop.example.com".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (time(from), time(until));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn a_certificate_that_came_late_is_renewed_before_its_end() {
        let now = 20_000 * DAY;
        let mut record = record();
        let (from, until) = (now - 20 * HOUR, now + 4 * HOUR);
        record.succeed(now, chain(from / 1000, until / 1000), PrivateKey("k".into()));
        assert_eq!(record.expires(), Some(until / 1000));
        assert!(record.due() < until, "{} of {until}", record.due());
        // By a clock that is behind it has no more than its own life.
        record.succeed(0, chain(from / 1000, until / 1000), PrivateKey("k".into()));
        assert!(record.due() <= DAY / 3 * 2, "{}", record.due());
    }

    #[test]
    fn a_clock_that_begins_in_1970_renews_nothing_and_moves_no_pause() {
        let now = 20_000 * DAY;
        let mut record = record();
        record.succeed(now, chain(now / 1000, now / 1000 + 90 * DAY / 1000), PrivateKey("k".into()));
        let before = record.clone();
        assert!(!record.turn_back(0) && record.wait(0) > 0);
        assert_eq!(record, before);
        let (pause, least) = (60 * DAY, 60 * DAY - 60 * DAY / JITTER);
        assert!((least..=pause).contains(&record.wait(now)), "{}", record.wait(now));
        // A renewal that was under way waits too, and other hosts do not.
        record.begin(now + 60 * DAY);
        record.limited = true;
        record.resume();
        let before = record.since;
        assert!(record.turn_back(0) && !record.turn_back(0));
        assert!(record.wait(0) > 0 && record.shared_wait(0) == 0 && record.since == before);
        assert_eq!(record.wait(before), 0);
        // A clock that is set back to after it came is one like any other.
        assert!(record.turn_back(now + DAY));
        assert_eq!(record.since, now + DAY);
    }

    #[test]
    fn what_is_put_off_is_not_counted_and_goes_on_when_the_ca_says() {
        let mut record = record();
        for _ in 0..9 {
            record.begin(0);
            record.fail(0, Failure { counts: false, ..failure(true, Some(90_000)) });
            assert_eq!((record.attempts, record.wait(0)), (0, 90_000));
        }
        record.begin(0);
        record.fail(0, Failure { counts: false, ..failure(true, Some(1)) });
        assert_eq!(record.wait(0), MINUTE, "no CA has itself asked without end");
    }

    #[test]
    fn a_life_of_any_length_has_its_renewal() {
        for life in [0, 1, DAY, 90 * DAY, 80 * 365 * DAY, u64::MAX] {
            let varied = record().varied(life);
            assert!(varied <= life && varied >= life - life / JITTER, "{life}: {varied}");
        }
    }

    #[test]
    fn a_text_of_the_ca_is_cut_between_characters_and_can_be_shown() {
        for length in TEXT_BYTES - 4..TEXT_BYTES + 4 {
            let reason = Failure::new(&("x".repeat(length) + &"é\u{1b}[2J\u{202e}\n".repeat(100_000))).reason;
            assert!(reason.len() <= TEXT_BYTES && reason.ends_with('…'), "{reason}");
            assert!(!reason.chars().any(text::is_hidden), "{reason}");
        }
    }

    #[test]
    fn an_order_is_kept_until_it_is_lost() {
        let mut record = record();
        record.order = Some(Pending {
            url: "https://ca/1".into(),
            key: PrivateKey("k".into()),
            by_tls: false,
            challenge: None,
            looks: 0,
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
