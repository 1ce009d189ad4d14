//! The name servers of all environments at work: their sockets, who asks, and what is relayed.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};

use super::framing::Framed;
use super::message::{self, Reply, Zone};
use super::relay::{Place, Relayed, ResolverSettings, Transport};
use crate::cloud::local::mover::admission::{Gate, Shares};
use crate::cloud::local::mover::bind::{Bound, bind};
use crate::cloud::local::mover::log::Log;
use crate::cloud::local::mover::poll::{EventFlags, Poll, Token, pause_without_descriptors};
use crate::cloud::local::mover::routes::{NameServer, Report};
use crate::cloud::local::mover::table::{Fd, Kind, Table, key};
use crate::manifest::api::Protocol;

/// Questions of one environment that wait for other servers at once; further ones are dropped, and resolvers ask again.
const RELAYED: usize = 256;

/// Of these, those of one machine: others have their names whatever it asks.
const RELAYED_OF_MACHINE: usize = 64;

/// TCP connections of one machine at once.
const CONNECTIONS_OF_MACHINE: usize = 16;

/// TCP connections of one server at once; further ones are closed, which resolvers take for "ask again".
pub(in crate::cloud::local::mover) const CONNECTIONS: usize = 64;

/// A connection on which a question, or the reading of an answer, takes longer is closed.
const IDLE: Duration = Duration::from_secs(10);

/// The largest question over UDP: the size that EDNS recommends for the largest message.
const QUESTION: usize = 4096;

/// Questions that are answered before others have their turn.
const BATCH: usize = 64;

/// Why a server could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    error: String,
    /// Whether another program has its address.
    is_taken: bool,
}

impl Failure {
    /// The failure of the server at `address`, and what to do about it.
    fn advice(&self, address: Ipv4Addr, port: u16) -> String {
        let advice = if self.is_taken {
            format!(
                "another program has that address (`ss -lnp 'sport = :{port}'` as root names it): end it, or give this \
                 environment another name"
            )
        } else {
            format!(
                "run as root, or let anybody have the port by `sysctl net.ipv4.ip_unprivileged_port_start={port}`"
            )
        };
        let error = &self.error;
        format!(
            "pods do not find Services by name: {address}:{port} cannot be served: {error}; {advice}, then start the VMs \
             again"
        )
    }
}

/// The name server of one environment.
#[derive(Debug)]
struct Server {
    address: Ipv4Addr,
    zone: Zone,
    /// The records of its sockets: of datagrams, and of connections.
    records: Result<[usize; 2], Failure>,
    /// Whether these are in the environment's own network.
    inside: bool,
    relayed: Gate,
    connections: Gate,
}

/// Who asked a question that is relayed.
#[derive(Debug, Clone, Copy)]
enum Asking {
    /// A client of that listener's record.
    Datagram(usize, SocketAddr),
    /// A connection, by its number.
    Connection(u32),
}

/// A connection to a name server.
#[derive(Debug)]
struct Asker {
    socket: Fd,
    client: Option<IpAddr>,
    environment: String,
    framed: Framed,
    /// Whether its question is relayed: the next one waits.
    waits: bool,
    has_ended: bool,
    due: Instant,
}

/// A question that is to be relayed.
struct Relaying {
    question: Vec<u8>,
    /// The one that was asked, where its name stands for another one.
    alias: Option<Vec<u8>>,
}

impl Relaying {
    /// The question `asked`, for which the zone has found this.
    fn of(asked: &[u8], found: Reply) -> Self {
        match found {
            Reply::Alias(question) => Self { question, alias: Some(asked.to_vec()) },
            Reply::Elsewhere | Reply::Answer(_) => Self { question: asked.to_vec(), alias: None },
        }
    }
}

/// What became of a question that is to be relayed.
enum Relay {
    /// There is no room for it.
    Refused,
    /// It is on its way.
    Begun,
    /// Nobody could be asked: this is the answer.
    Answered(Vec<u8>),
}

