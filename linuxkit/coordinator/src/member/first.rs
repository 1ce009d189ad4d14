//! What a replica that is no voter does next: a pure decision on what it sees.
//!
//! One founder alone, the lowest slot, names the first members: had each replica named them by itself, one whose disk was
//! replaced between two hellos could be in the first entry of one replica and not in that of another.

/// What a replica sees of one slot: itself, or what the hello of another said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The id of its log.
    pub(crate) id: u64,
    /// Whether its log has nothing.
    pub(crate) empty: bool,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The group is founded with these members, each with its slot.
    Found(Vec<(u64, u32)>),
    /// All are there, and the founder founds.
    AwaitFounder,
    /// Some slots did not speak yet.
    AwaitSlots(Vec<u32>),
    /// There is a group: the replica asks to be a member.
    Join,
}

/// Decides for the replica of `slot`; `slots` has what is seen of each, itself among them.
pub(crate) fn decide(slot: u32, slots: &[Option<Seen>]) -> Step {
    if slots.iter().flatten().any(|seen| !seen.empty) {
        return Step::Join;
    }
    let numbered = || (0..).zip(slots);
    let silent: Vec<u32> = numbered().filter(|(_, seen)| seen.is_none()).map(|(slot, _)| slot).collect();
    if !silent.is_empty() {
        return Step::AwaitSlots(silent);
    }
    if slot > 0 {
        return Step::AwaitFounder;
    }
    Step::Found(numbered().filter_map(|(slot, seen)| seen.map(|seen| (seen.id, slot))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "the tables are of what may be missing")]
    fn seen(id: u64, empty: bool) -> Option<Seen> {
        Some(Seen { id, empty })
    }

    #[test]
    fn the_first_slot_founds_when_all_are_empty() {
        let slots = [seen(10, true), seen(11, true), seen(12, true)];
        assert_eq!(decide(0, &slots), Step::Found(vec![(10, 0), (11, 1), (12, 2)]));
        assert_eq!(decide(1, &slots), Step::AwaitFounder);
        assert_eq!(decide(0, &[seen(7, true)]), Step::Found(vec![(7, 0)]));
    }

    #[test]
    fn who_is_silent_is_waited_for() {
        assert_eq!(decide(0, &[seen(10, true), None, None]), Step::AwaitSlots(vec![1, 2]));
    }

    #[test]
    fn a_log_anywhere_means_that_there_is_a_group() {
        assert_eq!(decide(0, &[seen(10, true), None, seen(12, false)]), Step::Join);
        assert_eq!(decide(0, &[seen(10, false), None, None]), Step::Join);
    }
}
