//! Rules of an Ingress' load balancer: their order, their names, and how one set of them becomes another.
//!
//! CloudFormation makes what is new before it deletes what is gone, so that old and new rules are there together for minutes, and
//! a load balancer has a quota for all of them.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::name;
use super::priority::{self, Priorities};
use crate::plan::fleet::{HttpRule, HttpSpec};

/// Rules of an application load balancer, over all its listeners and without their default ones: a quota of AWS.
pub const MOST_ROUTES: usize = 100;

/// What the keys of rules begin with that no request fits.
const WARM: &str = "Warm";

/// The listeners that have the rules. Port 80 has none where it only sends clients to 443.
pub fn serving(http: &HttpSpec) -> &'static [&'static str] {
    match (http.has_tls(), http.plain) {
        (false, _) => &["Http"],
        (true, false) => &["Https"],
        (true, true) => &["Http", "Https"],
    }
}

/// The rules in the order in which they are tried. Of several for the same host and path the first one counts.
pub fn ordered(http: &HttpSpec) -> Vec<&HttpRule> {
    let mut rules: Vec<&HttpRule> = http.rules.iter().collect();
    // Rules of one rank fit no request in common, or all the same ones. Their order follows from what they are for, never from
    // their places in the manifest.
    rules.sort_by_key(|rule| (rank(rule), rule.host.as_deref(), rule.path.as_str()));
    let mut seen = BTreeSet::new();
    rules.retain(|rule| seen.insert((rule.host.as_deref(), rule.path.as_str(), rule.exact)));
    rules
}

/// The order in which rules are tried: hosts before patterns of hosts before all hosts, long paths before short ones, and
/// a path alone before what begins with it.
fn rank(rule: &HttpRule) -> (u8, Reverse<usize>, Reverse<usize>, bool) {
    let host = rule.host.as_deref();
    let class = match host {
        Some(host) if host.starts_with("*.") => 1,
        Some(_) => 0,
        None => 2,
    };
    let width = if class == 1 { host.map_or(0, str::len) } else { 0 };
    (class, Reverse(width), Reverse(rule.path.trim_end_matches('/').len()), !rule.exact)
}

/// What tells a rule from all others.
pub fn key(rule: &HttpRule) -> String {
    name::hash(&format!("{} {} {}", rule.host.as_deref().unwrap_or_default(), rule.path, rule.exact))
}

/// The key of the rule that keeps a target group in use which no client reaches yet.
pub fn warm_key(target: &str) -> String {
    format!("{WARM}{target}")
}

/// Whether a listener of the Ingress has the rule. One that no request fits is on one of them: it counts as any other.
pub fn is_on(listener: &str, key: &str, http: &HttpSpec) -> bool {
    !key.starts_with(WARM) || serving(http).last() == Some(&listener)
}

/// The logical name of a listener's rule.
pub fn logical_name(listener: &str, key: &str, priority: u16) -> String {
    format!("{listener}Rule{key}At{priority}")
}

/// The logical names of all rules that the listeners of the Ingress have.
pub fn names(http: &HttpSpec, priorities: &Priorities) -> BTreeSet<String> {
    let of = |listener: &&'static str| {
        let listener = *listener;
        let there = priorities.iter().filter(move |(key, _)| is_on(listener, key, http));
        there.map(move |(key, priority)| logical_name(listener, key, *priority))
    };
    serving(http).iter().flat_map(of).collect()
}

/// How many rules there are while those of `now` become those of `next`.
pub fn together(now: &BTreeSet<String>, next: &BTreeSet<String>) -> usize {
    now.union(next).count()
}

/// What an Ingress is put as first, where the rules that `old` has, with the priorities `held`, and those of `http` are together
/// more than a load balancer takes: as `old` without the rules that go. Those that stay lead to where they did. `None` where it
/// can be put as `http` at once.
///
/// # Errors
/// It can be put in neither way; how many rules there would be together.
pub fn detour(old: &HttpSpec, held: &Priorities, http: &HttpSpec) -> Result<Option<HttpSpec>, usize> {
    let all = together(&names(old, held), &names(http, &assigned(http, held)));
    if all <= MOST_ROUTES {
        return Ok(None);
    }
    let wanted: BTreeSet<String> = http.rules.iter().map(key).collect();
    let mut fewer = old.clone();
    fewer.rules.retain(|rule| wanted.contains(&key(rule)));
    let left = assigned(&fewer, held);
    let count = together(&names(&fewer, &left), &names(http, &assigned(http, &left)));
    if count <= MOST_ROUTES { Ok(Some(fewer)) } else { Err(all) }
}

