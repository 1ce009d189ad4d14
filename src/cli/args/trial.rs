//! Arguments of the verb that tries an account.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;

/// How many steps a trial has; the last one is taken in any case.
pub(in crate::cli) const STEP_COUNT: usize = 12;

/// Steps that go on with what another one has made: the step, and that one.
const GO_ON: [(u8, u8); 3] = [(6, 5), (8, 7), (9, 7)];

/// `trial`.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct TrialArgs {
    /// Start; without it the steps and the most that they cost are printed
    #[arg(long)]
    pub yes: bool,
    /// Only these steps, such as 1-6,9; what was made is deleted in any case [default: all]
    #[arg(long, value_name = "STEPS", value_parser = steps)]
    pub only: Option<Steps>,
    /// Image of the pod; it has a shell and the httpd of busybox
    #[arg(long, value_name = "IMAGE", default_value = "busybox:1.35")]
    pub image: String,
    /// Where clients connect instead of to the load balancer, such as the near end of a tunnel
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub address: Option<String>,
    /// Seconds without progress, 10 to 3600, after which the revision that is meant to fail is rolled back
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(10..=3600))]
    pub deadline: u32,
    /// File of the report, which must not exist [default: i2kit-trial-TIME.md]
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Only delete what an earlier trial left
    #[arg(long, conflicts_with_all = ["yes", "only", "report"])]
    pub take_down: bool,
    /// Deploy a manifest of the trial, until standard input ends; the trial starts it, and kills it
    #[arg(long, value_name = "MANIFEST", hide = true, conflicts_with_all = ["yes", "only", "report", "take_down"])]
    pub deploy: Option<PathBuf>,
}

/// Numbers of steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Steps(pub BTreeSet<u8>);

/// Reads numbers and ranges between commas. A step that goes on with what another one made is not without that one.
fn steps(text: &str) -> Result<Steps, String> {
    let wrong = || {
        format!("`{text}` is no list of steps: write numbers and ranges of 1 to {STEP_COUNT}, such as 1-6,9")
    };
    let mut numbers = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            let number = text.trim().parse::<u8>().ok()?;
            (1..=STEP_COUNT).contains(&usize::from(number)).then_some(number)
        };
        let (first, last) = number(first).zip(number(last)).ok_or_else(wrong)?;
        if first > last {
            return Err(wrong());
        }
        numbers.extend(first..=last);
    }
    match GO_ON.iter().find(|(step, made)| numbers.contains(step) && !numbers.contains(made)) {
        Some((step, made)) => {
            Err(format!("step {step} goes on with what step {made} makes: name both, such as {made},{step}"))
        }
        None => Ok(Steps(numbers)),
    }
}

/// Takes `HOST:PORT`.
fn address(text: &str) -> Result<String, String> {
    let port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    match text.rsplit_once(':') {
        Some((host, number)) if !host.is_empty() && !host.contains('/') && port(number) => {
            Ok(text.to_owned())
        }
        _ => Err(format!("`{text}` is no address: write HOST:PORT, such as 127.0.0.1:8080")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_numbers_and_ranges() {
        let read = |text| steps(text).map(|steps| steps.0.into_iter().collect::<Vec<u8>>());
        assert_eq!(read("1-3,10, 12"), Ok(vec![1, 2, 3, 10, 12]));
        assert_eq!(read("7-9"), Ok(vec![7, 8, 9]));
        for wrong in ["", "0", "13", "3-1", "1-", "all", "1;2"] {
            assert!(read(wrong).unwrap_err().contains("numbers and ranges of 1 to 12"), "{wrong}");
        }
    }

    #[test]
    fn a_step_that_goes_on_with_another_names_it() {
        for (list, said) in [("8", "step 7 makes"), ("1,6", "step 5 makes"), ("9,10", "such as 7,9")] {
            assert!(steps(list).unwrap_err().contains(said), "{list}");
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for good in ["127.0.0.1:8080", "tunnel.example.org:80", "[::1]:80"] {
            assert_eq!(address(good).as_deref(), Ok(good));
        }
        for wrong in
            ["", "example.org", ":80", "example.org:", "example.org:0", "example.org:70000", "http://a:80"]
        {
            assert!(address(wrong).unwrap_err().contains("write HOST:PORT"), "{wrong}");
        }
    }
}
