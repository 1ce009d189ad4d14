//! The end of threads that ask for as long as something else is done.

use std::sync::atomic::{AtomicBool, Ordering};

/// Sets a value when dropped, also when a test fails: threads that look at it are waited for.
pub(crate) struct Ending<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
