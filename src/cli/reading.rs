//! Manifests are read for a verb, and what is wrong with them is shown.

use super::args::Manifests;
use super::context::Context;
use super::environment::Environment;
use super::exit::{Exit, Failure};
use super::{input_files, secrets};
use crate::cloud::kinds;
use crate::manifest::api::ObjectSet;
use crate::manifest::{self, Options, Reading, Severity, SourceFile, render};
use crate::report::{self, Format};
use crate::text;

/// Options of the reader: those of the command line, with what the environment has and its cloud supports.
pub(super) fn options(set: &Manifests, environment: &Environment) -> Options {
    let provider = &environment.provider;
    let given = &set.reading;
    Options {
        ignore_kinds: given.ignore_kind.iter().cloned().collect(),
        external: given.external.iter().cloned().collect(),
        outside: secrets::outside(environment),
        allow_privileged: given.allow_privileged,
        host_is_vm: given.host_is_vm,
        language_only: false,
        clouds: kinds::clouds(provider.support()),
        certificate: provider.certificate().map(str::to_owned),
        acme: provider.acme().cloned(),
        region: provider.region().map(str::to_owned),
    }
}

/// Reads the set for a verb that goes on with it: findings are no result, and errors end the verb.
pub(super) fn read(set: &Manifests, context: &Context) -> Result<ObjectSet, Failure> {
    let files = input_files::files(&set.manifests, &set.options)?;
    let mut reading = manifest::read(&files, &options(set, &context.environment));
    if context.quiet {
        reading.diagnostics.retain(|finding| finding.severity != Severity::Note);
    }
    show(&files, &reading, context.format);
    if reading.has_errors() { Err(Failure::silent(Exit::Manifest)) } else { Ok(reading.set) }
}

/// Shows all findings beside the result.
pub(super) fn show(files: &[SourceFile], reading: &Reading, format: Format) {
    if !reading.diagnostics.is_empty() {
        report::findings(findings(files, reading, format).trim_end());
    }
    if reading.has_errors() && format == Format::Text {
        report::message(&summary(reading));
    }
}

fn findings(files: &[SourceFile], reading: &Reading, format: Format) -> String {
    match format {
        Format::Text => render::text(files, reading, report::colour()),
        Format::Json => {
            // Findings are lines among those of events, and each line has its kind.
            let line = |mut finding: serde_json::Value| {
                finding["event"] = "finding".into();
                text::json(&finding.to_string()).into_owned()
            };
            render::json(files, reading).into_iter().map(line).collect::<Vec<_>>().join("\n")
        }
    }
}

/// How it went, in one line.
pub(super) fn summary(reading: &Reading) -> String {
    let count = |severity, one: &str| match reading.count(severity) {
        0 => None,
        1 => Some(format!("1 {one}")),
        n => Some(format!("{n} {one}s")),
    };
    let parts: Vec<String> =
        [count(Severity::Error, "error"), count(Severity::Warning, "warning"), count(Severity::Note, "note")]
            .into_iter()
            .flatten()
            .collect();
    if parts.is_empty() { "ok".into() } else { parts.join(", ") }
}
