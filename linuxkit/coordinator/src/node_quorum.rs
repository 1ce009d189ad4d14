//! A leader that is heard and hears nobody: the others follow it, and nothing is committed. It falls silent, so that they look for another.

use std::sync::Arc;

use tokio::time::Instant;

use crate::node::Node;

/// What a leader does about its heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Beats {
    is_silent: bool,
    /// Since when.
    since: Instant,
}

impl Beats {
    /// What comes next, given when a majority answered last, if this replica leads, and how long it may be deaf. Whoever is silent speaks
    /// again after as long: there may be nobody who could lead.
    fn next(
        self,
        now: Instant,
        leads: bool,
        acknowledged: Option<Instant>,
        deaf: std::time::Duration,
    ) -> Self {
        let speaks = Self { is_silent: false, since: now };
        let is_due = now.saturating_duration_since(self.since) > deaf;
        let is_deaf = leads && acknowledged.is_none_or(|at| now.saturating_duration_since(at) > deaf);
        match (is_deaf, self.is_silent) {
            (false, _) => speaks,
            (true, is_silent) if is_due => Self { is_silent: !is_silent, since: now },
            (true, _) => self,
        }
    }
}

impl Node {
    /// Looks again and again whether a majority answers this leader, for ever.
    pub(crate) async fn watch_quorum(self: Arc<Self>) {
        let deaf = self.timing.deaf();
        let mut beats = Beats { is_silent: false, since: Instant::now() };
        loop {
            tokio::time::sleep(self.timing.heartbeat).await;
            let has_others = self.order.view().borrow().members.configs.iter().any(|config| config.len() > 1);
            let next =
                beats.next(Instant::now(), self.leads() && has_others, self.order.acknowledged(), deaf);
            if next.is_silent != beats.is_silent {
                self.order.beat(!next.is_silent);
                if next.is_silent {
                    crate::report!(
                        "no majority answers this leader: it falls silent, so that others look for another"
                    );
                }
            }
            beats = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_is_deaf_is_silent_for_a_while_and_speaks_again() {
        let (begin, deaf) = (Instant::now(), Duration::from_secs(1));
        let at = |millis| begin + Duration::from_millis(millis);
        let mut beats = Beats { is_silent: false, since: begin };
        let mut step = |millis, leads, acknowledged: Option<u64>| {
            beats = beats.next(at(millis), leads, acknowledged.map(at), deaf);
            beats.is_silent
        };
        assert!(!step(500, true, None), "it has just begun to lead");
        assert!(step(1600, true, None));
        assert!(step(2500, true, None));
        assert!(!step(2700, true, None), "it tries again");
        assert!(!step(2800, true, Some(2750)));
        assert!(!step(3700, true, Some(2750)), "it is answered");
        assert!(!step(3800, true, Some(2750)), "the time of silence begins when it was answered last");
        assert!(step(4800, true, Some(2750)));
        assert!(!step(4900, false, Some(2750)), "it does not lead any more");
    }
}
