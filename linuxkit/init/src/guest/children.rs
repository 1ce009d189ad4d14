//! Signals, and the children that ended: containers, commands in them, the supervisor, and orphans of all of these.

use rustix::process::{Pid, WaitOptions, WaitStatus};

use super::Guest;
use crate::clock;
use crate::error::{Doing, Error};
use crate::exec::{Asker, Exec};
use crate::link::{Any, ToInit};

impl Guest {
    pub(super) fn take_signals(&mut self) -> Result<(), Error> {
        // An array of struct signalfd_siginfo, 128 bytes each, that begins with the signal's number.
        let mut buffer = [0; 128 * 8];
        let length = match rustix::io::read(&self.signals, &mut buffer) {
            Ok(length) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno).doing(|| "read signals".into()),
        };
        for info in buffer[..length].chunks_exact(128) {
            let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            match number {
                libc::SIGTERM | libc::SIGPWR => self.stop(false),
                // What the kernel sends on Ctrl-Alt-Del.
                libc::SIGINT => self.stop(true),
                _ => {}
            }
        }
        self.reap();
        Ok(())
    }

    /// Collects every ended child, adopted orphans among them.
    pub(super) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if self.supervisor_ended(pid, status)
                || self.sessions.reaped(pid, status)
                || self.command_ended(pid, status)
            {
                continue;
            }
            let owner =
                self.containers.iter().position(|c| c.process().is_some_and(|process| process.pid == pid));
            if let Some(index) = owner {
                self.containers[index].reaped(status, self.pod.restart_policy, clock::since_boot());
                if self.stopping.is_some() {
                    self.containers[index].cancel();
                }
                self.tell_end(index);
                self.changed = true;
            }
        }
    }

    /// Deals with the supervisor's end. Returns whether this process was it.
    fn supervisor_ended(&mut self, pid: Pid, status: WaitStatus) -> bool {
        let Some(requests) = self.supervisor.as_mut().and_then(|supervisor| supervisor.reaped(pid)) else {
            return false;
        };
        // What it asked to be told, the next one will ask for again; the rest counts.
        let counts = |request: &Any<ToInit>| !matches!(request, Any::Own(ToInit::Execute { .. }));
        self.serve_all(requests.into_iter().filter(counts).collect());
        self.sessions.rewind();
        self.say(&format!("the supervisor ended ({status:?}) and is started again"));
        // Nobody waits for its commands any more; their ends are reaped and forgotten.
        let asked = |exec: &mut Exec| matches!(exec.asker, Asker::Supervisor { .. });
        self.execs.extract_if(.., asked).for_each(|exec| exec.kill());
        self.changed = true;
        true
    }

    /// Tells who asked for a command how it ended. Returns whether this process was one.
    fn command_ended(&mut self, pid: Pid, status: WaitStatus) -> bool {
        let Some(index) = self.execs.iter().position(|exec| exec.is(pid)) else { return false };
        let mut exec = self.execs.remove(index);
        let failure = exec.failure(status);
        match (exec.asker, &mut self.supervisor) {
            (Asker::Hook { number }, _) => self.hook_ended(number, failure),
            (Asker::Supervisor { id, run }, Some(supervisor)) => supervisor.executed(id, run, failure),
            (Asker::Supervisor { .. }, None) => {}
        }
        true
    }
}
