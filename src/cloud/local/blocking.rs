//! Work that waits for a disk, a process or a lock, in the middle of an asynchronous task: on its own thread, or on another one.

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::cloud::CloudError;

/// Does something that blocks, such as a save, while other tasks of the process go on: another thread takes the worker's place.
pub(super) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    // A current-thread runtime, as tests have it, has no other thread to go on with.
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Does something that blocks, `task` by name, on a thread of its own. Whoever stops waiting for it leaves it to end by itself.
pub(super) async fn apart<T: Send + 'static>(
    task: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CloudError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|panic| CloudError::Program { program: task.into(), message: panic.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_named_after_its_task() {
        assert_eq!(apart("addition", || 1 + 1).await.unwrap(), 2);
        let error =
            apart("addition", || panic!("no numbers")).await.map(|(): ()| ()).unwrap_err().to_string();
        assert!(error.contains("addition: ") && error.contains("no numbers"), "{error}");
    }
}
