//! Where the local cloud keeps its things, all below one folder, so that removing that folder leaves nothing behind.

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
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

    /// Makes the local cloud's own folder. Nobody else may enter: whoever reaches the socket commands the VMs. A folder
    /// that was there already is closed to others, and one of another user is refused.
    pub(super) fn create(&self) -> Result<(), CloudError> {
        let failed = |action| CloudError::file(action, &self.state);
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.state);
        made.map_err(failed("create"))?;
        let found = std::fs::metadata(&self.state).map_err(failed("look at"))?;
        if found.uid() != rustix::process::geteuid().as_raw() {
            let error = std::io::Error::other(format!("it belongs to the user with the id {}", found.uid()));
            return Err(failed("use")(error));
        }
        if found.mode() & 0o077 != 0 {
            let closed = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(&self.state, closed).map_err(failed("close to others"))?;
        }
        Ok(())
    }

    /// Moves the database aside, out of the folder, under a name that tells when; returns where it is now.
    pub(super) fn set_aside(&self, database: &Path) -> Result<PathBuf, CloudError> {
        let aside = self.state.with_file_name(format!("local.db.lost-{}", super::clock::now()));
        let move_to = |from: &Path, to: &Path| {
            // Another file system takes a copy.
            std::fs::rename(from, to)
                .or_else(|_| std::fs::copy(from, to).and_then(|_| std::fs::remove_file(from)))
        };
        move_to(database, &aside).map_err(CloudError::file("move aside", database))?;
        // Without them a database that was being written cannot be read.
        for suffix in ["-journal", "-wal"] {
            let (from, to) = (beside(database, suffix), beside(&aside, suffix));
            if from.exists() {
                move_to(&from, &to).map_err(CloudError::file("move aside", &from))?;
            }
        }
        Ok(aside)
    }

    /// Removes everything. Folders of VMs go first and the database last: what is left when this is interrupted is no
    /// sign of VMs whose records are lost.
    pub(super) fn remove(&self) -> Result<(), CloudError> {
        use std::io::ErrorKind::NotFound;
        let gone = |path: &Path, result: std::io::Result<()>| match result {
            Err(error) if error.kind() != NotFound => Err(CloudError::file("remove", path)(error)),
            _ => Ok(()),
        };
        for folder in [self.instances(), self.images(), self.secrets()] {
            gone(&folder, std::fs::remove_dir_all(&folder))?;
        }
        gone(&self.state, std::fs::remove_dir_all(&self.state))
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

/// The command that ends VMs whose records are lost.
pub(super) const DESTROY_LOST: &str = "i2kit destroy --lost";

/// A file that SQLite keeps beside the database `path`.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The API's socket, inside the local cloud's folder.
pub(super) const SOCKET: &str = "cloud.sock";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_others_may_enter_is_closed() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(root.path(), root.path(), PathBuf::new());
        home.create().unwrap();
        std::fs::set_permissions(&home.state, std::fs::Permissions::from_mode(0o777)).unwrap();
        home.create().unwrap();
        assert_eq!(std::fs::metadata(&home.state).unwrap().mode() & 0o777, 0o700);
    }
}
