//! `i2kit check`: everything that is wrong with manifests.

use super::args::{CheckArgs, Findings, Manifests};
use super::context::Context;
use super::environment::{self, Environment};
use super::exit::{Exit, Failure};
use super::{pipeline, secrets, set};
use crate::manifest::api::ObjectSet;
use crate::manifest::{self, Options, Reading, Severity, SourceFile, render};
use crate::report::{self, Format};
use crate::text;

/// Checks the set. Findings are the result of this verb, so they go to standard output.
pub(super) fn run(args: &CheckArgs, environment: &Environment, format: Format) -> Result<Exit, Failure> {
    let files = set::files(&args.set.manifests, &args.set.kustomize)?;
    let options = Options { language_only: args.language_only, ..options(&args.set, environment) };
    let reading = manifest::read(&files, &options);
    let format = args.format.unwrap_or(match format {
        Format::Text => Findings::Text,
        Format::Json => Findings::Json,
    });
    match format {
        Findings::Json => pipeline::json(&render::json(&files, &reading)),
        Findings::Sarif => pipeline::json(&render::sarif(&files, &reading, env!("CARGO_PKG_VERSION"))),
        Findings::Github => report::result(&render::github(&files, &reading)),
        Findings::Text => {
            report::said(&render::text(&files, &reading, report::colour()));
            report::message(&summary(&reading));
        }
    }
    Ok(if reading.has_errors() { Exit::Manifest } else { Exit::Success })
}

/// How the set is read: what the environment has and can counts, for `check` as for `deploy`.
fn options(set: &Manifests, environment: &Environment) -> Options {
    let mut options = set.reading.options();
    options.external.extend(secrets::external(environment));
    if let environment::Provider::Aws(aws) = &environment.provider {
        options.provider = manifest::Provider::Aws;
        options.certificate.clone_from(&aws.certificate);
        options.region = Some(aws.region.clone());
    }
    options
}

/// Reads the set for a verb that goes on with it: findings are talk, and errors end the verb.
pub(super) fn read(set: &Manifests, context: &Context) -> Result<ObjectSet, Failure> {
    let files = set::files(&set.manifests, &set.kustomize)?;
    let mut reading = manifest::read(&files, &options(set, &context.environment));
    if context.quiet {
        reading.diagnostics.retain(|finding| finding.severity != Severity::Note);
    }
    tell(&files, &reading, context.format);
    if reading.has_errors() { Err(Failure::silent(Exit::Manifest)) } else { Ok(reading.set) }
}

/// Says all findings, as talk.
pub(super) fn tell(files: &[SourceFile], reading: &Reading, format: Format) {
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
            // Among the lines of events, each says what it is.
            let line = |mut finding: serde_json::Value| {
                finding["event"] = "finding".into();
                text::json(&finding.to_string()).into_owned()
            };
            render::json(files, reading).into_iter().map(line).collect::<Vec<_>>().join("\n")
        }
    }
}

/// How it went, in one line.
fn summary(reading: &Reading) -> String {
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
