//! Limits of a file that its parser and its readers share.

/// Deepest nesting; the deepest field that Kubernetes knows is at about 30.
pub(super) const MAX_DEPTH: usize = 128;

/// Faults of a file after which the rest of it is left unread: it is no manifest.
pub(super) const MAX_FAULTS: usize = 1000;

/// How the parser is set.
pub(super) fn options() -> granit_parser::Options {
    granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    }
}

/// Files are refused long before 4 GiB.
pub(super) fn narrow(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}
