//! `i2kit schema`: what manifests may say, for editors and for the docs.

use super::args::{SchemaArgs, SchemaFormat};
use super::exit::{Exit, Failure};
use super::pipeline;
use crate::{manifest, report};

/// Prints the schema.
#[expect(clippy::unnecessary_wraps, reason = "every verb has the same signature")]
pub(super) fn run(args: &SchemaArgs) -> Result<Exit, Failure> {
    match args.format {
        SchemaFormat::JsonSchema => pipeline::json(&manifest::json_schema()),
        SchemaFormat::Markdown => report::result(&manifest::docs::markdown()),
    }
    Ok(Exit::Success)
}
