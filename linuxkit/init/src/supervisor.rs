//! The supervisor's process, and all that it works on.
//!
//! PID 1 accepts the clients of the health port and hands them to the supervisor, but keeps each until the supervisor reports
//! that it is done with the client. When the supervisor dies it is started again, and gets the clients that are left. One
//! that was not answered yet sees no more than a short wait; a connection that was kept after an answer ends, and the client
//! makes another one. What the supervisor asks for is its caller's to do.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use i2kit_container::{cgroup, oom};
use i2kit_spec::control::{Message, StreamState};
use i2kit_supervisor::link::{Any, Link, Pipe, ToInit, ToSupervisor, When};
use rustix::process::{Pid, Signal};

use crate::error::{Doing, Error};

/// A supervisor that ran for less than this does not work; it is started again with a delay.
const SHORT_RUN: Duration = Duration::from_millis(100);

/// The delay after the first short run, doubled by each further one up to [`MAX_DELAY`].
const FIRST_DELAY: Duration = Duration::from_millis(20);

/// Short, because a VM whose supervisor is away gets no traffic.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// How many clients are held at once; more wait in the listening socket's queue.
const MAX_CLIENTS: usize = 128;

/// The supervisor's process and what it works on.
#[derive(Debug)]
pub(crate) struct Supervisor {
    listener: TcpListener,
    /// The clients that the supervisor is not done with, by their numbers.
    clients: BTreeMap<u64, TcpStream>,
    /// The first client that the running supervisor was not sent. Those after it were not sent either.
    next_unsent: u64,
    next_id: u64,
    /// Messages that the running supervisor was not sent yet.
    outbox: VecDeque<ToSupervisor>,
    /// Requests of hooks that have no answer yet.
    requests: BTreeMap<u64, ToSupervisor>,
    process: Option<Process>,
    /// The control channel's port, and what rings when there are more lines for it.
    channel: Option<(OwnedFd, OwnedFd)>,
    /// The socket on which the coordinator of a replicated pod asks.
    pod_socket: Option<OwnedFd>,
    /// Ends of programs that go with messages which were not sent yet.
    pipes: BTreeMap<(u64, Pipe), OwnedFd>,
    started: Instant,
    due: Option<Instant>,
    delay: Duration,
    pub(crate) restarts: u64,
    /// How long the last one took to take over, and the slowest of all, in seconds.
    pub(crate) attach: (f64, f64),
    /// The program, when it is another one than ours.
    program: Option<OwnedFd>,
}

/// A running supervisor.
#[derive(Debug)]
struct Process {
    pid: Pid,
    link: Link,
    /// Whether its link is of no more use. It is killed then, and its successor gets another one.
    closed: bool,
}