/// All name servers.
#[derive(Debug)]
pub(in crate::cloud::local::mover) struct Dns {
    place: Place,
    servers: BTreeMap<String, Server>,
    /// The environment of each record.
    environments: HashMap<usize, String>,
    askers: HashMap<u32, Asker>,
    relayed: HashMap<u32, (Relayed, String, Asking)>,
    number: u32,
    /// Records of sockets in networks of their own, by environment.
    given: HashMap<String, [usize; 2]>,
    shares: Shares,
    log: Log,
    /// Where this host's name servers are found.
    pub(in crate::cloud::local::mover) settings: ResolverSettings,
    /// The port that servers listen on.
    pub(in crate::cloud::local::mover) port: u16,
    /// How long a connection may be silent.
    pub(in crate::cloud::local::mover) idle: Duration,
}

fn record_key(environment: &str, address: Ipv4Addr, protocol: Protocol) -> u64 {
    key(&format!("names of {environment} at {address} by {protocol:?}"))
}

/// The key of a record of a socket in the environment's own network.
fn given_key(environment: &str, protocol: Protocol) -> u64 {
    key(&format!("names of {environment} inside by {protocol:?}"))
}

impl Dns {
    /// No server yet.
    pub(in crate::cloud::local::mover) fn new(
        (table, poll, member): (Table, Poll, usize),
        shares: Shares,
        log: Log,
    ) -> Self {
        Self {
            place: Place { table, poll, member },
            servers: BTreeMap::new(),
            environments: HashMap::new(),
            askers: HashMap::new(),
            relayed: HashMap::new(),
            number: 0,
            given: HashMap::new(),
            shares,
            log,
            settings: ResolverSettings::default(),
            port: super::PORT,
            idle: IDLE,
        }
    }

    /// Adds the servers that answer, and warnings.
    pub(in crate::cloud::local::mover) fn report(&self, report: &mut Report) {
        for (environment, server) in &self.servers {
            let warnings = match &server.records {
                Ok(_) => {
                    report.name_servers.insert(environment.clone(), server.address);
                    let gates = [
                        server.relayed.warning(self.relayed_of(environment)),
                        server.connections.warning(self.connections_of(environment)),
                    ];
                    gates.into_iter().flatten().collect()
                }
                Err(failure) => vec![failure.advice(server.address, self.port)],
            };
            report.warnings.entry(environment.clone()).or_default().extend(warnings);
        }
    }

    fn relayed_of(&self, environment: &str) -> usize {
        self.relayed.values().filter(|(_, of, _)| of == environment).count()
    }

    fn connections_of(&self, environment: &str) -> usize {
        self.askers.values().filter(|asker| asker.environment == environment).count()
    }

    /// Takes over the sockets of `wanted` that are in the table, and closes others.
    pub(in crate::cloud::local::mover) fn recover(&mut self, wanted: &BTreeMap<String, NameServer>) {
        let table = self.place.table;
        let mut found = HashMap::new();
        for record in 0..table.listeners_top() {
            let listener = table.listener(record);
            if listener.fd().is_some() && matches!(listener.kind(), Kind::DnsUdp | Kind::DnsTcp) {
                found.insert(listener.key(), record);
            }
        }
        for (environment, NameServer { address, zone, inside }) in wanted {
            let mut take = |keys: [u64; 2]| {
                let [udp, tcp] = keys.map(|key| found.get(&key).copied());
                found.retain(|key, _| !keys.contains(key));
                Some([udp?, tcp?])
            };
            let transports = [Protocol::Udp, Protocol::Tcp];
            let given = take(transports.map(|by| given_key(environment, by)));
            if let Some(records) = given {
                self.given.insert(environment.clone(), records);
            }
            let own = take(transports.map(|by| record_key(environment, *address, by)));
            if let Some(records) = if *inside { given } else { own } {
                self.serve(environment, (*address, *inside), zone.clone(), Ok(records));
            }
        }
        for record in found.into_values() {
            table.listener(record).release(&table);
        }
    }

