//! What the tests of a group have in common: that they run one after the other, how often they do something, and what has to hold
//! at their ends.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::client::Load;
use crate::cluster::{Cluster, Replica};
use crate::eventually::eventually;
use crate::history::{Operation, check};

/// One group at a time: several at once would wait for the same two processors, and their elections with them.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often something is killed: so often, or a hundred times in a soak.
pub(crate) fn times(plain: usize) -> usize {
    #[expect(clippy::disallowed_methods, reason = "a test reads what it is told")]
    let is_soak = std::env::var("I2KIT_SOAK").is_ok_and(|value| value == "1");
    if is_soak { 100 } else { plain }
}

/// Waits until so many more writes are acknowledged.
pub(crate) fn wait_for_writes(replica: &Replica, more: usize) {
    let from = replica.application.writes();
    eventually("more writes", || (replica.application.writes() >= from + more).then_some(()));
}

/// Waits until a write is acknowledged that begins after this moment; how long that took.
pub(crate) fn wait_for_acknowledgement(load: &Load) -> Duration {
    let (from, started) = (load.now(), Instant::now());
    eventually("acknowledgement", || {
        (load.acknowledged.load(std::sync::atomic::Ordering::Relaxed) > from).then_some(())
    });
    started.elapsed()
}

/// All that was acknowledged is in the journal, and nothing is in it twice or from nowhere; and the history is linearizable.
pub(crate) fn assert_nothing_lost(cluster: &Cluster, history: &[Operation]) {
    let journal = cluster.journal();
    let once: HashSet<&str> = journal.iter().map(String::as_str).collect();
    assert_eq!(once.len(), journal.len(), "a write was executed twice");
    let writes = history.iter().filter(|operation| operation.is_write);
    let acknowledged: HashSet<String> =
        writes.map(|operation| format!("{} {}", operation.register, operation.value)).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|line| !once.contains(line.as_str())).collect();
    assert!(lost.is_empty(), "acknowledged and not executed: {lost:?}");
    let unasked: Vec<_> = once.iter().filter(|line| !acknowledged.contains(**line)).collect();
    assert!(
        unasked.is_empty(),
        "executed and never acknowledged, though clients ask until they are told: {unasked:?}"
    );
    assert!(acknowledged.len() > 100, "only {} writes", acknowledged.len());
    check(history).unwrap();
}

/// A figure of `GET /metrics`.
pub(crate) fn figure_of(replica: &Replica, name: &str) -> f64 {
    let text = replica.admin("/metrics").map(|answer| answer.body).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or("0");
    line.parse().unwrap()
}
