//! The manifest language: Kubernetes YAML text in, typed objects and diagnostics out. Pure: it is handed text and
//! gives values; it does not know files, images' contents, clouds or the guest.
//!
//! Bytes become text, text a tree of nodes with places, the tree is checked against the tables of `language`, then
//! the objects of all files are checked against each other, and only when nothing is wrong the typed objects of
//! [`api`] are made. Everything wrong in all files is reported in one run.
//!
//! [`read()`] gives a [`Reading`]: the set of objects, and every [`Diagnostic`] with its [`Code`] and place. [`render`] shows
//! findings to people and programs, [`json_schema`] and [`docs`] the language.
//!
//! ```
//! use i2kit::manifest::{Options, SourceFile, read};
//!
//! let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, imagee: b}]}\n";
//! let file = SourceFile { name: "pod.yaml".into(), bytes: pod.into() };
//! let reading = read(&[file], &Options::default());
//! assert!(reading.diagnostics.iter().any(|finding| finding.message.contains("imagee")));
//! ```

pub mod api;
mod build;
mod check;
mod code;
mod convert;
mod diagnostic;
pub mod docs;
mod document;
mod generate_name;
mod language;
mod read;
mod redact;
pub mod render;
mod schema;
mod set;
mod short;
#[cfg(test)]
mod tests;
mod text;
mod tree;
mod zero;

use std::collections::BTreeSet;

pub use code::Code;
pub use convert::convert;
pub use diagnostic::{Diagnostic, Place, Severity, SourceFile};
pub use read::read;
pub use schema::json_schema;
pub use text::MAX_BYTES;

/// How manifests are to be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Kinds whose objects are left out.
    pub ignore_kinds: BTreeSet<String>,
    /// Objects that exist outside the given files, such as Secrets in the cloud's store.
    pub external: BTreeSet<External>,
    /// Accept `privileged: true` and the capabilities that amount to it.
    pub allow_privileged: bool,
    /// Read `hostNetwork` and its like as being about the pod's own machine.
    pub host_is_vm: bool,
    /// Check against the language alone, not against what this version can deploy.
    pub language_only: bool,
    /// Where the objects are to be deployed: what one cloud can, another may not.
    pub provider: Provider,
    /// The certificate of balancers that end TLS and name none.
    pub certificate: Option<String>,
    /// The region that machines are in, where the cloud has such.
    pub region: Option<String>,
}

/// A kind of cloud.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Provider {
    /// Machines of this computer.
    #[default]
    Local,
    /// AWS.
    Aws,
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
    pub set: api::ObjectSet,
    /// All findings, in the order of their places.
    pub diagnostics: Vec<Diagnostic>,
    /// Places whose text must not be shown: the values of Secrets.
    redacted: Vec<Place>,
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
