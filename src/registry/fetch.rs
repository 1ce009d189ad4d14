//! Getting a blob or a document into the store from whatever place holds it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::download::{Download, Outcome};
use super::endpoint::{Endpoint, endpoints};
use super::ingest::Ingest;
use super::progress::Task;
use super::remote::{Remote, Request};
use super::retry::retrying;
use super::store::{Claim, Key, Partial, partial_path};
use super::{Error, ImageSource, Inner, archive, blocking, credentials, layout};
use crate::oci::{Descriptor, Digest, Reference};

/// Waiting for another run is not worth a word before this time.
const SILENT_WAIT: Duration = Duration::from_secs(2);

/// Largest blob that is taken: what a layer may become, so that nothing larger could be used.
pub(super) const MAX_BLOB: u64 = crate::erofs::MAX_IMAGE;

/// Bytes that a download leaves free on the disk, for everybody else who writes to it.
const RESERVE: u64 = 256 << 20;

/// The file of `blob`, which belongs to `image`.
pub(super) async fn blob(inner: &Inner, image: &Reference, blob: &Descriptor) -> Result<PathBuf, Error> {
    if let Some(path) = inner.store.blob(blob)? {
        return Ok(path);
    }
    check_size(inner, image, blob)?;
    let partial = match claim(inner, image, blob.digest).await? {
        Claim::Ready(path) => return Ok(path),
        Claim::Vacant(partial) => partial,
    };
    match inner.source(image) {
        None => from_registry(inner, image, blob, partial).await,
        Some(ImageSource::Layout(folder)) => layout::blob(folder, image, blob, partial).await,
        Some(source) => {
            partial.abandon()?;
            archive::fill(inner, source, image, blob.digest).await?;
            let place = archive::place(inner, source);
            let missing = || Error::Missing { place, digest: blob.digest, image: image.to_string() };
            inner.store.blob(blob)?.ok_or_else(missing)
        }
    }
}

/// Refuses a blob that no disk should be filled with, by what its descriptor promises.
fn check_size(inner: &Inner, image: &Reference, blob: &Descriptor) -> Result<(), Error> {
    if blob.size > MAX_BLOB {
        return Err(Error::TooLarge { image: image.to_string(), size: blob.size, limit: MAX_BLOB });
    }
    let path = inner.store.path(Key::Blob(blob.digest));
    let folder = path.parent().unwrap_or(&path);
    // What does not tell how much room there is tells when there is none.
    let free = super::store::free_bytes(folder).unwrap_or(u64::MAX);
    let begun = std::fs::metadata(partial_path(&path)).map_or(0, |data| data.len());
    if fits(blob.size, begun, free) { Ok(()) } else { Err(Error::full("fetch", path)) }
}

/// Whether a disk with `free` bytes takes the rest of a blob of which `begun` bytes are there. A blob that is smaller
/// than the reserve needs no more than itself of it.
fn fits(size: u64, begun: u64, free: u64) -> bool {
    size.saturating_sub(begun).saturating_add(RESERVE.min(size)) <= free
}

/// The right to write the blob, or the blob when another run or task was faster. Waiting is told when it takes long.
async fn claim(inner: &Inner, image: &Reference, digest: Digest) -> Result<Claim, Error> {
    let key = Key::Blob(digest);
    if let Ok(claim) = tokio::time::timeout(SILENT_WAIT, inner.store.claim(key)).await {
        return claim;
    }
    inner.events.note(format!(
        "{} {}: another run is fetching it, waiting",
        image.repository,
        digest.short()
    ));
    inner.store.claim(key).await
}

/// The bytes of a manifest or an index of `image`.
pub(super) async fn document(inner: &Inner, image: &Reference, digest: Digest) -> Result<Vec<u8>, Error> {
    if let Some(bytes) = inner.store.read(digest)? {
        return Ok(bytes);
    }
    let (bytes, place) = match inner.source(image) {
        None => {
            ask(inner, image, |remote, endpoint, is_last| async move {
                let request = Request { endpoint: &endpoint, image };
                let attempts = (is_last, remote.patience);
                let bytes = retrying(attempts, || remote.manifest(request, digest)).await?;
                check(&bytes, digest, &remote.host)?;
                Ok((bytes, remote.host.clone()))
            })
            .await?
        }
        Some(ImageSource::Layout(folder)) => layout::document(folder, image, digest)?,
        Some(source) => {
            archive::fill(inner, source, image, digest).await?;
            let place = archive::place(inner, source);
            let missing = || Error::Missing { place, digest, image: image.to_string() };
            return inner.store.read(digest)?.ok_or_else(missing);
        }
    };
    check(&bytes, digest, &place)?;
    inner.store.put(&bytes).await?;
    Ok(bytes)
}

