//! The event stream of a cloud: an update whenever an environment changed, with what changed and how it is now.

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};

use super::error::CloudError;
use crate::plan::fleet::{Change, Fleet, changes};

/// One update.
#[derive(Debug, Clone)]
pub struct Update {
    /// What is there now.
    pub fleet: Fleet,
    /// What changed since the last update; everything there is in the first one. It may be empty.
    pub changes: Vec<Change>,
}

/// Updates without an end. After an error, which is of one look, they go on; where a cloud cannot go on with a watch they
/// end, and a new watch begins with what is there then.
pub type Updates<'c> = BoxStream<'c, Result<Update, CloudError>>;

/// Makes updates of observations. A change is what differs between two observations that came one after the other: however
/// many were lost in between, what has changed since is in the next update. What came and went between the two is in none.
pub(super) fn updates<'c>(
    observations: impl Stream<Item = Result<Fleet, CloudError>> + Send + 'c,
) -> Updates<'c> {
    let mut last = Fleet::default();
    let update = move |observed: Result<Fleet, CloudError>| {
        let fleet = observed?;
        let changes = changes(&last, &fleet);
        last.clone_from(&fleet);
        Ok(Update { fleet, changes })
    };
    observations.map(update).boxed()
}