    fn serve(
        &mut self,
        environment: &str,
        (address, inside): (Ipv4Addr, bool),
        zone: Zone,
        records: Result<[usize; 2], Failure>,
    ) {
        let gate = |kind: &str, otherwise, own| {
            Gate::new(format!("the name server of {environment} ({kind})"), otherwise, own)
        };
        for record in records.iter().flatten() {
            self.environments.insert(*record, environment.to_owned());
            let number = u32::try_from(*record).unwrap_or(0);
            if let Some(fd) = self.place.table.listener(*record).fd() {
                let _ = self.place.poll.add(fd, Token::Listener(number), EventFlags::IN);
            }
        }
        let server = Server {
            address,
            zone,
            records,
            inside,
            relayed: gate("other names", "further questions are dropped", RELAYED),
            connections: gate("TCP", "further connections are closed", CONNECTIONS),
        };
        self.servers.insert(environment.to_owned(), server);
    }

    /// Makes the servers what is wanted. Those that cannot be started are tried again at the next call.
    pub(in crate::cloud::local::mover) fn apply(&mut self, wanted: &BTreeMap<String, NameServer>) {
        let is_unwanted = |environment: &String, server: &Server| {
            let is_same =
                |wanted: &NameServer| (wanted.address, wanted.inside) == (server.address, server.inside);
            !wanted.get(environment).is_some_and(is_same)
        };
        let gone: Vec<_> = self.servers.extract_if(.., |name, server| is_unwanted(name, server)).collect();
        for (environment, server) in gone {
            self.close(&environment, &server);
        }
        self.given.retain(|environment, _| wanted.contains_key(environment));
        for (environment, NameServer { address, zone, inside }) in wanted {
            let before = match self.servers.get_mut(environment) {
                Some(server) => match &server.records {
                    Ok(_) => {
                        server.zone.clone_from(zone);
                        continue;
                    }
                    Err(failure) => Some(failure.clone()),
                },
                None => None,
            };
            let bound = if *inside {
                // One whose network is not known yet has nothing to listen on.
                let Some(records) = self.given.get(environment) else { continue };
                Ok(*records)
            } else {
                self.bind(environment, *address)
            };
            let records = bound.map_err(|error| Failure {
                is_taken: error.kind() == io::ErrorKind::AddrInUse,
                error: error.to_string(),
            });
            if let Err(failure) = &records
                && before.as_ref() != Some(failure)
            {
                self.log.write(format_args!("{}", failure.advice(*address, self.port)));
            }
            self.serve(environment, (*address, *inside), zone.clone(), records);
        }
    }

    /// Takes the sockets of a name server in the environment's own network: of datagrams, and of connections.
    pub(in crate::cloud::local::mover) fn give(&mut self, environment: &str, sockets: [Fd; 2]) {
        let table = self.place.table;
        if let Some(server) = self.servers.remove(environment).filter(|server| server.inside) {
            self.close(environment, &server);
        }
        for record in self.given.remove(environment).into_iter().flatten() {
            table.listener(record).release(&table);
        }
        let kinds = [(Kind::DnsUdp, Protocol::Udp), (Kind::DnsTcp, Protocol::Tcp)];
        let mut records = Vec::new();
        for (socket, (kind, by)) in sockets.into_iter().zip(kinds) {
            let Some(record) = table.free_listener() else {
                table.close(socket);
                continue;
            };
            let key = given_key(environment, by);
            table.listener(record).record(&table, socket, kind, key, (self.port, self.place.member));
            records.push(record);
        }
        if let [udp, tcp] = records[..] {
            self.given.insert(environment.to_owned(), [udp, tcp]);
        }
    }

