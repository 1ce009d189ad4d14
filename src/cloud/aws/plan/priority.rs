//! Priorities of an Ingress' rules. A rule keeps the one that it has for as long as the order of all allows it, so that a path
//! that comes or goes moves no other.
//!
//! CloudFormation makes what is new before it deletes what is gone, and a load balancer takes no priority twice: none is given
//! that any rule has now. The stack keeps them in an output.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The last priority that a load balancer takes; the first is 1.
const LAST: u16 = 50_000;

/// Priorities by what identifies a rule, which follows from its host and path alone.
pub type Priorities = BTreeMap<String, u16>;

/// Gives rules, in the order in which they are to be tried, priorities in that order. A rule keeps that of `now`, and a new one
/// gets one in the middle between its neighbours'. Where no number between two is free, the fewest neighbours that make room get
/// new ones; where the order is another one, all rules do.
pub fn assign(ordered: &[String], now: &Priorities) -> Priorities {
    let held: BTreeSet<u16> = now.values().copied().collect();
    let mut kept: Vec<Option<u16>> = ordered.iter().map(|rule| now.get(rule).copied()).collect();
    let mut own = vec![0];
    own.extend(kept.iter().flatten());
    own.push(LAST + 1);
    if own.windows(2).any(|pair| pair[0] >= pair[1]) {
        kept.fill(None);
    }
    let mut place = 0;
    while let Some(run) = next_run(&kept, place) {
        let run = with_room(&kept, &held, &run);
        kept[run.clone()].fill(None);
        place = run.end;
    }
    let mut given: Priorities =
        ordered.iter().zip(&kept).filter_map(|(rule, own)| Some((rule.clone(), (*own)?))).collect();
    place = 0;
    while let Some(run) = next_run(&kept, place) {
        place = run.end;
        if let Some(bounds) = bounds(&kept, &run) {
            spread(&mut given, &ordered[run], &held, bounds);
        }
    }
    given
}

/// The places of the next rules in a row, from `place` on, that have no priority.
fn next_run(kept: &[Option<u16>], place: usize) -> Option<Range<usize>> {
    let start = place + kept[place..].iter().position(Option::is_none)?;
    let count = kept[start..].iter().take_while(|own| own.is_none()).count();
    Some(start..start + count)
}

/// The run, or it and as few rules beside it as have to get others for all of them to have room.
fn with_room(kept: &[Option<u16>], held: &BTreeSet<u16>, run: &Range<usize>) -> Range<usize> {
    let has_room = |wider: &Range<usize>| {
        bounds(kept, wider).is_some_and(|(low, high)| {
            let between = usize::from(high - low - 1);
            between - held.range(low + 1..high).count() >= wider.len()
        })
    };
    let wider = (0..=run.start).flat_map(|start| (run.end..=kept.len()).map(move |end| start..end));
    let moved = |wider: &Range<usize>| kept[wider.clone()].iter().flatten().count();
    wider.filter(has_room).min_by_key(moved).unwrap_or(0..kept.len())
}

/// The priorities of the neighbours of a run; `None` when one of them has none.
fn bounds(kept: &[Option<u16>], run: &Range<usize>) -> Option<(u16, u16)> {
    let low = run.start.checked_sub(1).map_or(Some(0), |before| kept[before])?;
    let high = kept.get(run.end).copied().unwrap_or(Some(LAST + 1))?;
    Some((low, high))
}

/// Gives rules priorities between two others that nobody holds, as far from each other as they can be.
fn spread(given: &mut Priorities, rules: &[String], held: &BTreeSet<u16>, (low, high): (u16, u16)) {
    let free: Vec<u16> = (low + 1..high).filter(|priority| !held.contains(priority)).collect();
    let at = |index: usize| (2 * index + 1) * free.len() / (2 * rules.len());
    let pairs = rules.iter().enumerate().filter_map(|(index, rule)| Some((rule, free.get(at(index))?)));
    given.extend(pairs.map(|(rule, priority)| (rule.clone(), *priority)));
}

