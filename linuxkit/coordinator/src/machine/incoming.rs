//! A snapshot that comes in from another replica, part by part. What was written of it stays when the connection breaks.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::log::EntryId;

/// Which snapshot: its last entry, its length, and its checksum.
pub(crate) type Which = (EntryId, u64, u32);

/// The snapshot.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    which: Option<Which>,
    file: Option<Arc<File>>,
    offset: u64,
}

impl Incoming {
    /// Takes the part at `offset` of the snapshot `which` into the file at `path`, and gives back which one is wanted next. Another
    /// snapshot begins the file anew.
    pub(crate) async fn take(
        &mut self,
        path: &Path,
        which: Which,
        offset: u64,
        bytes: Bytes,
    ) -> io::Result<u64> {
        let file = if let Some(file) = self.file.clone().filter(|_| self.which == Some(which)) {
            file
        } else {
            let opened = OpenOptions::new().create(true).read(true).write(true).truncate(true).open(path);
            let file = Arc::new(opened?);
            *self = Self { which: Some(which), file: Some(file.clone()), offset: 0 };
            file
        };
        if offset == self.offset && !bytes.is_empty() {
            let len = bytes.len() as u64;
            let write = move || file.write_all_at(&bytes, offset);
            tokio::task::spawn_blocking(write).await.map_err(io::Error::other)??;
            self.offset += len;
        }
        Ok(self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn parts_are_taken_in_order_and_another_snapshot_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snapshot.part");
        let mut incoming = Incoming::default();
        let which = (EntryId { index: 5, ..EntryId::default() }, 6, 1);
        let part = Bytes::from_static(b"abc");
        assert_eq!(incoming.take(&path, which, 6, Bytes::new()).await.unwrap(), 0);
        assert_eq!(incoming.take(&path, which, 0, part.clone()).await.unwrap(), 3);
        // Twice, and out of order.
        assert_eq!(incoming.take(&path, which, 0, part.clone()).await.unwrap(), 3);
        assert_eq!(incoming.take(&path, which, 9, part.clone()).await.unwrap(), 3);
        assert_eq!(incoming.take(&path, which, 3, part.clone()).await.unwrap(), 6);
        assert_eq!(std::fs::read(&path).unwrap(), b"abcabc");
        assert_eq!(incoming.take(&path, (which.0, 6, 2), 3, part).await.unwrap(), 0);
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }
}
