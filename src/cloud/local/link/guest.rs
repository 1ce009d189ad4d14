//! The guest at the other end of a link, as the host knows it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::cloud::local::log::Log;
use crate::cloud::local::supervise::Tasks;

/// A guest, and where failures of its link are reported.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) id: String,
    pub(crate) folder: PathBuf,
    /// The names of its pod's containers. Whatever the guest sends of others is not kept.
    pub(crate) containers: BTreeSet<String>,
    /// Where a failure is shown for as long as it lasts.
    pub(crate) tasks: Arc<Tasks>,
    /// Where it is logged.
    pub(crate) log: Arc<Log>,
}
