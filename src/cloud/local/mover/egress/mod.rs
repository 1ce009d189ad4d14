//! Egress: what machines of an environment send to the outside, and the answers to it.
//!
//! All that leaves the environment's network namespace comes out of its device `tun0` as packets, and this host sends it
//! on by sockets of its own: it hence takes the host's routes, and nothing of the host is configured. Connections of TCP
//! are made here ([`tcp`]) and carried by the process that drives this ([`carrier::Carrier`]); UDP and ping are flows
//! ([`flows`]). [`policy`] says what is never reached.
//!
//! An [`Egress`] is one environment's. It has no thread and never waits.

mod budget;
mod carrier;
mod context;
mod flows;
pub mod packets;
mod policy;
mod tcp;
#[cfg(test)]
pub(in crate::cloud::local::mover) mod tests;
mod tun;

use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::fd::AsRawFd;
use rustix::io::Errno;

pub(crate) use self::budget::Budget;
pub(crate) use self::carrier::{Carrier, Interest, Pair};
use self::context::Context;
pub(crate) use self::context::Counters;
use self::flows::Flows;
use self::packets::build::IcmpFailure;
use self::packets::fragments::Fragments;
use self::packets::parse::{self, ICMP, ICMPV6, Ip, Packet, TCP, UDP};
pub(crate) use self::policy::{Prefix, Ranges};
use self::tcp::Connects;
use self::tun::{MAX_PACKET, Tun};

/// Packets that are read in one call, so that others get their turn.
const PACKETS: usize = 256;

/// How long `status` tells that something was dropped.
const LATELY: Duration = Duration::from_mins(1);

/// How often it is looked at what takes too long.
const TICK: Duration = Duration::from_secs(1);

/// The sockets of an environment's network namespace that egress works with.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// `tun0`: an IP packet a read.
    pub(crate) tun: BorrowedFd<'static>,
    /// Where TPROXY sends SYNs from `tun0`.
    pub(crate) listener: BorrowedFd<'static>,
    /// The same of IPv6. Without it connections over IPv6 are refused.
    pub(crate) listener6: Option<BorrowedFd<'static>>,
}

/// What egress of an environment has and does.
#[cfg(test)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// Connections that are being made.
    pub(crate) connecting: usize,
    /// UDP flows and series of pings.
    pub(crate) flows: usize,
    /// Datagrams of which parts are kept.
    pub(crate) fragments: usize,
    /// What was counted.
    pub(crate) counters: Counters,
    /// What does not work here, and what to do.
    pub(crate) warnings: Vec<String>,
}

/// Egress of an environment.
#[derive(Debug)]
pub(crate) struct Egress {
    sockets: Sockets,
    tun: Tun,
    ranges: Ranges,
    budget: Rc<Budget>,
    counters: Counters,
    connects: Connects,
    flows: Flows,
    fragments: Fragments,
    buffer: Vec<u8>,
}

impl Egress {
    /// Egress by these sockets. Its own take room in `budget`.
    pub(crate) fn new(sockets: Sockets, ranges: Ranges, budget: Rc<Budget>) -> Self {
        Self {
            tun: Tun::new(sockets.tun),
            sockets,
            ranges,
            budget,
            counters: Counters::default(),
            connects: Connects::default(),
            flows: Flows::default(),
            fragments: Fragments::default(),
            buffer: vec![0; MAX_PACKET],
        }
    }

    /// Whether `machine` is one of the environment's.
    pub(crate) fn serves(&self, machine: IpAddr) -> bool {
        self.ranges.serves(machine)
    }

    /// Ends everything that is not carried yet. The device and the listeners stay open.
    pub(crate) fn end(&mut self, carrier: &mut dyn Carrier, now: Instant) {
        let Parts { connects, flows, mut context, .. } = self.parts(carrier, now);
        connects.end(&mut context);
        flows.end_all(&mut context);
    }

    /// The descriptor `fd` is ready: the device, a listener, or a socket that was given to [`Carrier::watch`]. Does
    /// nothing for another one.
    pub(crate) fn ready(&mut self, fd: RawFd, carrier: &mut dyn Carrier, now: Instant) {
        if fd == self.tun.fd().as_raw_fd() {
            return self.packets(carrier, now);
        }
        let Parts { connects, flows, buffer, mut context, .. } = self.parts(carrier, now);
        if connects.has(fd) {
            connects.ready(fd, &mut context);
        } else if !flows.ready(fd, buffer, &mut context) {
            let listeners = [Some(self.sockets.listener), self.sockets.listener6];
            let listener = listeners.into_iter().flatten().find(|listener| listener.as_raw_fd() == fd);
            if let Some(listener) = listener {
                self.connects(carrier, now, |connects, context| connects.accept(listener, context));
            }
        }
    }

