//! Where the local cloud keeps its things, all below one folder, so that removing that folder leaves nothing behind.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::cloud::CloudError;
use crate::oci::Digest;
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
    /// The environment variables that the background process and qemu have. Not all of those of who called: a token
    /// of a CI job must not live as long as a VM.
    pub environment: Vec<(OsString, OsString)>,
}

impl Home {
    /// The local cloud in the state folder `state` of this program, with `cache` as its cache folder.
    pub fn new(state: &Path, cache: &Path, executable: PathBuf) -> Self {
        Self { state: state.join("local"), cache: cache.to_owned(), executable, environment: Vec::new() }
    }

    /// The same with these environment variables for the processes that it starts.
    #[must_use]
    pub fn with_environment(mut self, environment: Vec<(OsString, OsString)>) -> Self {
        self.environment = environment;
        self
    }

    /// Makes the local cloud's own folder. Nobody else may enter: whoever reaches the socket commands the VMs. A folder
    /// that was there already is closed to others, and one of another user is refused.
    pub(super) fn create(&self) -> Result<(), CloudError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(PRIVATE)
            .create(&self.state)
            .map_err(CloudError::file("create", &self.state))?;
        self.state.parent().into_iter().chain([self.state.as_path()]).try_for_each(check)
    }

    /// Moves the database aside, out of the folder, under a name that tells when; returns where it is now.
    pub(super) fn set_aside(&self, database: &Path) -> Result<PathBuf, CloudError> {
        let aside = self.state.with_file_name(format!("local.db.lost-{}", super::clock::wall()));
        let move_to = |from: &Path, to: &Path| {
            // Another file system takes a copy.
            fs::rename(from, to).or_else(|_| fs::copy(from, to).and_then(|_| fs::remove_file(from)))
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
        self.rest()?;
        // Disks are deleted on request alone.
        if self.volumes().exists() {
            for file in [self.database(), beside(&self.database(), "-journal")] {
                gone(&file, fs::remove_file(&file))?;
            }
            return Ok(());
        }
        gone(&self.state, fs::remove_dir_all(&self.state))
    }

    /// Removes what the process has for VMs, once there are none; disks and their records stay.
    pub(super) fn rest(&self) -> Result<(), CloudError> {
        for folder in [self.instances(), self.images(), self.secrets(), self.acme()] {
            gone(&folder, fs::remove_dir_all(&folder))?;
        }
        Ok(())
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

    /// The folder of certificates of CAs, and of accounts there.
    pub(super) fn acme(&self) -> PathBuf {
        self.state.join("acme")
    }

    /// The folder of disks that outlive machines.
    pub(super) fn volumes(&self) -> PathBuf {
        self.state.join("volumes")
    }

    /// The folder of templates of VMs, which outlive VMs and environments.
    pub(super) fn templates(&self) -> PathBuf {
        self.cache.join("templates")
    }

    /// The folder of one template.
    pub(super) fn template(&self, key: Digest) -> PathBuf {
        self.templates().join(key.hex())
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

/// What became of removing `path`: one that is not there is no error.
pub(super) fn gone(path: &Path, removed: io::Result<()>) -> Result<(), CloudError> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CloudError::file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Writes a file of this mode whole, or leaves what is there: under another name first, which has the process and the file in
/// it, so that neither two processes nor the writers of two files share one. Of one file a process has one writer.
pub(super) fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CloudError> {
    let new = write_beside(path, bytes, mode)?;
    fs::rename(&new, path).map_err(CloudError::file("write", path))?;
    flush(path.parent().unwrap_or(path))
}

/// Has the content of a file, or the names in a folder, on the disk. Some file systems flush no folder, and say so.
pub(super) fn flush(path: &Path) -> Result<(), CloudError> {
    match fs::File::open(path).and_then(|file| file.sync_all()) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput && path.is_dir() => Ok(()),
        flushed => flushed.map_err(CloudError::file("write", path)),
    }
}

/// Has on the disk that something is gone from this folder, or from the first one above it that is there.
pub(super) fn flush_gone(folder: &Path) -> Result<(), CloudError> {
    folder.ancestors().find(|folder| folder.exists()).map_or(Ok(()), flush)
}

/// The first half of [`write_whole`]: the file under its other name, which is returned.
pub(super) fn write_beside(path: &Path, bytes: &[u8], mode: u32) -> Result<PathBuf, CloudError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".new-{}-{name}", std::process::id()));
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(mode).open(&new);
    file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .map_err(CloudError::file("write", &new))?;
    Ok(new)
}

/// The mode of a folder that is its owner's alone.
const PRIVATE: u32 = 0o700;

/// The bits of a mode by which others may change what is in a folder.
const OTHERS_WRITE: u32 = 0o022;

/// Refuses a folder that somebody else has or may change; takes one that others may only look into from them.
pub(super) fn check(folder: &Path) -> Result<(), CloudError> {
    let refused = |message| CloudError::File { action: "use".to_owned(), path: folder.to_owned(), message };
    let metadata = fs::metadata(folder).map_err(CloudError::file("look at", folder))?;
    let this = rustix::process::geteuid().as_raw();
    if metadata.uid() != this {
        return Err(refused(format!(
            "it belongs to the user {}, and this is user {this}; run as that user, or set XDG_STATE_HOME to a folder of \
             your own",
            metadata.uid()
        )));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS_WRITE != 0 {
        return Err(refused(format!(
            "other users may change what is in it (mode {mode:04o}); see that nobody did, then run `chmod 700 {}`",
            folder.display()
        )));
    }
    if mode != PRIVATE {
        fs::set_permissions(folder, fs::Permissions::from_mode(PRIVATE))
            .map_err(CloudError::file("close to others", folder))?;
    }
    Ok(())
}

/// The API's socket, inside the local cloud's folder.
pub(super) const SOCKET: &str = "cloud.sock";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_others_may_change_is_refused_and_one_that_they_may_see_is_closed() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(&root.path().join("i2kit"), root.path(), PathBuf::new());
        let mode = |folder: &Path| fs::metadata(folder).unwrap().mode() & 0o7777;
        let set =
            |folder: &Path, mode| fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        home.create().unwrap();
        assert_eq!((mode(&home.state), mode(home.state.parent().unwrap())), (PRIVATE, PRIVATE));
        for folder in [home.state.clone(), home.state.parent().unwrap().to_owned()] {
            for shared in [0o777, 0o720, 0o1777, 0o702] {
                set(&folder, shared);
                let refused = home.create().unwrap_err().to_string();
                assert!(refused.contains(&format!("chmod 700 {}", folder.display())), "{refused}");
            }
            set(&folder, 0o755);
            home.create().unwrap();
            assert_eq!(mode(&folder), PRIVATE);
        }
    }
}
