//! Work that waits for a disk, a process or a lock, in the middle of an asynchronous task.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Does something that blocks, such as a save, while other tasks of the process go on: another thread takes the worker's place.
pub(super) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    // A current-thread runtime, as tests have it, has no other thread to go on with.
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}
