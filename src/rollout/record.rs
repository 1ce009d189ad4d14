//! The record of a run: what it has done so far. Its caller reads it at any moment, also after the run failed or was
//! dropped.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::plan::act::Act;
use crate::plan::rollout::Step;

/// What a run has done so far.
#[derive(Debug, Default)]
pub struct RunRecord {
    entries: Mutex<Entries>,
    /// Told of each step that is done.
    finished: Notify,
}

#[derive(Debug, Default)]
struct Entries {
    done: Vec<Step>,
    sent: Vec<Act>,
}

impl RunRecord {
    /// The steps that are done: acts that the cloud applied, and waits that ended well.
    pub fn done(&self) -> Vec<Step> {
        self.entries().done.clone()
    }

    /// The acts that the cloud applied.
    pub fn applied(&self) -> Vec<Act> {
        self.entries().done.iter().filter_map(Step::act).cloned().collect()
    }

    /// Waits until the acts that the cloud applied are enough.
    pub async fn until(&self, is_enough: impl Fn(&[Act]) -> bool) {
        loop {
            let mut finished = pin!(self.finished.notified());
            // From now on, so that none is missed between the look and the wait.
            finished.as_mut().enable();
            if is_enough(&self.applied()) {
                return;
            }
            finished.await;
        }
    }

    /// The acts that the cloud was asked for and may have applied, in part or whole: those that were applied, and one that
    /// failed or whose answer has not come. An act that was refused because it was out of date is none of them.
    pub fn sent(&self) -> Vec<Act> {
        self.entries().sent.clone()
    }

    /// Takes note of an act that is about to be sent.
    pub(super) fn send(&self, act: &Act) {
        self.entries().sent.push(act.clone());
    }

    /// The act sent last was out of date: nothing of it was applied.
    pub(super) fn refuse(&self) {
        self.entries().sent.pop();
    }

    /// Takes note of a step that is done.
    pub(super) fn finish(&self, step: &Step) {
        self.entries().done.push(step.clone());
        self.finished.notify_waiters();
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;
    use crate::plan::image::ImageId;

    #[tokio::test]
    async fn who_waits_for_acts_is_told_of_each() {
        let act = |name: &str| Act::PutImage { image: ImageId(Digest::of(name.as_bytes())) };
        let record = RunRecord::default();
        let steps = async {
            for name in ["a", "b"] {
                tokio::task::yield_now().await;
                record.finish(&act(name).into());
            }
        };
        let wait = record.until(|applied| applied.contains(&act("b")));
        let both = async { tokio::join!(wait, steps) };
        tokio::time::timeout(std::time::Duration::from_mins(1), both).await.expect("it is told");
        record.until(|applied| applied.len() == 2).await;
    }
}
