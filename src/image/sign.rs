//! Signatures of what firmware boots, by `sbsign`, which is what distributions sign with. The key stays in its file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::ImageError;
use crate::oci::Digest;

/// The program, from Debian's package sbsigntool.
const SBSIGN: &str = "sbsign";

/// A key and the certificate that firmware knows it by, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The private key.
    pub key: PathBuf,
    /// Its certificate.
    pub certificate: PathBuf,
}

impl Signer {
    /// Identity of the key.
    pub(super) fn identity(&self) -> Result<Digest, ImageError> {
        let bytes = fs::read(&self.certificate).map_err(|e| ImageError::io(&self.certificate, e))?;
        Ok(Digest::of(&bytes))
    }

    /// The program with its signature. Signatures have a time: no two are equal.
    pub(super) fn sign(&self, program: &[u8], folder: &Path) -> Result<Vec<u8>, ImageError> {
        let work = tempfile::tempdir_in(folder).map_err(|e| ImageError::io(folder, e))?;
        let (plain, signed) = (work.path().join("plain.efi"), work.path().join("signed.efi"));
        fs::write(&plain, program).map_err(|e| ImageError::io(&plain, e))?;
        let failed = |reason: String| ImageError::Sign { key: self.key.clone(), reason };
        let output = Command::new(SBSIGN)
            .arg("--key")
            .arg(&self.key)
            .arg("--cert")
            .arg(&self.certificate)
            .arg("--output")
            .args([&signed, &plain])
            .stdin(Stdio::null())
            .output()
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => failed("install sbsign (Debian: sbsigntool)".into()),
                _ => failed(e.to_string()),
            })?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        fs::read(&signed).map_err(|e| ImageError::io(&signed, e))
    }
}
