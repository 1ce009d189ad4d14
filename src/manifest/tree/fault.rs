//! A fault of the text.

use super::node::Span;
use crate::manifest::code::Code;

/// Something wrong with the text.
#[derive(Debug)]
pub(in crate::manifest) struct Fault {
    pub(in crate::manifest) code: Code,
    pub(in crate::manifest) span: Span,
    /// Field path, when the fault is inside a readable structure.
    pub(in crate::manifest) path: String,
    pub(in crate::manifest) message: String,
    pub(in crate::manifest) help: Option<String>,
    pub(in crate::manifest) related: Option<(Span, String)>,
}

pub(super) fn fault(code: Code, span: Span, message: impl Into<String>) -> Fault {
    Fault { code, span, path: String::new(), message: message.into(), help: None, related: None }
}
