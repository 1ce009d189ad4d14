//! What reading takes and gives: options in, a reading out.

use std::collections::{BTreeMap, BTreeSet};

use super::api::{AcmeIssuer, ObjectSet};
use super::code::Severity;
use super::diagnostic::{Diagnostic, Place};
use super::support::Clouds;

/// How manifests are to be read.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Kinds whose objects are left out.
    pub ignore_kinds: BTreeSet<String>,
    /// Objects that exist outside the given files, such as Secrets in the cloud's store.
    pub external: BTreeSet<External>,
    /// Secrets whose values are in files beside the manifests, by `NAME` or `NAMESPACE/NAME`.
    pub outside: BTreeMap<String, OutsideSecret>,
    /// Accept `privileged: true` and the capabilities that amount to it.
    pub allow_privileged: bool,
    /// Read `hostNetwork` and its like as being about the pod's own machine.
    pub host_is_vm: bool,
    /// Check against the language alone, not against what this version can deploy.
    pub language_only: bool,
    /// The clouds, and the one that the objects are to be deployed to: what one can, another may not.
    pub clouds: Clouds,
    /// The certificate of balancers that end TLS and name none.
    pub certificate: Option<String>,
    /// The CA that gives certificates to hosts of Ingresses that no Secret has one for.
    pub acme: Option<AcmeIssuer>,
    /// The region that machines are in, where the cloud has such.
    pub region: Option<String>,
}

/// A Secret whose values are in files beside the manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutsideSecret {
    /// Its keys; values are not needed to read manifests.
    Keys(BTreeSet<String>),
    /// Its file cannot be read: where that file is named, and why.
    Unreadable(String),
}

/// An object outside the given files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct External {
    /// Its kind in lower case, such as `secret`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl std::str::FromStr for External {
    type Err = ExternalError;

    fn from_str(text: &str) -> Result<Self, ExternalError> {
        match text.split_once('/') {
            Some((kind, name)) if !kind.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { kind: kind.to_lowercase(), name: name.to_owned() })
            }
            _ => Err(ExternalError(text.to_owned())),
        }
    }
}

/// A text that does not name an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` does not name an object: write KIND/NAME, such as secret/database")]
pub struct ExternalError(String);

/// What came out of reading.
#[derive(Debug, Default)]
pub struct Reading {
    /// The objects; empty when there is an error among the diagnostics.
    pub set: ObjectSet,
    /// All findings, in the order of their places.
    pub diagnostics: Vec<Diagnostic>,
    /// Places whose text must not be shown: the values of Secrets.
    pub(super) redacted: Vec<Place>,
}

impl Reading {
    /// Whether something is refused.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// Number of findings of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count()
    }
}
