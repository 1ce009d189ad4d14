//! The process that carries: one loop over everything that is open. It decides nothing but which backend is next.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;

use super::admission::Shares;
use super::carry::Engine;
use super::control::Control;
use super::dns::Dns;
use super::listeners::{Change, Listeners};
use super::log::Log;
use super::outside::{Ends, Outside};
use super::places::{GUARDIAN, HOST, is_alive};
use super::poll::{EventFlags, Token};
use super::protocol::{DoorAnswer, Request};
use super::routes::{Counted, Report, Routes};
use super::services::Services;
use super::table::{
    CONNECT_BOUNDS, Count, Fd, Kept, Kind, LAYOUT, MEMBERS, Opened, Owner, Phase, Side, SlotState, Table, key,
};
use super::tcp::Connecting;
use super::udp::Sessions;
use crate::cloud::local::wire::Hello;
use crate::plan::fleet::{Bucket, Traffic};

/// What the processes share beside descriptors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared {
    pub(super) table: Table,
    pub(super) shares: Shares,
    /// All processes write to one descriptor.
    pub(super) log: Log,
}

/// The wanted state as a successor reads it.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Wanted {
    routes: Routes,
    /// Names of machines that are wanted, or have connections still.
    machines: BTreeSet<String>,
    /// Places of the networks of environments.
    networks: HashMap<String, usize>,
}

/// The carrying process.
#[derive(Debug)]
pub(super) struct Carrier {
    pub(super) shared: Shared,
    pub(super) engine: Engine,
    pub(super) listeners: Listeners,
    pub(super) services: Services,
    pub(super) connecting: Connecting,
    pub(super) sessions: Sessions,
    pub(super) dns: Dns,
    pub(super) control: Control,
    pub(super) outside: Outside,
    routes: Routes,
    machines: HashMap<u64, String>,
    /// Of a process in a network: the listeners that it accepts from, each with its key and its socket.
    pub(super) accepts: BTreeMap<usize, (u64, Fd)>,
}

/// Why the loop was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// The table says that something else is to be done.
    Phase,
    /// The guardian has ended.
    Guardian,
    /// A signal says that all is to end.
    Signal,
    /// It is time for another look.
    Look,
    /// The table has changed.
    News,
    /// Another process has taken over.
    Replaced,
}

impl Carrier {
    /// Carries nothing yet. It is never dropped: a copy of the process must not close what it has.
    pub(super) fn new(shared: Shared, member: usize) -> io::Result<ManuallyDrop<Self>> {
        let Shared { table, shares, log } = shared;
        let engine = Engine::new(table, member)?;
        let poll = engine.poll;
        Ok(ManuallyDrop::new(Self {
            shared,
            engine,
            listeners: Listeners::new(table, member),
            services: Services::default(),
            connecting: Connecting::default(),
            sessions: Sessions::new(),
            dns: Dns::new((table, poll, member), shares, log),
            control: Control::new(table, poll, member),
            outside: Outside::new(shares),
            routes: Routes::default(),
            machines: HashMap::new(),
            accepts: BTreeMap::new(),
        }))
    }

    /// Whether this program can carry what the one before carries, found out before it takes its place.
    ///
    /// # Errors
    /// It cannot wait for events, or cannot read what is wanted.
    pub(super) fn rehearse(shared: Shared, member: usize) -> io::Result<()> {
        let carrier = Self::new(shared, member)?;
        let read = carrier.read_wanted();
        carrier.engine.poll.close(&shared.table);
        read.map(drop)
    }

    /// Takes over what the process of this place had before it ended.
    pub(super) fn recover(&mut self) {
        let wanted = self.wanted();
        let table = self.shared.table;
        let is_there = |(name, index): &(&String, &usize)| {
            table.network(**index).exists() && table.network(**index).environment() == key(name)
        };
        let networks = wanted.networks.iter().filter(is_there);
        self.listeners.networks = networks.map(|(name, index)| (name.clone(), *index)).collect();
        self.machines = wanted.machines.iter().map(|name| (key(name), name.clone())).collect();
        let changes = self.listeners.recover(&wanted.routes.listeners);
        for change in changes {
            self.change(change);
        }
        for (id, route) in &wanted.routes.listeners {
            if let Some(found) = self.listeners.bound.get(id) {
                self.services.set(found.record, route);
            }
        }
        self.dns.recover(&wanted.routes.name_servers);
        self.reach_outside();
        self.recover_connections();
        self.routes = wanted.routes;
        // The process before may have changed the table, and not said so.
        self.wake_networks();
    }

