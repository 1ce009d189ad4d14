//! The supervisor's loop: clients of the health port, messages of PID 1, and probes that are due. One thread serves all
//! clients, so that a silent one keeps nobody waiting.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::control::{Control, Outgoing};
use crate::http::{Connection, Occasion, Request, Response, Turn};
use crate::link::{Any, Link, ToInit, ToSupervisor};
use crate::pod_socket::PodSocket;
use crate::prober::Prober;
use crate::record::Record;

/// How many clients are served at once; the one that waited longest makes room for another.
const MAX_CONNECTIONS: usize = 64;

/// How many of them may wait for another answer than they have; a further one is answered at once. One host asks, over one
/// connection: the rest is for its successors.
const MAX_WAITING: usize = 8;

/// The clients that are being served, the probes, and the messages for PID 1.
#[derive(Debug)]
pub(crate) struct Server {
    link: Link,
    prober: Prober,
    control: Control,
    pod_socket: PodSocket,
    /// The one that was served longest ago first.
    connections: VecDeque<Connection>,
    outbox: VecDeque<Outgoing>,
    /// Whether the record is newer than what clients that wait know.
    has_news: bool,
}

/// What happened while the loop waited.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent descriptors")]
struct Ready {
    link: bool,
    prober: bool,
    control: bool,
    pod_socket: bool,
    /// In the order of the connections.
    connections: Vec<bool>,
}

impl Server {
    /// A server of the clients that PID 1 sends over this link, which runs the probes.
    pub(crate) fn new(link: Link, prober: Prober) -> Self {
        let control = Control::default();
        let (connections, outbox) = (VecDeque::new(), VecDeque::new());
        let pod_socket = PodSocket::default();
        Self { link, prober, control, pod_socket, connections, outbox, has_news: false }
    }

