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
#[cfg(test)]
pub(crate) mod example;
mod generate_name;
mod language;
mod options;
mod read;
mod redact;
pub mod render;
mod schema;
mod set;
mod short;
pub mod support;
#[cfg(test)]
mod tests;
mod text;
mod tree;
mod words;
mod zero;

pub use code::{Code, Severity};
pub use convert::convert;
pub use diagnostic::{Diagnostic, Place, SourceFile};
pub use options::{External, ExternalError, Options, OutsideSecret, Reading};
pub use read::read;
pub use schema::json_schema;
pub use text::MAX_BYTES;
