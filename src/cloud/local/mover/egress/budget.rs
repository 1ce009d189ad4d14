//! Descriptors of egress: a socket for each connection that is being made, each UDP flow and each series of pings. The
//! budget is shared by the environments of a process, and bounded for each machine besides.

use std::cell::Cell;
use std::rc::Rc;

/// Connections of one machine that are being made. A browser has a few dozen; a scan of ports waits for itself alone.
pub(crate) const CONNECTING: usize = 256;

/// UDP flows and series of pings of one machine.
pub(crate) const FLOWS: usize = 1024;

/// Connections of one machine that are carried: what a busy crawler has.
pub(crate) const CARRIED: usize = 2048;

/// The part of all connections to the outside that one machine may have.
const PART: usize = 4;

/// The descriptors that are left.
#[derive(Debug)]
pub(crate) struct Budget {
    free: Cell<usize>,
    /// Connections of one machine that are carried or being made, at most.
    pub(crate) carried: usize,
}

impl Budget {
    /// A budget of so many descriptors, where all machines have so many connections at most.
    pub(crate) fn new(descriptors: usize, connections: usize) -> Rc<Self> {
        Rc::new(Self { free: Cell::new(descriptors), carried: CARRIED.min(connections / PART) })
    }

    /// Room for a socket, if there is some.
    pub(crate) fn take(self: &Rc<Self>) -> Option<SocketPlace> {
        self.free.set(self.free.get().checked_sub(1)?);
        Some(SocketPlace(Rc::clone(self)))
    }
}

/// Room for one socket, for as long as it lives.
#[derive(Debug)]
pub(crate) struct SocketPlace(Rc<Budget>);

impl Drop for SocketPlace {
    fn drop(&mut self) {
        self.0.free.set(self.0.free.get() + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_comes_back() {
        let budget = Budget::new(2, 40);
        assert_eq!((budget.carried, Budget::new(0, 1 << 20).carried), (10, CARRIED));
        let places = (budget.take(), budget.take());
        assert!(places.0.is_some() && places.1.is_some() && budget.take().is_none());
        drop(places);
        assert!(budget.take().is_some());
    }
}