/// What the tag of `image` points at now.
pub(super) async fn tag(inner: &Inner, image: &Reference, tag: &str) -> Result<Digest, Error> {
    ask(inner, image, |remote, endpoint, is_last| async move {
        let request = Request { endpoint: &endpoint, image };
        retrying((is_last, remote.patience), || remote.tag_digest(request, tag)).await
    })
    .await
}

/// Asks one endpoint after the other until one answers. The registry itself is the last, and its error is the one
/// that is told, with those of the mirrors when it is not reached.
async fn ask<T, F: Future<Output = Result<T, Error>>>(
    inner: &Inner,
    image: &Reference,
    question: impl Fn(Arc<Remote>, Endpoint, bool) -> F,
) -> Result<T, Error> {
    let mut endpoints = endpoints(&inner.settings, image).into_iter().peekable();
    let mut mirrors = Vec::new();
    loop {
        let endpoint = endpoints.next().expect("the registry itself is always the last endpoint");
        let is_last = endpoints.peek().is_none();
        let answer = match remote(inner, &endpoint).await {
            Ok(remote) => question(remote, endpoint, is_last).await,
            Err(error) => Err(error),
        };
        match answer {
            Err(error) if !is_last && error.is_worth_another_mirror() => {
                tracing::debug!(%error, "next mirror");
                mirrors.push(error.to_string());
            }
            answer => return answer.map_err(|error| error.after(mirrors)),
        }
    }
}

async fn from_registry(
    inner: &Inner,
    image: &Reference,
    blob: &Descriptor,
    partial: Partial,
) -> Result<PathBuf, Error> {
    let _permit = inner.downloads.acquire().await.expect("the semaphore is never closed");
    let title = format!("pull {} {}", image.repository, blob.digest.short());
    let task = Task::start(&inner.events, blob.digest.to_string(), title, Some(blob.size));
    let mut ingest = {
        let blob = blob.clone();
        blocking(move || Ingest::resume(partial, &blob)).await?
    };
    let mut endpoints = endpoints(&inner.settings, image).into_iter().peekable();
    let mut mirrors = Vec::new();
    loop {
        let endpoint = endpoints.next().expect("the registry itself is always the last endpoint");
        let is_last = endpoints.peek().is_none();
        let request = Request { endpoint: &endpoint, image };
        let outcome = match remote(inner, &endpoint).await {
            Ok(remote) => {
                let download =
                    Download { remote: &remote, request, digest: blob.digest, is_last, task: &task };
                download.run(ingest).await?
            }
            Err(error) => Outcome::Failed(Box::new(ingest), error),
        };
        match outcome {
            Outcome::Done(path) => {
                task.finish("pulled");
                return Ok(path);
            }
            Outcome::Failed(rest, error) if !is_last && error.is_worth_another_mirror() => {
                tracing::debug!(%error, "next mirror");
                mirrors.push(error.to_string());
                ingest = *rest;
            }
            Outcome::Failed(_, error) => return Err(error.after(mirrors)),
        }
    }
}

/// The client for an endpoint's host.
async fn remote(inner: &Inner, endpoint: &Endpoint) -> Result<Arc<Remote>, Error> {
    let mut remotes = inner.remotes.lock().await;
    let key = (endpoint.host.clone(), endpoint.plain_http, endpoint.is_local);
    if let Some(remote) = remotes.get(&key) {
        return Ok(Arc::clone(remote));
    }
    let (config, host) = (inner.settings.docker_config.clone(), endpoint.host.clone());
    let find = move || Ok(credentials::find(config.as_deref(), &host));
    let (credentials, warning) = blocking(find).await?;
    if let Some(warning) = warning {
        inner.events.warn(format!("{warning}; going on without credentials"));
    }
    let remote = Arc::new(Remote::new(
        endpoint,
        (&inner.settings.proxies, inner.settings.patience),
        credentials,
        inner.events.clone(),
    )?);
    remotes.insert(key, Arc::clone(&remote));
    Ok(remote)
}

fn check(bytes: &[u8], expected: Digest, place: &str) -> Result<(), Error> {
    let actual = Digest::of(bytes);
    if actual == expected {
        return Ok(());
    }
    Err(Error::Digest { place: place.to_owned(), expected, actual })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_leaves_a_reserve() {
        const GIB: u64 = 1 << 30;
        assert!(fits(GIB, 0, 2 * GIB) && !fits(2 * GIB, 0, 2 * GIB) && fits(2 * GIB, GIB, 2 * GIB));
        assert!(fits(1000, 0, 2000) && !fits(1000, 0, 1000), "a small one asks for little");
        assert!(!fits(u64::MAX, 0, u64::MAX - 1));
    }
}
