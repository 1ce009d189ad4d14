//! The manifest language: Kubernetes YAML text in, typed objects and diagnostics out. Pure: it is handed text and
//! gives values; it does not know files, images' contents, clouds or the guest.

pub mod api;
mod diagnostic;

pub use diagnostic::{Diagnostic, Severity, SourceFile};
