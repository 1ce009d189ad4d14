//! Which step has which fault, and the machines and disks that outlive the process.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use crate::cloud::CloudError;
use crate::cloud::local::keeper::state::Running;
use crate::manifest::api::Name;

/// How long the disk stays full.
const FULL_MS: u64 = 20_000;

/// What happens at the chosen step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process is killed.
    Kill,
    /// One write, or one act on a machine, fails.
    Fail,
    /// Every write and every start fails for a while.
    Full,
}

/// Where and what.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) fault: Option<(usize, Fault)>,
    pub(super) steps: usize,
    pub(super) killed: bool,
    pub(super) failing: bool,
    pub(super) now: u64,
    pub(super) full_until: u64,
}

impl Plan {
    /// Takes a step that may write.
    pub(super) fn step(&mut self, writes: bool) -> Result<(), CloudError> {
        let fail = || CloudError::Injected("fault".into());
        if self.killed {
            return Err(fail());
        }
        match self.fault {
            Some((at, fault)) if at == self.steps => match fault {
                Fault::Kill => {
                    self.steps += 1;
                    self.killed = true;
                    return Err(fail());
                }
                Fault::Fail => self.failing = true,
                Fault::Full => self.full_until = self.now + FULL_MS,
            },
            _ => {}
        }
        self.steps += 1;
        // A write that cannot fail any more passes the fault on to the next one that can.
        if writes && (std::mem::take(&mut self.failing) || self.now < self.full_until) {
            return Err(fail());
        }
        Ok(())
    }
}

/// The machines and their folders, which outlive the process.
#[derive(Debug, Default)]
pub(super) struct World {
    /// Since when each runs.
    pub(super) alive: HashMap<String, u64>,
    /// Those whose pods ended well.
    pub(super) done: BTreeSet<String>,
    /// When each was asked to power off.
    pub(super) off: HashMap<String, u64>,
    pub(super) folders: BTreeSet<String>,
    /// The disks that each machine was started with.
    pub(super) attached: HashMap<String, Vec<Name>>,
    /// The files of disks.
    pub(super) disks: BTreeSet<Name>,
}

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) id: String,
    pub(super) world: Arc<Mutex<World>>,
}

impl Running for Machine {
    fn pid(&self) -> u32 {
        1
    }

    fn is_alive(&mut self) -> bool {
        self.world.lock().unwrap().alive.contains_key(&self.id)
    }

    fn killed_by(&mut self) -> Option<i32> {
        None
    }

    fn kill(&mut self) {
        self.world.lock().unwrap().alive.remove(&self.id);
    }
}
