//! Whose the volume of the application's state is. A file beside the log names the volume that the coordinator took over; without it
//! a volume is taken only when it is empty, so that nothing is erased that was there before.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// The file in the log's folder; it has the volume's name.
const FILE: &str = "state-volume";

/// What a file system has in its root by itself.
const OF_FILE_SYSTEM: &str = "lost+found";

/// Takes `folder`, that of the volume `volume`, for the group whose log is in `log`; false when it has files of others. Durable
/// when this returns.
pub(super) fn take(log: &Path, volume: &str, folder: &Path) -> io::Result<bool> {
    let path = log.join(FILE);
    match fs::read(&path) {
        Ok(name) if name == volume.as_bytes() => return Ok(true),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for entry in fs::read_dir(folder)? {
        if entry?.file_name() != OF_FILE_SYSTEM {
            return Ok(false);
        }
    }
    let new = log.join("state-volume.new");
    let mut file = File::create(&new)?;
    file.write_all(volume.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(log)?.sync_all()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_taken_when_it_is_empty_and_known_from_then_on() {
        let root = tempfile::tempdir().unwrap();
        let (log, data) = (root.path().join("log"), root.path().join("data"));
        fs::create_dir(&log).unwrap();
        assert!(take(&log, "data", &data).is_err(), "there is no such folder");
        fs::create_dir_all(data.join("lost+found")).unwrap();
        fs::write(data.join("file"), "of others").unwrap();
        assert!(!take(&log, "data", &data).unwrap());
        fs::remove_file(data.join("file")).unwrap();
        assert!(take(&log, "data", &data).unwrap());
        fs::write(data.join("file"), "of the application").unwrap();
        assert!(take(&log, "data", &data).unwrap());
        assert!(!take(&log, "other", &data).unwrap(), "another volume is not the one that was taken");
        assert_eq!(fs::read(data.join("file")).unwrap(), b"of the application");
    }
}
