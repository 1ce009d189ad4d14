//! PID 1's side of the supervisor: it owns the listening socket, starts the supervisor with it, and starts it again
//! whenever it ends. A connection that arrives meanwhile waits in the socket's queue.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitStatus};

use crate::cgroup;
use crate::error::{Doing, Error};

/// The argument that makes this program the supervisor.
pub(crate) const ARGUMENT: &str = "supervisor";

/// A supervisor that ran for less than this is started again with a delay.
const SHORT_RUN: Duration = Duration::from_secs(1);

/// The delay after the first short run, doubled by each further one up to [`MAX_DELAY`].
const FIRST_DELAY: Duration = Duration::from_millis(50);

/// Short, because the host takes a VM whose supervisor is away for unhealthy.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// The supervisor's process and what it is started with.
#[derive(Debug)]
pub(crate) struct Supervised {
    listener: OwnedFd,
    pid: Option<Pid>,
    started: Instant,
    due: Option<Instant>,
    delay: Duration,
    pub(crate) restarts: u64,
}

impl Supervised {
    /// Listens on the port and starts the supervisor.
    pub(crate) fn start(port: u16) -> Result<Self, Error> {
        let listener = TcpListener::bind(("0.0.0.0", port)).doing(|| format!("listen on port {port}"))?;
        let started = Instant::now();
        let mut this = Self {
            listener: listener.into(),
            pid: None,
            started,
            due: None,
            delay: FIRST_DELAY,
            restarts: 0,
        };
        this.spawn()?;
        Ok(this)
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
    pub(crate) fn reaped(&mut self, pid: Pid, _status: WaitStatus) -> bool {
        if self.pid != Some(pid) {
            return false;
        }
        self.pid = None;
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
        let listener = self.listener.try_clone().doing(|| "copy the listening socket".into())?;
        let child = Command::new("/proc/self/exe")
            .arg(ARGUMENT)
            .env_clear()
            .stdin(Stdio::from(listener))
            .spawn()
            .doing(|| "start the supervisor".into())?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        self.pid = pid;
        let group = std::path::Path::new(cgroup::MOUNT).join(cgroup::SUPERVISOR);
        cgroup::write(&group, "cgroup.procs", &child.id().to_string())
    }
}
