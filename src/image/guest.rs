//! The guest bundle: kernel and initial RAM file system that every image boots with, made by `scripts/guest`.
//!
//! A bundle is a folder with `kernel`, `initrd` and `guest.json`; its format is described in `docs/formats.md`.

use std::fs;
use std::path::{Path, PathBuf};

use i2kit_spec::guest::{
    GUEST_CLOUD, GUEST_COORDINATOR, GUEST_INITRD, GUEST_KERNEL, GUEST_MANIFEST, GUEST_STUB, GUEST_VERSION,
    GuestManifest,
};

use super::ImageError;
use crate::oci::Digest;
use crate::plan::image::GuestFacts;

/// A bundle that was found, with facts that its files have been checked against.
#[derive(Debug, Clone)]
pub struct GuestBundle {
    /// What plans are made from.
    pub facts: GuestFacts,
    /// The kernel file.
    pub kernel: PathBuf,
    /// The initial RAM file system.
    pub initrd: PathBuf,
    /// What is added to the initial RAM file system where firmware boots the disk, in bundles that have it.
    pub cloud: Option<PathBuf>,
    /// The EFI stub, in bundles that firmware can boot.
    pub stub: Option<PathBuf>,
    /// The layer with the coordinator, in bundles that have it.
    pub coordinator: Option<CoordinatorLayer>,
}

/// The coordinator of replicated pods: a layer of the images that ask for it, and of no others.
#[derive(Debug, Clone)]
pub struct CoordinatorLayer {
    /// The file, a tar.
    pub path: PathBuf,
    /// Its digest, which is the layer's identity; checked when the layer is made of it.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// Finds the bundle: `folder` itself when the user names one, else the one of this program's version below
/// `data/guest/`.
pub fn find(folder: Option<&Path>, data: &Path) -> Result<GuestBundle, ImageError> {
    let folder = folder.map_or_else(|| data.join("guest").join(GUEST_VERSION), Path::to_owned);
    let file = folder.join(GUEST_MANIFEST);
    let text = fs::read_to_string(&file).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => ImageError::NoGuest { folder: folder.clone() },
        _ => ImageError::io(&file, e),
    })?;
    let bad = |reason: String| ImageError::BadGuest { folder: folder.clone(), reason };
    let guest: GuestManifest = serde_json::from_str(&text).map_err(|e| bad(format!("guest.json: {e}")))?;
    if guest.version != GUEST_VERSION {
        return Err(bad(format!("it is version {}, this i2kit needs {GUEST_VERSION}", guest.version)));
    }
    if let Some(missing) = guest.arch.missing() {
        return Err(bad(format!("it is for {}, which does not work yet: i2kit lacks {missing}", guest.arch)));
    }
    let digest = |name: &str, text: &str| {
        text.parse::<Digest>().map_err(|e| bad(format!("guest.json: digest of {name}: {e}")))
    };
    let coordinator = match guest.coordinator.as_deref() {
        None => None,
        Some(text) => {
            let path = folder.join(GUEST_COORDINATOR);
            let size = fs::metadata(&path).map_err(|_| bad(format!("{} is missing", path.display())))?.len();
            Some(CoordinatorLayer { path, digest: digest(GUEST_COORDINATOR, text)?, size })
        }
    };
    let bundle = GuestBundle {
        kernel: folder.join(GUEST_KERNEL),
        initrd: folder.join(GUEST_INITRD),
        cloud: guest.cloud.as_ref().map(|_| folder.join(GUEST_CLOUD)),
        stub: guest.stub.as_ref().map(|_| folder.join(GUEST_STUB)),
        coordinator,
        facts: GuestFacts {
            kernel: digest(GUEST_KERNEL, &guest.kernel)?,
            initrd: digest(GUEST_INITRD, &guest.initrd)?,
            cloud: guest.cloud.as_deref().map(|text| digest(GUEST_CLOUD, text)).transpose()?,
            stub: guest.stub.as_deref().map(|text| digest(GUEST_STUB, text)).transpose()?,
            identity: guest.identity,
            version: guest.version,
            architecture: guest.arch,
            kernel_release: guest.kernel_release,
        },
    };
    for file in [&bundle.kernel, &bundle.initrd].into_iter().chain(&bundle.cloud).chain(&bundle.stub) {
        if !file.is_file() {
            return Err(bad(format!("{} is missing", file.display())));
        }
    }
    Ok(bundle)
}

impl GuestBundle {
    /// Checks that kernel, initial RAM file system and stub are the files that `guest.json` describes.
    pub fn verify(&self) -> Result<(), ImageError> {
        let booted = [(&self.kernel, self.facts.kernel), (&self.initrd, self.facts.initrd)];
        let cloud = self.cloud.as_ref().zip(self.facts.cloud);
        let stub = self.stub.as_ref().zip(self.facts.stub);
        for (file, expected) in booted.into_iter().chain(cloud).chain(stub) {
            let bytes = fs::read(file).map_err(|e| ImageError::io(file, e))?;
            if Digest::of(&bytes) != expected {
                return Err(ImageError::BadGuest {
                    folder: file.parent().unwrap_or(file).to_owned(),
                    reason: format!("{} is not the file that {GUEST_MANIFEST} describes", file.display()),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use i2kit_spec::Architecture;

    use super::*;

    fn bundle(version: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let manifest = GuestManifest {
            version: version.into(),
            kernel_release: "6.1.0-1-cloud-amd64".into(),
            arch: Architecture::Amd64,
            kernel: Digest::of(b"kernel").to_string(),
            initrd: Digest::of(b"initrd").to_string(),
            identity: None,
            cloud: None,
            stub: Some(Digest::of(b"stub").to_string()),
            coordinator: None,
        };
        fs::write(folder.path().join(GUEST_MANIFEST), serde_json::to_string(&manifest).unwrap()).unwrap();
        fs::write(folder.path().join(GUEST_KERNEL), "kernel").unwrap();
        fs::write(folder.path().join(GUEST_INITRD), "initrd").unwrap();
        fs::write(folder.path().join(GUEST_STUB), "stub").unwrap();
        folder
    }

    #[test]
    fn a_bundle_is_found_and_verified() {
        let folder = bundle(GUEST_VERSION);
        let found = find(Some(folder.path()), Path::new("/nowhere")).unwrap();
        found.verify().unwrap();
        fs::write(folder.path().join(GUEST_KERNEL), "other").unwrap();
        let error = found.verify().unwrap_err().to_string();
        assert!(error.contains("is not the file that guest.json describes"), "{error}");
    }

    #[test]
    fn what_is_missing_or_foreign_is_said_with_the_way_out() {
        let error = find(None, Path::new("/nowhere")).unwrap_err().to_string();
        assert!(
            error.contains(&format!("/nowhere/guest/{GUEST_VERSION}")) && error.contains("scripts/guest"),
            "{error}"
        );
        let folder = bundle("0.0.0");
        let error = find(Some(folder.path()), Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("version 0.0.0"), "{error}");
        let folder = bundle(GUEST_VERSION);
        fs::remove_file(folder.path().join(GUEST_INITRD)).unwrap();
        let error = find(Some(folder.path()), Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("is missing"), "{error}");
    }
}