/// The priorities that the rules of an Ingress get beside those that are `held`.
pub fn assigned(http: &HttpSpec, held: &Priorities) -> Priorities {
    let keys: Vec<String> = ordered(http).into_iter().map(key).collect();
    priority::assign(&keys, held)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ingress with a rule for each of these numbers.
    fn with(numbers: std::ops::Range<usize>) -> HttpSpec {
        let rule = |number| HttpRule { host: None, path: format!("/p{number}"), exact: false, backend: 0 };
        HttpSpec { rules: numbers.map(rule).collect(), ..HttpSpec::default() }
    }

    /// The rules on the way from one Ingress to another, each as how many its stack has while it is put.
    fn way(from: &HttpSpec, to: &HttpSpec) -> Result<Vec<usize>, usize> {
        let (mut old, mut held) = (from.clone(), assigned(from, &Priorities::new()));
        let mut peaks = Vec::new();
        loop {
            let now = names(&old, &held);
            let first = detour(&old, &held, to)?;
            let next = first.clone().unwrap_or_else(|| to.clone());
            let given = assigned(&next, &held);
            peaks.push(together(&now, &names(&next, &given)));
            if first.is_none() {
                return Ok(peaks);
            }
            (old, held) = (next, given);
        }
    }

    #[test]
    fn a_full_load_balancer_loses_rules_before_it_gets_others() {
        assert_eq!(way(&with(0..60), &with(30..90)), Ok(vec![90]));
        assert_eq!(way(&with(0..100), &with(0..100)), Ok(vec![100]));
        // 130 together: first without those that go, then with those that come.
        assert_eq!(way(&with(0..100), &with(30..130)), Ok(vec![100, 100]));
        assert_eq!(way(&with(0..100), &with(100..200)), Ok(vec![100, 100]));
        // What stays keeps its name in both.
        let held = assigned(&with(0..100), &Priorities::new());
        let now = names(&with(0..100), &held);
        let first = detour(&with(0..100), &held, &with(30..130)).unwrap().unwrap();
        assert_eq!(first.rules, with(30..100).rules);
        assert!(names(&first, &assigned(&first, &held)).is_subset(&now));
    }

    #[test]
    fn rules_that_stay_lead_to_where_they_did_until_those_that_go_are_gone() {
        let old = HttpSpec { default: Some(0), ..with(0..100) };
        let held = assigned(&old, &Priorities::new());
        let next = HttpSpec { default: Some(1), all_hosts: true, ..with(50..90) };
        let first = detour(&old, &held, &next).unwrap().unwrap();
        assert_eq!(first, HttpSpec { rules: with(50..90).rules, ..old.clone() });
        // What an interrupted run left for a target group that was to come goes with them.
        let mut warmed = held.clone();
        warmed.insert(warm_key("Targets"), 50_000);
        let left = assigned(&first, &warmed);
        assert!(left.len() == 40 && left.iter().all(|(key, own)| held[key] == *own), "{left:?}");
    }

    #[test]
    fn rules_are_counted_over_all_listeners() {
        let tls = |numbers, plain| HttpSpec { all_hosts: true, plain, ..with(numbers) };
        assert_eq!(way(&tls(0..45, true), &tls(15..60, true)), Ok(vec![90, 90]));
        // Another listener has all of them anew: what serves now would have to go first.
        assert_eq!(way(&with(0..50), &tls(0..50, false)), Ok(vec![100]));
        assert_eq!(way(&with(0..60), &tls(0..60, false)), Err(120));
        // One that no request fits is on one listener.
        let http = tls(0..2, true);
        let mut held = assigned(&http, &Priorities::new());
        held.insert(warm_key("Targets"), 50_000);
        assert_eq!(names(&http, &held).len(), 5, "{:?}", names(&http, &held));
    }
}
