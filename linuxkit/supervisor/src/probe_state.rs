//! When a probe asks next and what its answers mean, by kubelet's rules. Pure: time comes in as a value, in seconds since
//! the kernel started.

use std::time::Duration;

use i2kit_spec::{Probe, Seconds};

use crate::link::{ProbeKind, Verdict};

/// One probe of one container.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ProbeState {
    /// The container's place in the record.
    pub(crate) container: usize,
    pub(crate) kind: ProbeKind,
    pub(crate) probe: Probe,
    /// Which run of the container is probed; none while it does not run.
    run: Option<u64>,
    next: f64,
    /// When the outcome of the one under way is lost.
    in_flight: Option<f64>,
    successes: u32,
    failures: u32,
    verdict: Option<bool>,
    /// The last failure that PID 1 was sent.
    reported: String,
}

/// What is known of the container when it is probed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Subject {
    /// The number of its run, while it runs.
    pub(crate) run: Option<u64>,
    /// When this run began.
    pub(crate) since: f64,
    /// Whether its startup probe succeeded, or it has none.
    pub(crate) started: bool,
    /// Whether PID 1 takes it for ready.
    pub(crate) ready: bool,
}

impl ProbeState {
    /// A probe that knows nothing yet.
    pub(crate) fn new(container: usize, kind: ProbeKind, probe: Probe) -> Self {
        Self {
            container,
            kind,
            probe,
            run: None,
            next: 0.0,
            in_flight: None,
            successes: 0,
            failures: 0,
            verdict: None,
            reported: String::new(),
        }
    }

    /// Takes note of the container's state. A new run starts over.
    pub(crate) fn observe(&mut self, subject: Subject) {
        if self.run != subject.run {
            // A supervisor that was just started takes over what was known.
            let verdict = (self.kind == ProbeKind::Readiness && subject.ready).then_some(true);
            *self = Self { verdict, ..Self::new(self.container, self.kind, self.probe.clone()) };
            self.run = subject.run;
            self.next = subject.since + Duration::from(self.probe.initial_delay_seconds).as_secs_f64();
        }
    }

    /// When the next probe is due; none while none is.
    pub(crate) fn due(&self, started: bool) -> Option<f64> {
        // The startup probe ends when it succeeded, the others begin then.
        let wanted = (self.kind == ProbeKind::Startup) != started;
        (self.run.is_some() && self.in_flight.is_none() && wanted).then_some(self.next)
    }

    /// When the outcome of the probe under way is lost.
    pub(crate) fn lost_at(&self) -> Option<f64> {
        self.in_flight
    }

    /// The run whose probe is under way for too long, if one is.
    pub(crate) fn lost(&self, now: f64) -> Option<u64> {
        self.run.filter(|_| self.in_flight.is_some_and(|until| until <= now))
    }

    /// Has the time of the probe under way be over.
    #[cfg(test)]
    pub(crate) fn expire(&mut self) {
        self.in_flight = self.in_flight.map(|_| 0.0);
    }

    /// Begins a probe, whose outcome must come within so many seconds. Returns the container's run that is probed.
    pub(crate) fn begin(&mut self, now: f64, patience: f64) -> Option<u64> {
        self.in_flight = Some(now + patience);
        self.next =
            self.next.max(now) + Duration::from(self.probe.period_seconds.max(Seconds(1))).as_secs_f64();
        self.run
    }

    /// Takes the outcome of a probe of a run: none when it succeeded, else the failure. Returns the verdict for PID 1 when
    /// there is a new one.
    pub(crate) fn finish(&mut self, run: Option<u64>, failure: Option<&str>) -> Option<Verdict> {
        if run != self.run {
            return None;
        }
        self.in_flight = None;
        let healthy = failure.is_none();
        (self.successes, self.failures) =
            if healthy { (self.successes + 1, 0) } else { (0, self.failures + 1) };
        let threshold = if healthy { self.probe.success_threshold } else { self.probe.failure_threshold };
        let count = self.successes.max(self.failures);
        // PID 1 leaves a container alone that its coordinator has stand, and hears again when it still fails afterwards.
        let repeated = !healthy && self.kind != ProbeKind::Readiness && count.is_multiple_of(threshold);
        if count >= threshold && (self.verdict != Some(healthy) || repeated) {
            self.verdict = Some(healthy);
            failure.unwrap_or_default().clone_into(&mut self.reported);
            let verdict = if healthy { Verdict::Healthy } else { Verdict::Unhealthy };
            // Only verdicts with consequences are reported: a live container stays as it is.
            return (self.kind != ProbeKind::Liveness || !healthy).then_some(verdict);
        }
        // Why a container is not ready yet is worth knowing before the threshold.
        let news = failure.is_some_and(|text| text != self.reported) && self.verdict != Some(true);
        (news && self.kind != ProbeKind::Liveness).then(|| {
            failure.unwrap_or_default().clone_into(&mut self.reported);
            Verdict::Undecided
        })
    }
}