    /// Serves requests for ever; returns only when PID 1 is gone.
    pub(crate) fn serve(mut self, answer: impl Fn(&Request<'_>) -> Response) -> io::Result<Infallible> {
        self.observe();
        self.receive(Instant::now())?;
        self.outbox.push_back(Outgoing::Own(ToInit::Attached));
        loop {
            self.outbox.extend(self.prober.start_due().into_iter().map(Outgoing::Own));
            self.send_pending()?;
            let ready = self.wait(Instant::now())?;
            let now = Instant::now();
            self.advance(&ready.connections, now, &answer);
            if ready.prober {
                self.outbox.extend(self.prober.collect()?.into_iter().map(Outgoing::Own));
            }
            if ready.link {
                self.receive(now)?;
            }
            if ready.pod_socket {
                self.outbox.extend(self.pod_socket.advance().into_iter().map(Outgoing::Own));
                self.has_news |= self.pod_socket.take_news();
            }
            if self.has_news {
                self.advance(&vec![false; self.connections.len()], now, &answer);
            }
            if ready.control || ready.link {
                self.outbox.extend(self.control.advance(Instant::now())?);
            }
        }
    }

    /// Gives each client its turn that is ready by `states`, whose time has come, or that waits while there is news. Those
    /// that are answered go to the end.
    fn advance(&mut self, states: &[bool], now: Instant, answer: &impl Fn(&Request<'_>) -> Response) {
        let has_news = std::mem::take(&mut self.has_news);
        let mut waiting = self.connections.iter().filter(|connection| connection.is_held()).count();
        let mut answered = Vec::new();
        for is_ready in states {
            let Some(mut connection) = self.connections.pop_front() else { break };
            let was_held = connection.is_held();
            waiting -= usize::from(was_held);
            let has_turn = *is_ready || was_held && (has_news || now >= connection.due());
            let occasion = Occasion { now, is_ready: *is_ready, may_wait: waiting < MAX_WAITING };
            let turn = if has_turn { connection.advance(occasion, answer) } else { Turn::Waits };
            waiting += usize::from(connection.is_held() && turn == Turn::Waits);
            match turn {
                Turn::Waits if connection.deadline > now => self.connections.push_back(connection),
                Turn::Answered => answered.push(connection),
                Turn::Waits | Turn::Ended => {
                    self.outbox.push_back(Outgoing::Own(ToInit::Done { id: connection.id }));
                }
            }
        }
        self.connections.extend(answered);
    }

    /// Reads the record; one that cannot be read now is read when it changes again.
    fn observe(&mut self) {
        if let Ok(record) = Record::read() {
            self.prober.observe(&record);
        }
    }

    fn wait(&self, now: Instant) -> io::Result<Ready> {
        let room = if self.outbox.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let mut fds = vec![PollFd::new(&self.link, PollFlags::IN | room)];
        fds.push(PollFd::from_borrowed_fd(self.prober.fd(), PollFlags::IN));
        let control = self.control.descriptors(now);
        fds.extend(control.iter().flatten().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
        let pod_socket = self.pod_socket.descriptors();
        fds.extend(pod_socket.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        fds.extend(self.connections.iter().map(|client| PollFd::new(&client.stream, client.wants())));
        let clients = self.connections.iter().map(|client| client.due().saturating_duration_since(now)).min();
        let due = self.control.timeout(now);
        let timeout: Option<Duration> = clients.into_iter().chain(self.prober.timeout()).chain(due).min();
        let timeout = timeout.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let mut next = || ready.next().unwrap_or(false);
        let (link, prober) = (next(), next());
        // Without anything to read or to write there may be something due.
        let mut wants_control = self.control.timeout(Instant::now()).is_some_and(|left| left.is_zero());
        for _ in control.iter().flatten() {
            wants_control |= next();
        }
        let mut wants_pod_socket = false;
        for _ in pod_socket.iter().flatten() {
            wants_pod_socket |= next();
        }
        Ok(Ready {
            link,
            prober,
            control: wants_control,
            pod_socket: wants_pod_socket,
            connections: ready.collect(),
        })
    }

    /// Receives PID 1's messages.
    fn receive(&mut self, now: Instant) -> io::Result<()> {
        loop {
            let (message, fd) = match self.link.receive_any() {
                Ok((Any::Control(message), _)) => {
                    self.control.send(&message);
                    continue;
                }
                Ok((Any::Own(message), fd)) => (message, fd),
                // A message of another version.
                Err(error) if error.kind() == ErrorKind::InvalidData => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            match (message, fd) {
                (ToSupervisor::Client { id }, Some(fd)) => {
                    if self.connections.len() == MAX_CONNECTIONS
                        && let Some(oldest) = self.connections.pop_front()
                    {
                        self.outbox.push_back(Outgoing::Own(ToInit::Done { id: oldest.id }));
                    }
                    match Connection::new(id, fd.into(), now) {
                        Ok(connection) => self.connections.push_back(connection),
                        // The client is gone, or was answered by an earlier supervisor.
                        Err(_) => self.outbox.push_back(Outgoing::Own(ToInit::Done { id })),
                    }
                }
                (ToSupervisor::Changed, _) => {
                    self.observe();
                    self.has_news = true;
                }
                (ToSupervisor::Executed { id, run, failure }, _) => {
                    let verdict = self.prober.executed(id, run, failure.as_deref());
                    self.outbox.extend(verdict.map(Outgoing::Own));
                }
                (ToSupervisor::Streams { streams }, _) => self.control.streams(streams),
                (ToSupervisor::Port { epoch }, Some(port)) => self.control.port(port, epoch),
                (ToSupervisor::Bell, Some(bell)) => self.control.bell(bell),
                (ToSupervisor::PodSocket, Some(listener)) => self.pod_socket.listen(listener.into()),
                (ToSupervisor::Ordered { id, failure }, _) => self.pod_socket.ordered(id, failure),
                (ToSupervisor::Piped { id, pipe }, Some(fd)) => self.pod_socket.piped(id, pipe, fd),
                (ToSupervisor::Ran { id, code }, _) => self.pod_socket.ran(id, code),
                (ToSupervisor::Request { number, container, when, seconds }, _) => {
                    let limit = Duration::from_secs(seconds);
                    let failed = self.prober.request_for_hook(number, (&container, when), limit);
                    self.outbox.extend(failed.map(Outgoing::Own));
                }
                // A client without its socket: descriptors are short, and the client goes away by itself.
                (ToSupervisor::Client { id }, None) => {
                    self.outbox.push_back(Outgoing::Own(ToInit::Done { id }));
                }
                (
                    ToSupervisor::Port { .. }
                    | ToSupervisor::Bell
                    | ToSupervisor::PodSocket
                    | ToSupervisor::Piped { .. },
                    None,
                ) => {}
            }
        }
    }

    fn send_pending(&mut self) -> io::Result<()> {
        while let Some(message) = self.outbox.front() {
            let sent = match message {
                Outgoing::Own(message) => self.link.send(message, None),
                Outgoing::Control(message) => self.link.forward(message),
            };
            match sent {
                Ok(()) => self.outbox.pop_front(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // It will not become smaller.
                Err(error) if error.kind() == ErrorKind::InvalidInput => self.outbox.pop_front(),
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use i2kit_spec::Seconds;
    use i2kit_spec::status::wait;

    use super::*;
    use crate::http::TIMEOUT;

    /// A served client, and PID 1's end of the link and copy of the client's socket.
    struct Served {
        link: Link,
        ours: TcpStream,
        client: TcpStream,
        /// Another client, which sends nothing.
        silent: (TcpStream, TcpStream),
    }

    fn socket() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, client)
    }

    fn served(prepare: impl FnOnce(&mut TcpStream, &mut TcpStream)) -> Served {
        let (link, theirs) = Link::pair().unwrap();
        let (mut ours, mut client) = socket();
        prepare(&mut ours, &mut client);
        let server = Server::new(Link::over(theirs), Prober::of(&i2kit_spec::PodBoot::default()).unwrap());
        std::thread::spawn(move || server.serve(|_| Response::text(200, "ok\n".into())));
        let silent = socket();
        link.send(&ToSupervisor::Client { id: 1 }, Some(silent.0.as_fd())).unwrap();
        link.send(&ToSupervisor::Client { id: 2 }, Some(ours.as_fd())).unwrap();
        Served { link, ours, client, silent }
    }

    fn wait_done(link: &Link) -> ToInit {
        loop {
            rustix::event::poll(&mut [PollFd::new(link, PollFlags::IN)], None).unwrap();
            match link.receive().unwrap().0 {
                ToInit::Attached => {}
                done => return done,
            }
        }
    }

    fn read_all(mut client: TcpStream) -> String {
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_client_is_answered_while_another_is_silent() {
        let Served { link, ours, mut client, silent: _silent } = served(|_, _| {});
        for part in [&b"GET / HT"[..], b"TP/1.1\r\n", b"\r\n"] {
            client.write_all(part).unwrap();
        }
        assert_eq!(wait_done(&link), ToInit::Done { id: 2 });
        drop(ours);
        let text = read_all(client);
        assert!(text.ends_with("\r\n\r\nok\n"), "{text}");
    }

    #[test]
    fn what_an_earlier_supervisor_answered_is_not_answered_again() {
        let answered = "HTTP/1.1 200 OK\r\n\r\nearlier";
        let Served { link, ours, client, silent: _silent } = served(|ours, client| {
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            ours.write_all(answered.as_bytes()).unwrap();
        });
        assert_eq!(wait_done(&link), ToInit::Done { id: 2 });
        drop(ours);
        // Neither a second answer nor a reset.
        assert_eq!(read_all(client), answered);
    }

    #[test]
    fn a_connection_is_kept_between_requests_until_another_supervisor_takes_over() {
        let Served { link, ours, mut client, silent: _silent } = served(|_, _| {});
        let ask = |client: &mut TcpStream, request: &str| {
            client.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            while !answer.ends_with("\r\n\r\nok\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                answer.push(char::from(byte[0]));
            }
            answer
        };
        let keeps = "GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n";
        for _ in 0..3 {
            assert!(ask(&mut client, keeps).contains("Connection: keep-alive\r\n"));
        }
        // Two at once have two answers.
        assert!(ask(&mut client, &keeps.repeat(2)).contains("keep-alive"));
        assert!(ask(&mut client, "").contains("keep-alive"));
        // What another supervisor is given is answered no more, and ends.
        let (next, theirs) = Link::pair().unwrap();
        let server = Server::new(Link::over(theirs), Prober::of(&i2kit_spec::PodBoot::default()).unwrap());
        std::thread::spawn(move || server.serve(|_| Response::text(200, "second\n".into())));
        next.send(&ToSupervisor::Client { id: 2 }, Some(ours.as_fd())).unwrap();
        assert_eq!(wait_done(&next), ToInit::Done { id: 2 });
        drop((ours, link));
        assert_eq!(read_all(client), "");
    }

    #[test]
    fn a_client_that_asked_is_answered_however_late_and_its_time_begins_with_the_answer() {
        let (_link, theirs) = Link::pair().unwrap();
        let prober = Prober::of(&i2kit_spec::PodBoot::default()).unwrap();
        let mut server = Server::new(Link::over(theirs), prober);
        let answer = |_: &Request<'_>| Response::text(200, "ok\n".into());
        let (ours, mut client) = socket();
        let mut now = Instant::now();
        server.connections.push_back(Connection::new(7, ours, now).unwrap());
        for _ in 0..2 {
            client.write_all(b"GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n").unwrap();
            let mut ready = [PollFd::new(&server.connections[0].stream, PollFlags::IN)];
            rustix::event::poll(&mut ready, None).unwrap();
            now += TIMEOUT * 2;
            server.advance(&[true], now, &answer);
            assert!(client.read(&mut [0; 512]).unwrap() > 0);
            assert_eq!(server.connections[0].deadline, now + TIMEOUT);
        }
        // One that is silent until then is ended, and one that says too little.
        server.advance(&[false], now + TIMEOUT / 2, &answer);
        assert!(server.outbox.is_empty());
        client.write_all(b"GET").unwrap();
        let mut ready = [PollFd::new(&server.connections[0].stream, PollFlags::IN)];
        rustix::event::poll(&mut ready, None).unwrap();
        server.advance(&[true], now + TIMEOUT, &answer);
        assert!(server.connections.is_empty());
        assert!(matches!(server.outbox[0], Outgoing::Own(ToInit::Done { id: 7 })), "{:?}", server.outbox);
    }

    /// A server without clients, and PID 1's end of its link.
    fn idle() -> (Server, Link) {
        let (link, theirs) = Link::pair().unwrap();
        let prober = Prober::of(&i2kit_spec::PodBoot::default()).unwrap();
        (Server::new(Link::over(theirs), prober), link)
    }

    /// A request that waits for four seconds while the answer's tag is `known`.
    fn waiting(known: &str) -> String {
        let headers = wait::headers(known, Seconds(4));
        format!("GET / HTTP/1.1\r\nConnection: keep-alive\r\n{headers}\r\n")
    }

    /// Sends a request to the client of this number, once the server has its bytes.
    fn send(server: &Server, number: usize, client: &mut TcpStream, request: &str) {
        client.write_all(request.as_bytes()).unwrap();
        let mut ready = [PollFd::new(&server.connections[number].stream, PollFlags::IN)];
        rustix::event::poll(&mut ready, None).unwrap();
    }

    fn read_answer(client: &mut TcpStream) -> String {
        let mut bytes = [0; 512];
        let length = client.read(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn a_client_that_waits_is_answered_at_a_change_or_at_its_time() {
        let (mut server, link) = idle();
        let tag = std::cell::Cell::new("a");
        let answer = |_: &Request<'_>| Response::text(200, "ok\n".into()).with_tag(tag.get().into());
        let (ours, mut client) = socket();
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        server.connections.push_back(Connection::new(7, ours, now).unwrap());
        send(&server, 0, &mut client, &waiting("a"));
        server.advance(&[true], now, &answer);
        assert_eq!((server.connections[0].is_held(), server.connections[0].due()), (true, after(4)));
        // The record is another one, and what is answered is not.
        server.has_news = true;
        server.advance(&[false], after(1), &answer);
        assert_eq!((server.connections[0].is_held(), server.connections[0].due()), (true, after(4)));
        link.send(&ToSupervisor::Changed, None).unwrap();
        server.receive(after(2)).unwrap();
        tag.set("b");
        assert!(server.has_news);
        server.advance(&[false], after(2), &answer);
        assert!(!server.connections[0].is_held());
        let text = read_answer(&mut client);
        assert!(text.contains("X-I2kit-Status-Tag: b\r\n") && text.ends_with("ok\n"), "{text}");

        send(&server, 0, &mut client, &waiting("b"));
        server.advance(&[true], after(3), &answer);
        server.advance(&[false], after(6), &answer);
        assert!(server.connections[0].is_held());
        server.advance(&[false], after(7), &answer);
        assert!(read_answer(&mut client).contains("X-I2kit-Status-Tag: b\r\n"), "its time is over");
        // One that knows another status, and a host that does not wait.
        for request in [waiting("a"), "GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n".to_owned()] {
            send(&server, 0, &mut client, &request);
            server.advance(&[true], after(8), &answer);
            assert!(read_answer(&mut client).ends_with("ok\n"));
        }
        // One that goes away while it waits.
        send(&server, 0, &mut client, &waiting("b"));
        server.advance(&[true], after(9), &answer);
        assert!(server.connections[0].is_held() && server.outbox.is_empty());
        drop(client);
        let mut ready = [PollFd::new(&server.connections[0].stream, PollFlags::IN)];
        rustix::event::poll(&mut ready, None).unwrap();
        server.advance(&[true], after(9), &answer);
        assert!(server.connections.is_empty());
        assert!(matches!(server.outbox[0], Outgoing::Own(ToInit::Done { id: 7 })), "{:?}", server.outbox);
    }

    #[test]
    fn a_client_beyond_those_that_may_wait_is_answered_at_once() {
        let (mut server, _link) = idle();
        let answer = |_: &Request<'_>| Response::text(200, "ok\n".into()).with_tag("a".into());
        let now = Instant::now();
        let mut clients = Vec::new();
        for id in 0..=MAX_WAITING {
            let (ours, mut client) = socket();
            server.connections.push_back(Connection::new(u64::try_from(id).unwrap(), ours, now).unwrap());
            send(&server, id, &mut client, &waiting("a"));
            clients.push(client);
        }
        server.advance(&[true; MAX_WAITING + 1], now, &answer);
        let held = server.connections.iter().filter(|connection| connection.is_held()).count();
        assert_eq!(held, MAX_WAITING);
        assert!(read_answer(&mut clients[MAX_WAITING]).ends_with("ok\n"));
        // Once one of them has its answer there is room again; all of them come at their time.
        server.advance(&[false; MAX_WAITING + 1], now + Duration::from_secs(4), &answer);
        assert!(clients[..MAX_WAITING].iter_mut().all(|client| read_answer(client).ends_with("ok\n")));
        send(&server, 0, &mut clients[MAX_WAITING], &waiting("a"));
        let mut states = [false; MAX_WAITING + 1];
        states[0] = true;
        server.advance(&states, now + Duration::from_secs(5), &answer);
        assert!(server.connections.iter().any(Connection::is_held));
    }
}
