//! The local authority: it signs certificates for hosts of Ingresses that no Secret has one for, and for Services that end
//! TLS.
//!
//! It is a key and a certificate in the tool's state folder, beside the local cloud's own, so that it stays when the last
//! environment goes: a browser that trusts it once goes on to do so. Everything that its certificates say of it follows
//! from the key, which is therefore all that is ever read.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Datelike as _};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::clock;
use super::home::{self, Home};
use crate::cloud::CloudError;
use crate::oci::Digest;

const KEY: &str = "ca.key";
const CERTIFICATE: &str = "ca.crt";

const DAY: u64 = 24 * 60 * 60;

/// The authority's own certificate.
const AUTHORITY_DAYS: u64 = 3650;

/// Those that it signs: shorter than what any client refuses.
pub(super) const LEAF_DAYS: u64 = 90;

/// The authority of one user.
pub struct Authority {
    folder: PathBuf,
    key: KeyPair,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({})", self.folder.display())
    }
}

/// One authority, as long as its key is not written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(u64, i64, i64);

/// A certificate with its key, as PEM.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) chain: String,
    pub(super) key: String,
}

fn folder(home: &Home) -> PathBuf {
    home.state.with_file_name("ca")
}

/// The file of the certificate, whether or not there is one.
pub(super) fn certificate(home: &Home) -> PathBuf {
    folder(home).join(CERTIFICATE)
}

/// Refuses an authority that another user may have put there: its folder, the one around it and its key are this user's.
fn check(folder: &Path) -> Result<(), CloudError> {
    folder.parent().into_iter().chain([folder]).try_for_each(home::check)?;
    let key = folder.join(KEY);
    let this = rustix::process::geteuid().as_raw();
    match fs::symlink_metadata(&key) {
        Ok(found) if found.uid() != this || !found.is_file() => Err(CloudError::File {
            action: "use".into(),
            path: key,
            message: "it is no file of this user; `i2kit ca rm` removes it".into(),
        }),
        _ => Ok(()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn failed(error: rcgen::Error) -> CloudError {
    CloudError::Program { program: "the local authority".into(), message: error.to_string() }
}

impl Authority {
    /// The authority, if there is one.
    pub fn find(home: &Home) -> Result<Option<Self>, CloudError> {
        let folder = folder(home);
        let path = folder.join(KEY);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.map_err(CloudError::file("read", &path))?,
        };
        check(&folder)?;
        let key = KeyPair::from_pem(&text).map_err(|error| CloudError::File {
            action: "read".into(),
            path,
            message: format!("it is no private key ({error}); `i2kit ca rm` removes it"),
        })?;
        Ok(Some(Self { folder, key }))
    }

    /// What shows that it is another one: the place and the time of the file of its key. `None` where there is none.
    pub(super) fn stamp(home: &Home) -> Option<Stamp> {
        let metadata = fs::metadata(folder(home).join(KEY)).ok()?;
        Some(Stamp(metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
    }

    /// The authority, made where there is none; whether it was made. Two that make it at once have the same one.
    pub fn make(home: &Home) -> Result<(Self, bool), CloudError> {
        let folder = folder(home);
        let path = folder.join(KEY);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(CloudError::file("create", &folder))?;
        check(&folder)?;
        let mut made = false;
        let authority = if let Some(found) = Self::find(home)? {
            found
        } else {
            let key = KeyPair::generate().map_err(failed)?;
            let new = home::write_beside(&path, key.serialize_pem().as_bytes(), 0o600)?;
            // A link does not replace what another process put there meanwhile.
            let linked = fs::hard_link(&new, &path);
            fs::remove_file(&new).map_err(CloudError::file("remove", &new))?;
            match linked {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(CloudError::file("write", &path)(error));
                }
                linked => made = linked.is_ok(),
            }
            home::flush(&folder)?;
            home::flush(folder.parent().unwrap_or(&folder))?;
            Self::find(home)?.ok_or_else(|| CloudError::File {
                action: "read".into(),
                path,
                message: "it was removed meanwhile".into(),
            })?
        };
        // The key comes first: a run that was killed in between is gone on with here.
        if !authority.has_certificate() {
            authority.write_certificate()?;
        }
        Ok((authority, made))
    }

    /// Removes it. Returns where it was, if there was one.
    pub fn remove(home: &Home) -> Result<Option<PathBuf>, CloudError> {
        let folder = folder(home);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            removed => {
                removed.map_err(CloudError::file("remove", &folder))?;
                home::flush_gone(&folder)?;
                Ok(Some(folder))
            }
        }
    }

    /// The file of its certificate, which clients are to trust.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join(CERTIFICATE)
    }

    /// Its certificate as PEM.
    pub fn pem(&self) -> Result<String, CloudError> {
        let path = self.certificate();
        fs::read_to_string(&path).map_err(CloudError::file("read", &path))
    }

    /// Its name in certificates and in lists of what is trusted: two authorities have two names.
    pub fn name(&self) -> String {
        let fingerprint = hex::encode(&Digest::of(self.key.public_key_raw()).as_bytes()[..4]);
        format!("i2kit local authority {fingerprint}")
    }

    /// Whether its certificate is there, and is one of its key.
    fn has_certificate(&self) -> bool {
        let Ok(text) = self.pem() else { return false };
        let key = self.key.public_key_raw();
        CertificateDer::from_pem_slice(text.as_bytes())
            .is_ok_and(|certificate| certificate.windows(key.len().max(1)).any(|part| part == key))
    }

    fn write_certificate(&self) -> Result<(), CloudError> {
        let mut params = self.params()?;
        validity(&mut params, AUTHORITY_DAYS);
        let certificate = params.self_signed(&self.key).map_err(failed)?;
        home::write_whole(&self.certificate(), certificate.pem().as_bytes(), 0o644)
    }

    fn params(&self) -> Result<CertificateParams, CloudError> {
        let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.name());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(params)
    }

    /// Signs a certificate for these hosts and addresses, with a key of its own.
    pub(super) fn sign(&self, hosts: &[String]) -> Result<Signed, CloudError> {
        let mut params = CertificateParams::new(hosts).map_err(failed)?;
        params.distinguished_name = DistinguishedName::new();
        // At most 64 letters; clients go by the other names.
        let first: String = hosts.first().map(|host| host.chars().take(64).collect()).unwrap_or_default();
        params.distinguished_name.push(DnType::CommonName, first);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, LEAF_DAYS);
        let key = KeyPair::generate().map_err(failed)?;
        let issuer = Issuer::new(self.params()?, &self.key);
        let signed = params.signed_by(&key, &issuer).map_err(failed)?;
        Ok(Signed { chain: signed.pem(), key: key.serialize_pem() })
    }
}

