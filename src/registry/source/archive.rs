//! Images from archives: files, or the stream that the Docker daemon makes. An archive is read once, front to back;
//! each of its files becomes a blob of the store, so that nothing is unpacked twice.

use std::fmt::Debug;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use i2kit_spec::Architecture;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use super::contract::{MAX_DOCUMENT, Source};
use crate::oci::archive::{ArchiveEntry, ArchiveFiles};
use crate::oci::media::LayerFormat;
use crate::oci::{Descriptor, Digest, Reference, archive, layout, manifest};
use crate::registry::blocking::blocking;
use crate::registry::error::Error;
use crate::registry::layer::decode;
use crate::registry::memo;
use crate::registry::progress::Task;
use crate::registry::store::{Key, PARTIAL, Partial, Store};
use crate::report::Events;

/// Buffer before the tar reader and between it and the store.
const BUFFER: usize = 256 * 1024;

/// The list of images in docker's format.
const MANIFEST_JSON: &str = "manifest.json";

/// The list of images in the OCI layout.
const INDEX_JSON: &str = "index.json";

/// The files of an archive whose blobs are in the store.
struct Contents {
    files: ArchiveFiles,
    manifest_json: Option<Vec<u8>>,
    index_json: Option<Vec<u8>>,
}

/// What an archive is read from.
#[async_trait]
pub(super) trait Input: Debug + Send + Sync {
    /// The name of the place in messages.
    fn place(&self) -> String;

    /// A text that changes when the content of `image` may have changed.
    async fn state(&self, image: &Reference) -> Result<String, Error>;

    /// The archive, to be read where blocking is allowed, and its size where that is known.
    async fn open(&self, image: &Reference) -> Result<(Box<dyn Read + Send>, Option<u64>), Error>;
}

/// A file made by `docker save`, or an OCI archive.
#[derive(Debug)]
pub(super) struct ArchiveFile {
    path: PathBuf,
}

impl ArchiveFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

#[async_trait]
impl Input for ArchiveFile {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    async fn state(&self, _: &Reference) -> Result<String, Error> {
        let data = std::fs::metadata(&self.path).map_err(Error::io("open", &self.path))?;
        if data.is_dir() {
            let (kind, key, other) = ("folder", "archive", "layout");
            return Err(Error::SourceKey { path: self.path.clone(), kind, key, other });
        }
        let (modified, changed) = ((data.mtime(), data.mtime_nsec()), (data.ctime(), data.ctime_nsec()));
        Ok(format!("{} {} {} {modified:?} {changed:?}", data.dev(), data.ino(), data.len()))
    }

    async fn open(&self, _: &Reference) -> Result<(Box<dyn Read + Send>, Option<u64>), Error> {
        let file = File::open(&self.path).map_err(Error::io("open", &self.path))?;
        let size = file.metadata().map_err(Error::io("read", &self.path))?.len();
        Ok((Box::new(file), Some(size)))
    }
}

/// Images in an archive.
#[derive(Debug)]
pub(super) struct Archive {
    input: Box<dyn Input>,
    store: Store,
    events: Events,
    /// Held by the one archive that is being read: two readers at once would do the same work.
    reading: Arc<Mutex<()>>,
}

impl Archive {
    pub(super) fn new(input: Box<dyn Input>, store: Store, events: Events, reading: Arc<Mutex<()>>) -> Self {
        Self { input, store, events, reading }
    }

    /// Reads the archive once, front to back, into the store.
    async fn read(&self, image: &Reference) -> Result<Contents, Error> {
        let (store, place) = (self.store.clone(), self.input.place());
        let (stream, size) = self.input.open(image).await?;
        let title = format!("read {} from {place}", image.repository);
        let task = Task::start(&self.events, place.clone(), title, size);
        blocking(move || unpack(stream, &store, &place, task)).await
    }

    /// Reads the archive again when the store lacks `wanted`.
    async fn fill(&self, image: &Reference, wanted: Digest) -> Result<(), Error> {
        let _guard = self.reading.lock().await;
        if self.store.get(Key::Blob(wanted)).is_some() {
            return Ok(());
        }
        let contents = self.read(image).await?;
        if let Some(text) = &contents.manifest_json {
            // The manifest of such an archive is made, not read; it may be what is wanted.
            self.put_manifest(&contents, text, image).await?;
        }
        Ok(())
    }

    /// The digest of the manifest or index that `image` means.
    async fn digest(
        &self,
        contents: &Contents,
        image: &Reference,
        architecture: Architecture,
    ) -> Result<Digest, Error> {
        if let Some(text) = &contents.manifest_json {
            return self.put_manifest(contents, text, image).await;
        }
        let place = self.input.place();
        let Some(text) = &contents.index_json else { return Err(Error::NotAnArchive(place)) };
        let entry = layout::select(text, image, architecture)
            .map_err(|source| Error::Layout { path: place.into(), source })?;
        Ok(entry.descriptor.digest)
    }

