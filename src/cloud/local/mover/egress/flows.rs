//! UDP and ping: each flow of a machine has a socket of this host, and answers become packets for the machine. A flow
//! ends when it was silent for a while, or when a newer one needs its room.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};

use super::budget::{FLOWS, SocketPlace};
use super::carrier::Interest;
use super::context::Context;
use super::packets::build::{self, IcmpFailure};
use super::packets::parse::{self, Datagram, Echo, Ip, Packet, UDP_HEADER};
use super::policy::share_of;
use super::tcp::{family, lacks_family};
use super::tun::MAX_PACKET;
use crate::cloud::local::network::sys::{self, QueuedError};

/// How long a flow lives after its last datagram while nothing was answered, and once something was: Linux' own times
/// for connections of UDP that it tracks (`nf_conntrack_udp_timeout`, `nf_conntrack_udp_timeout_stream`).
const UNANSWERED: Duration = Duration::from_secs(30);
const ANSWERED: Duration = Duration::from_mins(2);

/// A flow is put in order of use this often at most.
const PRECISION: Duration = Duration::from_secs(1);

/// Datagrams and errors that are read of a flow in one call, so that others get their turn.
const READS: usize = 64;

/// Bytes of a datagram that an error quotes.
const QUOTE: usize = 512;

/// What a flow carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Udp,
    Ping,
}

/// A flow. The ports of pings are the machine's number for the series, and 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    kind: Kind,
    machine: SocketAddr,
    destination: SocketAddr,
}

#[derive(Debug)]
struct Flow {
    socket: OwnedFd,
    used: Instant,
    answered: bool,
    /// Its place in the order of use.
    stamp: u64,
    /// Hops and whether the host's network may fragment, as the socket is set.
    header: Option<(u8, bool)>,
    _place: SocketPlace,
}

/// The flows of an environment.
#[derive(Debug, Default)]
pub(super) struct Flows {
    all: HashMap<Key, Flow>,
    by_fd: HashMap<RawFd, Key>,
    /// Those of each machine, the one first that was not used for longest.
    order: HashMap<IpAddr, BTreeMap<u64, Key>>,
    stamps: u64,
    /// Why pings are not sent, once one could not be.
    pub(super) no_ping: Option<Errno>,
}

impl Flows {
    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Sends what is in a packet of UDP.
    pub(super) fn datagram(&mut self, packet: &Packet<'_>, context: &mut Context<'_>) {
        let Some(datagram) = Datagram::of(packet) else {
            context.counters.malformed += 1;
            return;
        };
        let key = Key { kind: Kind::Udp, machine: datagram.source, destination: datagram.destination };
        self.send(key, datagram.data, packet, context);
    }

    /// Sends an echo request. Other messages of ICMP go nowhere: errors about what we sent mean that nobody listens any
    /// more.
    pub(super) fn echo(&mut self, packet: &Packet<'_>, context: &mut Context<'_>) {
        let Some(echo) = Echo::of(packet) else {
            context.counters.malformed += 1;
            return;
        };
        let machine = SocketAddr::new(packet.source, echo.id);
        let key = Key { kind: Kind::Ping, machine, destination: SocketAddr::new(packet.destination, 0) };
        self.send(key, echo.message, packet, context);
    }