    fn bind(&self, environment: &str, address: Ipv4Addr) -> io::Result<[usize; 2]> {
        let table = self.place.table;
        let datagrams = bind(address, self.port, Protocol::Udp)?;
        let connections = match bind(address, self.port, Protocol::Tcp) {
            Ok(connections) => connections,
            Err(error) => {
                datagrams.0.close();
                return Err(error);
            }
        };
        let record = |(socket, port): Bound, kind, by| {
            let Some(record) = table.free_listener() else {
                socket.close();
                return Err(io::Error::other("there are as many listeners as there may be"));
            };
            let key = record_key(environment, address, by);
            table.listener(record).record(&table, socket, kind, key, (port, self.place.member));
            Ok(record)
        };
        let udp = record(datagrams, Kind::DnsUdp, Protocol::Udp);
        let tcp = record(connections, Kind::DnsTcp, Protocol::Tcp);
        match (udp, tcp) {
            (Ok(udp), Ok(tcp)) => Ok([udp, tcp]),
            (udp, tcp) => {
                for record in [&udp, &tcp].into_iter().flatten() {
                    table.listener(*record).release(&table);
                }
                udp.and(tcp).map(|_| [0; 2])
            }
        }
    }

    /// Closes a server with its connections and questions.
    fn close(&mut self, environment: &str, server: &Server) {
        for record in server.records.iter().flatten() {
            self.environments.remove(record);
            self.place.table.listener(*record).release(&self.place.table);
        }
        for (_, asker) in self.askers.extract_if(|_, asker| asker.environment == environment) {
            self.place.table.close(asker.socket);
        }
        for (_, (mut relayed, ..)) in self.relayed.extract_if(|_, (_, of, _)| of == environment) {
            relayed.leave(self.place);
        }
    }

    /// Something came at a listener.
    pub(in crate::cloud::local::mover) fn listener(&mut self, record: usize) {
        match self.place.table.listener(record).kind() {
            Kind::DnsUdp => self.datagrams(record),
            _ => self.accept(record),
        }
    }

    fn datagrams(&mut self, record: usize) {
        let Some(environment) = self.environments.get(&record).cloned() else { return };
        let Some(socket) = self.place.table.listener(record).fd() else { return };
        let mut buffer = [0; QUESTION];
        for _ in 0..BATCH {
            let (length, client) = match rustix::net::recvfrom(socket, &mut buffer, RecvFlags::empty()) {
                Ok((length, _, Some(client))) => (length, SocketAddr::try_from(client)),
                Err(Errno::AGAIN) => return,
                // An error reports an answer that was not delivered.
                Ok(_) | Err(_) => continue,
            };
            let (Ok(client), Some(server)) = (client, self.servers.get(&environment)) else { continue };
            let question = &buffer[..length];
            match message::reply_to_datagram(question, &server.zone) {
                None => {}
                // A resolver without an answer asks again.
                Some(Reply::Answer(answer)) => {
                    let _ = rustix::net::sendto(socket, &answer, SendFlags::NOSIGNAL, &client);
                }
                Some(found @ (Reply::Elsewhere | Reply::Alias(_))) => {
                    let asking = Asking::Datagram(record, client);
                    let question = Relaying::of(question, found);
                    if let Relay::Answered(answer) =
                        self.relay(&environment, question, (Transport::Udp, asking))
                    {
                        let _ = rustix::net::sendto(socket, &answer, SendFlags::NOSIGNAL, &client);
                    }
                }
            }
        }
    }

    /// The machine that asked, where its address is its own: by the user network all have that of the host.
    fn machine(&self, environment: &str, asking: Asking) -> Option<IpAddr> {
        let is_inside = self.servers.get(environment).is_some_and(|server| server.inside);
        let client = match asking {
            Asking::Datagram(_, client) => Some(client.ip()),
            Asking::Connection(number) => self.askers.get(&number).and_then(|asker| asker.client),
        };
        client.filter(|_| is_inside)
    }

