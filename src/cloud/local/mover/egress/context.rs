//! What every part of egress works with during one call.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

use super::budget::Budget;
use super::carrier::Carrier;
use super::policy::Ranges;
use super::tun::Tun;

/// The surroundings of a call.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) tun: &'a mut Tun,
    pub(super) ranges: &'a Ranges,
    pub(super) budget: &'a Rc<Budget>,
    pub(super) counters: &'a mut Counters,
    pub(super) carrier: &'a mut dyn Carrier,
    pub(super) now: Instant,
}

impl Context<'_> {
    /// There is no room for what `machine` sends.
    pub(super) fn drop_for(&mut self, machine: IpAddr) {
        self.counters.dropped += 1;
        self.counters.full = Some((machine, self.now));
    }
}

/// What egress counts, for `status` and for tests.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Packets that do not agree with themselves.
    pub(crate) malformed: u64,
    /// Packets from no machine of the environment.
    pub(crate) foreign: u64,
    /// Packets to where machines may not get.
    pub(crate) forbidden: u64,
    /// Connections, datagrams and pings for which there was no room.
    pub(crate) dropped: u64,
    /// Whose the last one of these was, and when.
    pub(crate) full: Option<(IpAddr, Instant)>,
    /// Flows that were ended to make room for others.
    pub(crate) evicted: u64,
}