    /// Makes the manifest of an image that docker's list `text` describes, and stores it.
    async fn put_manifest(
        &self,
        contents: &Contents,
        text: &[u8],
        image: &Reference,
    ) -> Result<Digest, Error> {
        let wrong = |source| Error::Archive { place: self.input.place(), source };
        let found = archive::select(text, image).map_err(wrong)?;
        let config = archive::config(&contents.files, &found).map_err(wrong)?;
        let text = self.store.read(config.digest)?.unwrap_or_default();
        let config = manifest::parse_config(&text).map_err(Error::manifest(image))?;
        let (_, bytes, _) = archive::manifest(&contents.files, &found, &config).map_err(wrong)?;
        self.store.put(&bytes).await
    }

    fn missing(&self, image: &Reference, digest: Digest) -> Error {
        Error::Missing { place: self.input.place(), digest, image: image.to_string() }
    }
}

#[async_trait]
impl Source for Archive {
    /// An archive that has not changed is not read again.
    async fn resolve(&self, image: &Reference, architecture: Architecture) -> Result<Digest, Error> {
        let _guard = self.reading.lock().await;
        let key = format!("{} {image} {architecture}", self.input.state(image).await?);
        if let Some(digest) = memo::get(&self.store, &key)
            && self.store.read(digest)?.is_some()
        {
            return Ok(digest);
        }
        let contents = self.read(image).await?;
        let digest = self.digest(&contents, image, architecture).await?;
        memo::put(&self.store, &key, digest)?;
        Ok(digest)
    }

    async fn document(&self, image: &Reference, digest: Digest) -> Result<Vec<u8>, Error> {
        self.fill(image, digest).await?;
        self.store.read(digest)?.ok_or_else(|| self.missing(image, digest))
    }

    async fn blob(&self, image: &Reference, blob: &Descriptor, partial: Partial) -> Result<PathBuf, Error> {
        partial.abandon()?;
        self.fill(image, blob.digest).await?;
        self.store.blob(blob)?.ok_or_else(|| self.missing(image, blob.digest))
    }
}

/// Reads the tar `input`, compressed or not, and stores its files.
fn unpack(input: impl Read + Send, store: &Store, place: &str, task: Task) -> Result<Contents, Error> {
    let broken = |source| Error::io("read", place)(source);
    let count = Arc::new(AtomicU64::new(0));
    let mut input = BufReader::with_capacity(BUFFER, Counted { input, count: Arc::clone(&count) });
    let start = input.fill_buf().map_err(broken)?;
    if let Some(packing) = LayerFormat::other_packing(start) {
        return Err(Error::Packing { place: place.to_owned(), packing });
    }
    let format = LayerFormat::of_bytes(start);
    let mut tar = tar::Archive::new(decode(input, format).map_err(broken)?);
    let mut contents = Contents { files: ArchiveFiles::default(), manifest_json: None, index_json: None };
    let mut is_tar = false;
    for entry in tar.entries().map_err(broken)? {
        let mut entry = match entry {
            Err(_) if !is_tar && format == LayerFormat::Tar => return Err(Error::NotATar(place.to_owned())),
            entry => entry.map_err(broken)?,
        };
        is_tar = true;
        let path = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        let kind = entry.header().entry_type();
        if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name_bytes().unwrap_or_default();
            let target = String::from_utf8_lossy(&target);
            // A hard link's target starts at the root of the archive, a symbolic link's at its own folder.
            let depth = if kind.is_symlink() { 0 } else { path.matches('/').count() };
            contents.files.insert(&path, ArchiveEntry::Link("../".repeat(depth) + &target));
        } else if kind.is_file() || kind.is_gnu_sparse() || kind.is_contiguous() {
            match path.as_str() {
                MANIFEST_JSON => contents.manifest_json = Some(document(&mut entry).map_err(broken)?),
                INDEX_JSON => contents.index_json = Some(document(&mut entry).map_err(broken)?),
                _ if is_idle(&path) => {}
                _ => {
                    let size = entry.size();
                    let file = ingest(&mut entry, &path, size, store, place)?;
                    contents.files.insert(&path, ArchiveEntry::File(file));
                }
            }
        }
        task.progress(count.load(Ordering::Relaxed));
    }
    task.finish("read");
    Ok(contents)
}

/// Files for older Docker versions, whose content the others repeat.
fn is_idle(path: &str) -> bool {
    matches!(path, "repositories" | "oci-layout") || path.ends_with("/VERSION") || path.ends_with("/json")
}