impl Supervisor {
    /// Listens on the port. The supervisor is due at once.
    pub(crate) fn listen(port: u16, channel: Option<(OwnedFd, OwnedFd)>) -> Result<Self, Error> {
        let doing = || format!("listen on port {port}");
        let listener = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)).doing(doing)?;
        listener.set_nonblocking(true).doing(doing)?;
        Ok(Self {
            listener,
            clients: BTreeMap::new(),
            next_unsent: 0,
            next_id: 0,
            outbox: VecDeque::new(),
            requests: BTreeMap::new(),
            process: None,
            channel,
            pod_socket: None,
            pipes: BTreeMap::new(),
            started: Instant::now(),
            due: Some(Instant::now()),
            delay: FIRST_DELAY,
            restarts: 0,
            attach: (0.0, 0.0),
            program: None,
        })
    }

    /// Has the supervisor serve the coordinator of a replicated pod on this listening socket.
    pub(crate) fn serve_pod(&mut self, socket: OwnedFd) {
        self.pod_socket = Some(socket);
    }

    /// The listening socket, when there is room for another client.
    pub(crate) fn accepting(&self) -> Option<BorrowedFd<'_>> {
        (self.clients.len() < MAX_CLIENTS).then(|| self.listener.as_fd())
    }

    /// The link to the running supervisor, and whether there is something to send on it.
    pub(crate) fn link(&self) -> Option<(BorrowedFd<'_>, bool)> {
        let process = self.process.as_ref().filter(|process| !process.closed)?;
        Some((process.link.as_fd(), self.next_unsent < self.next_id || !self.outbox.is_empty()))
    }

    /// Gives the supervisor a message of the control channel. Returns whether it took it.
    pub(crate) fn forward(&self, message: &Message) -> bool {
        let process = self.process.as_ref().filter(|process| !process.closed && self.outbox.is_empty());
        process.is_some_and(|process| process.link.forward(message).is_ok())
    }

    /// Takes note that the running supervisor has taken over.
    pub(crate) fn attached(&mut self) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.attach = (seconds, seconds.max(self.attach.1));
    }

    /// Makes this program the supervisor: the running one is killed, and its successor is this one.
    pub(crate) fn replace(&mut self, program: &OwnedFd) {
        self.program = program.try_clone().ok();
        self.kill();
    }

    /// Ends the running supervisor at once.
    fn kill(&self) {
        if let Some(process) = &self.process {
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process(process.pid, Signal::KILL);
        }
    }

    /// Accepts the clients that are there.
    pub(crate) fn accept(&mut self) {
        while self.clients.len() < MAX_CLIENTS {
            match self.listener.accept() {
                Ok((client, _)) => {
                    self.clients.insert(self.next_id, client);
                    self.next_id += 1;
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                // None is left, or descriptors are short: the next turn tries again.
                Err(_) => break,
            }
        }
        self.send_pending();
    }

    /// Receives what the supervisor has sent and sends what is pending. Returns what it asks for.
    pub(crate) fn exchange(&mut self) -> Vec<Any<ToInit>> {
        let mut requests = vec![];
        while let Some(process) = &mut self.process {
            match process.link.receive_any() {
                Ok((Any::Own(ToInit::Done { id }), _)) => {
                    self.clients.remove(&id);
                }
                Ok((request, _)) => requests.push(request),
                // A message of another version, or one that is too large.
                Err(error) if error.kind() == ErrorKind::InvalidData => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // It closed its end, or descriptors are short. A supervisor that is not heard any more is of no use.
                Err(_) => {
                    process.closed = true;
                    self.kill();
                    break;
                }
            }
        }
        self.send_pending();
        requests
    }

    /// Sends that the record is newer, once, however often that happens before it is received.
    pub(crate) fn record_changed(&mut self) {
        if !self.outbox.contains(&ToSupervisor::Changed) {
            self.outbox.push_back(ToSupervisor::Changed);
        }
        self.send_pending();
    }

    /// Sends the end of a command that the supervisor asked for.
    pub(crate) fn executed(&mut self, id: u64, run: u64, failure: Option<String>) {
        if self.process.is_some() {
            self.outbox.push_back(ToSupervisor::Executed { id, run, failure });
            self.send_pending();
        }
    }

    /// Sends what came of an order, or of a program that cannot be run.
    pub(crate) fn ordered(&mut self, id: u64, failure: Option<String>) {
        self.tell(ToSupervisor::Ordered { id, failure });
    }

    /// Sends the ends of a program that runs.
    pub(crate) fn piped(&mut self, id: u64, input: OwnedFd, output: OwnedFd) {
        if self.process.is_some() {
            self.pipes.extend([((id, Pipe::Input), input), ((id, Pipe::Output), output)]);
            self.outbox.extend([Pipe::Input, Pipe::Output].map(|pipe| ToSupervisor::Piped { id, pipe }));
            self.send_pending();
        }
    }

    /// Sends the end of a program.
    pub(crate) fn ran(&mut self, id: u64, code: i32) {
        self.tell(ToSupervisor::Ran { id, code });
    }

    /// Sends an answer to the supervisor that asked, if it still runs.
    fn tell(&mut self, answer: ToSupervisor) {
        if self.process.is_some() {
            self.outbox.push_back(answer);
            self.send_pending();
        }
    }

    /// Has the supervisor make the request of a container's hook, now or once it runs again.
    pub(crate) fn request(&mut self, number: u64, (container, when): (&str, When), limit: Duration) {
        let seconds = limit.as_secs().max(1);
        let request = ToSupervisor::Request { number, container: container.to_owned(), when, seconds };
        self.requests.insert(number, request.clone());
        if self.process.is_some() {
            self.outbox.push_back(request);
            self.send_pending();
        }
    }

    /// Takes note that such a request has its answer, or is not waited for any more.
    pub(crate) fn answered(&mut self, number: u64) {
        self.requests.remove(&number);
    }

    fn send_pending(&mut self) {
        let Some(Process { link, .. }) = &self.process else { return };
        while let Some(message) = self.outbox.front() {
            let fd = match message {
                ToSupervisor::Port { .. } => self.channel.as_ref().map(|(port, _)| port),
                ToSupervisor::Bell => self.channel.as_ref().map(|(_, bell)| bell),
                ToSupervisor::PodSocket => self.pod_socket.as_ref(),
                ToSupervisor::Piped { id, pipe } => self.pipes.get(&(*id, *pipe)),
                _ => None,
            };
            match link.send(message, fd.map(AsFd::as_fd)) {
                // It will not become smaller, and others wait behind it.
                Err(error) if error.kind() != ErrorKind::InvalidInput => return,
                _ => {
                    if let Some(ToSupervisor::Piped { id, pipe }) = self.outbox.pop_front() {
                        self.pipes.remove(&(id, pipe));
                    }
                }
            }
        }
        for (id, client) in self.clients.range(self.next_unsent..) {
            if link.send(&ToSupervisor::Client { id: *id }, Some(client.as_fd())).is_err() {
                self.next_unsent = *id;
                return;
            }
        }
        self.next_unsent = self.next_id;
    }

    /// When the next start is due, while the supervisor does not run.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Starts it when that is due, with the state of the sessions. Returns whether it did.
    pub(crate) fn start_if_due(&mut self, now: Instant, streams: impl FnOnce() -> Vec<StreamState>) -> bool {
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        self.due = None;
        if self.spawn(streams()).is_err() {
            self.give_up(now);
        }
        true
    }

    /// Gives up a start that failed. One that runs but could not be set up must not stay beside its successor; its end is
    /// reaped as an orphan's is.
    fn give_up(&mut self, now: Instant) {
        self.kill();
        self.process = None;
        self.forget();
        // It may be the program: ours has worked before.
        self.program = None;
        self.plan(now);
    }

    /// Takes the end of a process. When it was the supervisor, its next start is planned; returns what it asked for last.
    pub(crate) fn reaped(&mut self, pid: Pid) -> Option<Vec<Any<ToInit>>> {
        if self.process.as_ref().is_none_or(|process| process.pid != pid) {
            return None;
        }
        let requests = self.exchange();
        self.process = None;
        self.forget();
        self.restarts += 1;
        self.plan(Instant::now());
        Some(requests)
    }

    /// Drops what the supervisor that is gone was to be told.
    fn forget(&mut self) {
        self.outbox.clear();
        self.pipes.clear();
    }

    fn plan(&mut self, now: Instant) {
        if now.duration_since(self.started) >= SHORT_RUN {
            self.delay = FIRST_DELAY;
            self.due = Some(now);
        } else {
            self.due = Some(now + self.delay);
            self.delay = (self.delay * 2).min(MAX_DELAY);
        }
    }

    fn spawn(&mut self, streams: Vec<StreamState>) -> Result<(), Error> {
        self.started = Instant::now();
        let (pid, link) = spawn(self.program.as_ref()).doing(|| "start the supervisor".into())?;
        self.process = Some(Process { pid, link, closed: false });
        self.outbox.extend(self.requests.values().cloned());
        self.next_unsent = self.clients.keys().next().copied().unwrap_or(self.next_id);
        self.outbox.push_back(ToSupervisor::Streams { streams });
        self.outbox.extend(self.pod_socket.is_some().then_some(ToSupervisor::PodSocket));
        if self.channel.is_some() {
            self.outbox.extend([ToSupervisor::Bell, ToSupervisor::Port { epoch: self.restarts }]);
        }
        self.send_pending();
        let process = pid.as_raw_nonzero().to_string();
        oom::set(&process, oom::GUEST)?;
        Ok(cgroup::join_guest(&process)?)
    }
}

