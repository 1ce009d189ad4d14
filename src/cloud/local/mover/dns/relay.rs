//! The relay of questions to the name servers of this host: what is asked next, one server after the other.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::framing::Framed;
use super::message;
use crate::cloud::local::mover::poll::{EventFlags, Poll, Token};
use crate::cloud::local::mover::table::{Fd, Owner, Table};

/// The file that names this host's name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The time limit of a relayed question; resolvers ask again after five seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The number of servers that are asked at most: resolvers ignore further ones as well.
const SERVERS: usize = 3;

/// The largest datagram.
const DATAGRAM: usize = 65_535;

/// How a question came, and so how it is relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// In a datagram.
    Udp,
    /// Over a connection: the answer may have any length.
    Tcp,
}

/// Where this host's name servers are found.
#[derive(Debug, Clone)]
pub(crate) struct ResolverSettings {
    /// The file that names them, resolv.conf(5). It is read for each question: it changes with the networks that a
    /// laptop is in.
    pub(crate) file: PathBuf,
    /// Their port.
    pub(crate) port: u16,
}

impl Default for ResolverSettings {
    fn default() -> Self {
        Self { file: PathBuf::from(RESOLV_CONF), port: 53 }
    }
}

/// What a question waits for at present.
#[derive(Debug)]
enum Stage {
    /// The answer in a datagram.
    Datagram(Fd),
    /// The answer over a connection, which may not be made yet.
    Stream(Fd, Framed),
}

/// A question that is relayed.
#[derive(Debug)]
pub(super) struct Relayed {
    question: Vec<u8>,
    /// The question that was asked, where its name stands for that of the relayed one.
    pub(super) alias: Option<Vec<u8>>,
    transport: Transport,
    servers: Vec<SocketAddr>,
    /// The server that is asked now.
    at: usize,
    stage: Option<Stage>,
    /// When the next server is asked.
    pub(super) due: Instant,
    /// The answer of a server that would not or could not answer.
    refusal: Option<Vec<u8>>,
    token: Token,
}

/// Whose the sockets are, and where they are waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) table: Table,
    pub(super) poll: Poll,
    pub(super) member: usize,
}

impl Place {
    /// Waits for a socket of this process.
    pub(super) fn watch(&self, fd: Fd, token: Token, flags: EventFlags) {
        self.table.own(fd, Owner::Member(self.member));
        let _ = self.poll.add(fd, token, flags);
    }
}

impl Relayed {
    /// A question on its way. It may have its answer at once, see [`Relayed::ask`].
    pub(super) fn new(
        question: Vec<u8>,
        transport: Transport,
        settings: &ResolverSettings,
        token: Token,
    ) -> Self {
        let text = fs::read_to_string(&settings.file).unwrap_or_default();
        let servers = name_servers(&text).into_iter().map(|server| SocketAddr::new(server, settings.port));
        let servers = servers.collect();
        let due = Instant::now();
        Self { question, alias: None, transport, servers, at: 0, stage: None, due, refusal: None, token }
    }

    /// The question that was asked.
    pub(super) fn asked(&self) -> &[u8] {
        self.alias.as_ref().unwrap_or(&self.question)
    }

    /// Begins to ask the present server; the answer when there is none left to ask.
    pub(super) fn ask(&mut self, place: Place) -> Option<Vec<u8>> {
        // Each has an equal part of the time, so that one that is gone does not use up that of the others.
        self.due = Instant::now() + PATIENCE / u32::try_from(self.servers.len().max(1)).unwrap_or(1);
        while let Some(server) = self.servers.get(self.at).copied() {
            let begun = match self.transport {
                Transport::Udp => self.datagram(server, place),
                // Some servers know no TCP; most answers fit into a datagram.
                Transport::Tcp => self.stream(server, place).or_else(|_| self.datagram(server, place)),
            };
            if begun.is_ok() {
                return None;
            }
            self.at += 1;
        }
        Some(self.refusal.take().unwrap_or_else(|| message::failure(&self.question)))
    }

    fn datagram(&mut self, server: SocketAddr, place: Place) -> rustix::io::Result<()> {
        let any: SocketAddr = if server.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = socket(server, SocketType::DGRAM)?;
        let begun = rustix::net::bind(socket, &any)
            .and_then(|()| rustix::net::connect(socket, &server))
            .and_then(|()| rustix::net::send(socket, &self.question, SendFlags::NOSIGNAL));
        if let Err(error) = begun {
            socket.close();
            return Err(error);
        }
        place.watch(socket, self.token, EventFlags::IN);
        self.stage = Some(Stage::Datagram(socket));
        Ok(())
    }

