//! The system's store of trusted authorities: what it takes to put the local authority there, and to take it out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ca::Authority;
use crate::cloud::CloudError;

/// A distribution's store: a folder of certificates, and the command that makes the store anew from it.
#[derive(Debug, Clone, Copy)]
struct Store {
    folder: &'static str,
    command: &'static [&'static str],
}

/// Debian and Ubuntu; Fedora; Arch Linux and openSUSE.
const STORES: &[Store] = &[
    Store { folder: "/usr/local/share/ca-certificates", command: &["update-ca-certificates"] },
    Store { folder: "/etc/pki/ca-trust/source/anchors", command: &["update-ca-trust", "extract"] },
    Store { folder: "/etc/ca-certificates/trust-source/anchors", command: &["update-ca-trust", "extract"] },
    Store { folder: "/etc/pki/trust/anchors", command: &["update-ca-certificates"] },
];

/// The local authority and the place that its certificate has in the system's store.
#[derive(Debug)]
pub struct Trust {
    source: PathBuf,
    target: PathBuf,
    command: &'static [&'static str],
}

impl Trust {
    /// Where the authority's certificate would be; `None` where the system has no store that is known.
    pub fn of(authority: &Authority) -> Option<Self> {
        let store = STORES.iter().find(|store| Path::new(store.folder).is_dir())?;
        Some(Self::at(authority, Path::new(store.folder), store.command))
    }

    fn at(authority: &Authority, folder: &Path, command: &'static [&'static str]) -> Self {
        let name = authority.name().replace(' ', "-");
        Self { source: authority.certificate(), target: folder.join(format!("{name}.crt")), command }
    }

    /// Whether the system trusts the authority.
    pub fn is_installed(&self) -> bool {
        self.target.exists()
    }

    /// The commands that put it there, as a shell takes them.
    pub fn install_commands(&self) -> [String; 2] {
        let copy = format!("install -m 644 {} {}", self.source.display(), self.target.display());
        [copy, self.command.join(" ")]
    }

    /// The commands that take it out.
    pub fn remove_commands(&self) -> [String; 2] {
        [format!("rm -f {}", self.target.display()), self.command.join(" ")]
    }

    /// Puts the certificate into the store. Needs root.
    pub fn install(&self) -> Result<(), CloudError> {
        fs::copy(&self.source, &self.target).map_err(CloudError::file("write", &self.target))?;
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs::set_permissions(&self.target, readable).map_err(CloudError::file("open to all", &self.target))?;
        self.refresh()
    }

    /// Takes the certificate out of the store. Needs root.
    pub fn remove(&self) -> Result<(), CloudError> {
        match fs::remove_file(&self.target) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(CloudError::file("remove", &self.target)(error))
            }
            _ => self.refresh(),
        }
    }

    fn refresh(&self) -> Result<(), CloudError> {
        let Some((program, arguments)) = self.command.split_first() else { return Ok(()) };
        let failed = |message: String| CloudError::Program { program: (*program).to_owned(), message };
        let output =
            Command::new(program).args(arguments).output().map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::local::home::Home;

    #[test]
    fn a_certificate_is_put_into_a_store_and_taken_out() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(&root.path().join("i2kit"), root.path(), PathBuf::new());
        let (authority, _) = Authority::make(&home).unwrap();
        let store = root.path().join("store");
        fs::create_dir(&store).unwrap();
        let trust = Trust::at(&authority, &store, &["true"]);
        assert!(!trust.is_installed());
        trust.install().unwrap();
        assert!(trust.is_installed());
        assert_eq!(fs::read_to_string(&trust.target).unwrap(), authority.pem().unwrap());
        assert!(trust.install_commands()[0].starts_with("install -m 644 "));
        trust.remove().unwrap();
        trust.remove().unwrap();
        assert!(!trust.is_installed());
        let failing = Trust::at(&authority, &store, &["false"]);
        assert!(failing.install().unwrap_err().to_string().contains("false"));
    }
}
