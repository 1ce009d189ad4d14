//! The record of a run: what it has done so far. Its caller reads it at any moment, also after the run failed or was
//! dropped.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::plan::act::Act;
use crate::plan::rollout::Step;

/// What a run has done so far.
#[derive(Debug, Default)]
pub struct RunRecord(Mutex<Entries>);

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
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
