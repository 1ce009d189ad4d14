//! Horizontal autoscaling, as Kubernetes' controller decides it: given what the machines of a group use, how many there
//! should be.
//!
//! Pure. `metric` has what one metric asks for, `limits` how much may change in which time. What happened is part of
//! the group's record ([`Rescale`]), so that policies hold over a restart; recommendations are not: a new process begins
//! with the present size as the only one, which makes it wait for a whole window in both directions.

mod limits;
mod metric;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use i2kit_spec::{Millis, Seconds};

pub use self::metric::Pod;
use self::metric::{Proposal, Tolerances, propose};
use super::moment::Moment;
use super::reconcile::Rescale;
use crate::manifest::api::ScalingRules;
use crate::plan::fleet::{Scaling, ScalingStatus};

/// How often each group is looked at: `--horizontal-pod-autoscaler-sync-period`.
const SYNC_PERIOD: Millis = Millis(15_000);

/// `behavior.scaleUp.stabilizationWindowSeconds` where none is given.
const UP_WINDOW: Millis = Millis(0);

/// `behavior.scaleDown.stabilizationWindowSeconds` where none is given.
const DOWN_WINDOW: Millis = Millis(300_000);

/// `--horizontal-pod-autoscaler-tolerance`, in thousandths.
const TOLERANCE_THOUSANDTHS: u64 = 100;

/// Recommendations of the longest window that the language allows, one a look.
const RECOMMENDATIONS_KEPT: usize = 3_600 / 15 + 1;

/// The longest period of a policy that the language allows.
const LONGEST_PERIOD: Millis = Millis(1_800_000);

/// Changes that are kept for people beyond the periods of policies.
const RESCALES_KEPT: usize = 10;

/// What a group's scaler remembers from one look to the next, for as long as the process lives.
#[derive(Debug, Clone, Default)]
pub struct History {
    looked: Option<u64>,
    /// Sizes that metrics asked for, with their times, oldest first.
    recommendations: VecDeque<(u64, u32)>,
    status: ScalingStatus,
}

impl History {
    /// What it found when it looked last.
    pub fn status(&self) -> &ScalingStatus {
        &self.status
    }

    /// Whether it is time to look again.
    pub fn is_due(&self, now: u64) -> bool {
        self.looked.is_none_or(|looked| now >= SYNC_PERIOD.after(looked))
    }
}

/// Looks at a group of that size, whose machines are `pods` and whose scaler did `rescales`: the change of its size, if
/// it is to be changed.
pub fn look(
    scaling: &Scaling,
    replicas: u32,
    rescales: &[Rescale],
    history: &mut History,
    pods: &[Pod],
    now: Moment,
) -> Option<Rescale> {
    history.looked = Some(now.steady);
    if replicas == 0 {
        // As in Kubernetes, somebody turned it off.
        *history = History { looked: history.looked, ..History::default() };
        return None;
    }
    let change =
        |to, reason| Rescale { at: now.steady, created: now.wall / 1000, from: replicas, to, reason };
    if replicas > scaling.max {
        return Some(change(scaling.max, "above maxReplicas".to_owned()));
    }
    if replicas < scaling.min {
        return Some(change(scaling.min, "below minReplicas".to_owned()));
    }
    let wanted = recommend(scaling, replicas, history, pods, now.steady)?;
    let stable = stabilized(scaling, replicas, wanted, history, now.steady);
    let to = limits::limited(scaling, replicas, stable, rescales, now.steady);
    (to != replicas).then(|| change(to, reason(scaling, history, to > replicas)))
}

/// Adds what was done to what is remembered, and forgets what nobody needs any more.
pub fn remember(rescales: &mut Vec<Rescale>, rescale: Rescale) {
    let now = rescale.at;
    rescales.push(rescale);
    let surplus = rescales.len().saturating_sub(RESCALES_KEPT);
    let old = rescales.iter().take(surplus).filter(|old| LONGEST_PERIOD.after(old.at) <= now).count();
    rescales.drain(..old);
}

/// The size that the metrics ask for, the largest of them. `None` when some are not known, unless the others ask for more
/// than there is.
fn recommend(scaling: &Scaling, replicas: u32, history: &mut History, pods: &[Pod], now: u64) -> Option<u32> {
    let tolerances = Tolerances {
        up: scaling.up.tolerance_thousandths.unwrap_or(TOLERANCE_THOUSANDTHS),
        down: scaling.down.tolerance_thousandths.unwrap_or(TOLERANCE_THOUSANDTHS),
    };
    let proposals: Vec<Option<Proposal>> =
        scaling.metrics.iter().map(|metric| propose(metric, tolerances, replicas, pods, now)).collect();
    let unknown = scaling.metrics.iter().zip(&proposals).find(|(_, proposal)| proposal.is_none());
    let failure = unknown.map(|(metric, _)| {
        format!("{metric} is not known of any machine that is ready: nothing was measured yet, or guests do not answer")
    });
    history.status = ScalingStatus {
        current: proposals.iter().map(|proposal| Some(proposal.as_ref()?.current)).collect(),
        failure,
    };
    let largest = proposals.iter().flatten().map(|proposal| proposal.replicas).max()?;
    (history.status.failure.is_none() || largest >= replicas).then_some(largest)
}

/// What remains of a recommendation when those of the windows hold too; remembers it.
fn stabilized(scaling: &Scaling, replicas: u32, wanted: u32, history: &mut History, now: u64) -> u32 {
    if history.recommendations.is_empty() {
        history.recommendations.push_back((now, replicas));
    }
    let window = |rules: &ScalingRules, default: Millis| {
        rules.stabilization_window_seconds.map_or(default, Seconds::millis)
    };
    let within = |window: Millis| {
        let recent = history.recommendations.iter().filter(move |(at, _)| window.after(*at) > now);
        recent.map(|(_, recommended)| *recommended)
    };
    let least = within(window(&scaling.up, UP_WINDOW)).fold(wanted, u32::min);
    let most = within(window(&scaling.down, DOWN_WINDOW)).fold(wanted, u32::max);
    history.recommendations.push_back((now, wanted));
    while history.recommendations.len() > RECOMMENDATIONS_KEPT {
        history.recommendations.pop_front();
    }
    replicas.max(least).min(most)
}

/// Why the size changes: of what grows the metric that asks for most, else all of them.
fn reason(scaling: &Scaling, history: &History, grows: bool) -> String {
    let known = scaling.metrics.iter().zip(&history.status.current);
    let known = known.filter_map(|(metric, current)| Some((metric, (*current)?)));
    let words = known.map(|(metric, current)| {
        let share = u128::from(current) * 1_000_000 / u128::from(metric::target(metric));
        (share, format!("{metric} {} of {}", metric.amount(current), metric.target()))
    });
    if grows {
        return words.max_by_key(|(share, _)| *share).map(|(_, words)| words).unwrap_or_default();
    }
    words.map(|(_, words)| words).collect::<Vec<_>>().join(", ")
}
