//! Waiting for AWS, and the clock of what is compared with its times.

use std::time::Duration;

use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use tokio::time::Instant;

use crate::cloud::CloudError;

/// The first pause while something is waited for; it doubles up to [`LONGEST_PAUSE`].
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Asking more often than this brings throttling, not speed.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long one service of AWS may not know what another one has just made for us: an instance profile takes half a minute.
const LATE: Duration = Duration::from_mins(2);

/// Seconds since the Unix epoch.
pub(super) fn now() -> u64 {
    clock().as_secs()
}

/// Time since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "this is the one clock of what is compared with times of AWS")]
pub(super) fn clock() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// Asks until there is an answer, with growing pauses; after `limit` it is an error that names `what`.
pub(super) async fn eventually<T, F>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> F,
) -> Result<T, CloudError>
where
    F: Future<Output = Result<Option<T>, CloudError>>,
{
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        if started.elapsed() > limit {
            let message = format!("waited {} s for {what}", limit.as_secs());
            return Err(CloudError::Conflict { message });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Repeats a call for as long as its service does not know yet what was made in another one.
pub(super) async fn until_known<T, E, R, F>(mut call: impl FnMut() -> F) -> Result<T, SdkError<E, R>>
where
    F: Future<Output = Result<T, SdkError<E, R>>>,
    E: ProvideErrorMetadata,
{
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match call().await {
            Err(SdkError::ServiceError(error))
                if is_late(error.err().message()) && started.elapsed() < LATE =>
            {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            done => return done,
        }
    }
}

/// Whether a refusal is about something that is only not known yet. Who names what is nowhere gets an error two minutes later.
fn is_late(message: Option<&str>) -> bool {
    message.is_some_and(|text| text.to_ascii_lowercase().contains("invalid iam instance profile"))
}
