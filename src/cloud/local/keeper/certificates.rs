//! Certificates of Ingresses and of Services with TLS: read from Secrets, whose values are files of the local cloud, had from a CA by ACME, or signed
//! by the local authority for hosts that have neither. Those of Secrets are looked at once a day, a failure after 30 s, signed ones
//! after half of their life, when another one is signed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::cloud::CloudError;
use crate::cloud::local::acme::{self, Acme, Found, Want};
use crate::cloud::local::ca::{Authority, LEAF_DAYS, Stamp};
use crate::cloud::local::clock;
use crate::cloud::local::home::Home;
use crate::cloud::local::machine::secrets;
use crate::cloud::local::proxy::{Certificate, Flaw, PrivateKey, examine, lifetime};
use crate::manifest::api::Name;
use crate::plan::fleet::{HttpSecret, LOCAL_AUTHORITY, ServedCertificate};

const DAY: u64 = 24 * 60 * 60 * 1000;

/// After a failure it is tried again, in milliseconds.
const AGAIN: u64 = 30_000;

/// Hosts of an Ingress that are told of one by one.
const TOLD: usize = 20;

/// What a certificate is made from: the version of a Secret where it has one, and its hosts.
pub(super) type Source = (Option<HttpSecret>, Vec<String>);

/// A certificate that was looked at, or why there is none.
#[derive(Debug, Clone)]
struct Looked {
    certificate: Option<Certificate>,
    warnings: Vec<String>,
    /// When it was looked at, in milliseconds since the Unix epoch.
    since: u64,
    /// How long that is good, in milliseconds.
    good: u64,
    /// Whether the local authority signed it.
    is_signed: bool,
    /// Its last second, since the Unix epoch.
    expires: Option<u64>,
}

impl Looked {
    /// Whether it is looked at again at the time `now`. Where the clock was set back it counts from then on.
    fn is_due(&mut self, now: u64) -> bool {
        self.since = self.since.min(now);
        now - self.since >= self.good
    }

    /// The same for people.
    fn served(&self, (secret, hosts): &Source) -> Option<ServedCertificate> {
        let source = match secret {
            Some(secret) if !self.is_signed => format!("Secret {}", secret.secret),
            _ => LOCAL_AUTHORITY.to_owned(),
        };
        // One that is signed is for an address as well, and for other names of a Service.
        let hosts = if secret.is_none() && hosts.len() > 1 { hosts[..1].to_vec() } else { hosts.clone() };
        Some(ServedCertificate { hosts, source, expires: self.expires?, state: None })
    }
}

/// Certificates that were looked at, and the warnings that follow.
#[derive(Debug, Default)]
pub(super) struct Certificates(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    looked: BTreeMap<String, Looked>,
    warnings: BTreeMap<String, Vec<String>>,
    /// By environment and balancer.
    served: BTreeMap<(String, Name), Vec<ServedCertificate>>,
    /// The authority that signed.
    authority: Option<Stamp>,
}

impl Certificates {
    /// What `status` warns of, by environment.
    pub(super) fn warnings(&self, environment: &str) -> Vec<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.warnings.get(environment).cloned().unwrap_or_default()
    }

    /// The certificates that a balancer of an environment has.
    pub(super) fn served(&self, environment: &str, balancer: &Name) -> Vec<ServedCertificate> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.served.get(&(environment.to_owned(), balancer.clone())).cloned().unwrap_or_default()
    }

    /// The certificates that are needed, those of each balancer in its place. Reads and signs those that are new, and
    /// forgets those that are not needed any more.
    pub(super) fn find(&self, home: &Home, acme: &Acme, needs: &[Need]) -> Vec<Vec<Certificate>> {
        // Without the lock, which `status` takes: files are read and written here.
        let (mut before, authority) = {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            (std::mem::take(&mut kept.looked), kept.authority)
        };
        // What is served stays while there is no authority.
        let is_another = Authority::stamp(home).is_some_and(|now| authority.is_some_and(|then| then != now));
        let mut looked_at = BTreeMap::new();
        let mut warnings: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let now = clock::wall();
        let mut found = Vec::new();
        let mut served: BTreeMap<(String, Name), Vec<ServedCertificate>> = BTreeMap::new();
        for Need { environment, name, sources, acme: wants } in needs {
            let mut certificates = Vec::new();
            let shown = served.entry((environment.clone(), name.clone())).or_default();
            let mut told = Vec::new();
            let mut left_out = 0;
            for want in wants {
                let Found { certificate, served, warning, is_left_out } = acme.find(want);
                told.extend(warning);
                left_out += usize::from(is_left_out);
                certificates.extend(certificate);
                shown.extend(served);
            }
            let named = few(told, left_out).into_iter().map(|warning| format!("{name}: {warning}"));
            warnings.entry(environment.clone()).or_default().extend(named);
            let has_own: Vec<String> =
                certificates.iter().flat_map(|certificate| certificate.hosts.clone()).collect();
            let is_left = |(secret, hosts): &&Source| {
                secret.is_some()
                    || !hosts.first().is_some_and(|host| has_own.contains(&host.to_ascii_lowercase()))
            };
            for source in sources.iter().filter(is_left) {
                let key = format!("{environment}/{name}/{source:?}");
                let mut last = before.remove(&key).filter(|looked| !(looked.is_signed && is_another));
                let is_due = last.as_mut().is_none_or(|looked| looked.is_due(now));
                let looked = match last {
                    Some(looked) if !is_due => looked,
                    last => look(home, source, now, last),
                };
                let named = looked.warnings.iter().map(|warning| format!("{name}: {warning}"));
                warnings.entry(environment.clone()).or_default().extend(named);
                certificates.extend(looked.certificate.clone());
                shown.extend(looked.served(source).filter(|_| looked.certificate.is_some()));
                looked_at.insert(key, looked);
            }
            found.push(certificates);
        }
        let authority = Authority::stamp(home).or(authority);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Kept { looked: looked_at, warnings, served, authority };
        found
    }
}