/// From yesterday, since clocks differ, for so many days.
fn validity(params: &mut CertificateParams, days: u64) {
    let now = clock::wall() / 1000;
    let date = |seconds: u64| {
        let date = DateTime::from_timestamp(seconds.cast_signed(), 0).unwrap_or_default();
        let small = |number: u32| u8::try_from(number).unwrap_or(1);
        rcgen::date_time_ymd(date.year(), small(date.month()), small(date.day()))
    };
    params.not_before = date(now.saturating_sub(DAY));
    params.not_after = date(now + days * DAY);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_authority_is_made_once_and_its_key_is_the_users_alone() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(&root.path().join("i2kit"), root.path(), PathBuf::new());
        assert!(Authority::find(&home).unwrap().is_none());
        let (first, made) = Authority::make(&home).unwrap();
        let (second, again) = Authority::make(&home).unwrap();
        assert!(made && !again);
        assert_eq!(first.name(), second.name());
        let bits = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(bits(first.folder.join(KEY)), 0o600);
        assert_eq!(bits(first.folder.clone()), 0o700);
        // A run that was killed between key and certificate.
        fs::remove_file(first.certificate()).unwrap();
        Authority::make(&home).unwrap();
        assert!(first.pem().unwrap().starts_with("-----BEGIN CERTIFICATE"));
        // A folder that others may change may hold a key of theirs.
        for folder in [first.folder.clone(), first.folder.parent().unwrap().to_owned()] {
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
            assert!(Authority::find(&home).unwrap_err().to_string().contains("other users may change"));
            assert!(Authority::make(&home).is_err());
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        }
        // A certificate that is not of this key is written anew.
        fs::write(first.certificate(), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
            .unwrap();
        let (authority, _) = Authority::make(&home).unwrap();
        assert!(authority.pem().unwrap().len() > 200);
        fs::write(first.folder.join(KEY), "nonsense").unwrap();
        assert!(Authority::find(&home).unwrap_err().to_string().contains("i2kit ca rm"));
        assert!(Authority::remove(&home).unwrap().is_some() && Authority::remove(&home).unwrap().is_none());
    }
}
