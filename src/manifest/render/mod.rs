//! Findings for people and for programs. Nothing here prints.

mod github;
mod json;
mod sarif;
mod source;
mod text;

pub use github::github;
pub use json::json;
pub use sarif::sarif;
pub use text::text;
