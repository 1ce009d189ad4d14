//! Connections of machines to the outside, until they are carried.
//!
//! A SYN that comes out of `tun0` is kept while this host connects to where it goes. Then the same SYN is written back,
//! the kernel's TPROXY rule gives it to our listener, and the accepted socket and the host's become a pair. A machine
//! hence gets the answer that the other end gave: connected, refused, unreachable, or none.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType, acceptfrom_with, getpeername, getsockname};

use super::budget::{CONNECTING, SocketPlace};
use super::carrier::{Interest, Pair};
use super::context::Context;
use super::packets::build::{self, IcmpFailure};
use super::packets::parse::{self, Ip, Packet, TcpSegment};
use super::policy::share_of;

/// How long this host tries to connect. Linux itself gives up after two minutes; a machine that still wants it has sent
/// its SYN again by then, and that is a new attempt.
const PATIENCE: Duration = Duration::from_mins(1);

/// How long a machine has to take up a connection that is made: its SYN is on its way back already.
const OFFER: Duration = Duration::from_secs(20);

/// Connections that are accepted in one call, so that others get their turn.
const ACCEPTS: usize = 64;

/// When a silent peer is asked whether it still lives, how often, and how many questions in vain end it: a carried
/// connection has no timeout of its own.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_mins(5), Duration::from_secs(30), 5);

/// A connection: the machine's end, and where it goes.
type Route = (SocketAddr, SocketAddr);

/// How far it is.
#[derive(Debug)]
enum Stage {
    /// The host's socket connects; this SYN asked for it.
    Connecting(Vec<u8>),
    /// The host's socket is connected, and this SYN was written back.
    Offered(Vec<u8>),
    /// The machine is connected, and the host's socket connects: a predecessor had got so far. The machine's end is not
    /// this process's own, so that a successor finds it, too.
    Accepted(OwnedFd),
}

#[derive(Debug)]
struct Connect {
    host: OwnedFd,
    stage: Stage,
    deadline: Instant,
    _place: SocketPlace,
}

/// The connections of an environment that are being made.
#[derive(Debug, Default)]
pub(super) struct Connects {
    all: HashMap<Route, Connect>,
    by_fd: HashMap<RawFd, Route>,
    /// Their number of each machine.
    counts: HashMap<IpAddr, usize>,
}

impl Connects {
    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether `fd` is a socket that connects.
    pub(super) fn has(&self, fd: RawFd) -> bool {
        self.by_fd.contains_key(&fd)
    }

    /// Takes a segment that came out of `tun0`. The segments of connections that are carried never do.
    pub(super) fn segment(&mut self, packet: &Packet<'_>, context: &mut Context<'_>) {
        let Some(segment) = TcpSegment::of(packet) else {
            context.counters.malformed += 1;
            return;
        };
        if !segment.opens() {
            context.tun.write(build::reset(&segment).as_deref());
            return;
        }
        if !context.ranges.allows(packet.destination) || segment.destination.port() == 0 {
            context.counters.forbidden += 1;
            context.tun.write(build::reset(&segment).as_deref());
            return;
        }
        let route = (segment.source, segment.destination);
        match self.all.get_mut(&route).map(|connect| &mut connect.stage) {
            // Sent again, or by a machine that has ended that connection and uses its port again.
            Some(Stage::Connecting(syn)) => *syn = packet.bytes.to_vec(),
            Some(Stage::Offered(syn)) => {
                *syn = packet.bytes.to_vec();
                context.tun.write(Some(packet.bytes));
            }
            Some(Stage::Accepted(_)) => {}
            None => self.connect(route, Stage::Connecting(packet.bytes.to_vec()), context),
        }
    }

    /// Starts to connect to where `route` goes. Without room nothing is done: a machine sends its SYN again.
    fn connect(&mut self, route: Route, stage: Stage, context: &mut Context<'_>) {
        let machine = share_of(route.0.ip());
        let count = self.counts.get(&machine).copied().unwrap_or(0);
        let carried = context.carrier.carried(machine) + count;
        let room = count < CONNECTING && carried < context.budget.carried;
        let place = if room { context.budget.take() } else { None };
        let opened = place.ok_or(Errno::MFILE).and_then(|place| Ok((place, open(route.1)?)));
        let (place, host) = match opened {
            Ok(opened) => opened,
            Err(error) => return refuse(stage, route, error, context),
        };
        let result = rustix::net::connect(&host, &route.1);
        let connect = Connect { host, stage, deadline: context.now + PATIENCE, _place: place };
        match result {
            Ok(()) | Err(Errno::INPROGRESS) => {
                context.carrier.watch(connect.host.as_fd(), Interest::Write);
                self.by_fd.insert(connect.host.as_raw_fd(), route);
                self.all.insert(route, connect);
                *self.counts.entry(machine).or_insert(0) += 1;
            }
            Err(error) => fail(connect, route, error, context),
        }
    }

