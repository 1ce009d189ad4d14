//! Keeps replicas of different eras apart: it says who this replica is, and what comes of who another says to be.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::era::{self, Era, Meeting};
use crate::config::Settings;
use crate::lock::lock;
use crate::log::Log;
use crate::wire::frame::Hello;
use crate::wire::link::Greeter;

/// One replica's.
#[derive(Debug)]
pub(crate) struct Fence {
    settings: Settings,
    log: Log,
    era: Mutex<Era>,
    /// Whether entries may come: from then on another era is only taken on by a new start.
    is_open: AtomicBool,
    /// Why this replica has to end.
    ends: watch::Sender<Option<String>>,
}

impl Fence {
    /// For a log of this era.
    pub(crate) fn new(settings: Settings, log: Log, era: Era) -> Self {
        Self {
            settings,
            log,
            era: Mutex::new(era),
            is_open: AtomicBool::new(false),
            ends: watch::Sender::new(None),
        }
    }

    /// The era.
    pub(crate) fn era(&self) -> Era {
        *lock(&self.era)
    }

    /// From here on others' entries may be on their way to the log.
    pub(crate) fn open(&self) {
        self.is_open.store(true, Ordering::Relaxed);
    }

    /// Why this replica has to end, when it has to.
    pub(crate) fn ends(&self) -> watch::Receiver<Option<String>> {
        self.ends.subscribe()
    }

    /// Has the replica end, and says why.
    pub(crate) fn end(&self, why: String) {
        self.ends.send_replace(Some(why));
    }
}

/// Ends the replica when it is dropped: whoever waited for the answer may be gone by then.
#[derive(Debug)]
pub(crate) struct Ending(Arc<Fence>);

impl Ending {
    /// Of the replica with this fence, whose recovery is being written.
    pub(crate) fn new(fence: Arc<Fence>) -> Self {
        Self(fence)
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end("the group is recovered from this replica: it begins anew".to_owned());
    }
}

impl Greeter for Fence {
    fn hello(&self) -> Hello {
        Hello {
            group: self.settings.config.group.clone(),
            id: self.log.id(),
            slot: self.settings.slot,
            empty: self.log.is_empty(),
            era: self.era(),
        }
    }

    fn meets(&self, other: &Hello) -> io::Result<()> {
        let mut era = lock(&self.era);
        let slot = other.slot;
        let refused = |text: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        match era.meets(self.log.is_empty(), other.era) {
            Meeting::Same => Ok(()),
            Meeting::Earlier if other.empty => {
                refused(format!("slot {slot} has not heard yet of the group's recovery"))
            }
            Meeting::Earlier => refused(format!(
                "the log of slot {slot} is of before the group's recovery: replace that slot's disk, the replica joins anew"
            )),
            Meeting::TakeOn if self.is_open.load(Ordering::Relaxed) => {
                let why = format!(
                    "slot {slot} told of the group's recovery: this replica begins anew, and joins it"
                );
                self.end(why.clone());
                refused(why)
            }
            Meeting::TakeOn => {
                era::save(&self.settings.place.log, other.era, false)?;
                *era = other.era;
                refused(format!("slot {slot} told of the group's recovery: it is asked again"))
            }
            Meeting::Out => {
                let why = format!(
                    "the group was recovered without this replica, as slot {slot} says: what it has that the others have not is lost to them; replace this \
                     slot's disk, the replica joins anew"
                );
                self.end(why.clone());
                refused(why)
            }
            Meeting::Two => {
                let why = format!(
                    "this replica and slot {slot} were recovered each by itself: there are two groups with two states; replace the disks of all slots of \
                     the one that is not to go on"
                );
                self.end(why.clone());
                refused(why)
            }
        }
    }
}