    /// Whether the machine that asks has as many questions relayed as it may.
    fn has_its_share(&self, environment: &str, asking: Asking) -> bool {
        let Some(machine) = self.machine(environment, asking) else { return false };
        let is_of = |(_, of, other): &&(Relayed, String, Asking)| {
            of == environment && self.machine(of, *other) == Some(machine)
        };
        self.relayed.values().filter(is_of).count() >= RELAYED_OF_MACHINE
    }

    /// Relays a question.
    fn relay(
        &mut self,
        environment: &str,
        Relaying { question, alias }: Relaying,
        (transport, asking): (Transport, Asking),
    ) -> Relay {
        if self.has_its_share(environment, asking) {
            return Relay::Refused;
        }
        let (own, all) = (self.relayed_of(environment), self.relayed.len() + self.askers.len());
        let Some(server) = self.servers.get_mut(environment) else { return Relay::Refused };
        if !server.relayed.admits(own, all < self.shares.names, self.log) {
            return Relay::Refused;
        }
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        let mut relayed = Relayed::new(question, transport, &self.settings, Token::Relayed(number));
        relayed.alias = alias;
        if let Some(answer) = relayed.ask(self.place) {
            return Relay::Answered(self.answer(environment, &relayed, answer, asking));
        }
        self.relayed.insert(number, (relayed, environment.to_owned(), asking));
        Relay::Begun
    }

    /// Something happened to a relayed question.
    pub(in crate::cloud::local::mover) fn relayed(&mut self, number: u32) {
        let Some((relayed, ..)) = self.relayed.get_mut(&number) else { return };
        if let Some(answer) = relayed.event(self.place) {
            self.answered(number, answer);
        }
    }

    /// The answer to the question that was asked, from that to the relayed one.
    fn answer(&self, environment: &str, relayed: &Relayed, found: Vec<u8>, asking: Asking) -> Vec<u8> {
        let Some(asked) = &relayed.alias else { return found };
        match self.servers.get(environment) {
            Some(server) => {
                message::followed(asked, &server.zone, &found, matches!(asking, Asking::Datagram(..)))
            }
            None => message::failure(asked),
        }
    }

    /// A relayed question has its answer.
    fn answered(&mut self, number: u32, answer: Vec<u8>) {
        let Some((mut relayed, environment, asking)) = self.relayed.remove(&number) else { return };
        relayed.leave(self.place);
        let answer = self.answer(&environment, &relayed, answer, asking);
        match asking {
            Asking::Datagram(record, client) => {
                let answer = message::fitting(relayed.asked(), answer);
                if let Some(socket) = self.place.table.listener(record).fd() {
                    let _ = rustix::net::sendto(socket, &answer, SendFlags::NOSIGNAL, &client);
                }
            }
            Asking::Connection(number) => {
                if let Some(asker) = self.askers.get_mut(&number) {
                    asker.framed.push(&answer);
                    asker.waits = false;
                    asker.due = Instant::now() + self.idle;
                    self.go_on(number, false);
                }
            }
        }
    }

