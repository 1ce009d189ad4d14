//! PID 1's side of the supervisor.
//!
//! PID 1 accepts the clients of the health port and hands them to the supervisor, but keeps each until it hears that the
//! client was answered. When the supervisor dies it is started again, and gets the clients that are left: none of them
//! sees more than a short wait.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::cgroup;
use crate::error::{Doing, Error};
use crate::link::{Link, ToInit, ToSupervisor};

/// The argument that makes this program the supervisor.
pub(crate) const ARGUMENT: &str = "supervisor";

/// A supervisor that ran for less than this does not work; it is started again with a delay.
const SHORT_RUN: Duration = Duration::from_millis(100);

/// The delay after the first short run, doubled by each further one up to [`MAX_DELAY`].
const FIRST_DELAY: Duration = Duration::from_millis(20);

/// Short, because the host takes a VM whose supervisor is away for unhealthy.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// How many clients are held at once; more wait in the listening socket's queue.
const MAX_CLIENTS: usize = 128;

/// The supervisor's process and what it works on.
#[derive(Debug)]
pub(crate) struct Supervised {
    listener: TcpListener,
    /// The clients that were not answered yet, by their numbers.
    clients: BTreeMap<u64, TcpStream>,
    /// The first client that the running supervisor was not told of. All after it were not told of either.
    next_untold: u64,
    next_id: u64,
    /// What the running supervisor was not told yet.
    news: VecDeque<ToSupervisor>,
    process: Option<Process>,
    started: Instant,
    due: Option<Instant>,
    delay: Duration,
    pub(crate) restarts: u64,
}

/// A running supervisor.
#[derive(Debug)]
struct Process {
    pid: Pid,
    link: Link,
    /// Set when it closed its end; its death follows.
    closed: bool,
}

impl Supervised {
    /// Listens on the port and starts the supervisor.
    pub(crate) fn start(port: u16) -> Result<Self, Error> {
        let doing = || format!("listen on port {port}");
        let listener = TcpListener::bind(("0.0.0.0", port)).doing(doing)?;
        listener.set_nonblocking(true).doing(doing)?;
        let mut this = Self {
            listener,
            clients: BTreeMap::new(),
            next_untold: 0,
            next_id: 0,
            news: VecDeque::new(),
            process: None,
            started: Instant::now(),
            due: None,
            delay: FIRST_DELAY,
            restarts: 0,
        };
        this.spawn()?;
        Ok(this)
    }

    /// The listening socket, when there is room for another client.
    pub(crate) fn wants_clients(&self) -> Option<BorrowedFd<'_>> {
        (self.clients.len() < MAX_CLIENTS).then(|| self.listener.as_fd())
    }

    /// The link to the running supervisor, and whether there is something to send on it.
    pub(crate) fn link(&self) -> Option<(BorrowedFd<'_>, bool)> {
        let process = self.process.as_ref().filter(|process| !process.closed)?;
        Some((process.link.as_fd(), self.next_untold < self.next_id || !self.news.is_empty()))
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
        self.tell();
    }

    /// Hears what the supervisor says and tells it what it does not know. Returns what it asks for.
    pub(crate) fn talk(&mut self) -> Vec<ToInit> {
        let mut requests = vec![];
        while let Some(process) = &mut self.process {
            match process.link.receive::<ToInit>() {
                Ok((ToInit::Done { id }, _)) => {
                    self.clients.remove(&id);
                }
                Ok((request, _)) => requests.push(request),
                // A message that this PID 1 does not know.
                Err(error) if error.kind() == ErrorKind::InvalidData => {}
                Err(error) => {
                    process.closed |= error.kind() != ErrorKind::WouldBlock;
                    break;
                }
            }
        }
        self.tell();
        requests
    }

    /// Tells the supervisor that the record is newer, once, however often that happens before it hears it.
    pub(crate) fn changed(&mut self) {
        if !self.news.contains(&ToSupervisor::Changed) {
            self.news.push_back(ToSupervisor::Changed);
        }
        self.tell();
    }

    /// Tells the supervisor how a command ended that it asked for.
    pub(crate) fn executed(&mut self, id: u64, run: u64, failure: Option<String>) {
        if self.process.is_some() {
            self.news.push_back(ToSupervisor::Executed { id, run, failure });
            self.tell();
        }
    }

    fn tell(&mut self) {
        let Some(Process { link, .. }) = &self.process else { return };
        while let Some(message) = self.news.front() {
            if link.send(message, None).is_err() {
                return;
            }
            self.news.pop_front();
        }
        for (id, client) in self.clients.range(self.next_untold..) {
            if link.send(&ToSupervisor::Client { id: *id }, Some(client.as_fd())).is_err() {
                self.next_untold = *id;
                return;
            }
        }
        self.next_untold = self.next_id;
    }

    /// When the next start is due, while the supervisor does not run.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Starts it again when that is due. Returns whether it did.
    pub(crate) fn start_if_due(&mut self, now: Instant) -> bool {
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        self.due = None;
        self.restarts += 1;
        if self.spawn().is_err() {
            self.plan(now);
        }
        true
    }

    /// Whether `pid` was the supervisor; then its next start is planned.
    pub(crate) fn reaped(&mut self, pid: Pid) -> bool {
        if self.process.as_ref().is_none_or(|process| process.pid != pid) {
            return false;
        }
        // The clients that it answered last. What it asked for, the next one will ask for again.
        self.talk();
        self.process = None;
        self.news.clear();
        self.plan(Instant::now());
        true
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

    fn spawn(&mut self) -> Result<(), Error> {
        self.started = Instant::now();
        let (pid, link) = spawn().doing(|| "start the supervisor".into())?;
        let group = std::path::Path::new(cgroup::MOUNT).join(cgroup::SUPERVISOR);
        self.process = Some(Process { pid, link, closed: false });
        self.next_untold = self.clients.keys().next().copied().unwrap_or(self.next_id);
        self.tell();
        cgroup::write(&group, "cgroup.procs", &pid.as_raw_nonzero().to_string())
    }
}

fn spawn() -> io::Result<(Pid, Link)> {
    let (link, theirs) = Link::pair()?;
    let child =
        Command::new("/proc/self/exe").arg(ARGUMENT).env_clear().stdin(Stdio::from(theirs)).spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    Ok((pid.expect("the kernel's pids are positive"), link))
}
