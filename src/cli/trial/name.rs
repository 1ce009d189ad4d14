//! The name of the environment that a trial makes: it follows from that of the environment file, so that the next trial finds what
//! a killed one left, and so that a policy can be printed for it.

use crate::cli::environment::LONGEST_NAME;
use crate::oci::Digest;

/// Digits that stand for a name that is cut.
const DIGITS: usize = 8;

/// What names of trials begin with.
const START: &str = "trial-";

/// The name of the trial's environment beside that of an environment.
pub(in crate::cli) fn of(environment: &str) -> String {
    let whole = format!("{START}{environment}");
    if whole.len() <= LONGEST_NAME {
        return whole;
    }
    let digits: String = Digest::of(environment.as_bytes()).hex().chars().take(DIGITS).collect();
    let start: String = whole.chars().take(LONGEST_NAME - DIGITS - 1).collect();
    format!("{start}-{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_environment_has_a_trial_of_its_own() {
        assert_eq!(of("staging"), "trial-staging");
        let long = |end: &str| of(&("e".repeat(31) + end));
        assert_eq!(long("a").len(), LONGEST_NAME);
        assert_ne!(long("a"), long("b"));
        assert_eq!(of(&"e".repeat(26)).len(), LONGEST_NAME);
    }
}
