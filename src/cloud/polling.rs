//! Watching a cloud that has no events: it is asked again and again.

use std::time::Duration;

use futures::{Stream, stream};

use super::{Cloud, CloudError, Scope};
use crate::plan::fleet::Fleet;

/// Observations of a cloud that has to be asked again and again, `pause` after each answer.
pub(super) fn observations<'c, C: Cloud>(
    cloud: &'c C,
    scope: &Scope,
    pause: Duration,
) -> impl Stream<Item = Result<Fleet, CloudError>> + Send + 'c {
    let scope = scope.clone();
    stream::unfold((scope, Duration::ZERO), move |(scope, wait)| async move {
        if wait.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(wait).await;
        }
        let observed = cloud.inspect(&scope).await;
        Some((observed, (scope, pause)))
    })
}