    fn recover_connections(&mut self) {
        for (index, state) in self.engine.recover() {
            match state {
                SlotState::Session => self.sessions.recover(&mut self.engine, index),
                _ => self.connecting.recover(&mut self.engine, &mut self.services, index),
            }
        }
    }

    /// The wanted state as the process of the host has saved it.
    fn wanted(&self) -> Wanted {
        self.read_wanted().unwrap_or_default()
    }

    fn read_wanted(&self) -> io::Result<Wanted> {
        let Some(file) = self.shared.table.kept(Kept::Wanted) else { return Ok(Wanted::default()) };
        Ok(serde_json::from_slice(&read(file)?)?)
    }

    /// Takes over what the process of this place, in a network, had before it ended.
    pub(super) fn recover_inside(&mut self) {
        self.follow();
        self.recover_connections();
    }

    /// In a network: accepts from the listeners that the process of the host has bound for it.
    pub(super) fn follow(&mut self) {
        let (table, member) = (self.shared.table, self.engine.member);
        let routes = self.wanted().routes;
        let mut accepts = BTreeMap::new();
        for record in 0..table.listeners_top() {
            let listener = table.listener(record);
            let is_mine = listener.member() == member && matches!(listener.kind(), Kind::Tcp | Kind::Udp);
            let Some(socket) = listener.fd().filter(|_| is_mine) else { continue };
            let route = routes.listeners.iter().find(|(id, route)| {
                route.inside.is_some() && super::listeners::record_key(id, route.host) == listener.key()
            });
            // It is bound before its route is saved: there is another wake for that.
            let Some((id, route)) = route else { continue };
            let before = self.accepts.remove(&record);
            if before.is_some_and(|(key, _)| key != listener.key()) {
                self.leave(record);
            }
            if before.is_none_or(|(key, _)| key != listener.key()) {
                self.services.open(id, record, self.shared.shares);
            }
            self.services.set(record, route);
            self.watch(record);
            accepts.insert(record, (listener.key(), socket));
        }
        for record in std::mem::take(&mut self.accepts).into_keys() {
            self.leave(record);
        }
        self.accepts = accepts;
    }

    /// In a network: it carries nothing more.
    pub(super) fn leave_all(&mut self) {
        for record in std::mem::take(&mut self.accepts).into_keys() {
            self.leave(record);
        }
    }

    /// In a network: a listener is gone, with all its connections.
    fn leave(&mut self, record: usize) {
        self.engine.close_listener(record as u64);
        self.sessions.forget_listener(record as u64);
        self.connecting.forget_closed(&self.engine);
        self.services.close(record);
    }

    /// Takes on a connection that the process before had accepted and not recorded yet; gives it back when it is not one.
    pub(super) fn adopt(&mut self, fd: Fd) -> Option<Fd> {
        use std::net::SocketAddr;
        let local = rustix::net::getsockname(fd).ok().and_then(|found| SocketAddr::try_from(found).ok());
        let is_open = rustix::net::getpeername(fd).is_ok_and(|peer| peer.is_some())
            && rustix::net::sockopt::socket_acceptconn(fd) == Ok(false)
            && rustix::net::sockopt::socket_type(fd) == Ok(rustix::net::SocketType::STREAM);
        let Some(local) = local.filter(|_| is_open) else { return Some(fd) };
        let is_of = |record: &usize| {
            let listener = self.shared.table.listener(*record);
            let address = listener.fd().and_then(|fd| rustix::net::getsockname(fd).ok());
            listener.kind() == Kind::Tcp
                && listener.member() == self.engine.member
                && address.and_then(|found| SocketAddr::try_from(found).ok()) == Some(local)
        };
        let Some(record) = (0..self.shared.table.listeners_top()).find(is_of) else {
            return self.outside.adopt(&mut self.engine, fd);
        };
        self.connecting.begin(&mut self.engine, &mut self.services, fd, record as u64);
        None
    }

    fn change(&mut self, change: Change) {
        let table = self.shared.table;
        match change {
            Change::Opened(_, record) if table.listener(record).member() != self.engine.member => {}
            Change::Opened(id, record) => {
                self.services.open(&id, record, self.shared.shares);
                self.watch(record);
            }
            Change::Moved(record, before) => {
                self.engine.poll.delete(before);
                before.close();
                if table.listener(record).member() == self.engine.member {
                    self.watch(record);
                }
            }
            Change::Closed(record) => {
                table.listener(record).release(&table);
                self.engine.close_listener(record as u64);
                self.sessions.forget_listener(record as u64);
                self.connecting.forget_closed(&self.engine);
                self.services.close(record);
            }
        }
    }

