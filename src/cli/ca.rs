//! `i2kit ca`: the authority that signs certificates for Ingresses of the local cloud.

use serde::Serialize;

use super::args::CaVerb;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::{connection, output};
use crate::cloud::local::{self, Authority, Trust};
use crate::report::{self, Format};
use crate::text;

/// The authority, as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    certificate: String,
    trusted: bool,
}

/// Creates, shows, installs or removes the authority.
pub(super) fn run(context: &Context, verb: CaVerb) -> Result<Exit, Failure> {
    let home = local::home(&connection::client(context)?);
    match verb {
        CaVerb::Create => {
            let (authority, made) = Authority::make(&home).or_exit(Exit::Cloud)?;
            let note = if made { "created the local authority" } else { "there is a local authority" };
            context.events.note(note);
            show(context, &authority);
        }
        CaVerb::Show => show(context, &found(&home)?),
        CaVerb::Print => report::result(&found(&home)?.pem().or_exit(Exit::Cloud)?),
        CaVerb::Install => {
            let (authority, _) = Authority::make(&home).or_exit(Exit::Cloud)?;
            let trust = store(&authority)?;
            as_root(context, &trust.install_commands(), || trust.install())?;
            context.events.note("browsers with a store of their own, such as Firefox, need the file too");
            show(context, &authority);
        }
        CaVerb::Uninstall => {
            let authority = found(&home)?;
            let trust = store(&authority)?;
            if trust.is_installed() {
                as_root(context, &trust.remove_commands(), || trust.remove())?;
            }
            show(context, &authority);
        }
        CaVerb::Rm => remove(context, &home)?,
    }
    Ok(Exit::Success)
}

/// The authority; an error where there is none.
fn found(home: &local::Home) -> Result<Authority, Failure> {
    Authority::find(home).or_exit(Exit::Cloud)?.ok_or_else(|| {
        let error = anyhow::anyhow!("there is no local authority; `i2kit ca create` creates one");
        Failure::new(Exit::Failure, error)
    })
}

/// The system's store; an error where it has none that is known.
fn store(authority: &Authority) -> Result<Trust, Failure> {
    Trust::of(authority).ok_or_else(|| {
        let path = authority.certificate();
        let error = anyhow::anyhow!(
            "this system has no store of authorities that is known; have clients trust {}",
            path.display()
        );
        Failure::new(Exit::Failure, error)
    })
}

fn remove(context: &Context, home: &local::Home) -> Result<(), Failure> {
    // One whose key cannot be read is removed all the same.
    let trust = match Authority::find(home) {
        Ok(found) => found.as_ref().and_then(Trust::of).filter(Trust::is_installed),
        Err(_) => Trust::of_unreadable(home),
    };
    if let Some(trust) = trust {
        as_root(context, &trust.remove_commands(), || trust.remove())?;
    }
    match Authority::remove(home).or_exit(Exit::Cloud)? {
        Some(folder) => context.events.note(format!("removed {}", folder.display())),
        None => context.events.note("there is no local authority"),
    }
    Ok(())
}

/// Prints which commands are run, and does what they do; who may not is given them to run.
fn as_root(
    context: &Context,
    commands: &[Vec<String>; 2],
    act: impl FnOnce() -> Result<(), crate::cloud::CloudError>,
) -> Result<(), Failure> {
    let commands = commands.each_ref().map(|words| shell(words));
    if !rustix::process::geteuid().is_root() {
        let [first, second] = commands;
        let error =
            anyhow::anyhow!("only root changes what this system trusts; run: sudo {first} && sudo {second}");
        return Err(Failure::new(Exit::Failure, error));
    }
    for command in commands {
        context.events.note(format!("runs {command}"));
    }
    act().or_exit(Exit::Cloud)
}

/// A command as a shell takes it.
fn shell(words: &[String]) -> String {
    let words: Vec<_> = words.iter().map(|word| text::word(word)).collect();
    words.join(" ")
}

fn show(context: &Context, authority: &Authority) {
    let shown = Shown {
        name: authority.name(),
        certificate: authority.certificate().display().to_string(),
        trusted: Trust::of(authority).is_some_and(|trust| trust.is_installed()),
    };
    match context.format {
        Format::Json => output::json(&shown),
        Format::Text => {
            let trusted = if shown.trusted { "yes" } else { "no; `i2kit ca install` changes that" };
            report::result(&format!(
                "name         {}\ncertificate  {}\ntrusted      {trusted}\n",
                shown.name, shown.certificate
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_root_is_to_run_has_its_paths_quoted() {
        let words = ["rm", "-f", "/tmp/st;id/ca.crt"].map(str::to_owned);
        assert_eq!(shell(&words), "rm -f '/tmp/st;id/ca.crt'");
    }
}
