//! What a replica tells the machine's supervisor of itself, which is part of the pod's status: each change that decides something at
//! once, and how far it is every few seconds while it goes on. Nothing is told while nothing changes.

use std::sync::Arc;
use std::time::Duration;

use i2kit_spec::replica::{PodRequest, ReplicaReport, ReplicaStatus};
use tokio::time::{Instant, timeout};

use crate::node::Node;
use crate::state::Pod;

/// Between two looks at what no change of the order tells, such as a quarantine.
const LOOKS: Duration = Duration::from_secs(1);

/// Between two reports that differ in nothing but how far the replica is, and after one that was not taken.
const PROGRESS: Duration = Duration::from_secs(5);

/// What was told, and when somebody was asked to take it.
#[derive(Debug, Default)]
struct Told {
    report: Option<ReplicaReport>,
    tried: Option<Instant>,
}

impl Told {
    /// What is to be told now, if anything.
    fn due(&self, status: &ReplicaStatus, now: Instant) -> Option<ReplicaReport> {
        let report = ReplicaReport::from(status);
        let rests = self.tried.is_some_and(|tried| now.duration_since(tried) < PROGRESS);
        match &self.report {
            Some(told) if *told == report => None,
            Some(told) if told.decisive() != report.decisive() => Some(report),
            // Nothing was taken yet, or nothing but progress is new.
            _ => (!rests).then_some(report),
        }
    }
}

impl Node {
    /// Tells the supervisor for ever. One that does not take it is asked again later: what is told decides nothing in this machine.
    pub(crate) async fn tell_pod(self: Arc<Self>) {
        let pod = Pod::new(&self.settings.place.socket);
        let mut view = self.order.view();
        let mut told = Told::default();
        loop {
            if let Some(report) = told.due(&self.status(), Instant::now()) {
                let request = PodRequest::Report { report: report.clone() };
                let pod = pod.clone();
                let asked = tokio::task::spawn_blocking(move || pod.ask(&request)).await;
                let is_taken = matches!(asked, Ok(Ok(())));
                told = Told { report: is_taken.then_some(report), tried: Some(Instant::now()) };
            }
            if let Ok(Err(_)) = timeout(LOOKS, view.changed()).await {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(term: u64, applied: u64) -> ReplicaStatus {
        let json = format!(
            r#"{{"slot":1,"id":"0000000000000007","role":"follower","term":{term},"leader":0,"committed":{applied},"applied":{applied},
            "members":[],"divergedAt":null,"divergences":0,"logBytes":{applied},"waitsFor":null}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn a_change_is_told_at_once_progress_later_and_what_is_known_never() {
        let start = Instant::now();
        let mut told = Told::default();
        assert!(told.due(&status(1, 5), start).is_some(), "nothing was told");
        told = Told { report: Some(ReplicaReport::from(&status(1, 5))), tried: Some(start) };
        let later = start + PROGRESS;
        assert_eq!(told.due(&status(1, 5), later), None);
        assert_eq!(told.due(&status(1, 6), start), None, "progress alone waits");
        assert_eq!(told.due(&status(1, 6), later).map(|report| report.progress.unwrap().applied), Some(6));
        assert_eq!(told.due(&status(2, 5), start).map(|report| report.term), Some(2));
        // What was not taken is told again, and not over and over.
        told.report = None;
        assert_eq!(told.due(&status(2, 5), start), None);
        assert!(told.due(&status(2, 5), later).is_some());
    }
}