    fn accept(&mut self, record: usize) {
        let Some(environment) = self.environments.get(&record).cloned() else { return };
        let Some(listener) = self.place.table.listener(record).fd() else { return };
        for _ in 0..BATCH {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let client = match rustix::net::accept_with(listener, flags) {
                Ok(client) => Fd::from_owned(client),
                Err(error) => return pause_without_descriptors(error),
            };
            let peer = rustix::net::getpeername(client).ok().flatten();
            let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).map(|peer| peer.ip());
            let of_machine = self.askers.values().filter(|asker| asker.environment == environment);
            let of_machine = of_machine.filter(|asker| asker.client == peer).count();
            let (own, all) = (self.connections_of(&environment), self.relayed.len() + self.askers.len());
            let Some(server) = self.servers.get_mut(&environment) else { return };
            if server.inside && of_machine >= CONNECTIONS_OF_MACHINE {
                client.close();
                continue;
            }
            if !server.connections.admits(own, all < self.shares.names, self.log) {
                client.close();
                continue;
            }
            let _ = rustix::net::sockopt::set_tcp_nodelay(client, true);
            self.number = self.number.wrapping_add(1);
            self.place.watch(client, Token::Asker(self.number), EventFlags::IN);
            let asker = Asker {
                socket: client,
                client: peer,
                environment: environment.clone(),
                framed: Framed::default(),
                waits: false,
                has_ended: false,
                due: Instant::now() + self.idle,
            };
            self.askers.insert(self.number, asker);
        }
    }

    /// Something happened to a connection.
    pub(in crate::cloud::local::mover) fn asker(&mut self, number: u32) {
        self.go_on(number, true);
    }

    /// Sends what is to be sent, reads where `reads` says so, and answers one question after the other.
    fn go_on(&mut self, number: u32, reads: bool) {
        if self.converse(number, reads).is_none()
            && let Some(asker) = self.askers.remove(&number)
        {
            self.place.table.close(asker.socket);
        }
    }

    /// Nothing when the connection is to be closed.
    fn converse(&mut self, number: u32, reads: bool) -> Option<()> {
        let asker = self.askers.get_mut(&number)?;
        if reads && !asker.waits {
            asker.has_ended |= !asker.framed.read(asker.socket).ok()?;
        }
        loop {
            let asker = self.askers.get_mut(&number)?;
            if asker.waits {
                // Its next question is not read before this one is answered; that it is gone is said once.
                drop(self.place.poll.change(asker.socket, Token::Asker(number), EventFlags::ET));
                return Some(());
            }
            if asker.framed.has_output() && !asker.framed.write(asker.socket).ok()? {
                drop(self.place.poll.change(asker.socket, Token::Asker(number), EventFlags::OUT));
                return Some(());
            }
            let Some(question) = asker.framed.message() else {
                drop(self.place.poll.change(asker.socket, Token::Asker(number), EventFlags::IN));
                return (!asker.has_ended).then_some(());
            };
            asker.due = Instant::now() + self.idle;
            let environment = asker.environment.clone();
            match message::reply(&question, &self.servers.get(&environment)?.zone)? {
                Reply::Answer(answer) => asker.framed.push(&answer),
                found @ (Reply::Elsewhere | Reply::Alias(_)) => {
                    self.relay_of(number, &environment, Relaying::of(&question, found));
                }
            }
        }
    }

    fn relay_of(&mut self, number: u32, environment: &str, question: Relaying) {
        let failure = message::failure(question.alias.as_ref().unwrap_or(&question.question));
        let asking = (Transport::Tcp, Asking::Connection(number));
        let answer = match self.relay(environment, question, asking) {
            Relay::Begun => None,
            Relay::Answered(answer) => Some(answer),
            Relay::Refused => Some(failure),
        };
        if let Some(asker) = self.askers.get_mut(&number) {
            asker.waits = answer.is_none();
            if let Some(answer) = answer {
                asker.framed.push(&answer);
            }
        }
    }

    /// Closes silent connections, and asks the next server where one is silent. Returns when to look again.
    pub(in crate::cloud::local::mover) fn expire(&mut self) -> Option<Instant> {
        let now = Instant::now();
        for (_, asker) in self.askers.extract_if(|_, asker| !asker.waits && asker.due <= now) {
            self.place.table.close(asker.socket);
        }
        let due: Vec<u32> = self
            .relayed
            .iter()
            .filter(|(_, (relayed, ..))| relayed.due <= now)
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            let Some((relayed, ..)) = self.relayed.get_mut(&number) else { continue };
            if let Some(answer) = relayed.next(self.place) {
                self.answered(number, answer);
            }
        }
        let relayed = self.relayed.values().map(|(relayed, ..)| relayed.due);
        let askers = self.askers.values().filter(|asker| !asker.waits).map(|asker| asker.due);
        relayed.chain(askers).min()
    }
}