    fn watch(&self, record: usize) {
        if let (Some(fd), Ok(number)) = (self.shared.table.listener(record).fd(), u32::try_from(record)) {
            let _ = self.engine.poll.add(fd, Token::Listener(number), EventFlags::IN);
        }
    }

    /// Carries `routes` from now on, and nothing else. A socket that cannot be bound is logged once for each reason, and
    /// tried again at the next call.
    pub(super) fn apply(&mut self, routes: Routes) {
        if routes != self.routes {
            self.routes = routes;
            self.release_networks();
            self.note_machines();
            // A successor that reads the state of before is told the present one within a moment.
            if let Err(error) = self.save() {
                self.shared.log.write(format_args!("the wanted state cannot be kept: {error}"));
            }
        }
        self.dns.apply(&self.routes.name_servers);
        let wanted = std::mem::take(&mut self.routes.listeners);
        let mut listeners = std::mem::replace(&mut self.listeners, Listeners::new(self.shared.table, 0));
        // At once: what is closed has a port that another one wants.
        listeners.apply(&wanted, self.shared.log, |change| self.change(change));
        self.listeners = listeners;
        for (id, route) in &wanted {
            if let Some(found) = self.listeners.bound.get(id) {
                self.services.set(found.record, route);
            }
        }
        self.routes.listeners = wanted;
        self.wake_networks();
    }

    fn wake_networks(&self) {
        for index in self.listeners.networks.values() {
            self.shared.table.member(*index).wake();
        }
    }

    /// Networks of environments that are gone are left: their processes end.
    fn release_networks(&mut self) {
        let table = self.shared.table;
        let routes = &self.routes;
        let (outside, engine) = (&mut self.outside, &mut self.engine);
        self.listeners.networks.retain(|environment, index| {
            let is_wanted = routes.name_servers.contains_key(environment)
                || routes.listeners.keys().any(|id| id.environment == *environment);
            if !is_wanted {
                outside.close(engine, environment);
                table.network(*index).release(&table);
                table.member(*index).wake();
                table.member(GUARDIAN).wake();
            }
            is_wanted
        });
    }

    /// Has a process carry in the network of these descriptors.
    pub(super) fn give(&mut self, environment: String, given: &[Fd]) -> DoorAnswer {
        let table = self.shared.table;
        let (user, net, outside) = match *given {
            [user, net] => (user, net, None),
            [user, net, tun, egress, udp, tcp] => (user, net, Some(([tun, egress, udp, tcp], None))),
            [user, net, tun, egress, udp, tcp, six] => {
                (user, net, Some(([tun, egress, udp, tcp], Some(six))))
            }
            _ => {
                table.close_all(given);
                return DoorAnswer::Refused(format!("{} descriptors are no network", given.len()));
            }
        };
        let before = self.listeners.networks.get(&environment).copied();
        let place = before.or_else(|| (HOST + 1..MEMBERS).find(|index| !table.network(*index).exists()));
        let Some(index) = place else {
            table.close_all(given);
            return DoorAnswer::Refused("there are as many networks as there may be".to_owned());
        };
        if table.member(index).news().is_none() {
            let Ok(news) = super::poll::news() else {
                table.close_all(given);
                return DoorAnswer::Refused("no descriptor is left".to_owned());
            };
            table.own(news, Owner::All);
            table.member(index).set_news(news);
        }
        let mut opened = vec![(Opened::User, user), (Opened::Net, net)];
        if let Some(([tun, egress, udp, tcp], egress6)) = outside {
            opened.extend([(Opened::Tun, tun), (Opened::Egress, egress)]);
            opened.extend(egress6.map(|egress6| (Opened::Egress6, egress6)));
            self.dns.give(&environment, [udp, tcp]);
        }
        if outside.is_some() {
            self.outside.close(&mut self.engine, &environment);
        }
        // A process of the network before ends, and the guardian starts one in this.
        table.network(index).record(&table, key(&environment), &opened);
        let is_routed = self.routes.name_servers.contains_key(&environment);
        self.listeners.networks.insert(environment, index);
        self.reach_outside();
        if let Err(error) = self.save() {
            self.shared.log.write(format_args!("the wanted state cannot be kept: {error}"));
        }
        // What has waited for the network is bound with it. Routes that do not name the environment yet are still to come, and
        // would give up the sockets of its name server.
        if is_routed {
            self.apply(self.routes.clone());
        }
        table.member(index).wake();
        table.member(GUARDIAN).wake();
        DoorAnswer::Done
    }