    fn send(&mut self, key: Key, data: &[u8], packet: &Packet<'_>, context: &mut Context<'_>) {
        if !context.ranges.allows(packet.destination) {
            context.counters.forbidden += 1;
            return context.tun.refuse(IcmpFailure::Prohibited, packet, context.ranges);
        }
        if let Err(error) = self.ensure(key, context) {
            return refuse(error, None, packet, context);
        }
        let Some(flow) = self.all.get_mut(&key) else {
            context.drop_for(packet.source);
            return;
        };
        if context.now.duration_since(flow.used) >= PRECISION {
            flow.used = context.now;
            if let Some(order) = self.order.get_mut(&share_of(key.machine.ip())) {
                order.remove(&flow.stamp);
                self.stamps += 1;
                flow.stamp = self.stamps;
                order.insert(flow.stamp, key);
            }
        }
        flow.set_header(packet);
        let mut sent = rustix::net::send(&flow.socket, data, SendFlags::NOSIGNAL);
        if matches!(sent, Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH)) {
            // The error of an earlier datagram, which is read from the socket's queue. This one is not sent yet.
            sent = rustix::net::send(&flow.socket, data, SendFlags::NOSIGNAL);
        }
        if let Err(error) = sent {
            let mtu = if key.destination.is_ipv4() {
                sockopt::ip_mtu(&flow.socket)
            } else {
                sockopt::ipv6_mtu(&flow.socket)
            };
            refuse(error, mtu.ok(), packet, context);
        }
    }

    /// Makes the flow `key` unless it is there, or there is no room for it.
    fn ensure(&mut self, key: Key, context: &mut Context<'_>) -> rustix::io::Result<()> {
        if self.all.contains_key(&key) {
            return Ok(());
        }
        let machine = share_of(key.machine.ip());
        if self.order.get(&machine).is_some_and(|own| own.len() >= FLOWS) {
            self.evict(machine, context);
        }
        let mut place = context.budget.take();
        if place.is_none() {
            // The machine that has most makes room.
            let largest = self.order.iter().max_by_key(|(_, own)| own.len()).map(|(machine, _)| *machine);
            if let Some(machine) = largest {
                self.evict(machine, context);
            }
            place = context.budget.take();
        }
        let Some(place) = place else { return Ok(()) };
        let socket = open(key).inspect_err(|error| {
            if key.kind == Kind::Ping && *error == Errno::ACCESS {
                self.no_ping = Some(*error);
            }
        })?;
        rustix::net::connect(&socket, &key.destination)?;
        let own = rustix::net::getsockname(&socket).ok().and_then(|own| SocketAddr::try_from(own).ok());
        if own == Some(key.destination) {
            return Err(Errno::CONNREFUSED); // A port of this host that nothing is at, but this socket now.
        }
        // A kernel that refuses would send no errors, and nothing else is lost.
        let _ = sys::queue_errors(socket.as_fd(), key.destination.is_ipv6());
        context.carrier.watch(socket.as_fd(), Interest::Read);
        self.by_fd.insert(socket.as_raw_fd(), key);
        self.stamps += 1;
        self.order.entry(machine).or_default().insert(self.stamps, key);
        let (used, stamp) = (context.now, self.stamps);
        self.all.insert(key, Flow { socket, used, answered: false, stamp, header: None, _place: place });
        Ok(())
    }

    /// The socket `fd` has answers or errors. Whether it is one of a flow.
    pub(super) fn ready(&mut self, fd: RawFd, buffer: &mut [u8], context: &mut Context<'_>) -> bool {
        let Some(key) = self.by_fd.get(&fd).copied() else { return false };
        let Some(flow) = self.all.get_mut(&key) else { return false };
        for _ in 0..READS {
            match sys::read_error(flow.socket.as_fd(), &mut buffer[..QUOTE]) {
                Ok((len, Some(error))) => tell(key, error, &buffer[..len], context),
                Ok((_, None)) => {}
                Err(_) => break,
            }
        }
        for _ in 0..READS {
            let len = match rustix::net::recv(&flow.socket, &mut buffer[..MAX_PACKET], RecvFlags::DONTWAIT) {
                Ok((len, _)) => len,
                Err(Errno::AGAIN) => break,
                // An error that was told above, from the queue.
                Err(_) => continue,
            };
            flow.answered = true;
            flow.used = context.now;
            let id = context.tun.next_id();
            let packets = match key.kind {
                Kind::Udp => build::udp(key.destination, key.machine, &buffer[..len], id),
                Kind::Ping => {
                    let (from, to) = (key.destination.ip(), key.machine.ip());
                    build::echo(from, to, key.machine.port(), &buffer[..len], id)
                }
            };
            for packet in packets.into_iter().flatten() {
                context.tun.write(Some(&packet));
            }
        }
        true
    }

    /// Ends flows that were silent for long enough.
    pub(super) fn expire(&mut self, context: &mut Context<'_>) {
        let now = context.now;
        let silent = |flow: &Flow| {
            let patience = if flow.answered { ANSWERED } else { UNANSWERED };
            now.duration_since(flow.used) >= patience
        };
        let ended: Vec<Key> = self.all.iter().filter(|(_, flow)| silent(flow)).map(|(key, _)| *key).collect();
        for key in ended {
            self.end(key, context);
        }
    }

    /// Ends all of them.
    pub(super) fn end_all(&mut self, context: &mut Context<'_>) {
        let all: Vec<Key> = self.all.keys().copied().collect();
        for key in all {
            self.end(key, context);
        }
    }

    /// Ends the flow of `machine` that was not used for longest.
    fn evict(&mut self, machine: IpAddr, context: &mut Context<'_>) {
        let oldest = self.order.get(&machine).and_then(|own| own.first_key_value()).map(|(_, key)| *key);
        if let Some(key) = oldest {
            context.counters.evicted += 1;
            self.end(key, context);
        }
    }

    fn end(&mut self, key: Key, context: &mut Context<'_>) {
        let Some(flow) = self.all.remove(&key) else { return };
        context.carrier.unwatch(flow.socket.as_fd());
        self.by_fd.remove(&flow.socket.as_raw_fd());
        let machine = share_of(key.machine.ip());
        if let Some(own) = self.order.get_mut(&machine) {
            own.remove(&flow.stamp);
            if own.is_empty() {
                self.order.remove(&machine);
            }
        }
    }
}