/// Priorities as a stack keeps them: `RULE=PRIORITY`, separated by blanks.
pub fn write(priorities: &Priorities) -> String {
    let pairs: Vec<String> = priorities.iter().map(|(rule, priority)| format!("{rule}={priority}")).collect();
    pairs.join(" ")
}

/// Reads what [`write()`] has written.
pub fn read(text: &str) -> Priorities {
    let pair = |word: &str| {
        let (rule, priority) = word.split_once('=')?;
        Some((rule.to_owned(), priority.parse().ok()?))
    };
    text.split(' ').filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Asserts that all rules have priorities, in their order.
    fn assert_in_order(ordered: &[String], given: &Priorities) {
        let numbers: Vec<u16> = ordered.iter().map(|rule| given[rule]).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{ordered:?} {numbers:?}");
        assert!(numbers.iter().all(|number| (1..=LAST).contains(number)) && given.len() == ordered.len());
    }

    #[test]
    fn what_comes_and_goes_moves_nobody() {
        let first = assign(&names(&["b", "d", "f"]), &Priorities::new());
        let more = names(&["a", "b", "c", "d", "e", "f", "g"]);
        let second = assign(&more, &first);
        assert_in_order(&more, &second);
        assert!(first.iter().all(|(rule, priority)| second[rule] == *priority), "{first:?} {second:?}");
        // One goes and another takes its place, but not its priority, which is free once the stack is put.
        let other = names(&["a", "b", "c", "x", "e", "f", "g"]);
        let third = assign(&other, &second);
        assert_in_order(&other, &third);
        assert!(second.iter().all(|(rule, priority)| rule == "d" || third[rule] == *priority));
        assert_ne!(third["x"], second["d"]);
        assert_eq!(read(&write(&third)), third);
        assert_eq!(read(&write(&Priorities::new())), Priorities::new());
    }

    /// Priorities of rules, which are their names on a listener.
    fn pairs(priorities: &Priorities) -> BTreeSet<(&String, &u16)> {
        priorities.iter().collect()
    }

    /// The rules that have another priority than before.
    fn moved<'a>(given: &Priorities, now: &'a Priorities) -> Vec<&'a String> {
        now.iter().filter(|(rule, own)| given[*rule] != **own).map(|(rule, _)| rule).collect()
    }

    #[test]
    fn where_there_is_no_room_neighbours_get_others() {
        // Always in front of all others: the room halves each time.
        let (mut ordered, mut now) = (Vec::new(), Priorities::new());
        let mut renewed = 0;
        for number in 0..60 {
            ordered.insert(0, format!("rule{number}"));
            let given = assign(&ordered, &now);
            assert_in_order(&ordered, &given);
            let held: Vec<&u16> = now.values().collect();
            let others = moved(&given, &now);
            assert!(others.iter().all(|rule| !held.contains(&&given[*rule])), "{now:?} {given:?}");
            renewed += others.len();
            now = given;
        }
        assert!(renewed > 0);
        // In another order all do.
        let first = assign(&names(&["a", "b"]), &Priorities::new());
        let given = assign(&names(&["b", "a"]), &first);
        assert_in_order(&names(&["b", "a"]), &given);
        assert!(given.values().all(|priority| !first.values().any(|own| own == priority)));
    }

    #[test]
    fn rules_that_come_one_by_one_at_one_place_move_few() {
        let mut ordered: Vec<String> = (0..60).map(|number| format!("rule{number}")).collect();
        let mut now = assign(&ordered, &Priorities::new());
        let mut renewed = 0;
        for number in 0..30 {
            ordered.insert(30, format!("next{number}"));
            let given = assign(&ordered, &now);
            assert_in_order(&ordered, &given);
            // A load balancer takes 100, those that go among them.
            let together = pairs(&now).union(&pairs(&given)).count();
            assert!(together <= 100, "{together} {now:?} {given:?}");
            renewed += moved(&given, &now).len();
            now = given;
        }
        assert!(renewed > 0);
    }
}
