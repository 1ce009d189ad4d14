//! Downloading a blob: resumed after each break, endpoint after endpoint, verified at the end.

use std::path::PathBuf;

use futures::StreamExt as _;

use super::ingest::Ingest;
use super::progress::Task;
use super::remote::{Remote, Request};
use super::retry::{Failure, wait};
use super::{Error, blocking};
use crate::oci::Digest;

/// Bytes handed to the disk at once. While one batch is hashed and written, the next one arrives, so that a blob in
/// flight holds about twice as much.
const BATCH: usize = 512 * 1024;

/// How a whole endpoint went.
pub(super) enum Outcome {
    /// The blob is in the store.
    Done(PathBuf),
    /// It is not; what has come is still good for the next endpoint.
    Failed(Box<Ingest>, Error),
}

/// Fetches the rest of `ingest`'s blob from `remote`.
pub(super) async fn from_endpoint(
    remote: &Remote,
    request: Request<'_>,
    digest: Digest,
    mut ingest: Ingest,
    (is_last, task): (bool, &Task),
) -> Result<Outcome, Error> {
    let mut failed = 0;
    // Bytes of an earlier run or of another endpoint may be what makes the sum wrong: one more try without them.
    let mut foreign_bytes = ingest.written() > 0;
    loop {
        let before = ingest.written();
        let received;
        (ingest, received) = receive(remote, request, digest, ingest, task).await?;
        let failure = match received {
            Ok(()) => match verify(ingest, remote.host.clone()).await? {
                Outcome::Failed(rest, _) if foreign_bytes => {
                    foreign_bytes = false;
                    ingest = *rest;
                    continue;
                }
                outcome => return Ok(outcome),
            },
            Err(failure) => failure,
        };
        failed = if ingest.written() > before { 1 } else { failed + 1 };
        if !failure.is_worth_retry(failed, is_last) {
            return Ok(Outcome::Failed(Box::new(ingest), failure.error));
        }
        tracing::debug!(%digest, error = %failure.error, failed, at = ingest.written(), "resume");
        tokio::time::sleep(wait(failed)).await;
    }
}

async fn verify(mut ingest: Ingest, place: String) -> Result<Outcome, Error> {
    blocking(move || match ingest.verify(&place) {
        Ok(()) => Ok(Outcome::Done(ingest.commit()?)),
        Err(error @ Error::Digest { .. }) => Ok(Outcome::Failed(Box::new(ingest), error)),
        Err(error) => Err(error),
    })
    .await
}

/// One request, until the blob is complete or the connection breaks.
async fn receive(
    remote: &Remote,
    request: Request<'_>,
    digest: Digest,
    mut ingest: Ingest,
    task: &Task,
) -> Result<(Ingest, Result<(), Failure>), Error> {
    if ingest.is_complete() {
        return Ok((ingest, Ok(())));
    }
    let mut body = match remote.blob(request, digest, ingest.written()).await {
        Ok(body) => body,
        Err(failure) => return Ok((ingest, Err(failure))),
    };
    if body.starts_at != ingest.written() {
        ingest.restart()?;
    }
    loop {
        let mut batch = Vec::new();
        let mut size = 0;
        let mut end = None;
        while size < BATCH {
            match body.stream.next().await {
                Some(Ok(bytes)) => {
                    size += bytes.len();
                    batch.push(bytes);
                }
                Some(Err(error)) => {
                    end = Some(Err(remote.broken(&error)));
                    break;
                }
                None => {
                    end = Some(Ok(()));
                    break;
                }
            }
        }
        let place = remote.host.clone();
        let written;
        (ingest, written) = blocking(move || {
            let written = batch.iter().try_for_each(|bytes| ingest.write(bytes, &place));
            Ok((ingest, written))
        })
        .await?;
        task.progress(ingest.written());
        match (written, end) {
            (Err(error), _) => return Ok((ingest, Err(Failure::final_(error)))),
            (Ok(()), None) => {}
            // Whatever the library thought of the end, all bytes are here, and the sum decides.
            (Ok(()), Some(_)) if ingest.is_complete() => return Ok((ingest, Ok(()))),
            (Ok(()), Some(Ok(()))) => {
                let early = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the body ended early");
                return Ok((ingest, Err(remote.broken(&early))));
            }
            (Ok(()), Some(Err(failure))) => return Ok((ingest, Err(failure))),
        }
    }
}