/// Warnings about hosts that a CA gives certificates, as many as somebody reads.
fn few(mut warnings: Vec<String>, left_out: usize) -> Vec<String> {
    let more = warnings.len().saturating_sub(TOLD);
    warnings.truncate(TOLD);
    if more > 0 {
        warnings.push(format!(
            "{more} more of its hosts have no certificate by ACME yet, or one that has expired"
        ));
    }
    if left_out > 0 {
        warnings.push(acme::too_many(left_out));
    }
    warnings
}

/// What a balancer needs certificates of.
#[derive(Debug)]
pub(super) struct Need {
    pub(super) environment: String,
    pub(super) name: Name,
    pub(super) sources: Vec<Source>,
    /// Hosts that a CA gives a certificate.
    pub(super) acme: Vec<Want>,
}

/// Reads the certificate of a Secret, or has one signed; `last` is what it was before.
fn look(home: &Home, (secret, hosts): &Source, now: u64, last: Option<Looked>) -> Looked {
    let Some(secret) = secret else {
        return match sign(home, hosts) {
            Ok(certificate) => Looked {
                expires: expires(Some(&certificate)),
                certificate: Some(certificate),
                warnings: vec![],
                since: now,
                good: LEAF_DAYS * DAY / 2,
                is_signed: true,
            },
            Err(error) => {
                let warning = format!("no certificate can be signed for {}: {error}", hosts.join(", "));
                Looked {
                    certificate: None,
                    warnings: vec![warning],
                    since: now,
                    good: AGAIN,
                    is_signed: true,
                    expires: None,
                }
            }
        };
    };
    let name = &secret.secret;
    let flaws = match read(home, secret) {
        Ok((chain, key)) => {
            let flaws = examine(&chain, &key, hosts, now / 1000);
            if !flaws.iter().any(|flaw| matches!(flaw, Flaw::Unusable(_))) {
                let warnings = flaws.iter().map(|flaw| {
                    let (Flaw::Refused(reason) | Flaw::Unusable(reason)) = flaw;
                    format!(
                        "the certificate of the Secret {name}: {reason}; clients refuse such a one. Renew it and deploy again"
                    )
                });
                let certificate = Certificate { hosts: hosts.clone(), chain, key: PrivateKey(key) };
                return Looked {
                    expires: expires(Some(&certificate)),
                    certificate: Some(certificate),
                    warnings: warnings.collect(),
                    since: now,
                    good: DAY,
                    is_signed: false,
                };
            }
            flaws
        }
        Err(reason) => vec![Flaw::Unusable(reason)],
    };
    let reasons: Vec<String> =
        flaws.into_iter().map(|(Flaw::Unusable(reason) | Flaw::Refused(reason))| reason).collect();
    let warning = format!(
        "the certificate of the Secret {name} cannot be served: {}; one of the local authority is served instead. Correct \
         the Secret and deploy again",
        reasons.join(", ")
    );
    // One that was signed in its place is kept: each new one would be another change of what is served.
    let signed = last.filter(|last| last.is_signed).and_then(|last| last.certificate);
    let certificate = signed.or_else(|| if hosts.is_empty() { None } else { sign(home, hosts).ok() });
    let expires = expires(certificate.as_ref());
    Looked { certificate, warnings: vec![warning], since: now, good: AGAIN, is_signed: true, expires }
}