fn spawn(program: Option<&OwnedFd>) -> io::Result<(Pid, Link)> {
    let (link, theirs) = Link::pair()?;
    // A descriptor that is closed by the exec can still be executed by its name.
    let program =
        program.map_or("/proc/self/exe".to_owned(), |fd| format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let child = Command::new(program)
        .arg(i2kit_supervisor::ARGUMENT)
        .env_clear()
        .stdin(Stdio::from(theirs))
        .spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    Ok((pid.expect("the kernel's pids are positive"), link))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::process::ExitStatusExt as _;
    use std::path::Path;
    use std::process::Child;

    use super::*;

    fn supervisor() -> Supervisor {
        let mut supervisor = Supervisor::listen(0, None).unwrap();
        // A program that reads its input, which is the link.
        supervisor.program = Some(fs::File::open("/bin/grep").unwrap().into());
        supervisor
    }

    fn running(supervisor: &mut Supervisor) -> (Child, OwnedFd) {
        let (link, theirs) = Link::pair().unwrap();
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        supervisor.process = Some(Process { pid, link, closed: false });
        (child, theirs)
    }

    fn was_killed(mut child: Child) -> bool {
        child.wait().unwrap().signal() == Some(Signal::KILL.as_raw())
    }

    #[test]
    fn one_that_could_not_be_set_up_does_not_stay_beside_its_successor() {
        // This machine has no group for it.
        assert!(!Path::new("/sys/fs/cgroup/supervisor").exists());
        let mut supervisor = supervisor();
        assert!(supervisor.start_if_due(Instant::now(), Vec::new));
        assert!(supervisor.process.is_none() && supervisor.due().is_some());
        let (child, _theirs) = running(&mut supervisor);
        supervisor.give_up(Instant::now());
        assert!(was_killed(child) && supervisor.process.is_none());
    }

    #[test]
    fn one_that_closes_its_link_is_killed() {
        let mut supervisor = supervisor();
        let (mut child, theirs) = running(&mut supervisor);
        let pid = supervisor.process.as_ref().unwrap().pid;
        let mut bytes = br#"{"answered":{"number":1,"fail"#.to_vec();
        rustix::io::write(&theirs, &bytes).unwrap();
        bytes.resize(100_000, b'x');
        rustix::io::write(&theirs, &bytes).unwrap();
        assert!(supervisor.exchange().is_empty());
        assert!(supervisor.link().is_some(), "a broken message is no end");
        drop(theirs);
        // A child of another test has a copy until it executes its program.
        while child.try_wait().unwrap().is_none() {
            supervisor.exchange();
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(was_killed(child));
        assert!(supervisor.reaped(pid).is_some() && supervisor.due().is_some());
    }
}
