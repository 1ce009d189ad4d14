//! The end of the pod: whether it is under way and why, and when patience is over. Ends no container itself.

use std::time::{Duration, Instant};

use i2kit_spec::PodBoot;
use i2kit_sys::clock;

/// Whether, how and why the pod ends.
#[derive(Debug)]
pub(crate) struct Shutdown {
    grace: Duration,
    /// When the pod has been active for too long.
    active_until: Option<Instant>,
    stopping: Option<Stopping>,
    /// Whether the end was reported: nothing changes it any more.
    reported: bool,
    /// Kubernetes' word and a message, where the end is not the containers' doing.
    reason: Option<(&'static str, String)>,
}

/// A stop under way.
#[derive(Debug, Clone, Copy)]
struct Stopping {
    /// Whether the VM is to start again.
    restart: bool,
    /// The end of the grace period.
    deadline: Instant,
    /// Whether everything was killed because the grace period is over.
    killed: bool,
}

impl Shutdown {
    /// That of a pod which begins its life now.
    pub(crate) fn new(pod: &PodBoot) -> Self {
        let grace = pod.grace_period_seconds.into();
        let active = pod.active_deadline_seconds.map(Duration::from);
        let active_until = active.map(|active| clock::after(Instant::now(), active));
        Self { grace, active_until, stopping: None, reported: false, reason: None }
    }

    /// The grace period of the pod.
    pub(crate) fn grace(&self) -> Duration {
        self.grace
    }

    /// Whether the pod is being stopped.
    pub(crate) fn is_under_way(&self) -> bool {
        self.stopping.is_some()
    }

    /// Whether the VM is to start again.
    pub(crate) fn restarts(&self) -> bool {
        self.stopping.is_some_and(|stopping| stopping.restart)
    }

    /// Takes note that the end was reported.
    pub(crate) fn set_reported(&mut self) {
        self.reported = true;
    }

    /// Begins the stop. Returns whether it was not under way, and there is something to stop.
    pub(crate) fn begin(&mut self, restart: bool) -> bool {
        if self.reported {
            return false;
        }
        let first = self.stopping.is_none();
        let deadline = clock::after(Instant::now(), self.grace);
        self.stopping.get_or_insert(Stopping { restart, deadline, killed: false });
        first
    }

    /// Keeps the first reason of the end.
    pub(crate) fn set_reason(&mut self, reason: &'static str, message: String) {
        self.reason.get_or_insert((reason, message));
    }

    /// Why the pod ended, where that is not its containers' doing.
    pub(crate) fn reason(&self) -> Option<(&'static str, String)> {
        self.reason.clone()
    }

    /// What is left of the grace period; all of it while no stop is under way.
    pub(crate) fn patience(&self) -> Duration {
        let left = |stopping: Stopping| stopping.deadline.saturating_duration_since(Instant::now());
        self.stopping.map_or(self.grace, left)
    }

    /// Whether the pod has been active for too long and is not being stopped.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        self.stopping.is_none() && !self.reported && self.active_until.is_some_and(|end| end <= now)
    }

    /// Whether the grace period is over; true once.
    pub(crate) fn runs_out(&mut self, now: Instant) -> bool {
        let Some(stopping) = self.stopping.as_mut().filter(|it| !it.killed && it.deadline <= now) else {
            return false;
        };
        stopping.killed = true;
        true
    }

    /// The next time at which something is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        match self.stopping {
            Some(stopping) => (!stopping.killed).then_some(stopping.deadline),
            None => self.active_until,
        }
    }
}

#[cfg(test)]
mod tests {
    use i2kit_spec::Seconds;

    use super::*;

    #[test]
    fn patience_runs_out_once() {
        let pod = PodBoot {
            grace_period_seconds: Seconds(3),
            active_deadline_seconds: Some(Seconds(5)),
            ..PodBoot::default()
        };
        let mut shutdown = Shutdown::new(&pod);
        let now = Instant::now();
        assert!(!shutdown.is_overdue(now) && shutdown.is_overdue(now + Duration::from_secs(6)));
        assert!(!shutdown.runs_out(now + Duration::from_secs(9)), "nothing is being stopped");
        assert!(shutdown.begin(true));
        assert!(!shutdown.begin(false) && shutdown.restarts());
        assert!(!shutdown.is_overdue(now + Duration::from_secs(6)));
        assert!(shutdown.patience() <= Duration::from_secs(3) && !shutdown.runs_out(now));
        assert!(shutdown.runs_out(now + Duration::from_secs(9)));
        assert!(!shutdown.runs_out(now + Duration::from_secs(9)) && shutdown.due().is_none());
    }

    #[test]
    fn an_end_that_was_reported_stays_as_it_is() {
        let pod = PodBoot { active_deadline_seconds: Some(Seconds(5)), ..PodBoot::default() };
        let mut shutdown = Shutdown::new(&pod);
        shutdown.set_reported();
        assert!(!shutdown.is_overdue(Instant::now() + Duration::from_secs(6)));
        assert!(!shutdown.begin(true));
        assert!(!shutdown.is_under_way() && !shutdown.restarts());
    }

    #[test]
    fn the_first_reason_counts() {
        let mut shutdown = Shutdown::new(&PodBoot::default());
        shutdown.set_reason("InitError", "first".into());
        shutdown.set_reason("Lost", "second".into());
        assert_eq!(shutdown.reason(), Some(("InitError", "first".into())));
    }
}
