//! Where the local cloud keeps its things, all below one folder, so that removing that folder leaves nothing behind.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::cloud::CloudError;
use crate::plan::image::ImageId;

/// The folders of the local cloud, and the programs that it runs.
#[derive(Debug, Clone)]
pub struct Home {
    /// The local cloud's own folder.
    pub state: PathBuf,
    /// Where what can be found out again is kept: whether KVM works.
    pub cache: PathBuf,
    /// This program, which is also the background process.
    pub executable: PathBuf,
}

impl Home {
    /// The local cloud in the state folder `state` of this program, with `cache` as its cache folder.
    pub fn new(state: &Path, cache: &Path, executable: PathBuf) -> Self {
        Self { state: state.join("local"), cache: cache.to_owned(), executable }
    }

    /// Makes the local cloud's own folder. Nobody else may enter: whoever reaches the socket commands the VMs.
    pub(super) fn create(&self) -> Result<(), CloudError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.state)
            .map_err(CloudError::file("create", &self.state))
    }

    /// Held locked by the background process for as long as it lives.
    pub(super) fn lock(&self) -> PathBuf {
        self.state.join("cloud.lock")
    }

    /// The database.
    pub(super) fn database(&self) -> PathBuf {
        self.state.join("cloud.db")
    }

    /// What the background process says.
    pub(super) fn log(&self) -> PathBuf {
        self.state.join("cloud.log")
    }

    /// The folder of images.
    pub(super) fn images(&self) -> PathBuf {
        self.state.join("images")
    }

    /// The folder of one image.
    pub(super) fn image(&self, id: ImageId) -> PathBuf {
        self.images().join(hex::encode(id.0.as_bytes()))
    }

    /// The folder of the values of Secrets.
    pub(super) fn secrets(&self) -> PathBuf {
        self.state.join("secrets")
    }

    /// The folder of VMs.
    pub(super) fn instances(&self) -> PathBuf {
        self.state.join("instances")
    }

    /// The folder of one VM.
    pub(super) fn instance(&self, id: &str) -> PathBuf {
        self.instances().join(id)
    }
}

/// The API's socket, inside the local cloud's folder.
pub(super) const SOCKET: &str = "cloud.sock";
