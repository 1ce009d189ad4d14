//! `i2kit convert`: the short form as the objects that it stands for.

use super::args::{ConvertArgs, Kustomize};
use super::exit::{Exit, Failure};
use super::{input_files, reading};
use crate::manifest;
use crate::report::{self, Format};

/// Prints all objects as YAML.
pub(super) fn run(args: &ConvertArgs, format: Format) -> Result<Exit, Failure> {
    let files = input_files::files(&args.manifests, &Kustomize::default())?;
    match manifest::convert(&files) {
        Ok(text) => {
            report::result(&text);
            Ok(Exit::Success)
        }
        Err(found) => {
            reading::show(&files, &found, format);
            Err(Failure::silent(Exit::Manifest))
        }
    }
}
