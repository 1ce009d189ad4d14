//! What can go wrong between a reference and its bytes. Each message ends with what to do next.

use std::io;
use std::path::PathBuf;

use crate::oci::archive::ArchiveError;
use crate::oci::layout::LayoutError;
use crate::oci::manifest::ManifestError;
use crate::oci::media::MediaTypeError;
use crate::oci::{DiffId, Digest, Reference, ReferenceError};

/// An error of the registry room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry wants credentials, and there are none or wrong ones.
    #[error(
        "{registry} refuses `{image}` to {who}: run `docker login {registry}` with an account that may pull it, and check the name"
    )]
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
        /// What the system says.
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
    /// A layer whose content is not what the configuration says.
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
        /// What the system says.
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
        /// What the system says.
        source: io::Error,
    },
}

impl Error {
    /// Wraps a system error with what was tried and on which path; meant for `map_err`.
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Wraps a document's error with the image that it belongs to; meant for `map_err`.
    pub(super) fn manifest(image: &Reference) -> impl FnOnce(ManifestError) -> Self {
        let image = image.to_string();
        move |source| Self::Manifest { image, source }
    }

    /// Whether another source of the same image may still do better.
    pub(super) fn is_worth_another_mirror(&self) -> bool {
        !matches!(self, Self::Io { .. } | Self::Busy { .. } | Self::Manifest { .. } | Self::Client(_))
    }
}
