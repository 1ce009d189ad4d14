//! The device `tun0` of an environment's network: what its machines send outwards is read from it, answers are
//! written to it.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use super::packets::build::{self, IcmpFailure};
use super::packets::parse::Packet;
use super::policy::Ranges;

/// Longest packet.
pub(super) const MAX_PACKET: usize = 65_535;

/// The device, and what is counted at it.
#[derive(Debug)]
pub(super) struct Tun {
    fd: BorrowedFd<'static>,
    /// What makes numbers of packets, of which nobody knows the next one.
    ids: RandomState,
    numbered: u64,
    /// Packets that the kernel did not take.
    pub(super) lost: u64,
}

impl Tun {
    pub(super) fn new(fd: BorrowedFd<'static>) -> Self {
        Self { fd, ids: RandomState::new(), numbered: 0, lost: 0 }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'static> {
        self.fd
    }

    /// A packet into `buffer`; `None` when there is none for now.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        rustix::io::retry_on_intr(|| rustix::io::read(self.fd, &mut *buffer)).ok()
    }

    /// Sends a packet to the machines, if there is one. What the kernel does not take is lost, as on any link.
    pub(super) fn write(&mut self, packet: Option<&[u8]>) {
        if packet.is_some_and(|packet| rustix::io::write(self.fd, packet) != Ok(packet.len())) {
            self.lost += 1;
        }
    }

    /// Tells the sender of `packet` that it failed, in the network's name.
    pub(super) fn refuse(&mut self, failure: IcmpFailure, packet: &Packet<'_>, ranges: &Ranges) {
        if let Some(node) = ranges.node(packet.source) {
            self.tell(failure, packet, node);
        }
    }

    /// Tells the sender of `packet` that it failed, in the name of `from`.
    pub(super) fn tell(&mut self, failure: IcmpFailure, packet: &Packet<'_>, from: IpAddr) {
        if from.is_ipv4() == packet.source.is_ipv4() {
            self.write(build::error(failure, packet, from).as_deref());
        }
    }

    /// A number for the next packet that may be fragmented. A machine that knew it could send a part of that packet.
    pub(super) fn next_id(&mut self) -> u32 {
        self.numbered += 1;
        // The upper half of a keyed hash.
        u32::try_from(self.ids.hash_one(self.numbered) >> 32).unwrap_or(0)
    }
}