    /// The host's socket `fd` is connected, or failed to be.
    pub(super) fn ready(&mut self, fd: RawFd, context: &mut Context<'_>) {
        let Some(route) = self.by_fd.get(&fd).copied() else { return };
        let Some(connect) = self.all.get_mut(&route) else { return };
        let error = match sockopt::socket_error(&connect.host) {
            Ok(Ok(())) if getpeername(&connect.host).is_err() => return,
            // A port of this host that nothing listens at may be given to the socket itself (simultaneous open).
            Ok(Ok(())) if is_connected_to_itself(connect.host.as_fd()) => Err(Errno::CONNREFUSED),
            Ok(result) => result,
            Err(error) => Err(error),
        };
        if let Err(error) = error {
            if let Some(connect) = self.remove(route, context) {
                fail(connect, route, error, context);
            }
            return;
        }
        match &mut connect.stage {
            Stage::Connecting(syn) => {
                context.carrier.watch(connect.host.as_fd(), Interest::Nothing);
                context.tun.write(Some(syn));
                connect.stage = Stage::Offered(std::mem::take(syn));
                connect.deadline = context.now + OFFER;
            }
            Stage::Accepted(_) => {
                if let Some(Connect { host, stage: Stage::Accepted(guest), .. }) = self.remove(route, context)
                {
                    adopt(route, guest, host, context);
                }
            }
            Stage::Offered(_) => {}
        }
    }

    /// Accepts what machines have connected to `listener`.
    pub(super) fn accept(&mut self, listener: BorrowedFd<'static>, context: &mut Context<'_>) {
        for _ in 0..ACCEPTS {
            match acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok((guest, _)) => self.accepted(guest, context),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => return,
            }
        }
    }

    /// A machine's end of a connection is there.
    pub(super) fn accepted(&mut self, guest: OwnedFd, context: &mut Context<'_>) {
        let ends = getpeername(&guest).ok().flatten().zip(getsockname(&guest).ok());
        let ends = ends.and_then(|(peer, own)| Some((peer.try_into().ok()?, own.try_into().ok()?)));
        let Some(route): Option<Route> = ends else { return };
        if !context.ranges.serves(route.0.ip()) || !context.ranges.allows(route.1.ip()) {
            context.counters.forbidden += 1;
            return abort(guest);
        }
        match self.all.get_mut(&route).map(|connect| &mut connect.stage) {
            Some(Stage::Offered(_)) => {
                if let Some(connect) = self.remove(route, context) {
                    adopt(route, guest, connect.host, context);
                }
            }
            // A predecessor offered it, and the machine has sent its SYN again meanwhile.
            Some(stage) => *stage = Stage::Accepted(guest),
            // A predecessor offered it and ended.
            None => self.connect(route, Stage::Accepted(guest), context),
        }
    }

    /// Gives up what takes too long. A machine that was offered a connection and did not take it up has given up first.
    pub(super) fn expire(&mut self, context: &mut Context<'_>) {
        let now = context.now;
        let late = self.all.iter().filter(|(_, connect)| connect.deadline <= now);
        let late: Vec<(Route, RawFd)> =
            late.map(|(route, connect)| (*route, connect.host.as_raw_fd())).collect();
        for (route, host) in late {
            // This process may have waited for its turn for so long, and the answer is there.
            self.ready(host, context);
            let is_late = self.all.get(&route).is_some_and(|connect| connect.deadline <= now);
            if is_late && let Some(connect) = self.remove(route, context) {
                fail(connect, route, Errno::TIMEDOUT, context);
            }
        }
    }

    /// Ends all of them.
    pub(super) fn end(&mut self, context: &mut Context<'_>) {
        let all: Vec<Route> = self.all.keys().copied().collect();
        for route in all {
            if let Some(connect) = self.remove(route, context) {
                fail(connect, route, Errno::TIMEDOUT, context);
            }
        }
    }

    fn remove(&mut self, route: Route, context: &mut Context<'_>) -> Option<Connect> {
        let connect = self.all.remove(&route)?;
        self.by_fd.remove(&connect.host.as_raw_fd());
        context.carrier.unwatch(connect.host.as_fd());
        let machine = share_of(route.0.ip());
        if let Some(count) = self.counts.get_mut(&machine) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&machine);
            }
        }
        Some(connect)
    }
}

