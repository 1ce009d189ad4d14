//! The system's store of trusted authorities: what it takes to put the local authority there, and to take it out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ca::{self, Authority};
use super::home::Home;
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

/// How the names of files of local authorities begin: see [`Authority::name`].
const PREFIX: &str = "i2kit-local-authority-";

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

    /// Where the certificate is that lies beside a key which cannot be read, and so has no name; `None` where it is in no
    /// store that is known.
    pub fn of_unreadable(home: &Home) -> Option<Self> {
        let stores = STORES.iter().map(|store| (Path::new(store.folder), store.command));
        Self::same(&ca::certificate(home), stores)
    }

    /// The first file of an authority's in these stores that has the bytes of `source`.
    fn same<'s>(
        source: &Path,
        stores: impl IntoIterator<Item = (&'s Path, &'static [&'static str])>,
    ) -> Option<Self> {
        let bytes = fs::read(source).ok()?;
        stores.into_iter().find_map(|(folder, command)| {
            let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok);
            let mut files = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
            let file = files.find(|entry| fs::read(entry.path()).is_ok_and(|found| found == bytes))?;
            Some(Self { source: source.to_owned(), target: file.path(), command })
        })
    }

    fn at(authority: &Authority, folder: &Path, command: &'static [&'static str]) -> Self {
        let name = authority.name().replace(' ', "-");
        Self { source: authority.certificate(), target: folder.join(format!("{name}.crt")), command }
    }

    /// Whether the system trusts the authority.
    pub fn is_installed(&self) -> bool {
        self.target.exists()
    }

    /// The commands that put it there, each as its words.
    pub fn install_commands(&self) -> [Vec<String>; 2] {
        let paths = [&self.source, &self.target].map(|path| path.display().to_string());
        let copy = ["install", "-m", "644"].map(str::to_owned).into_iter().chain(paths).collect();
        [copy, self.refresh_command()]
    }

    /// The commands that take it out, each as its words.
    pub fn remove_commands(&self) -> [Vec<String>; 2] {
        [vec!["rm".to_owned(), "-f".to_owned(), self.target.display().to_string()], self.refresh_command()]
    }

    fn refresh_command(&self) -> Vec<String> {
        self.command.iter().map(|word| (*word).to_owned()).collect()
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
        let target = trust.target.display().to_string();
        assert_eq!(trust.install_commands()[0][..3], ["install", "-m", "644"]);
        assert_eq!(trust.install_commands()[0][4], target);
        assert_eq!(trust.remove_commands(), [vec!["rm", "-f", &target], vec!["true"]]);
        // Without a key that can be read it is found by what is in it.
        let of_unreadable = || Trust::same(&ca::certificate(&home), [(store.as_path(), &["true"][..])]);
        fs::write(store.join("i2kit-local-authority-00000000.crt"), "another one").unwrap();
        assert_eq!(of_unreadable().unwrap().target, trust.target);
        trust.remove().unwrap();
        trust.remove().unwrap();
        assert!(!trust.is_installed() && of_unreadable().is_none());
        let failing = Trust::at(&authority, &store, &["false"]);
        assert!(failing.install().unwrap_err().to_string().contains("false"));
    }
}