fn expires(certificate: Option<&Certificate>) -> Option<u64> {
    certificate.and_then(|certificate| lifetime(&certificate.chain)).map(|(_, until)| until)
}

/// Chain and key of a Secret of type `kubernetes.io/tls`.
fn read(home: &Home, secret: &HttpSecret) -> Result<(String, String), String> {
    let versions = [(secret.secret.clone(), Some(secret.version.clone()))].into();
    let mut values = secrets::values(&home.secrets(), &versions).map_err(|error| error.to_string())?;
    let mut values = values.remove(&secret.secret).unwrap_or_default();
    let mut text = |key: &str| {
        let value = values.remove(key).ok_or_else(|| format!("it has no `{key}`"))?;
        String::from_utf8(value).map_err(|_| format!("`{key}` is no PEM"))
    };
    Ok((text("tls.crt")?, text("tls.key")?))
}

fn sign(home: &Home, hosts: &[String]) -> Result<Certificate, CloudError> {
    let (authority, _) = Authority::make(home)?;
    let signed = authority.sign(hosts)?;
    Ok(Certificate { hosts: hosts.to_vec(), chain: signed.chain, key: PrivateKey(signed.key) })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::cloud::local::log::Log;

    #[test]
    fn another_authority_signs_anew_and_without_one_what_is_served_stays() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(&root.path().join("i2kit"), root.path(), PathBuf::new());
        let certificates = Certificates::default();
        let hosts = |host: &str| vec![host.to_owned()];
        let secret = HttpSecret { secret: "missing".into(), version: "0".repeat(64), hosts: hosts("b.test") };
        let need = Need {
            environment: "e".into(),
            name: Name { namespace: "default".into(), name: "web".into() },
            sources: vec![(None, hosts("a.test")), (Some(secret), hosts("b.test"))],
            acme: vec![],
        };
        home.create().unwrap();
        let acme = Acme::open(&home, &Log::open(&home.log()).unwrap());
        let find = || certificates.find(&home, &acme, std::slice::from_ref(&need)).remove(0);
        let first = find();
        assert_eq!(first.len(), 2);
        assert_eq!(find(), first);
        // A Secret that cannot be used is looked at again, and what was signed in its place stays.
        for looked in certificates.0.lock().unwrap().looked.values_mut() {
            looked.good = if looked.warnings.is_empty() { looked.good } else { 0 };
        }
        assert_eq!(find(), first);
        Authority::remove(&home).unwrap();
        assert_eq!(find(), first);
        let (_, made) = Authority::make(&home).unwrap();
        assert!(made);
        let next = find();
        assert!(next.iter().zip(&first).all(|(next, first)| next.chain != first.chain));
        assert_eq!(find(), next);
        assert_eq!(certificates.warnings("e").len(), 1);
        let served = certificates.served("e", &need.name);
        assert_eq!(served.iter().map(|one| one.hosts[0].as_str()).collect::<Vec<_>>(), ["a.test", "b.test"]);
        assert!(served.iter().all(|one| one.source == LOCAL_AUTHORITY && one.expires > clock::wall() / 1000));
    }

    #[test]
    fn a_clock_that_was_set_back_delays_no_look() {
        let mut looked = Looked {
            certificate: None,
            warnings: vec![],
            since: 400 * DAY,
            good: AGAIN,
            is_signed: true,
            expires: None,
        };
        assert!(!looked.is_due(400 * DAY) && looked.is_due(400 * DAY + AGAIN));
        assert!(!looked.is_due(DAY) && !looked.is_due(DAY + AGAIN - 1) && looked.is_due(DAY + AGAIN));
    }

    #[test]
    fn of_many_hosts_few_are_told_of_one_by_one() {
        let warnings = |count| vec!["x".to_owned(); count];
        assert_eq!(few(warnings(TOLD), 0).len(), TOLD);
        let told = few(warnings(1000), 7);
        assert_eq!(told.len(), TOLD + 2);
        assert!(told[TOLD].starts_with("980 more of its hosts"), "{told:?}");
        assert!(told[TOLD + 1].starts_with("7 of its hosts are beyond the 1000"), "{told:?}");
    }
}
