//! What the supervisor asks for.

use std::time::Duration;

use super::Guest;
use crate::error::Error;
use crate::exec::{Asker, Exec};
use crate::link::{Any, ToInit};
use crate::supervised::Supervised;

impl Guest {
    pub(super) fn serve_all(&mut self, requests: Vec<Any<ToInit>>) {
        for request in requests {
            match request {
                Any::Own(request) => self.serve(request),
                Any::Control(message) => self.sessions.hear(message, &self.containers, &self.machine),
            }
        }
    }

    /// Does what the supervisor asks for.
    fn serve(&mut self, request: ToInit) {
        match request {
            ToInit::Done { .. } => {}
            ToInit::Attached => {
                self.supervisor.iter_mut().for_each(Supervised::attached);
                self.changed = true;
            }
            ToInit::Host { epoch } => self.sessions.host(epoch),
            ToInit::Logged { container, next, dropped } => {
                if let Some(journals) = &mut self.journals {
                    journals.taken(&container, next, dropped);
                    self.changed |= dropped > 0;
                }
            }
            ToInit::Execute { id, container, run, command, seconds } => {
                let found = self.containers.iter().find(|c| c.name() == container && c.run == run);
                let limit = Duration::from_secs(seconds);
                let started = found.ok_or(Error::NotRunning { container }).and_then(|found| {
                    Exec::start(found, &self.machine, Asker::Supervisor { id, run }, &command, limit)
                });
                match (started, &mut self.supervisor) {
                    (Ok(exec), _) => self.execs.push(exec),
                    (Err(error), Some(supervisor)) => supervisor.executed(id, run, Some(error.to_string())),
                    (Err(_), None) => {}
                }
            }
            ToInit::Asked { number, failure } => {
                self.supervisor.iter_mut().for_each(|supervisor| supervisor.answered(number));
                self.hook_ended(number, failure);
            }
            ToInit::Probed { container, run, kind, verdict, message } => {
                let found = self.containers.iter().position(|c| c.name() == container);
                if self.stopping.is_none()
                    && let Some(index) = found
                {
                    self.changed = true;
                    let failed = self.containers[index].probed(run, (kind, verdict), &message);
                    if let Some((reason, grace)) = failed {
                        let grace = Duration::from_secs(grace.unwrap_or(self.pod.grace_period_seconds));
                        self.say(&format!("{container}: {reason}"));
                        self.stop_container(index, Some(reason), grace);
                    }
                }
            }
        }
    }
}