#[cfg(test)]
mod tests {
    use i2kit_spec::ProbeAction;

    use super::*;

    fn state(kind: ProbeKind) -> ProbeState {
        let action = ProbeAction::Tcp { host: None, port: 80 };
        let probe = Probe {
            action,
            initial_delay_seconds: Seconds(5),
            period_seconds: Seconds(10),
            timeout_seconds: Seconds(1),
            success_threshold: 1,
            failure_threshold: 3,
            termination_grace_period_seconds: None,
        };
        ProbeState::new(0, kind, probe)
    }

    fn running(run: u64) -> Subject {
        Subject { run: Some(run), since: 100.0, started: true, ready: false }
    }

    #[test]
    fn asks_after_the_delay_and_then_in_its_period() {
        let mut state = state(ProbeKind::Readiness);
        assert_eq!(state.due(true), None);
        state.observe(running(1));
        assert_eq!(state.due(false), None);
        assert_eq!(state.due(true), Some(105.0));
        assert_eq!(state.begin(105.0, 31.0), Some(1));
        assert_eq!((state.due(true), state.lost_at()), (None, Some(136.0)));
        assert_eq!((state.lost(135.9), state.lost(136.0)), (None, Some(1)));
        state.finish(Some(1), None);
        assert_eq!(state.due(true), Some(115.0));
    }

    #[test]
    fn readiness_follows_the_answers() {
        let mut state = state(ProbeKind::Readiness);
        state.observe(running(1));
        assert_eq!(state.finish(Some(1), Some("refused")), Some(Verdict::Undecided));
        assert_eq!(state.finish(Some(1), Some("refused")), None);
        assert_eq!(state.finish(Some(1), None), Some(Verdict::Healthy));
        assert_eq!(state.finish(Some(1), None), None);
        assert_eq!(state.finish(Some(1), Some("refused")), None);
        assert_eq!(state.finish(Some(1), Some("refused")), None);
        assert_eq!(state.finish(Some(1), Some("refused")), Some(Verdict::Unhealthy));
    }

    #[test]
    fn as_many_successes_in_a_row_as_the_threshold_says_make_it_healthy() {
        let mut state = state(ProbeKind::Readiness);
        state.probe.success_threshold = 2;
        state.observe(running(1));
        assert_eq!(state.finish(Some(1), None), None);
        assert_eq!(state.finish(Some(1), Some("refused")), Some(Verdict::Undecided));
        assert_eq!(state.finish(Some(1), None), None);
        assert_eq!(state.finish(Some(1), None), Some(Verdict::Healthy));
    }

    #[test]
    fn liveness_tells_only_that_it_failed() {
        let mut state = state(ProbeKind::Liveness);
        state.observe(running(1));
        assert_eq!(state.finish(Some(1), None), None);
        let answers: Vec<_> = (0..4).map(|_| state.finish(Some(1), Some("no"))).collect();
        assert_eq!(answers, [None, None, Some(Verdict::Unhealthy), None]);
        let answers: Vec<_> = (0..2).map(|_| state.finish(Some(1), Some("no"))).collect();
        assert_eq!(answers, [None, Some(Verdict::Unhealthy)], "a verdict that was not acted on is repeated");
        state.observe(running(2));
        assert_eq!(state.finish(Some(1), Some("late")), None);
        assert_eq!(state.failures, 0);
    }

    #[test]
    fn the_startup_probe_ends_when_it_succeeded() {
        let mut state = state(ProbeKind::Startup);
        state.observe(Subject { started: false, ..running(1) });
        assert_eq!(state.due(false), Some(105.0));
        assert_eq!(state.finish(Some(1), None), Some(Verdict::Healthy));
        assert_eq!(state.due(true), None);
    }

    #[test]
    fn a_new_supervisor_leaves_a_ready_container_ready() {
        let mut state = state(ProbeKind::Readiness);
        state.observe(Subject { ready: true, ..running(4) });
        assert_eq!(state.finish(Some(4), Some("slow")), None);
        assert_eq!(state.finish(Some(4), None), None);
    }
}
