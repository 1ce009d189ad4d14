//! Whether a history of registers is linearizable: whether each operation can have happened at one moment between its beginning and its
//! end, so that each read has the value of the last write before it.
//!
//! Each write of a history has a value of its own, so that a read tells which write it has seen, and the question has an answer in
//! n log n (P. B. Gibbons and E. Korach, "Testing Shared Memories", SIAM J. Comput. 26, 1997). The operations of one value form a
//! zone: from the first of their ends to the last of their beginnings. Where that runs forward, the register must have had the
//! value all that time; where it runs backward, a moment in it is enough. So no two forward zones may overlap, and no backward
//! one may lie within a forward one.

use std::collections::HashMap;

/// The end of an operation that nobody saw end.
pub(crate) const NEVER: u64 = u64::MAX;

/// One operation. Times are of one clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) register: String,
    pub(crate) is_write: bool,
    /// What was written or read; empty for a register without a value.
    pub(crate) value: String,
    pub(crate) begin: u64,
    /// [`NEVER`] for a write whose outcome is not known. Such a read is left out.
    pub(crate) end: u64,
}

/// The operations with one value.
#[derive(Debug, Clone, Copy)]
struct Zone {
    /// When the value was written: the beginning of that. None when it was not.
    written: Option<u64>,
    /// The first end and the last beginning.
    first_end: u64,
    last_begin: u64,
    is_read: bool,
}

/// Fails with the first contradiction.
pub(crate) fn check(history: &[Operation]) -> Result<(), String> {
    let mut registers: HashMap<&str, Vec<&Operation>> = HashMap::new();
    for operation in history {
        registers.entry(&operation.register).or_default().push(operation);
    }
    registers.into_iter().try_for_each(|(name, operations)| {
        check_register(&operations).map_err(|what| format!("register {name}: {what}"))
    })
}

fn check_register(operations: &[&Operation]) -> Result<(), String> {
    let mut zones: HashMap<&str, Zone> = HashMap::new();
    // The register has no value before the history begins.
    let first = Zone { written: Some(0), first_end: 0, last_begin: 0, is_read: true };
    zones.insert("", first);
    for operation in operations {
        let empty = Zone { written: None, first_end: NEVER, last_begin: 0, is_read: false };
        let zone = zones.entry(&operation.value).or_insert(empty);
        zone.first_end = zone.first_end.min(operation.end);
        zone.last_begin = zone.last_begin.max(operation.begin);
        if operation.is_write {
            if zone.written.replace(operation.begin).is_some() {
                return Err(format!("{} was written twice", operation.value));
            }
        } else {
            zone.is_read = true;
        }
    }
    for operation in operations.iter().filter(|operation| !operation.is_write) {
        match zones[operation.value.as_str()].written {
            None => return Err(format!("{} was read and never written", operation.value)),
            Some(begin) if operation.end < begin => {
                return Err(format!("{} was read before it was written", operation.value));
            }
            Some(_) => {}
        }
    }
    // A write that nobody saw end, and whose value nobody saw, may never have happened.
    let zones = zones.into_iter().filter(|(_, zone)| zone.first_end != NEVER || zone.is_read);
    let (mut forward, backward): (Vec<_>, Vec<_>) =
        zones.partition(|(_, zone)| zone.first_end < zone.last_begin);
    forward.sort_by_key(|(_, zone)| zone.first_end);
    for pair in forward.windows(2) {
        if pair[1].1.first_end < pair[0].1.last_begin {
            return Err(format!("{} and {} held at the same time", pair[0].0, pair[1].0));
        }
    }
    for (value, zone) in backward {
        let before = forward.partition_point(|(_, other)| other.first_end < zone.last_begin);
        let Some((other, holds)) = before.checked_sub(1).map(|at| forward[at]) else { continue };
        if zone.first_end < holds.last_begin {
            return Err(format!("{value} was there while {other} held"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{NEVER, Operation};
    use proptest::prelude::*;

    fn operation(is_write: bool, value: &str, begin: u64, end: u64) -> Operation {
        Operation { register: "a".to_owned(), is_write, value: value.to_owned(), begin, end }
    }

    /// Tries all orders: right for all histories, and slow.
    fn has_order(done: &mut Vec<usize>, value: &str, history: &[Operation]) -> bool {
        let left: Vec<usize> = (0..history.len()).filter(|at| !done.contains(at)).collect();
        if left.iter().all(|at| history[*at].end == NEVER) {
            return true;
        }
        let first_end = left.iter().map(|at| history[*at].end).min().unwrap_or(NEVER);
        for at in left {
            let next = &history[at];
            if next.begin > first_end || (!next.is_write && next.value != value) {
                continue;
            }
            done.push(at);
            let after = if next.is_write { &next.value } else { value };
            if has_order(done, after, history) {
                return true;
            }
            done.pop();
        }
        false
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn it_agrees_with_trying_all_orders(
            shapes in proptest::collection::vec((any::<bool>(), 0..4_usize, 0..5_u64, 1..4_u64, 0..8_u8), 1..7),
        ) {
            let mut history: Vec<Operation> = Vec::new();
            for (at, (is_write, value, begin, length, never)) in shapes.into_iter().enumerate() {
                let value = if is_write { format!("v{at}") } else if value == 0 { String::new() } else { format!("v{value}") };
                // Begins and ends are at moments of their own: which of two at one moment is first, a clock does not tell.
                let (begin, end) = ((begin * 2 + 1) * 16 + at as u64, (begin + length) * 2 * 16 + at as u64);
                let end = if is_write && never == 0 { NEVER } else { end };
                history.push(operation(is_write, &value, begin, end));
            }
            let expected = has_order(&mut Vec::new(), "", &history);
            let found = super::check(&history);
            prop_assert_eq!(found.is_ok(), expected, "{:?}: {:?}", found, history);
        }
    }

    #[test]
    fn contradictions_are_named() {
        let written = [operation(true, "1", 1, 4), operation(true, "2", 5, 8)];
        let cases = [
            (vec![operation(false, "1", 9, 12)], Some("was there while")),
            (vec![operation(false, "2", 9, 12)], None),
            (vec![operation(false, "", 2, 3)], None),
            (vec![operation(false, "", 6, 7)], Some("was there while")),
            (vec![operation(false, "2", 2, 3)], Some("before it was written")),
            (vec![operation(false, "3", 2, 3)], Some("never written")),
            (vec![operation(false, "2", 6, 7), operation(false, "1", 8, 9)], Some("was there while")),
            (
                vec![operation(false, "2", 6, 7), operation(false, "1", 8, 9), operation(false, "2", 10, 11)],
                Some("at the same time"),
            ),
            (vec![operation(true, "2", 20, 21)], Some("written twice")),
            (vec![operation(true, "3", 5, NEVER), operation(false, "2", 9, 30)], None),
            (
                vec![
                    operation(true, "3", 5, NEVER),
                    operation(false, "3", 9, 30),
                    operation(false, "3", 40, 41),
                ],
                None,
            ),
        ];
        for (more, words) in cases {
            let found = super::check(&[&written[..], &more].concat());
            match words {
                None => assert_eq!(found, Ok(()), "{more:?}"),
                Some(words) => {
                    assert!(found.as_ref().is_err_and(|what| what.contains(words)), "{more:?}: {found:?}");
                }
            }
        }
    }
}