    fn stream(&mut self, server: SocketAddr, place: Place) -> rustix::io::Result<()> {
        let socket = socket(server, SocketType::STREAM)?;
        match rustix::net::connect(socket, &server) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => {
                socket.close();
                return Err(error);
            }
        }
        place.watch(socket, self.token, EventFlags::OUT);
        let mut framed = Framed::default();
        framed.push(&self.question);
        self.stage = Some(Stage::Stream(socket, framed));
        Ok(())
    }

    /// Something happened to its socket. Returns the answer once there is one.
    pub(super) fn event(&mut self, place: Place) -> Option<Vec<u8>> {
        let heard = match &mut self.stage {
            None => return None,
            Some(Stage::Datagram(socket)) => heard_datagram(*socket, &self.question),
            Some(Stage::Stream(socket, framed)) => heard_stream(*socket, framed, place, self.token),
        };
        match heard {
            Ok(None) => None,
            Ok(Some(answer)) => self.take(answer, place),
            Err(_) => {
                let was_stream = matches!(self.stage, Some(Stage::Stream(..)));
                self.leave(place);
                let server = self.servers.get(self.at).copied();
                if let (true, Some(server)) = (was_stream, server)
                    && self.datagram(server, place).is_ok()
                {
                    return None;
                }
                self.next(place)
            }
        }
    }

    fn take(&mut self, answer: Vec<u8>, place: Place) -> Option<Vec<u8>> {
        self.leave(place);
        // The same id: no answer to another question.
        if answer.get(..2) != self.question.get(..2) {
            return self.next(place);
        }
        if !message::is_refusal(&answer) {
            return Some(answer);
        }
        self.refusal = Some(answer);
        self.next(place)
    }

    /// Asks the next server. Returns the answer when there is none.
    pub(super) fn next(&mut self, place: Place) -> Option<Vec<u8>> {
        self.leave(place);
        self.at += 1;
        self.ask(place)
    }

    /// Closes its socket.
    pub(super) fn leave(&mut self, place: Place) {
        if let Some(Stage::Datagram(socket) | Stage::Stream(socket, _)) = self.stage.take() {
            place.table.close(socket);
        }
    }
}

fn heard_datagram(socket: Fd, question: &[u8]) -> rustix::io::Result<Option<Vec<u8>>> {
    let mut answer = vec![0; DATAGRAM];
    loop {
        match rustix::net::recv(socket, answer.as_mut_slice(), RecvFlags::empty()) {
            // The same id: not a late answer to an earlier owner of this port.
            Ok((length, _)) if answer[..length].get(..2) == question.get(..2) => {
                answer.truncate(length);
                return Ok(Some(answer));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

fn heard_stream(
    socket: Fd,
    framed: &mut Framed,
    place: Place,
    token: Token,
) -> rustix::io::Result<Option<Vec<u8>>> {
    if framed.has_output() {
        rustix::net::sockopt::socket_error(socket)??;
        if framed.write(socket)? {
            drop(place.poll.change(socket, token, EventFlags::IN));
        }
        return Ok(None);
    }
    let is_open = framed.read(socket)?;
    match framed.message() {
        Some(answer) => Ok(Some(answer)),
        None if is_open => Ok(None),
        None => Err(Errno::CONNRESET),
    }
}

fn socket(server: SocketAddr, kind: SocketType) -> rustix::io::Result<Fd> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(Fd::from_owned(rustix::net::socket_with(family, kind, flags, None)?))
}

/// The name servers of a `resolv.conf`. The format's page is resolv.conf(5).
fn name_servers(text: &str) -> Vec<IpAddr> {
    let lines = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.split_whitespace().next()?.parse().ok());
    lines.take(SERVERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_to_three_name_servers_are_asked() {
        let text = "# made by hand\nsearch example\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n";
        assert_eq!(
            name_servers(text),
            ["192.0.2.1".parse::<IpAddr>().unwrap(), "192.0.2.2".parse().unwrap()]
        );
        assert_eq!(
            name_servers("nameserver fe80::1%eth0\nnameserver ::1\n"),
            ["::1".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(name_servers("search example\n"), Vec::<IpAddr>::new());
        assert_eq!(name_servers(&"nameserver 192.0.2.1\n".repeat(9)).len(), SERVERS);
    }
}
