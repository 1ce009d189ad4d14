//! The values of Secrets on this host: files that only the user may read, one a version, beside the key that versions
//! are made with. They are on disk because machines are started from them also after every process of ours was killed
//! (`docs/formats.md`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use i2kit_spec::secrets::{SECRETS_HEADER, SecretValues, decode_secrets, encode_secrets, secrets_length};
use rustix::fs::MemfdFlags;

use crate::cloud::CloudError;
use crate::cloud::local::home;
use crate::cloud::secret::{KEY_BYTES, Key, message, too_long};
use crate::manifest::api::Secret;

const KEY: &str = "key";

/// The mode of a file that is its owner's alone.
const PRIVATE: u32 = 0o600;

/// The age of a version, at most, at which it is kept although no revision names it: its deployment may be under way.
const SPARED: Duration = Duration::from_mins(10);

/// The key in `folder`, or a new one that is not written yet.
pub(crate) fn open(folder: &Path) -> Result<Key, CloudError> {
    let path = folder.join(KEY);
    let mut key = [0; KEY_BYTES];
    match File::open(&path) {
        Ok(mut file) => file.read_exact(&mut key).map_err(CloudError::file("read", &path))?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Key::random(),
        Err(error) => return Err(CloudError::file("read", &path)(error)),
    }
    Ok(Key(key))
}

/// Writes the key, unless it is there. Another key that was written meanwhile is an error: it makes other versions.
fn keep(folder: &Path, key: &Key) -> Result<(), CloudError> {
    let path = folder.join(KEY);
    if !path.exists() {
        home::write_whole(&path, &key.0, PRIVATE)?;
    }
    if fs::read(&path).map_err(CloudError::file("read", &path))? == key.0 {
        return Ok(());
    }
    Err(CloudError::Conflict {
        message: "another run has just made the key of this machine's Secrets".into(),
    })
}

/// Keeps a Secret's values under their version.
pub(crate) fn put(folder: &Path, key: &Key, secret: &Secret) -> Result<(), CloudError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder).map_err(CloudError::file("create", folder))?;
    keep(folder, key)?;
    // Written also when it is there: the sweep goes by the time of the file.
    home::write_whole(&folder.join(key.version(secret)?), &message(secret)?, PRIVATE)
}

/// The values of these versions, by the Secrets' names.
pub(crate) fn values(
    folder: &Path,
    versions: &BTreeMap<String, Option<String>>,
) -> Result<SecretValues, CloudError> {
    let mut values = SecretValues::new();
    for version in versions.values().flatten() {
        let path = folder.join(version);
        let bytes = fs::read(&path).map_err(CloudError::file("read", &path))?;
        let read = bytes.split_first_chunk::<SECRETS_HEADER>().and_then(|(header, body)| {
            (secrets_length(header) == Ok(body.len())).then(|| decode_secrets(body).ok()).flatten()
        });
        let read = read.ok_or_else(|| CloudError::Store {
            message: format!("{} does not hold a Secret; deploy again", path.display()),
        })?;
        values.extend(read);
    }
    Ok(values)
}

/// The message of Secrets for a machine, with `more` values of the cloud's own, as a file in memory that the machine reads at its
/// boot. Its pages are freed with the machine.
pub(crate) fn memory_file(
    folder: &Path,
    versions: &BTreeMap<String, Option<String>>,
    more: SecretValues,
) -> Result<Option<File>, CloudError> {
    if versions.is_empty() {
        return Ok(None);
    }
    let mut all = values(folder, versions)?;
    for (secret, values) in more {
        all.entry(secret).or_default().extend(values);
    }
    let message = encode_secrets(&all).map_err(too_long)?;
    let memory = || -> std::io::Result<File> {
        let mut file = File::from(rustix::fs::memfd_create("i2kit-secrets", MemfdFlags::CLOEXEC)?);
        file.write_all(&message)?;
        file.rewind()?;
        Ok(file)
    };
    memory().map(Some).map_err(CloudError::file("make a file in memory for", folder))
}

/// Removes every version that is not in `kept`, except those that were put just before `now`, in milliseconds since the
/// Unix epoch.
pub(crate) fn sweep(folder: &Path, kept: &BTreeSet<String>, now: u64) -> Result<(), CloudError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(CloudError::file("read", folder))?,
    };
    let sparing = UNIX_EPOCH + Duration::from_millis(now) - SPARED;
    for entry in entries {
        let entry = entry.map_err(CloudError::file("read", folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let written = entry.metadata().and_then(|found| found.modified());
        let young = written.is_ok_and(|time| time > sparing);
        if name != KEY && !kept.contains(&name) && !young {
            let path = entry.path();
            fs::remove_file(&path).map_err(CloudError::file("remove", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::cloud::local::clock;
    use crate::manifest::api::{Name, SecretValue};

    fn secret(value: &str) -> Secret {
        Secret {
            name: Name { namespace: "default".into(), name: "db".into() },
            kind: "Opaque".into(),
            data: [("password".to_owned(), SecretValue::new(value.as_bytes().to_vec()))].into(),
        }
    }

    #[test]
    fn versions_tell_values_apart_and_files_are_the_users_alone() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("secrets");
        let key = open(&folder).unwrap();
        assert!(!folder.exists(), "a look makes nothing");
        put(&folder, &key, &secret("one")).unwrap();
        let version = key.version(&secret("one")).unwrap();
        assert_eq!(open(&folder).unwrap().version(&secret("one")).unwrap(), version);
        assert_ne!(key.version(&secret("two")).unwrap(), version);
        // Another key, as on another machine, gives another version: values cannot be guessed without it.
        let other = open(root.path()).unwrap();
        assert_ne!(other.version(&secret("one")).unwrap(), version);
        assert!(matches!(put(&folder, &other, &secret("one")), Err(CloudError::Conflict { .. })));
        for name in [KEY, &version] {
            let mode = fs::metadata(folder.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let wanted = [("db".to_owned(), Some(version.clone())), ("gone".to_owned(), None)].into();
        let read = |more: SecretValues| {
            let mut told = Vec::new();
            memory_file(&folder, &wanted, more).unwrap().unwrap().read_to_end(&mut told).unwrap();
            told
        };
        assert_eq!(read(SecretValues::new()), message(&secret("one")).unwrap());
        let own = [("db".to_owned(), [("founded".to_owned(), b"yes".to_vec())].into())].into();
        let (header, body) =
            read(own).split_first_chunk::<SECRETS_HEADER>().map(|(h, b)| (*h, b.to_vec())).unwrap();
        assert_eq!(secrets_length(&header), Ok(body.len()));
        let keys: Vec<String> = decode_secrets(&body).unwrap()["db"].keys().cloned().collect();
        assert_eq!(keys, ["founded", "password"]);
        assert!(memory_file(&folder, &BTreeMap::new(), SecretValues::new()).unwrap().is_none());

        sweep(&folder, &BTreeSet::new(), clock::wall()).unwrap();
        assert!(folder.join(&version).exists(), "it was put just now");
        let later = clock::wall() + 20 * 60 * 1000;
        sweep(&folder, &[version.clone()].into(), later).unwrap();
        assert!(folder.join(&version).exists());
        sweep(&folder, &BTreeSet::new(), later).unwrap();
        assert!(!folder.join(&version).exists() && folder.join(KEY).exists());
    }
}
