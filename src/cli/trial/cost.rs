//! The most that a trial costs, from the prices that `i2kit plan` has.

use std::fmt;
use std::time::Duration;

use super::machines::whole;
use super::stage::Stage;
use crate::cli::exit::Failure;
use crate::cli::prepare;
use crate::cloud::provider::MONTH_HOURS;
use crate::plan::fleet::Fleet;
use crate::plan::rollout::{Desired, rollout};

/// How long the steps may take in all. Then what was made is deleted.
pub(super) const LIMIT: Duration = Duration::from_hours(4);

/// How long deleting may take beside that. Then what is left is told.
pub(super) const DELETING: Duration = Duration::from_hours(1);

/// Regions and types differ in price: the bound is so many times what the table says.
const MARGIN: u64 = 2;

/// Requests, blocks that are sent, lines and traffic, in millionths of a US dollar: some cents each.
const BESIDE: u64 = 100_000;

/// What a trial costs at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bound {
    /// Millionths of a US dollar.
    micros: u64,
    /// What the prices are of.
    basis: String,
}

impl Bound {
    /// The bound of a month's price of all that is there at once.
    fn of_month(micros: u64, basis: String) -> Self {
        let hours = hours(LIMIT + DELETING);
        Self { micros: micros * hours / MONTH_HOURS * MARGIN + BESIDE, basis }
    }

    /// In a few words.
    pub(super) fn words(&self) -> String {
        let cents = self.micros.div_ceil(10_000);
        format!("at most {}.{:02} USD", cents / 100, cents % 100)
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: twice the estimate of all at once for {} hours ({}). The steps end after {} hours, then everything is deleted. \
             Where this computer sleeps, is switched off or loses its credentials before that, what is there goes on costing \
             until `i2kit trial --take-down`.",
            self.words(),
            hours(LIMIT + DELETING),
            self.basis,
            hours(LIMIT)
        )
    }
}

/// A span of time in whole hours.
pub(super) fn hours(span: Duration) -> u64 {
    span.as_secs() / 3600
}

/// The bound of a trial; `None` in a cloud that costs nothing.
pub(super) fn bound(stage: &Stage<'_>) -> Result<Option<Bound>, Failure> {
    // A rollout has a machine more than are asked for.
    let set = stage.set(whole(&stage.args.image, 1))?;
    let (groups, balancers) = prepare::unplanned(&set);
    let environment = &stage.context.environment;
    let desired = Desired {
        environment: environment.name.clone(),
        groups,
        balancers,
        disks: vec![],
        classes: vec![],
        cause: String::new(),
        prune: false,
    };
    let nothing = Fleet::default();
    let cost = environment.provider.cost(&rollout(&desired, &nothing), &nothing);
    Ok(cost.map(|cost| Bound::of_month(cost.after_micros, cost.basis)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_of_hours_and_rounded_up() {
        // 73 USD a month are 10 cents an hour: five of them, twice, and what comes beside.
        let bound = Bound::of_month(73_000_000, "prices of a year".into());
        assert_eq!(bound.words(), "at most 1.10 USD");
        assert!(bound.to_string().contains("for 5 hours (prices of a year)"), "{bound}");
        assert!(bound.to_string().contains("goes on costing until `i2kit trial --take-down`"), "{bound}");
        assert_eq!(Bound { micros: 10_001, basis: String::new() }.words(), "at most 0.02 USD");
    }
}
