//! The supervisor's loop: clients of the health port, messages of PID 1, and probes that are due. One thread serves all
//! clients, so that a silent one keeps nobody waiting.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::control::{Control, Outgoing};
use crate::http::{Connection, Request, Response, Turn};
use crate::link::{Any, Link, ToInit, ToSupervisor};
use crate::prober::Prober;
use crate::record::Record;

/// How many clients are served at once; the one that waited longest makes room for another.
const MAX_CONNECTIONS: usize = 64;

/// The clients that are being served, the probes, and the messages for PID 1.
#[derive(Debug)]
pub(crate) struct Server {
    link: Link,
    prober: Prober,
    control: Control,
    connections: VecDeque<Connection>,
    outbox: VecDeque<Outgoing>,
}

/// What happened while the loop waited.
#[derive(Debug)]
struct Ready {
    link: bool,
    prober: bool,
    control: bool,
    /// In the order of the connections.
    connections: Vec<bool>,
}

impl Server {
    /// A server of the clients that PID 1 sends over this link, which runs the probes.
    pub(crate) fn new(link: Link, prober: Prober) -> Self {
        let control = Control::default();
        Self { link, prober, control, connections: VecDeque::new(), outbox: VecDeque::new() }
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
            if ready.control || ready.link {
                self.outbox.extend(self.control.advance(Instant::now())?);
            }
        }
    }

    /// Gives each client its turn, in the order of their deadlines, and keeps that order.
    fn advance(&mut self, states: &[bool], now: Instant, answer: &impl Fn(&Request<'_>) -> Response) {
        let mut answered = Vec::new();
        for is_ready in states {
            let Some(mut connection) = self.connections.pop_front() else { break };
            let turn = if *is_ready { connection.advance(now, answer) } else { Turn::Waits };
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
        fds.extend(self.connections.iter().map(|client| PollFd::new(&client.stream, client.wants())));
        let oldest = self.connections.front().map(|oldest| oldest.deadline.saturating_duration_since(now));
        let due = self.control.timeout(now);
        let timeout: Option<Duration> = oldest.into_iter().chain(self.prober.timeout()).chain(due).min();
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
        Ok(Ready { link, prober, control: wants_control, connections: ready.collect() })
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
                (ToSupervisor::Changed, _) => self.observe(),
                (ToSupervisor::Executed { id, run, failure }, _) => {
                    let verdict = self.prober.executed(id, run, failure.as_deref());
                    self.outbox.extend(verdict.map(Outgoing::Own));
                }
                (ToSupervisor::Streams { streams }, _) => self.control.streams(streams),
                (ToSupervisor::Port { epoch }, Some(port)) => self.control.port(port, epoch),
                (ToSupervisor::Bell, Some(bell)) => self.control.bell(bell),
                (ToSupervisor::Request { number, container, when, seconds }, _) => {
                    let limit = Duration::from_secs(seconds);
                    let failed = self.prober.request_for_hook(number, (&container, when), limit);
                    self.outbox.extend(failed.map(Outgoing::Own));
                }
                // A client without its socket: descriptors are short, and the client goes away by itself.
                (ToSupervisor::Client { id }, None) => {
                    self.outbox.push_back(Outgoing::Own(ToInit::Done { id }));
                }
                (ToSupervisor::Port { .. } | ToSupervisor::Bell, None) => {}
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
}
