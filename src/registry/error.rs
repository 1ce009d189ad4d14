//! What can go wrong between a reference and its bytes. Each message ends with what to do next.

use std::io;
use std::path::PathBuf;

use super::files::free_bytes;
use crate::oci::archive::ArchiveError;
use crate::oci::layout::LayoutError;
use crate::oci::manifest::ManifestError;
use crate::oci::media::MediaTypeError;
use crate::oci::{DiffId, Digest, Reference, ReferenceError};

/// Before the name of a Secret in [`Error::Unauthorized`]'s `who`.
pub(super) const USER_OF: &str = "the user of ";

/// How to be let in.
fn way_in(registry: &str, who: &str) -> String {
    match who.strip_prefix(USER_OF) {
        Some(secret) => format!("put an account that may pull it into {secret}"),
        None => format!("run `docker login {registry}` with an account that may pull it"),
    }
}

/// An error of the registry room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry wants credentials, and there are none or wrong ones.
    #[error("{registry} refuses `{image}` to {who}: {}, and check the name", way_in(registry, who))]
    Unauthorized {
        /// The registry that was asked.
        registry: String,
        /// What was asked for.
        image: String,
        /// `an anonymous user`, or whose credentials were used.
        who: String,
    },
    /// There is no such image.
    #[error("{registry} has no `{image}`: check the name and the tag, or whether it has been pushed")]
    NotFound {
        /// The registry that was asked.
        registry: String,
        /// What was asked for.
        image: String,
    },
    /// The registry limits how much may be pulled.
    #[error(
        "{registry} limits pulls and the limit is reached: wait, run `docker login {registry}`, or set a mirror under `registries` in the environment file"
    )]
    RateLimited {
        /// The registry that was asked.
        registry: String,
    },
    /// No connection, or one that broke again and again.
    #[error("{registry} is not reached for `{image}`: {reason}; {hint}")]
    Unreachable {
        /// The registry that was asked.
        registry: String,
        /// What was asked for.
        image: String,
        /// The system's error.
        reason: String,
        /// What to do next.
        hint: String,
    },
    /// The registry answered with something that no client can use.
    #[error("{registry} failed on `{image}`: {message}; try again, or look at the registry's log")]
    Server {
        /// The registry that was asked.
        registry: String,
        /// What was asked for.
        image: String,
        /// Status and text.
        message: String,
    },
    /// Neither the mirrors nor the registry gave what was asked for, and the registry is not reached. What the mirrors
    /// answered comes first: it is why the registry was asked.
    #[error("{}; then {registry}", .mirrors.join("; "))]
    Mirrors {
        /// What the registry itself did. Its text is part of this one, and so it is no source of it.
        registry: Box<Error>,
        /// What each mirror answered.
        mirrors: Vec<String>,
    },
    /// The registry wants the password sent where others can read it.
    #[error(
        "{registry} has passwords for `{image}` checked by {realm}, without TLS: yours was not sent; if that is right, set `plainHttp: true` for `{registry}` under `registries` in the environment file"
    )]
    PlainRealm {
        /// The registry that was asked.
        registry: String,
        /// What was asked for.
        image: String,
        /// Where the password would have gone.
        realm: String,
    },
    /// A document that is larger than any real one.
    #[error(
        "{registry} answered for `{image}` with a document of more than {limit} bytes, which no image has: check the name, or look at the registry's log"
    )]
    Document {
        /// The registry that was asked.
        registry: String,
        /// What was asked for.
        image: String,
        /// Bytes that are read at most.
        limit: u64,
    },
    /// A blob that is larger than any real one.
    #[error("`{image}` names a layer of {size} bytes; at most {limit} are taken: make the image smaller")]
    TooLarge {
        /// The image.
        image: String,
        /// Bytes of the blob.
        size: u64,
        /// Bytes at most.
        limit: u64,
    },
    /// A layer that becomes larger than any real one.
    #[error(
        "layer unpacks to more than {limit} bytes, from {size}: refused, as no real layer does; check where the image comes from"
    )]
    Expansion {
        /// Bytes of the blob.
        size: u64,
        /// Bytes at most.
        limit: u64,
    },
    /// The disk has no room, or would have none.
    #[error(
        "{action} {path}: no room left in {folder}, which has {free} bytes free; make room, or run `i2kit cache prune`", path = .path.display(), folder = .folder.display()
    )]
    Full {
        /// What was tried, such as `write`.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The folder whose disk is full.
        folder: PathBuf,
        /// Bytes that it has left.
        free: u64,
    },
    /// Bytes that are not what their address promises.
    #[error(
        "{place} gave wrong bytes for {expected}: they are {actual}; the place or the way to it changes content, use another one"
    )]
    Digest {
        /// Where the bytes came from.
        place: String,
        /// The address.
        expected: Digest,
        /// What the bytes hash to.
        actual: Digest,
    },
    /// More or fewer bytes than promised.
    #[error("{place} gave {actual} bytes for {digest} where {expected} were promised; push the image again")]
    Size {
        /// Where the bytes came from.
        place: String,
        /// The address.
        digest: Digest,
        /// Size in the descriptor.
        expected: u64,
        /// Bytes received.
        actual: u64,
    },
    /// A document of the image cannot be used.
    #[error("`{image}`: {source}")]
    Manifest {
        /// The image.
        image: String,
        /// Why.
        source: ManifestError,
    },
    /// A layer in a format that cannot be read.
    #[error(transparent)]
    MediaType(#[from] MediaTypeError),
    /// A layer whose content does not match the configuration's digest.
    #[error("layer unpacks to {actual} but the image says {expected}: the image is broken, push it again")]
    DiffId {
        /// In the configuration.
        expected: DiffId,
        /// In the bytes.
        actual: DiffId,
    },
    /// A layer whose compression is broken, or whose consumer gave up.
    #[error("layer cannot be unpacked: {0}; the image is broken, push it again")]
    Unpack(io::Error),
    /// A layout that has no such image.
    #[error("OCI layout {path}: {source}", path = .path.display())]
    Layout {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: LayoutError,
    },
    /// An archive that has no such image.
    #[error("image archive {place}: {source}")]
    Archive {
        /// The file, or the daemon.
        place: String,
        /// Why.
        source: ArchiveError,
    },
    /// A file that is packed in a way that is not read.
    #[error("{place} is compressed with {packing}; gzip and zstd are read: unpack it, or compress it anew")]
    Packing {
        /// The file.
        place: String,
        /// The name of the way.
        packing: &'static str,
    },
    /// A file that is no archive at all.
    #[error(
        "{0} is not an archive: neither a tar nor one compressed with gzip or zstd; `archive` takes what `docker save` or `skopeo copy` make"
    )]
    NotATar(String),
    /// A source of an image that is given by the wrong key.
    #[error("{path} is a {kind}, which `{key}` does not take: name it by `{other}` in the environment file", path = .path.display())]
    SourceKey {
        /// The file or folder.
        path: PathBuf,
        /// `file` or `folder`.
        kind: &'static str,
        /// The key that was used.
        key: &'static str,
        /// The key to use.
        other: &'static str,
    },
    /// A tar that is neither a docker archive nor an OCI one.
    #[error(
        "image archive {0} has neither manifest.json nor index.json: make it with `docker save` or `skopeo copy`"
    )]
    NotAnArchive(String),
    /// A blob that the source of an image should have and has not.
    #[error(
        "{place} does not hold {digest}, which `{image}` needs: it has changed meanwhile or is incomplete"
    )]
    Missing {
        /// The source.
        place: String,
        /// The blob.
        digest: Digest,
        /// The image.
        image: String,
    },
    /// The Docker daemon cannot be asked.
    #[error("Docker daemon at {socket} is not reached: {reason}; start it, or take the image from elsewhere", socket = .socket.display())]
    Daemon {
        /// The socket.
        socket: PathBuf,
        /// The system's error.
        reason: String,
    },
    /// The Docker daemon has no such image.
    #[error("Docker daemon has no `{image}`: run `docker pull` or `docker build` first")]
    DaemonImage {
        /// What was asked for.
        image: String,
    },
    /// A key of `images` that is not a reference.
    #[error("`images` in the environment file: {0}")]
    Setting(#[from] ReferenceError),
    /// Another process uses the store.
    #[error("the cache {path} is in use by another i2kit: try again when it has finished", path = .path.display())]
    Busy {
        /// The store.
        path: PathBuf,
    },
    /// The HTTP client cannot be set up.
    #[error("HTTP client: {0}; check the proxy settings and the system's certificates")]
    Client(String),
    /// A file operation failed.
    #[error("{action} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried, such as `read`.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl Error {
    /// Wraps a system error with what was tried and on which path; meant for `map_err`.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::full(action, path),
            _ => Self::Io { action, path, source },
        }
    }

    /// There is no room for the file at `path`.
    pub(super) fn full(action: &'static str, path: PathBuf) -> Self {
        let folder = path.parent().unwrap_or(&path).to_owned();
        let free = free_bytes(&folder).unwrap_or(0);
        Self::Full { action, path, folder, free }
    }

    /// Wraps a document's error with the image that it belongs to; meant for `map_err`.
    pub(super) fn manifest(image: &Reference) -> impl FnOnce(ManifestError) -> Self {
        let image = image.to_string();
        move |source| Self::Manifest { image, source }
    }

    /// The error of a registry that was asked after `mirrors`, which failed so.
    pub(super) fn after(self, mirrors: Vec<String>) -> Self {
        match self {
            Self::Unreachable { .. } if !mirrors.is_empty() => {
                Self::Mirrors { registry: Box::new(self), mirrors }
            }
            other => other,
        }
    }

    /// Whether another source of the same image may still do better.
    pub(super) fn is_worth_another_mirror(&self) -> bool {
        !matches!(
            self,
            Self::Io { .. } | Self::Full { .. } | Self::Busy { .. } | Self::Manifest { .. } | Self::Client(_)
        )
    }
}
