//! The driver of egress in the front door's process: knows which environment a descriptor is of, and takes over the
//! connections that egress has made.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, BorrowedFd, IntoRawFd as _, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Instant;

use super::admission::Shares;
use super::carry::{Engine, Meta};
use super::egress::{self, Budget, Egress, Interest, Pair, Prefix, Ranges, Sockets};
use super::poll::{EventFlags, Token};
use super::routes::Report;
use super::table::{Fd, NO_LISTENER, Owner, key};
use crate::cloud::local::network::sys;
use crate::cloud::local::network::wanted::{
    Block, MACHINES, MACHINES6, NODE, NODE6, SERVICES, UNIQUE_LOCAL, machine_of,
};

/// The egress of every environment.
#[derive(Debug)]
pub(super) struct Outside {
    budget: Rc<Budget>,
    shares: Shares,
    networks: BTreeMap<String, Network>,
    /// Whose each descriptor is that is waited for.
    watched: HashMap<RawFd, String>,
    due: Option<Instant>,
}

/// The egress of one environment.
#[derive(Debug)]
struct Network {
    egress: Egress,
    ends: Ends,
}

/// The descriptors of an environment's network that egress works with; they are everybody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    /// `tun0`.
    pub(super) device: Fd,
    /// Where TPROXY sends connections.
    pub(super) listener: Fd,
    /// The same of IPv6.
    pub(super) listener6: Option<Fd>,
}

impl Ends {
    fn all(self) -> impl Iterator<Item = Fd> {
        [self.device, self.listener].into_iter().chain(self.listener6)
    }
}

/// What egress of one environment sees of the process.
#[derive(Debug)]
struct View<'a> {
    engine: &'a mut Engine,
    watched: &'a mut HashMap<RawFd, String>,
    environment: &'a str,
    shares: Shares,
}

impl Outside {
    /// No environment has egress yet.
    pub(super) fn new(shares: Shares) -> Self {
        Self {
            budget: Budget::new(shares.outside, shares.outwards),
            shares,
            networks: BTreeMap::new(),
            watched: HashMap::new(),
            due: None,
        }
    }

    /// Gives an environment egress, unless it has that by the same descriptors already.
    pub(super) fn open(&mut self, engine: &mut Engine, environment: &str, ends: Ends) {
        if self.networks.get(environment).is_some_and(|network| network.ends == ends) {
            return;
        }
        self.close(engine, environment);
        let Ends { device, listener, listener6 } = ends;
        let borrowed = |fd: Fd| sys::borrow(fd.number());
        let sockets = Sockets {
            tun: borrowed(device),
            listener: borrowed(listener),
            listener6: listener6.map(borrowed),
        };
        for fd in ends.all() {
            // Without the event nothing comes, and `status` shows an environment without egress.
            let _ = engine.poll.add(fd, token(fd.number()), EventFlags::IN);
            self.watched.insert(fd.number(), environment.to_owned());
        }
        let egress = Egress::new(sockets, ranges(), Rc::clone(&self.budget));
        self.networks.insert(environment.to_owned(), Network { egress, ends });
        self.due = Some(Instant::now());
    }

    /// Takes egress from an environment. Its descriptors stay open.
    pub(super) fn close(&mut self, engine: &mut Engine, environment: &str) {
        let Some(mut network) = self.networks.remove(environment) else { return };
        let (mut view, _) = view(engine, &mut self.watched, environment, self.shares);
        network.egress.end(&mut view, Instant::now());
        for fd in network.ends.all() {
            engine.poll.delete(fd);
            self.watched.remove(&fd.number());
        }
    }

    /// The descriptor of that number is ready, unless it was closed by an event before this one.
    pub(super) fn event(&mut self, engine: &mut Engine, number: u32) {
        let Ok(fd) = RawFd::try_from(number) else { return };
        let Some(environment) = self.watched.get(&fd).cloned() else { return };
        let Some(network) = self.networks.get_mut(&environment) else { return };
        let (mut view, now) = view(engine, &mut self.watched, &environment, self.shares);
        network.egress.ready(fd, &mut view, now);
    }

    /// Takes on a connection of a machine that the process before had accepted and not recorded yet; gives it back when
    /// it is not one.
    pub(super) fn adopt(&mut self, engine: &mut Engine, fd: Fd) -> Option<Fd> {
        let peer =
            rustix::net::getpeername(fd).ok().flatten().and_then(|peer| SocketAddr::try_from(peer).ok());
        let Some(machine) = peer.map(|peer| peer.ip()) else { return Some(fd) };
        let found = self.networks.iter_mut().find(|(_, network)| network.egress.serves(machine));
        let Some((environment, network)) = found else { return Some(fd) };
        // Another number for the same socket, as one that is owned.
        let Ok(guest) = rustix::io::fcntl_dupfd_cloexec(fd, 0) else { return Some(fd) };
        fd.close();
        let environment = environment.clone();
        let (mut view, now) = view(engine, &mut self.watched, &environment, self.shares);
        network.egress.accepted(guest, &mut view, now);
        None
    }

