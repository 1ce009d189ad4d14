//! What `status` says of a host: the certificate that is served, what is waited for, and why.

use super::record::{HOSTS, Issued, Record, Want};
use crate::cloud::local::proxy::Certificate;
use crate::plan::fleet::ServedCertificate;

/// A certificate of a host, and what `status` says of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::cloud::local) struct Found {
    /// What is served; none while the first one is waited for.
    pub(in crate::cloud::local) certificate: Option<Certificate>,
    /// The same for people.
    pub(in crate::cloud::local) served: Option<ServedCertificate>,
    /// What is waited for, and why the last attempt failed.
    pub(in crate::cloud::local) warning: Option<String>,
    /// Whether the host is one of too many: no CA is asked.
    pub(in crate::cloud::local) is_left_out: bool,
}

impl Found {
    /// Of a host that is one of too many.
    pub(super) fn left_out() -> Self {
        Self { is_left_out: true, ..Self::default() }
    }
}

/// The warning about so many hosts that are left out.
pub(in crate::cloud::local) fn too_many(hosts: usize) -> String {
    format!(
        "{hosts} of its hosts are beyond the {HOSTS} that have certificates by ACME: those of the local authority are served. \
         Deploy fewer public hosts, or give these certificates in Secrets"
    )
}

/// What is known of a host that is asked about.
pub(super) struct Asked<'a> {
    pub(super) want: &'a Want,
    /// Its own record.
    pub(super) record: Option<&'a Record>,
    /// The record whose certificate is served, be it that of another CA.
    pub(super) issued: Option<&'a Record>,
    /// Why its record cannot be written.
    pub(super) unsaved: Option<&'a str>,
    /// Why its record cannot be read.
    pub(super) unread: Option<&'a str>,
    /// Whether the CA is being asked.
    pub(super) is_asking: bool,
    /// Milliseconds since the Unix epoch.
    pub(super) now: u64,
}

impl Asked<'_> {
    /// The answer; without a warning while files are not read.
    pub(super) fn found(&self, is_loaded: bool) -> Found {
        let host = &self.want.host;
        let certificate = self.issued.and_then(|record| record.issued.as_ref()).map(|issued| {
            let Issued { chain, key, .. } = issued.clone();
            Certificate { hosts: vec![host.clone()], chain, key }
        });
        let served = self.issued.and_then(|issued| {
            let next = self.record.filter(|_| issued.want.id() == self.want.id()).map(Record::due);
            let state = if self.is_asking {
                Some("is being renewed".to_owned())
            } else {
                next.map(|next| format!("renewal at {}", at(next / 1000)))
            };
            let (hosts, source) = (vec![host.clone()], issued.want.authority());
            Some(ServedCertificate { hosts, source, expires: issued.expires()?, state })
        });
        let warning = is_loaded.then(|| self.warning()).flatten();
        Found { certificate, served, warning, is_left_out: false }
    }

    fn warning(&self) -> Option<String> {
        let Self { want, record, .. } = self;
        let host = &want.host;
        let again = match record {
            _ if self.is_asking => "it is tried just now".to_owned(),
            Some(record) => format!("it is tried again at {}", at(record.due() / 1000)),
            None => "it is tried next".to_owned(),
        };
        let until = self.issued.and_then(Record::expires);
        let ended = until.filter(|until| until.saturating_mul(1000) < self.now).map(at);
        let meanwhile = match (&ended, until) {
            (Some(ended), _) => {
                format!("the last one, which expired at {ended}, is served meanwhile: clients refuse it")
            }
            (None, Some(_)) => "the last one is served meanwhile".to_owned(),
            (None, None) => "one of the local authority is served meanwhile".to_owned(),
        };
        if let Some(reason) = self.unread {
            return Some(format!(
                "no certificate by ACME for {host}: {reason}; the CA is asked once it can be read, and {meanwhile}"
            ));
        }
        if let Some(reason) = record.and_then(|record| record.failure.as_ref()) {
            return Some(format!("no certificate by ACME for {host}: {reason}; {again}, and {meanwhile}"));
        }
        if let Some(reason) = self.unsaved {
            return Some(format!(
                "what is known of the certificate of {host} is not written: {reason}; it is tried again"
            ));
        }
        if record.is_some_and(|record| record.issued.is_some()) {
            return ended
                .map(|_| format!("the certificate of {host} is due for renewal; {again}, and {meanwhile}"));
        }
        let authority = want.authority();
        Some(format!("a certificate for {host} is waited for from {authority}; {meanwhile}"))
    }
}

/// A time as people read it, in UTC.
pub(super) fn at(seconds: u64) -> String {
    let time = chrono::DateTime::from_timestamp(seconds.cast_signed(), 0).unwrap_or_default();
    time.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::local::acme::record::Failure;
    use crate::cloud::local::proxy::PrivateKey;
    use crate::manifest::api::AcmeIssuer;

    #[test]
    fn what_is_served_while_a_renewal_fails_is_said_also_when_it_has_expired() {
        let issuer = AcmeIssuer { directory: "https://ca.test/dir".into(), email: None, ca_bundle: None };
        let want = Want { host: "a.i2kit.dev".into(), issuer };
        let (key, chain) = (PrivateKey(String::new()), String::new());
        let mut record = Record::new(want.clone());
        record.issued = Some(Issued { chain, key, at: 0, expires: 1_000_000_000 });
        let warning = |record: &Record, now, unsaved| {
            let record = Some(record);
            Asked { want: &want, record, issued: record, unsaved, unread: None, is_asking: false, now }
                .warning()
        };
        let (before, after) = (999_999_999_000, 1_000_000_001_000);
        assert_eq!(warning(&record, before, None), None);
        let unsaved = warning(&record, before, Some("disk full")).unwrap();
        assert!(unsaved.contains("is not written: disk full"), "{unsaved}");
        let due = warning(&record, after, None).unwrap();
        assert!(
            due.contains("due for renewal") && due.contains("expired at 2001-09-09 01:46:40 UTC"),
            "{due}"
        );
        record.fail(after, Failure::new("refused"));
        let failed = warning(&record, before, None).unwrap();
        assert!(failed.contains("refused; it is tried again at"), "{failed}");
        assert!(failed.ends_with("the last one is served meanwhile"), "{failed}");
        let failed = warning(&record, after, None).unwrap();
        let wanted =
            "the last one, which expired at 2001-09-09 01:46:40 UTC, is served meanwhile: clients refuse it";
        assert!(failed.contains("refused; ") && failed.ends_with(wanted), "{failed}");
    }
}
