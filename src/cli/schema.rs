//! `i2kit schema`: the language of manifests, for editors and for the docs.

use super::args::{SchemaArgs, SchemaFormat};
use super::exit::{Exit, Failure};
use super::{features, output};
use crate::cloud::kinds;
use crate::{manifest, report};

/// Prints the schema.
#[expect(clippy::unnecessary_wraps, reason = "every verb has the same signature")]
pub(super) fn run(args: &SchemaArgs) -> Result<Exit, Failure> {
    match args.format {
        SchemaFormat::JsonSchema => output::json(&manifest::json_schema(kinds::supports())),
        SchemaFormat::Markdown => report::result(&manifest::docs::markdown(kinds::supports())),
        SchemaFormat::Features => report::result(&features::markdown(kinds::supports())),
    }
    Ok(Exit::Success)
}
