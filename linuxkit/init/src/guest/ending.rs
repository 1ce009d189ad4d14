//! The order of the pod's end: the coordinator of a replicated pod, the services, the sidecars from the last to the first.

use std::time::Instant;

use super::Guest;
use crate::boot::cloud;
use crate::container::Role;

impl Guest<'_> {
    /// Stops the pod: readiness is off with the next record, then each service gets its hook and its stop signal, then the
    /// sidecars do from the last to the first, and SIGKILL ends what is left after the grace period.
    pub(super) fn stop(&mut self, restart: bool) {
        if !self.shutdown.begin(restart) {
            return;
        }
        self.changed = true;
        self.output.log(&format!("stopping the pod, grace period {} s", self.shutdown.grace().as_secs()));
        self.parting = self.coordinator();
        if let Some(index) = self.parting {
            // It hands over while its application still answers.
            self.stop_container(index, None, self.shutdown.patience() / 2);
        } else {
            self.stop_services();
        }
    }

    /// Stops the pod since somebody outside wants that. A pod that is on its way to an end of its own keeps that.
    pub(super) fn asked_to_stop(&mut self, restart: bool) {
        if !self.shutdown.is_under_way() {
            self.output.asked = true;
            if let Err(error) = cloud::tell_asked() {
                self.output.log(&error.to_string());
            }
        }
        self.stop(restart);
    }

    /// Stops all but the sidecars.
    fn stop_services(&mut self) {
        for index in 0..self.containers.list().len() {
            self.containers.get_mut(index).cancel();
            if self.containers.get(index).role != Role::Sidecar {
                self.stop_container(index, None, self.shutdown.patience());
            }
        }
    }

    /// Stops the pod for a reason that its end is reported with.
    pub(super) fn fail(&mut self, reason: &'static str, message: String) {
        self.output.log(&format!("{reason}: {message}"));
        self.shutdown.set_reason(reason, message);
        self.stop(false);
    }

    /// Stops the sidecars once the services are over, and kills what is left when the grace period ends.
    pub(super) fn go_on_stopping(&mut self, now: Instant) {
        if !self.shutdown.is_under_way() || self.containers.all_are_over() {
            return;
        }
        if let Some(index) = self.parting.take_if(|index| self.containers.get(*index).process().is_none()) {
            self.containers.get_mut(index).cancel();
            self.stop_services();
        }
        if self.shutdown.runs_out(now) {
            self.output.log("the grace period is over: killing what still runs");
            self.containers.kill_rest(now);
        } else if self.containers.services_are_over()
            && let Some(index) = self.containers.last_sidecar()
        {
            self.containers.get_mut(index).cancel();
            self.stop_container(index, None, self.shutdown.patience());
        }
    }
}
