//! Descriptors of this process: its limit, and what programs that it starts inherit.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Resource, Rlimit};

/// See [`starting`].
static STARTING: Mutex<()> = Mutex::new(());

/// Held while a process is started, so that no process inherits descriptors that are meant for another: a disk's descriptor
/// has the disk's lock.
pub(crate) fn starting() -> MutexGuard<'static, ()> {
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a process with `spawn`, by itself: it inherits no descriptor but its standard ones.
pub(crate) fn alone<T>(spawn: impl FnOnce() -> T) -> T {
    let _starting = starting();
    close_on_exec();
    spawn()
}

/// Raises this process's limit of descriptors to its hard limit, and returns it.
pub(crate) fn raise_limit() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Where it is refused, the limit stays as it is.
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
    let current = rustix::process::getrlimit(Resource::Nofile).current;
    current.map_or(usize::MAX, |current| usize::try_from(current).unwrap_or(usize::MAX))
}

/// Closes all descriptors but the standard ones in programs that this process starts: a lock or a pipe that it
/// inherited must not live as long as a machine.
pub(crate) fn close_on_exec() {
    close_fds::set_fds_cloexec_threadsafe(3, &[]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_to_the_hard_one() {
        let limit = raise_limit();
        let is = rustix::process::getrlimit(Resource::Nofile);
        assert_eq!(is.current, is.maximum);
        assert_eq!(is.current.map_or(usize::MAX, |is| usize::try_from(is).unwrap()), limit);
    }
}
