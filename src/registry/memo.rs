//! What a place pointed at when it was last read, so that an archive that has not changed is not read again. A memo is
//! a hint: what it names is verified by digest as everything else, and a lost one costs only time.

use super::error::Error;
use super::store::Store;
use crate::oci::Digest;

/// What `key`, a text that identifies the place and its state, pointed at.
pub(super) fn get(store: &Store, key: &str) -> Option<Digest> {
    std::fs::read_to_string(path(store, key)).ok()?.trim().parse().ok()
}

/// Remembers that `key` points at `digest`.
pub(super) fn put(store: &Store, key: &str, digest: Digest) -> Result<(), Error> {
    let path = path(store, key);
    let folder = store.root().join("memos");
    std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(&folder)?;
        std::io::Write::write_all(&mut file, digest.to_string().as_bytes())?;
        file.persist(&path).map_err(|error| error.error)
    };
    write().map_err(Error::io("write", &path))?;
    Ok(())
}

fn path(store: &Store, key: &str) -> std::path::PathBuf {
    store.root().join("memos").join(Digest::of(key.as_bytes()).hex())
}