fn document(entry: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(MAX_DOCUMENT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Makes a blob of one file of the archive. A file named by its digest that is in the store already is passed over.
fn ingest(
    entry: &mut impl Read,
    path: &str,
    size: u64,
    store: &Store,
    place: &str,
) -> Result<archive::ArchiveFile, Error> {
    let broken = |source| Error::io("read", place)(source);
    let named: Option<Digest> =
        path.strip_prefix("blobs/sha256/").and_then(|hex| format!("sha256:{hex}").parse().ok());
    let known = named.filter(|digest| store.holds(*digest, size));
    let mut start = Vec::with_capacity(BUFFER);
    entry.take(BUFFER as u64).read_to_end(&mut start).map_err(broken)?;
    let format = LayerFormat::of_bytes(&start);
    if let Some(digest) = known {
        return Ok(archive::ArchiveFile { digest, size, format });
    }
    let folder = store.path(Key::Blob(Digest::of(&[])));
    let folder = folder.parent().unwrap_or_else(|| Path::new("/"));
    let file = tempfile::Builder::new().prefix("archive-").suffix(PARTIAL).tempfile_in(folder);
    let mut file = file.map_err(Error::io("create", folder))?;
    let mut hash = Sha256::new();
    let mut length = 0;
    let mut buffer = start;
    while !buffer.is_empty() {
        hash.update(&buffer);
        file.write_all(&buffer).map_err(Error::io("write", file.path()))?;
        length += buffer.len() as u64;
        buffer.clear();
        entry.take(BUFFER as u64).read_to_end(&mut buffer).map_err(broken)?;
    }
    if length != size {
        return Err(broken(std::io::ErrorKind::UnexpectedEof.into()));
    }
    let actual = Digest::from_bytes(hash.finalize().into());
    if let Some(expected) = named.filter(|digest| *digest != actual) {
        return Err(Error::Digest { place: place.to_owned(), expected, actual });
    }
    let target = store.path(Key::Blob(actual));
    file.persist(&target).map_err(|error| Error::io("rename", &target)(error.error))?;
    Ok(archive::ArchiveFile { digest: actual, size: length, format })
}

/// Counts the bytes that pass.
struct Counted<R> {
    input: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mutations::survive;

    fn unpack_bytes(bytes: &[u8]) -> Result<(Contents, Vec<std::path::PathBuf>), Error> {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let task = Task::start(&Events::none(), String::new(), String::new(), None);
        let contents = unpack(bytes, &store, "test", task);
        let blobs = std::fs::read_dir(folder.path().join("blobs/sha256")).unwrap();
        let blobs: Vec<_> = blobs.map(|file| file.unwrap().path()).collect();
        for blob in &blobs {
            let name = blob.file_name().unwrap().to_string_lossy().into_owned();
            assert_eq!(Digest::of(&std::fs::read(blob).unwrap()).hex(), name, "a blob under a wrong name");
        }
        Ok((contents?, blobs))
    }

    fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, path, *content).unwrap();
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn a_file_named_by_another_digest_is_refused() {
        let path = format!("blobs/sha256/{}", Digest::of(b"good").hex());
        assert!(unpack_bytes(&tar_of(&[(&path, b"good")])).is_ok());
        assert!(matches!(unpack_bytes(&tar_of(&[(&path, b"evil")])), Err(Error::Digest { .. })));
    }

    #[test]
    fn what_is_no_archive_is_named_by_its_kind() {
        let error = |bytes: &[u8]| unpack_bytes(bytes).map(drop).unwrap_err().to_string();
        assert!(error(b"\xfd7zXZ\0rest").contains("compressed with xz; gzip and zstd are read"));
        assert!(error(b"BZh91AY&SYrest").contains("compressed with bzip2"));
        assert!(error(&b"these are words, not a tar\n".repeat(40)).contains("is not an archive"));
        assert!(unpack_bytes(&tar_of(&[("BZh91AY", b"a tar by that name")])).is_ok());
    }

    #[test]
    fn a_truncated_archive_is_an_error() {
        let whole = tar_of(&[("a", &[1; 2000]), ("b", &[2; 2000])]);
        assert_eq!(unpack_bytes(&whole).unwrap().1.len(), 2);
        assert!(unpack_bytes(&whole[..4000]).is_err());
    }

    #[test]
    fn changed_archives_leave_no_wrong_blob() {
        let layer = tar_of(&[("etc/hostname", b"web")]);
        let manifest = br#"[{"Config":"c.json","RepoTags":["app:1"],"Layers":["l/layer.tar"]}]"#;
        let docker = tar_of(&[("manifest.json", manifest), ("c.json", b"{}"), ("l/layer.tar", &layer)]);
        let named = format!("blobs/sha256/{}", Digest::of(b"{}").hex());
        let index = br#"{"schemaVersion":2,"manifests":[]}"#;
        let layout = tar_of(&[("oci-layout", b"{}"), ("index.json", index), (&named, b"{}")]);
        assert_eq!(unpack_bytes(&docker).unwrap().1.len(), 2);
        assert_eq!(unpack_bytes(&layout).unwrap().1.len(), 1);
        survive(&[docker, layout], 200, |bytes| drop(unpack_bytes(bytes)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn hostile_archives_neither_panic_nor_leave_wrong_blobs(
            content in proptest::collection::vec(any::<u8>(), 0..3000),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = tar_of(&[("manifest.json", &content), ("x/layer.tar", &content), ("y", b"[]")]);
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let _ = unpack_bytes(&bytes);
            let _ = unpack_bytes(&bytes[..cut.index(bytes.len())]);
        }
    }
}