    /// Does what is due. Returns when the next thing is.
    pub(super) fn expire(&mut self, engine: &mut Engine) -> Option<Instant> {
        if self.due.is_some_and(|due| due <= Instant::now()) {
            let mut next: Option<Instant> = None;
            for (environment, network) in &mut self.networks {
                let (mut view, now) = view(engine, &mut self.watched, environment, self.shares);
                let due = network.egress.tick(&mut view, now);
                next = Some(next.map_or(due, |next| next.min(due)));
            }
            self.due = next;
        }
        self.due
    }

    /// Adds what `status` warns of.
    pub(super) fn report(&self, report: &mut Report) {
        for (environment, network) in &self.networks {
            let warnings: Vec<String> = network.egress.warnings().collect();
            if !warnings.is_empty() {
                report.warnings.entry(environment.clone()).or_default().extend(warnings);
            }
        }
    }
}

/// The addresses of every environment: each has the same ones, in a network of its own.
fn ranges() -> Ranges {
    let prefix = |block: Block| Prefix::new(block.address, block.bits);
    Ranges {
        machines: [MACHINES, MACHINES6].map(prefix).into(),
        private: [MACHINES, SERVICES, UNIQUE_LOCAL].map(prefix).into(),
        node: NODE,
        node6: Some(NODE6),
    }
}

fn token(number: RawFd) -> Token {
    Token::Outside(number.cast_unsigned())
}

fn view<'a>(
    engine: &'a mut Engine,
    watched: &'a mut HashMap<RawFd, String>,
    environment: &'a str,
    shares: Shares,
) -> (View<'a>, Instant) {
    (View { engine, watched, environment, shares }, Instant::now())
}

impl View<'_> {
    /// What connections of a machine to the outside are counted for: every environment has the same addresses. It is not
    /// the machine's own key: a machine that is drained ends without waiting for what it has asked of others. Both addresses
    /// of a machine are one.
    fn outwards(&self, machine: IpAddr) -> u64 {
        let machine = machine_of(machine).map_or(machine, IpAddr::V4);
        key(&format!("outwards {machine} of {}", self.environment))
    }

    /// Whether one more connection has a place: Services have theirs, whatever machines ask of the outside.
    fn has_room(&self) -> bool {
        (self.engine.of_listener(NO_LISTENER) as usize) < self.shares.outwards
            && self.engine.of_all() < self.shares.connections
    }
}

impl egress::Carrier for View<'_> {
    fn watch(&mut self, fd: BorrowedFd<'_>, interest: Interest) {
        let flags = match interest {
            Interest::Read => EventFlags::IN,
            Interest::Write => EventFlags::OUT,
            Interest::Nothing => EventFlags::ET,
        };
        let number = fd.as_raw_fd();
        let Some(fd) = Fd::from_number(number) else { return };
        let before = self.watched.insert(number, self.environment.to_owned());
        // One that cannot be waited for is given up when its time is over.
        let _ = if before.is_none() {
            self.engine.table.own(fd, Owner::Member(self.engine.member));
            self.engine.poll.add(fd, token(number), flags)
        } else {
            self.engine.poll.change(fd, token(number), flags)
        };
    }

    fn unwatch(&mut self, fd: BorrowedFd<'_>) {
        let number = fd.as_raw_fd();
        self.watched.remove(&number);
        if let Some(fd) = Fd::from_number(number) {
            self.engine.poll.delete(fd);
            self.engine.table.own(fd, Owner::Nobody);
        }
    }

    fn adopt_pair(&mut self, pair: Pair) -> Result<(), Pair> {
        let number = |fd: &OwnedFd| Fd::from_number(fd.as_raw_fd());
        let ends = number(&pair.guest).zip(number(&pair.host));
        let Some((guest, host)) = ends.filter(|_| self.has_room()) else {
            return Err(pair);
        };
        let meta = Meta { listener: NO_LISTENER, machine: self.outwards(pair.machine) };
        if self.engine.adopt_pair(guest, host, meta).is_none() {
            return Err(pair);
        }
        // They are the record's now, or closed already.
        let _ = (pair.guest.into_raw_fd(), pair.host.into_raw_fd());
        Ok(())
    }

    fn carried(&self, machine: IpAddr) -> usize {
        self.engine.of_machine(self.outwards(machine)) as usize
    }
}