    /// Has the machines of every network reach the outside.
    fn reach_outside(&mut self) {
        for (environment, index) in &self.listeners.networks {
            let network = self.shared.table.network(*index);
            let ends = network.opened(Opened::Tun).zip(network.opened(Opened::Egress));
            if let Some((device, listener)) = ends {
                let ends = Ends { device, listener, listener6: network.opened(Opened::Egress6) };
                self.outside.open(&mut self.engine, environment, ends);
            }
        }
    }

    /// Machines without a backend and without a connection are forgotten.
    fn note_machines(&mut self) {
        let engine = &self.engine;
        self.machines.retain(|key, _| engine.machines().contains_key(key));
        let backends = self.routes.listeners.values().flat_map(|route| &route.backends);
        self.machines.extend(backends.map(|backend| (key(&backend.machine), backend.machine.clone())));
    }

    fn save(&self) -> io::Result<()> {
        let wanted = Wanted {
            routes: self.routes.clone(),
            machines: self.machines.values().cloned().collect(),
            networks: self.listeners.networks.clone(),
        };
        let bytes = serde_json::to_vec(&wanted)?;
        let file = Fd::from_owned(rustix::fs::memfd_create("i2kit-door-wanted", MemfdFlags::CLOEXEC)?);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match rustix::io::write(file, rest) {
                Ok(length) => rest = &rest[length..],
                Err(error) => {
                    file.close();
                    return Err(error.into());
                }
            }
        }
        self.shared.table.keep(Kept::Wanted, file);
        Ok(())
    }

    /// What is carried now.
    pub(super) fn report(&self) -> Report {
        let mut report = Report { bound: self.listeners.ports(), ..Report::default() };
        self.dns.report(&mut report);
        self.outside.report(&mut report);
        for (environment, warning) in self.services.warnings(&self.engine) {
            report.warnings.entry(environment).or_default().push(warning);
        }
        let runs = |(name, index): (&String, &usize)| {
            is_alive(self.shared.table.member(*index).pid()).then(|| name.clone())
        };
        report.networks = self.listeners.networks.iter().filter_map(runs).collect();
        let counts = self.engine.machines().iter();
        let named = counts.filter_map(|(key, count)| Some((self.machines.get(key)?.clone(), *count)));
        report.connections = named.collect::<BTreeMap<_, _>>();
        report
    }

    /// What was counted at each listener.
    pub(super) fn counted(&self) -> Counted {
        let table = self.shared.table;
        let mut open: HashMap<u64, u64> = HashMap::new();
        for index in 0..table.top() {
            let slot = table.slot(index);
            if matches!(slot.state().0, SlotState::Connecting | SlotState::Carrying | SlotState::Session) {
                *open.entry(slot.listener()).or_default() += 1;
            }
        }
        let traffic = |record: usize| {
            let listener = table.listener(record);
            let bounds = CONNECT_BOUNDS.into_iter().map(Some).chain([None]);
            let bucket = |(up_to_micros, count)| Bucket { up_to_micros, count };
            Traffic {
                connections: listener.counted(Count::Accepted),
                open: open.get(&(record as u64)).copied().unwrap_or(0),
                received_bytes: listener.counted(Count::Received),
                sent_bytes: listener.counted(Count::Sent),
                errors: listener.counted(Count::Failed),
                refused: listener.counted(Count::Refused),
                connect_micros: listener.counted(Count::ConnectMicros),
                connect: bounds.zip(listener.histogram()).map(bucket).collect(),
            }
        };
        Counted(self.listeners.bound.iter().map(|(id, found)| (id.clone(), traffic(found.record))).collect())
    }

    /// Carries until the table, the guardian, a signal or the time says otherwise.
    pub(super) fn run(&mut self, until: Instant) -> Left {
        let member = self.shared.table.member(self.engine.member);
        let mut events = Vec::new();
        // What has come while this process did not run is looked at before anything is given up.
        let mut due = Some(Instant::now());
        loop {
            let timeout = if self.engine.has_ready() {
                Duration::ZERO
            } else {
                due.map_or(until, |due| due.min(until)).saturating_duration_since(Instant::now())
            };
            member.rests();
            self.engine.poll.wait(Some(timeout), &mut events);
            member.works();
            // Another program's process has this place: what is open is that one's.
            if !member.is_this_process() {
                return Left::Replaced;
            }
            let mut left = None;
            // All of them: an event that is passed over may not come again.
            for (token, flags) in events.drain(..) {
                match token {
                    Token::News => {
                        let _ = member.news().map(|fd| rustix::io::read(fd, &mut [0_u8; 8]));
                        if self.engine.member != HOST {
                            left = left.or(Some(Left::News));
                        }
                    }
                    Token::Guardian => left = left.or(Some(Left::Guardian)),
                    Token::Signals => left = Some(Left::Signal),
                    token => self.event(token, flags),
                }
            }
            self.engine.run_ready();
            due = self.expire();
            if let Some(left) = left {
                return left;
            }
            if self.shared.table.phase() != Phase::Carry {
                return Left::Phase;
            }
            if Instant::now() >= until {
                return Left::Look;
            }
        }
    }

    fn event(&mut self, token: Token, flags: EventFlags) {
        let shares = self.shared.shares;
        match token {
            Token::Connection { slot, generation, side } => self.connection(slot, generation, side, flags),
            Token::Listener(record) => {
                let index = record as usize;
                let service = (u64::from(record), shares);
                let log = self.shared.log;
                let listener = self.shared.table.listener(index);
                match listener.kind() {
                    // It was closed by an event before this one.
                    _ if listener.fd().is_none() => {}
                    Kind::Tcp => self.connecting.accept(&mut self.engine, &mut self.services, service, log),
                    Kind::Udp => self.sessions.receive(&mut self.engine, &mut self.services, service, log),
                    Kind::DnsUdp | Kind::DnsTcp => self.dns.listener(index),
                }
            }
            Token::Caller(number) => {
                for (request, given) in self.control.event(number) {
                    let answer = self.request(request, &given);
                    self.control.answer(number, &answer);
                }
            }
            Token::Asker(number) => self.dns.asker(number),
            Token::Outside(number) => self.outside.event(&mut self.engine, number),
            Token::Relayed(number) => self.dns.relayed(number),
            Token::Control => {
                if let Some(listener) = self.shared.table.kept(Kept::Control) {
                    self.control.accept(listener);
                }
            }
            Token::News | Token::Signals | Token::Guardian => {}
        }
    }

    fn connection(&mut self, index: u32, generation: u32, side: Side, flags: EventFlags) {
        let (state, member) = self.shared.table.slot(index).state();
        if member != self.engine.member || !self.engine.is_present(index, generation) {
            return;
        }
        match state {
            SlotState::Carrying => self.engine.event(index, side, flags),
            SlotState::Connecting if side == Side::Server => {
                self.connecting.event(&mut self.engine, &mut self.services, index);
            }
            SlotState::Session => self.sessions.answer(&mut self.engine, index),
            _ => {}
        }
    }

    /// Does what is due. Returns when the next thing is.
    fn expire(&mut self) -> Option<Instant> {
        let times = [
            self.connecting.expire(&mut self.engine, &mut self.services),
            self.services.resume(&self.engine, self.shared.shares),
            self.sessions.sweep(&mut self.engine),
            self.dns.expire(),
            self.outside.expire(&mut self.engine),
        ];
        times.into_iter().flatten().min()
    }

    fn request(&mut self, request: Request, given: &[Fd]) -> DoorAnswer {
        if !given.is_empty() && !matches!(request, Request::Give { .. }) {
            self.shared.table.close_all(given);
        }
        match request {
            Request::Give { environment } => self.give(environment, given),
            Request::Hello => DoorAnswer::Hello(Hello::of_this_program()),
            Request::Apply(routes) => {
                self.apply(routes);
                DoorAnswer::Report(self.report())
            }
            Request::Report => DoorAnswer::Report(self.report()),
            Request::Traffic => DoorAnswer::Traffic(self.counted()),
            Request::Stop => {
                self.shared.table.set_phase(Phase::Stop);
                DoorAnswer::Done
            }
            Request::Upgrade { layout, .. } if layout != LAYOUT => DoorAnswer::Refused(format!(
                "the newer program's table has the layout {layout}, and the one of this program {LAYOUT}"
            )),
            Request::Upgrade { program, .. } => {
                use std::os::unix::ffi::OsStrExt as _;
                if self.shared.table.set_program(program.as_os_str().as_bytes()) {
                    self.shared.table.set_phase(Phase::Park);
                    DoorAnswer::Done
                } else {
                    DoorAnswer::Refused("the program's path is too long".to_owned())
                }
            }
        }
    }

    /// Waits for a descriptor that is about the processes themselves.
    pub(super) fn attend(&self, fd: Fd, token: Token) {
        let _ = self.engine.poll.add(fd, token, EventFlags::IN);
    }

    /// Has a descriptor of this process alone closed by its successor.
    pub(super) fn own(&self, fd: Fd) {
        self.shared.table.own(fd, Owner::Member(self.engine.member));
    }
}

fn read(file: Fd) -> io::Result<Vec<u8>> {
    let length = usize::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
    let mut bytes = vec![0; length];
    let mut at = 0;
    while at < length {
        match rustix::io::pread(file, &mut bytes[at..], at as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => at += read,
        }
    }
    Ok(bytes)
}
