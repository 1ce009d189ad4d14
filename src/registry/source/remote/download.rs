//! Downloading a blob: resumed after each break, endpoint after endpoint, verified at the end.

use std::path::PathBuf;

use futures::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use super::client::{Body, RegistryClient, Request};
use super::failure::root;
use super::retry::{Failure, wait};
use crate::oci::Digest;
use crate::registry::blocking::blocking;
use crate::registry::error::Error;
use crate::registry::ingest::Ingest;
use crate::registry::progress::Task;

/// Bytes hashed and written at once. Meanwhile the next ones arrive in the socket's buffer, and a blob in flight holds
/// about this much.
const BATCH: usize = 512 * 1024;

/// Bytes that count as progress: after less, an attempt that broke off has failed once more.
const PROGRESS: u64 = 64 * 1024;

/// Requests for one blob of one endpoint, however well each goes: a registry that breaks off so often never ends.
const MAX_REQUESTS: u32 = 1000;

/// A blob to fetch from one endpoint.
pub(super) struct Download<'a> {
    pub(super) client: &'a RegistryClient,
    pub(super) request: Request<'a>,
    pub(super) digest: Digest,
    /// Whether no other endpoint is left to ask.
    pub(super) is_last: bool,
    pub(super) task: &'a Task,
}

/// How the endpoint did.
pub(super) enum Outcome {
    /// The blob is in the store.
    Done(PathBuf),
    /// It is not; what has come is still good for the next endpoint.
    Failed(Box<Ingest>, Error),
}

impl Download<'_> {
    /// Fetches what `ingest` lacks.
    pub(super) async fn run(&self, mut ingest: Ingest) -> Result<Outcome, Error> {
        let (mut failed, mut requests) = (0, 0);
        // Bytes of an earlier run or of another endpoint may be what makes the sum wrong: one more try without them.
        let mut has_older_bytes = ingest.written() > 0;
        loop {
            let before = ingest.written();
            let received;
            (ingest, received) = self.receive(ingest).await?;
            let failure = match received {
                Ok(()) => match verify(ingest, self.client.host.clone()).await? {
                    Outcome::Failed(rest, _) if has_older_bytes => {
                        has_older_bytes = false;
                        ingest = *rest;
                        continue;
                    }
                    outcome => return Ok(outcome),
                },
                Err(failure) => failure,
            };
            requests += 1;
            failed = if ingest.written() >= before + PROGRESS { 1 } else { failed + 1 };
            if requests >= MAX_REQUESTS || !failure.is_worth_retry(failed, self.is_last) {
                return Ok(Outcome::Failed(Box::new(ingest), failure.error));
            }
            let at = ingest.written();
            tracing::debug!(digest = %self.digest, error = %failure.error, failed, at, "resume");
            tokio::time::sleep(wait(failed, self.client.patience.first_wait)).await;
        }
    }

    /// One request, until the blob is complete or the connection breaks.
    async fn receive(&self, mut ingest: Ingest) -> Result<(Ingest, Result<(), Failure>), Error> {
        if ingest.is_complete() {
            return Ok((ingest, Ok(())));
        }
        let mut body = match self.client.blob(self.request, self.digest, ingest.written()).await {
            Ok(body) => body,
            Err(failure) => return Ok((ingest, Err(failure))),
        };
        if body.starts_at != ingest.written() {
            ingest.restart()?;
        }
        loop {
            let (batch, end) = self.next_batch(&mut body).await;
            let place = self.client.host.clone();
            let written;
            (ingest, written) = blocking(move || {
                let written = batch.iter().try_for_each(|bytes| ingest.write(bytes.as_ref(), &place));
                Ok((ingest, written))
            })
            .await?;
            self.task.progress(ingest.written());
            let result = match (written, end) {
                (Err(error), _) => Err(Failure::final_(error)),
                (Ok(()), None) => continue,
                // Whatever the library thought of the end, all bytes are here, and the sum decides.
                (Ok(()), Some(_)) if ingest.is_complete() => Ok(()),
                (Ok(()), Some(end)) => Err(end),
            };
            return Ok((ingest, result));
        }
    }

    /// The next bytes of the body, and what came behind them when that was the end.
    async fn next_batch(&self, body: &mut Body) -> (Vec<impl AsRef<[u8]> + use<>>, Option<Failure>) {
        let mut batch = Vec::new();
        let mut size = 0;
        let patience = self.client.patience;
        let end = Instant::now() + patience.window;
        while size < BATCH {
            match timeout_at(end, body.stream.next()).await {
                Ok(Some(Ok(bytes))) => {
                    size += bytes.len();
                    batch.push(bytes);
                }
                Ok(Some(Err(error))) => {
                    return (batch, Some(self.client.broken(self.request, &root(&error))));
                }
                Ok(None) => {
                    return (batch, Some(self.client.broken(self.request, "the body ended early")));
                }
                Err(_) if size as u64 >= patience.progress => break,
                Err(_) => {
                    let reason = format!("it sent {size} bytes in {} s", patience.window.as_secs());
                    self.task.note(format!("{} is slow: {reason}; asking again", self.client.host));
                    return (batch, Some(self.client.broken(self.request, &reason)));
                }
            }
        }
        (batch, None)
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
