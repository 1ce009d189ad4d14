//! What the keeper has of templates: the table of kinds, and which qemu there is.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::cloud::local::machine::qemu_version::Versions;
use crate::cloud::local::machine::template_table::{Table, Wanted};
use crate::oci::Digest;

/// Templates, as far as this process knows of them.
#[derive(Debug, Default)]
pub(super) struct Templates {
    /// Locked for moments only.
    table: Mutex<Table>,
    /// Told when one is wanted.
    pub(super) changed: Notify,
    /// The qemu that there is.
    pub(super) versions: Versions,
}

impl Templates {
    /// The table. Nothing that waits is done while it is locked.
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a template made, once nothing is in the way.
    pub(super) fn want(&self, key: Digest, wanted: Wanted) {
        if self.table().want(key, wanted, Instant::now()) {
            self.changed.notify_one();
        }
    }
}
