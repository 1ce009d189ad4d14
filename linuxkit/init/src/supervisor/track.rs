//! When a probe asks next and what its answers mean, by kubelet's rules. Pure: time comes in as a value, in seconds since
//! the kernel started.

use i2kit_spec::Probe;

use crate::link::{ProbeKind, Verdict};

/// One probe of one container.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Track {
    /// The container's place in the record.
    pub(super) container: usize,
    pub(super) kind: ProbeKind,
    pub(super) probe: Probe,
    /// Which run of the container is probed; none while it does not run.
    run: Option<u64>,
    next: f64,
    in_flight: bool,
    successes: u32,
    failures: u32,
    verdict: Option<bool>,
    /// The last failure that was told.
    told: String,
}

/// What is known of the container when it is probed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Subject {
    /// The number of its run, while it runs.
    pub(super) run: Option<u64>,
    /// When this run began.
    pub(super) since: f64,
    /// Whether its startup probe succeeded, or it has none.
    pub(super) started: bool,
    /// Whether PID 1 takes it for ready.
    pub(super) ready: bool,
}

impl Track {
    /// A probe that knows nothing yet.
    pub(super) fn new(container: usize, kind: ProbeKind, probe: Probe) -> Self {
        Self {
            container,
            kind,
            probe,
            run: None,
            next: 0.0,
            in_flight: false,
            successes: 0,
            failures: 0,
            verdict: None,
            told: String::new(),
        }
    }

    /// Takes note of the container's state. A new run starts over.
    pub(super) fn observe(&mut self, subject: Subject) {
        if self.run != subject.run {
            // A supervisor that was just started takes over what was known.
            let verdict = (self.kind == ProbeKind::Readiness && subject.ready).then_some(true);
            *self = Self { verdict, ..Self::new(self.container, self.kind, self.probe.clone()) };
            self.run = subject.run;
            self.next = subject.since + f64::from(self.probe.initial_delay_seconds);
        }
    }

    /// When to ask next; none while there is nothing to ask.
    pub(super) fn due(&self, started: bool) -> Option<f64> {
        // The startup probe ends when it succeeded, the others begin then.
        let wanted = (self.kind == ProbeKind::Startup) != started;
        (self.run.is_some() && !self.in_flight && wanted).then_some(self.next)
    }

    /// The question is asked at this time. Returns the run that is asked about.
    pub(super) fn ask(&mut self, now: f64) -> Option<u64> {
        self.in_flight = true;
        self.next = self.next.max(now) + f64::from(self.probe.period_seconds.max(1));
        self.run
    }

    /// An answer about a run: nothing went wrong, or what did. Returns what PID 1 must hear.
    pub(super) fn answer(&mut self, run: Option<u64>, failure: Option<&str>) -> Option<Verdict> {
        if run != self.run {
            return None;
        }
        self.in_flight = false;
        let healthy = failure.is_none();
        (self.successes, self.failures) =
            if healthy { (self.successes + 1, 0) } else { (0, self.failures + 1) };
        let threshold = if healthy { self.probe.success_threshold } else { self.probe.failure_threshold };
        let count = self.successes.max(self.failures);
        if count >= threshold && self.verdict != Some(healthy) {
            self.verdict = Some(healthy);
            failure.unwrap_or_default().clone_into(&mut self.told);
            let verdict = if healthy { Verdict::Healthy } else { Verdict::Unhealthy };
            // Only what follows from a verdict is told: a live container stays as it is.
            return (self.kind != ProbeKind::Liveness || !healthy).then_some(verdict);
        }
        // Why a container is not ready yet is worth knowing before the threshold.
        let news = failure.is_some_and(|text| text != self.told) && self.verdict != Some(true);
        (news && self.kind != ProbeKind::Liveness).then(|| {
            failure.unwrap_or_default().clone_into(&mut self.told);
            Verdict::Undecided
        })
    }
}

#[cfg(test)]
mod tests {
    use i2kit_spec::ProbeAction;

    use super::*;

    fn track(kind: ProbeKind) -> Track {
        let action = ProbeAction::Tcp { host: None, port: 80 };
        let probe = Probe {
            action,
            initial_delay_seconds: 5,
            period_seconds: 10,
            timeout_seconds: 1,
            success_threshold: 1,
            failure_threshold: 3,
            termination_grace_period_seconds: None,
        };
        Track::new(0, kind, probe)
    }

    fn running(run: u64) -> Subject {
        Subject { run: Some(run), since: 100.0, started: true, ready: false }
    }

    #[test]
    fn asks_after_the_delay_and_then_in_its_period() {
        let mut track = track(ProbeKind::Readiness);
        assert_eq!(track.due(true), None);
        track.observe(running(1));
        assert_eq!(track.due(false), None);
        assert_eq!(track.due(true), Some(105.0));
        assert_eq!(track.ask(105.0), Some(1));
        assert_eq!(track.due(true), None);
        track.answer(Some(1), None);
        assert_eq!(track.due(true), Some(115.0));
    }

    #[test]
    fn readiness_follows_the_answers() {
        let mut track = track(ProbeKind::Readiness);
        track.observe(running(1));
        assert_eq!(track.answer(Some(1), Some("refused")), Some(Verdict::Undecided));
        assert_eq!(track.answer(Some(1), Some("refused")), None);
        assert_eq!(track.answer(Some(1), None), Some(Verdict::Healthy));
        assert_eq!(track.answer(Some(1), None), None);
        assert_eq!(track.answer(Some(1), Some("refused")), None);
        assert_eq!(track.answer(Some(1), Some("refused")), None);
        assert_eq!(track.answer(Some(1), Some("refused")), Some(Verdict::Unhealthy));
    }

    #[test]
    fn as_many_successes_in_a_row_as_the_threshold_says_make_it_healthy() {
        let mut track = track(ProbeKind::Readiness);
        track.probe.success_threshold = 2;
        track.observe(running(1));
        assert_eq!(track.answer(Some(1), None), None);
        assert_eq!(track.answer(Some(1), Some("refused")), Some(Verdict::Undecided));
        assert_eq!(track.answer(Some(1), None), None);
        assert_eq!(track.answer(Some(1), None), Some(Verdict::Healthy));
    }

    #[test]
    fn liveness_tells_only_that_it_failed_once_a_run() {
        let mut track = track(ProbeKind::Liveness);
        track.observe(running(1));
        assert_eq!(track.answer(Some(1), None), None);
        let answers: Vec<_> = (0..4).map(|_| track.answer(Some(1), Some("no"))).collect();
        assert_eq!(answers, [None, None, Some(Verdict::Unhealthy), None]);
        track.observe(running(2));
        assert_eq!(track.answer(Some(1), Some("late")), None);
        assert_eq!(track.failures, 0);
    }

    #[test]
    fn the_startup_probe_ends_when_it_succeeded() {
        let mut track = track(ProbeKind::Startup);
        track.observe(Subject { started: false, ..running(1) });
        assert_eq!(track.due(false), Some(105.0));
        assert_eq!(track.answer(Some(1), None), Some(Verdict::Healthy));
        assert_eq!(track.due(true), None);
    }

    #[test]
    fn a_new_supervisor_leaves_a_ready_container_ready() {
        let mut track = track(ProbeKind::Readiness);
        track.observe(Subject { ready: true, ..running(4) });
        assert_eq!(track.answer(Some(4), Some("slow")), None);
        assert_eq!(track.answer(Some(4), None), None);
    }
}
