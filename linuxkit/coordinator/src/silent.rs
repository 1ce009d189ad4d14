//! Connections that have said nothing yet. When a port has no place left, the one that is silent for longest goes: who only
//! connects keeps nobody out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Tasks of connections, the oldest first.
    tasks: BTreeMap<u64, AbortHandle>,
}

/// The places of one port.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    silent: Arc<Mutex<State>>,
}

/// A connection's own: it is silent until [`Ticket::spoke`], and has its place until this is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    number: u64,
    silent: Arc<Mutex<State>>,
    _place: OwnedSemaphorePermit,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places {
    /// For so many connections at one time.
    pub(crate) fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), silent: Arc::default() }
    }

    /// Starts the task of a connection once there is a place; the connection that is silent for longest makes room. When
    /// all have spoken, it waits.
    pub(crate) async fn spawn<F>(&self, work: impl FnOnce(Ticket) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if self.free.available_permits() == 0
            && let Some((_, oldest)) = lock(&self.silent).tasks.pop_first()
        {
            oldest.abort();
        }
        // It is never closed.
        let Ok(place) = Arc::clone(&self.free).acquire_owned().await else { return };
        let mut state = lock(&self.silent);
        state.next += 1;
        let number = state.next;
        let ticket = Ticket { number, silent: Arc::clone(&self.silent), _place: place };
        // Under the lock: a task that ends at once finds its entry, and takes it away.
        state.tasks.insert(number, tokio::spawn(work(ticket)).abort_handle());
    }
}

impl Ticket {
    /// The connection is one of somebody who wants something.
    pub(crate) fn spoke(&self) {
        lock(&self.silent).tasks.remove(&self.number);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.spoke();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Tells that it is dropped.
    struct Told(Arc<Mutex<Vec<usize>>>, usize);

    impl Drop for Told {
        fn drop(&mut self) {
            self.0.lock().unwrap().push(self.1);
        }
    }

    #[tokio::test]
    async fn the_silent_make_room_the_oldest_first_and_the_others_stay() {
        let places = Places::new(2);
        let ended: Arc<Mutex<Vec<usize>>> = Arc::default();
        let count = Arc::new(AtomicUsize::new(0));
        let begin = async |speaks: bool| {
            let number = count.fetch_add(1, Ordering::Relaxed);
            let told = Told(ended.clone(), number);
            places
                .spawn(move |ticket| async move {
                    if speaks {
                        ticket.spoke();
                    }
                    let _kept = (told, ticket);
                    std::future::pending::<()>().await;
                })
                .await;
            tokio::task::yield_now().await;
        };
        begin(true).await;
        for _ in 0..3 {
            begin(false).await;
        }
        assert_eq!(*ended.lock().unwrap(), [1, 2]);
        begin(true).await;
        assert_eq!(*ended.lock().unwrap(), [1, 2, 3]);
        // All have spoken: the next one waits.
        let waits = tokio::time::timeout(std::time::Duration::from_millis(50), begin(false)).await;
        assert!(waits.is_err());
    }
}
