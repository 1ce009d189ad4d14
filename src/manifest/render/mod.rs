//! Findings for people and for programs. Nothing here prints.

mod json;
mod source;
mod text;

pub use json::json;
pub use text::text;