    /// The machine's end of a connection, accepted by a predecessor that ended before its record was written.
    pub(crate) fn accepted(&mut self, fd: OwnedFd, carrier: &mut dyn Carrier, now: Instant) {
        self.connects(carrier, now, |connects, context| connects.accepted(fd, context));
    }

    /// Ends what takes too long. Gives the time of the next call.
    pub(crate) fn tick(&mut self, carrier: &mut dyn Carrier, now: Instant) -> Instant {
        let Parts { connects, flows, fragments, mut context, .. } = self.parts(carrier, now);
        connects.expire(&mut context);
        flows.expire(&mut context);
        fragments.expire(now);
        now + TICK
    }

    /// What there is now.
    #[cfg(test)]
    pub(crate) fn report(&self) -> Report {
        Report {
            connecting: self.connects.len(),
            flows: self.flows.len(),
            fragments: self.fragments.len(),
            counters: self.counters,
            warnings: self.warnings().collect(),
        }
    }

    /// What `status` warns of.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> {
        let lately = self.counters.full.filter(|(_, at)| at.elapsed() < LATELY);
        let full = lately.map(|(machine, _)| {
            format!(
                "the machine {machine} has as many connections and UDP flows to the outside as it may; further ones \
                 are dropped until others end"
            )
        });
        self.flows.no_ping.map(no_ping).into_iter().chain(full)
    }

    fn parts<'a>(&'a mut self, carrier: &'a mut dyn Carrier, now: Instant) -> Parts<'a> {
        Parts {
            connects: &mut self.connects,
            flows: &mut self.flows,
            fragments: &mut self.fragments,
            buffer: &mut self.buffer,
            context: Context {
                tun: &mut self.tun,
                ranges: &self.ranges,
                budget: &self.budget,
                counters: &mut self.counters,
                carrier,
                now,
            },
        }
    }

    fn connects(
        &mut self,
        carrier: &mut dyn Carrier,
        now: Instant,
        act: impl FnOnce(&mut Connects, &mut Context<'_>),
    ) {
        let Parts { connects, mut context, .. } = self.parts(carrier, now);
        act(connects, &mut context);
    }

    /// Reads packets from the device.
    fn packets(&mut self, carrier: &mut dyn Carrier, now: Instant) {
        // The packets borrow the buffer while the rest of this is worked with.
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..PACKETS {
            let Some(len) = self.tun.read(&mut buffer) else { break };
            self.packet(&buffer[..len], carrier, now);
        }
        self.buffer = buffer;
    }

    /// Takes one packet of a machine.
    fn packet(&mut self, bytes: &[u8], carrier: &mut dyn Carrier, now: Instant) {
        let Parts { connects, flows, fragments, mut context, .. } = self.parts(carrier, now);
        let context = &mut context;
        match parse::ip(bytes) {
            Some(Ip::Packet(packet)) if context.ranges.serves(packet.source) => {
                deliver(&packet, connects, flows, context);
            }
            Some(Ip::Fragment(fragment)) if context.ranges.serves(fragment.key.source) => {
                let whole = fragments.add(&fragment, now);
                if let Some(Ip::Packet(packet)) = whole.as_deref().and_then(parse::ip) {
                    // It came in parts, and may go on in parts.
                    deliver(&Packet { may_fragment: true, ..packet }, connects, flows, context);
                }
            }
            Some(_) => context.counters.foreign += 1,
            None => context.counters.malformed += 1,
        }
    }
}

/// An [`Egress`], taken apart for one call.
struct Parts<'a> {
    connects: &'a mut Connects,
    flows: &'a mut Flows,
    fragments: &'a mut Fragments,
    buffer: &'a mut Vec<u8>,
    context: Context<'a>,
}

/// Gives a packet to the part that carries its protocol.
fn deliver(packet: &Packet<'_>, connects: &mut Connects, flows: &mut Flows, context: &mut Context<'_>) {
    match (packet.protocol, packet.source.is_ipv4()) {
        (TCP, _) => connects.segment(packet, context),
        (UDP, _) => flows.datagram(packet, context),
        (ICMP, true) | (ICMPV6, false) => flows.echo(packet, context),
        _ => {
            context.counters.forbidden += 1;
            context.tun.refuse(IcmpFailure::Protocol, packet, context.ranges);
        }
    }
}

/// What to do where machines' pings are not sent.
fn no_ping(error: Errno) -> String {
    format!(
        "pods cannot ping the outside: this host lets this user send no ICMP echo requests ({error}); as root: \
         sysctl -w net.ipv4.ping_group_range='0 2147483647'"
    )
}