/// A socket of this host for a connection to `destination`.
fn open(destination: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(family(destination.ip()), SocketType::STREAM, flags, None)
}

/// The family of an address.
pub(super) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

fn is_connected_to_itself(socket: BorrowedFd<'_>) -> bool {
    getsockname(socket).ok() == getpeername(socket).ok().flatten()
}

/// Hands a connection over to who carries its bytes.
fn adopt((machine, _): Route, guest: OwnedFd, host: OwnedFd, context: &mut Context<'_>) {
    for socket in [&guest, &host] {
        let (idle, interval, count) = KEEPALIVE;
        // All of these have worked when the socket is one of TCP; a connection goes on without them.
        let _ = sockopt::set_tcp_nodelay(socket, true);
        let _ = sockopt::set_socket_keepalive(socket, true);
        let _ = sockopt::set_tcp_keepidle(socket, idle);
        let _ = sockopt::set_tcp_keepintvl(socket, interval);
        let _ = sockopt::set_tcp_keepcnt(socket, count);
    }
    let pair = Pair { guest, host, machine: machine.ip() };
    if let Err(pair) = context.carrier.adopt_pair(pair) {
        context.drop_for(pair.machine);
        abort(pair.guest);
        abort(pair.host);
    }
}

/// Passes the failure of this host's attempt on to the machine.
fn fail(connect: Connect, route: Route, error: Errno, context: &mut Context<'_>) {
    match connect.stage {
        // It was connected, and nobody took it up.
        Stage::Offered(_) => abort(connect.host),
        stage => refuse(stage, route, error, context),
    }
}

/// Tells the machine why this host does not connect.
fn refuse(stage: Stage, (machine, to): Route, error: Errno, context: &mut Context<'_>) {
    let no_room = matches!(
        error,
        Errno::ADDRNOTAVAIL | Errno::NOBUFS | Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::AGAIN
    );
    let no_family = lacks_family(error, to);
    if no_room && !no_family {
        context.drop_for(share_of(machine.ip()));
    }
    let syn = match stage {
        Stage::Accepted(guest) => return abort(guest),
        Stage::Offered(syn) | Stage::Connecting(syn) => syn,
    };
    let Some(Ip::Packet(packet)) = parse::ip(&syn) else { return };
    let failure = match error {
        Errno::CONNREFUSED | Errno::CONNRESET => {
            let reset = TcpSegment::of(&packet).and_then(|segment| build::reset(&segment));
            return context.tun.write(reset.as_deref());
        }
        _ if no_family => IcmpFailure::Network,
        Errno::NETUNREACH => IcmpFailure::Network,
        Errno::ACCESS | Errno::PERM => IcmpFailure::Prohibited,
        // Nobody answered, hence the machine gets no answer either. Or this host has no room: the SYN is sent again.
        Errno::TIMEDOUT => return,
        _ if no_room => return,
        _ => IcmpFailure::Host,
    };
    context.tun.refuse(failure, &packet, context.ranges);
}

/// Whether an error says that this host has no addresses of IPv6 to send from, or no IPv6 at all: then there is no way to
/// `to`, now and later. The same error of TCP stands for a want of ports, which a datagram socket does not know.
pub(super) fn lacks_family(error: Errno, to: SocketAddr) -> bool {
    match error {
        Errno::AFNOSUPPORT => true,
        Errno::ADDRNOTAVAIL if to.is_ipv6() => {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let probe = rustix::net::socket_with(family(to.ip()), SocketType::DGRAM, flags, None);
            probe.is_ok_and(|probe| rustix::net::connect(&probe, &to) == Err(Errno::ADDRNOTAVAIL))
        }
        _ => false,
    }
}

/// Ends a connection by a reset.
fn abort(socket: OwnedFd) {
    // Without it the connection ends in order, which is the second best.
    let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
    drop(socket);
}