impl Flow {
    /// Lets the socket send as `packet` was sent: so many hops, and fragmented or not.
    fn set_header(&mut self, packet: &Packet<'_>) {
        let wanted = (packet.hops.max(1), packet.may_fragment);
        if self.header == Some(wanted) {
            return;
        }
        let (hops, fragment) = wanted;
        let result = if packet.source.is_ipv4() {
            let discovery = if fragment { Ipv4PathMtuDiscovery::DONT } else { Ipv4PathMtuDiscovery::DO };
            sockopt::set_ip_ttl(&self.socket, u32::from(hops))
                .and_then(|()| sockopt::set_ip_mtu_discover(&self.socket, discovery))
        } else {
            let discovery = if fragment { Ipv6PathMtuDiscovery::DONT } else { Ipv6PathMtuDiscovery::DO };
            sockopt::set_ipv6_unicast_hops(&self.socket, Some(hops))
                .and_then(|()| sockopt::set_ipv6_mtu_discover(&self.socket, discovery))
        };
        self.header = result.is_ok().then_some(wanted);
    }
}

/// A socket of this host for a flow.
fn open(key: Key) -> rustix::io::Result<OwnedFd> {
    let protocol = match key.kind {
        Kind::Udp => None,
        Kind::Ping if key.destination.is_ipv4() => Some(ipproto::ICMP),
        Kind::Ping => Some(ipproto::ICMPV6),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(family(key.destination.ip()), SocketType::DGRAM, flags, protocol)
}

/// Tells the machine why this host did not send its packet.
fn refuse(error: Errno, mtu: Option<u32>, packet: &Packet<'_>, context: &mut Context<'_>) {
    // The port says nothing about ways.
    let failure = match error {
        _ if lacks_family(error, SocketAddr::new(packet.destination, 9)) => IcmpFailure::Network,
        Errno::MSGSIZE => IcmpFailure::TooBig(mtu.unwrap_or(1280)),
        Errno::NETUNREACH => IcmpFailure::Network,
        Errno::HOSTUNREACH | Errno::HOSTDOWN => IcmpFailure::Host,
        Errno::CONNREFUSED => IcmpFailure::Port,
        // ACCESS: a broadcast address, or pings that are forbidden here.
        Errno::ACCESS | Errno::PERM | Errno::INVAL => IcmpFailure::Prohibited,
        _ => {
            context.drop_for(packet.source);
            return;
        }
    };
    context.tun.refuse(failure, packet, context.ranges);
}

/// Passes an ICMP error about a datagram of a flow on; `quoted` is what of the datagram came back.
fn tell(key: Key, error: QueuedError, quoted: &[u8], context: &mut Context<'_>) {
    let ipv6 = key.destination.is_ipv6();
    let failure = IcmpFailure::of(ipv6, error.kind, error.code, error.info);
    let (machine, destination) = (key.machine, key.destination);
    let packets = match key.kind {
        Kind::Udp => build::udp(machine, destination, &quoted[..quoted.len().min(QUOTE - UDP_HEADER)], 0),
        Kind::Ping => build::echo(machine.ip(), destination.ip(), machine.port(), quoted, 0),
    };
    let Some(sent) = packets.and_then(|packets| packets.into_iter().next()) else { return };
    let Some(Ip::Packet(sent)) = parse::ip(&sent) else { return };
    // A router of the host's network, or this host itself.
    match error.offender.filter(|from| *from == destination.ip() || context.ranges.allows(*from)) {
        Some(from) => context.tun.tell(failure, &sent, from),
        None => context.tun.refuse(failure, &sent, context.ranges),
    }
}
