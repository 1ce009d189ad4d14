//! Digests of replies, compared with those of other replicas of the same revision: who differs from a majority is quarantined.

use std::collections::{BTreeSet, HashMap, VecDeque};

use xxhash_rust::xxh3::xxh3_64;

/// Own digests that are kept for comparison: a replica that is further behind is compared later.
const KEPT: usize = 8192;

/// A chain of digests begins anew at each index that is a multiple of this. A replica whose state was made by another revision is
/// compared again from the next such index on: its chain has replies of both.
const WINDOW: u64 = 4096;

/// The digest after `previous`, when the reply to a command of entry `index` has `reply`.
fn link(previous: u64, index: u64, reply: u64) -> u64 {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&previous.to_le_bytes());
    bytes[8..16].copy_from_slice(&index.to_le_bytes());
    bytes[16..].copy_from_slice(&reply.to_le_bytes());
    xxh3_64(&bytes)
}

/// What a replica says: its digest after an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Claim {
    /// The revision whose replies are in the digest; 0 when they are of several, and the digest means nothing.
    pub(crate) revision: u64,
    /// The last entry that was executed.
    pub(crate) index: u64,
    /// The digest there.
    pub(crate) digest: u64,
}

/// The digest of the replies to the entries of one window. A part of the captured state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Chain {
    /// The revision whose replies are in it; 0 when they are of several.
    pub(crate) revision: u64,
    /// Number of the window.
    pub(crate) window: u64,
    /// The digest.
    pub(crate) digest: u64,
}

impl Chain {
    /// That of an application of this revision that has executed nothing.
    pub(crate) fn of(revision: u64) -> Self {
        Self { revision, ..Self::default() }
    }

    /// An application of the revision `own` has replied to a command of the entry `index`.
    pub(crate) fn add(&mut self, own: u64, index: u64, reply: u64) {
        self.enter(own, index);
        if self.revision == own {
            self.digest = link(self.digest, index, reply);
        } else {
            self.revision = 0;
        }
    }

    /// What an application of the revision `own` says when the entry `index` is executed.
    pub(crate) fn claim(&mut self, own: u64, index: u64) -> Claim {
        self.enter(own, index);
        let revision = if self.revision == own { own } else { 0 };
        Claim { revision, index, digest: self.digest }
    }

    fn enter(&mut self, own: u64, index: u64) {
        let window = index / WINDOW;
        if window != self.window {
            *self = Self { revision: own, window, digest: 0 };
        }
    }
}

/// Claims of one replica that were not the same and are kept, so that those of several can be compared at one index.
const KEPT_OTHERS: usize = 32;

/// Indexes for which this replica's own digest was told because another's differs.
const KEPT_ANSWERS: usize = 256;

/// What is known of another replica.
#[derive(Debug, Clone, Default)]
struct Peer {
    /// What it said last, and what it said last at the end of a window, until they can be compared.
    waiting: [Option<(u64, u64)>; 2],
    /// The highest index at which it was the same, or could not be compared.
    same: u64,
    /// Index and digest where it was not, the newest last; nothing once it is the same again.
    others: VecDeque<(u64, u64)>,
}

/// The digests of one replica.
#[derive(Debug)]
pub(crate) struct Digests {
    members: usize,
    revision: u64,
    /// Index and digest; none where it means nothing.
    own: VecDeque<(u64, Option<u64>)>,
    peers: HashMap<u64, Peer>,
    /// The voters; before any are known, everybody.
    voters: Option<BTreeSet<u64>>,
    /// The first index at which a majority had another digest, all of them the same, and who they are.
    diverged: Option<(u64, BTreeSet<u64>)>,
    /// The first index at which no majority had the same digest.
    undecided_at: Option<u64>,
    /// Own claims for indexes at which another replica differs: with them all the others can tell who is the odd one.
    answers: Vec<Claim>,
    answered: VecDeque<u64>,
    /// Comparisons that did not agree.
    divergences: u64,
}

impl Digests {
    /// In a group of so many members, of which this one is of `revision`.
    pub(crate) fn new(members: usize, revision: u64) -> Self {
        Self {
            members,
            revision,
            own: VecDeque::new(),
            peers: HashMap::new(),
            voters: None,
            diverged: None,
            undecided_at: None,
            answers: Vec::new(),
            answered: VecDeque::new(),
            divergences: 0,
        }
    }

    /// From here on these are the voters: what others say, or said, counts for nothing.
    pub(crate) fn members(&mut self, voters: impl IntoIterator<Item = u64>) {
        let voters: BTreeSet<u64> = voters.into_iter().collect();
        if !voters.is_empty() {
            self.peers.retain(|id, _| voters.contains(id));
            self.voters = Some(voters);
        }
    }

    /// This replica executes again from a snapshot.
    pub(crate) fn restart(&mut self) {
        self.own.clear();
    }

    /// This replica has executed an entry.
    pub(crate) fn executed(&mut self, claim: Claim) {
        self.own.push_back((claim.index, self.is_own(claim).then_some(claim.digest)));
        if self.own.len() > KEPT {
            self.own.pop_front();
        }
        let is_waiting = |peer: &Peer| peer.waiting.iter().any(Option::is_some);
        let peers: Vec<u64> =
            self.peers.iter().filter(|(_, peer)| is_waiting(peer)).map(|(id, _)| *id).collect();
        for id in peers {
            self.compare(id);
        }
    }

    /// The replica `id` said this. Replies of another revision may be others: it is as good as the same up to there.
    pub(crate) fn heard(&mut self, id: u64, claim: Claim) {
        if self.voters.as_ref().is_some_and(|voters| !voters.contains(&id)) {
            return;
        }
        let is_own = self.is_own(claim);
        let peer = self.peers.entry(id).or_default();
        if !is_own {
            *peer = Peer { same: peer.same.max(claim.index), ..Peer::default() };
            return;
        }
        peer.waiting[usize::from(ends_window(claim.index))] = Some((claim.index, claim.digest));
        self.compare(id);
    }

    fn is_own(&self, claim: Claim) -> bool {
        claim.revision == self.revision && claim.revision != 0
    }

    fn compare(&mut self, id: u64) {
        for number in [1, 0] {
            let Some(peer) = self.peers.get_mut(&id) else { return };
            let Some((index, digest)) = peer.waiting[number] else { continue };
            if self.own.front().is_some_and(|own| own.0 > index) {
                // It is too old to be compared.
                peer.waiting[number] = None;
            }
            let Ok(at) = self.own.binary_search_by_key(&index, |own| own.0) else { continue };
            peer.waiting[number] = None;
            let Some(own) = self.own[at].1.filter(|own| *own != digest) else {
                peer.same = peer.same.max(index);
                peer.others.clear();
                continue;
            };
            if !peer.others.contains(&(index, digest)) {
                self.divergences += 1;
                peer.others.push_back((index, digest));
            }
            if peer.others.len() > KEPT_OTHERS {
                peer.others.pop_front();
            }
            self.answer(Claim { revision: self.revision, index, digest: own });
            self.decide(index);
        }
    }

    /// How many voters there are: fewer than slots after a recovery, until others have joined.
    fn count(&self) -> usize {
        self.voters.as_ref().map_or(self.members, |voters| voters.len().min(self.members))
    }

    /// Another replica differs where this one says `claim`: all are told, once.
    fn answer(&mut self, claim: Claim) {
        if self.answered.contains(&claim.index) {
            return;
        }
        self.answered.push_back(claim.index);
        if self.answered.len() > KEPT_ANSWERS {
            self.answered.pop_front();
        }
        self.answers.push(claim);
    }

    /// Whether this replica is the odd one at `index`: a majority has another digest there, and all of them the same.
    fn decide(&mut self, index: u64) {
        let mut said: HashMap<u64, BTreeSet<u64>> = HashMap::new();
        for (id, peer) in &self.peers {
            let digest = peer.others.iter().rev().find(|other| other.0 == index).map(|other| other.1);
            if let Some(digest) = digest {
                said.entry(digest).or_default().insert(*id);
            }
        }
        let majority = self.count() / 2 + 1;
        let differing: usize = said.values().map(BTreeSet::len).sum();
        if let Some(same) = said.into_values().find(|ids| ids.len() >= majority) {
            self.diverged.get_or_insert((index, same));
            return;
        }
        let is_same = |peer: &&Peer| peer.same >= index && peer.same / WINDOW == index / WINDOW;
        let same = 1 + self.peers.values().filter(is_same).count();
        if same < majority && same + differing >= self.count() {
            self.undecided_at.get_or_insert(index);
        }
    }

    /// What is to be told to all other replicas, because one of them differs.
    pub(crate) fn answers(&mut self) -> Vec<Claim> {
        std::mem::take(&mut self.answers)
    }

    /// The index at which no two replicas, or too few of them, had the same digest: nobody is the odd one.
    pub(crate) fn undecided_at(&self) -> Option<u64> {
        self.undecided_at
    }

    /// Whether the replica `id` may lead in place of this one, which is the odd one.
    pub(crate) fn is_right(&self, id: u64) -> bool {
        self.diverged.as_ref().is_none_or(|(_, same)| same.contains(&id))
    }

    /// What this replica says after the last entry that it has executed, and after the last window.
    pub(crate) fn claims(&self) -> [Option<Claim>; 2] {
        let claim = |(index, digest): (u64, Option<u64>)| Claim {
            revision: digest.map_or(0, |_| self.revision),
            index,
            digest: digest.unwrap_or(0),
        };
        let latest = self.own.back().copied();
        let end = latest.and_then(|latest| ((latest.0 + 1) / WINDOW * WINDOW).checked_sub(1));
        let end = end.and_then(|end| self.own.binary_search_by_key(&end, |own| own.0).ok());
        [latest.map(claim), end.map(|at| claim(self.own[at]))]
    }

    /// Up to which index a majority has the same digests.
    pub(crate) fn agreed(&self) -> u64 {
        let mut same: Vec<u64> = self.peers.values().map(|peer| peer.same).collect();
        same.extend(self.own.back().map(|own| own.0));
        same.sort_unstable_by(|a, b| b.cmp(a));
        same.get(self.count() / 2).copied().unwrap_or(0)
    }

    /// The index at which this replica differs from a majority, and the number of comparisons that did not agree.
    pub(crate) fn divergence(&self) -> (Option<u64>, u64) {
        (self.diverged.as_ref().map(|diverged| diverged.0), self.divergences)
    }
}

/// Whether an entry is the last of its window.
fn ends_window(index: u64) -> bool {
    (index + 1).is_multiple_of(WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a replica of revision 1 says.
    fn said(index: u64, digest: u64) -> Claim {
        Claim { revision: 1, index, digest }
    }

    #[test]
    fn the_odd_one_out_finds_itself_and_the_others_go_on() {
        let (mut odd, mut other) = (Digests::new(3, 1), Digests::new(3, 1));
        for index in 1..=10 {
            odd.executed(said(index, if index < 7 { index } else { 1000 + index }));
            other.executed(said(index, index));
        }
        odd.heard(2, said(6, 6));
        odd.heard(2, said(8, 8));
        assert_eq!(odd.divergence(), (None, 1));
        odd.heard(3, said(9, 9));
        // That the two others have the same is not known before both say theirs at one index.
        assert_eq!(odd.divergence(), (None, 2));
        assert!(odd.is_right(2));
        odd.heard(2, said(9, 9));
        assert_eq!(odd.divergence(), (Some(9), 3));
        assert!(odd.is_right(2) && odd.is_right(3) && !odd.is_right(4));
        other.heard(1, said(9, 1009));
        other.heard(3, said(9, 9));
        assert_eq!(other.divergence(), (None, 1));
    }

    #[test]
    fn what_is_ahead_is_compared_when_it_is_reached() {
        let mut digests = Digests::new(3, 1);
        digests.executed(said(1, 1));
        digests.heard(2, said(2, 99));
        digests.heard(3, said(2, 99));
        assert_eq!(digests.divergence(), (None, 0));
        digests.executed(said(2, 2));
        assert_eq!(digests.divergence(), (Some(2), 2));
    }

    #[test]
    fn a_group_of_one_agrees_with_itself() {
        let mut digests = Digests::new(3, 1);
        digests.executed(said(4, 1));
        assert_eq!(digests.agreed(), 0);
        digests.members([7]);
        assert_eq!(digests.agreed(), 4);
        digests.members([7, 8]);
        assert_eq!(digests.agreed(), 0);
    }

    #[test]
    fn a_majority_of_the_same_digests_lets_replies_go() {
        let mut digests = Digests::new(5, 1);
        (1..=9).for_each(|index| digests.executed(said(index, index)));
        assert_eq!(digests.agreed(), 0);
        digests.heard(2, said(8, 8));
        assert_eq!(digests.agreed(), 0);
        digests.heard(3, said(6, 6));
        assert_eq!(digests.agreed(), 6);
        digests.heard(4, said(9, 9));
        assert_eq!(digests.agreed(), 8);
        let mut alone = Digests::new(1, 1);
        alone.executed(said(4, 4));
        assert_eq!(alone.agreed(), 4);
    }

    #[test]
    fn with_two_of_five_that_differ_nobody_is_the_odd_one() {
        let mut digests = Digests::new(5, 1);
        digests.executed(said(1, 1));
        digests.heard(2, said(1, 7));
        digests.heard(3, said(1, 7));
        assert_eq!((digests.divergence().0, digests.undecided_at()), (None, None));
        digests.heard(4, said(1, 7));
        assert_eq!(digests.divergence().0, Some(1));
    }

    /// Tells all replicas what each says, until nobody has more to say; the first has id 1.
    fn talk(replicas: &mut [Digests]) {
        let mut said: Vec<(u64, Claim)> = Vec::new();
        for (id, replica) in (1..).zip(&*replicas) {
            said.extend(replica.claims().into_iter().flatten().map(|claim| (id, claim)));
        }
        let mut rounds = 0;
        while !said.is_empty() {
            rounds += 1;
            assert!(rounds < 10, "they go on for ever");
            let mut answers = Vec::new();
            for (id, replica) in (1..).zip(&mut *replicas) {
                said.iter()
                    .filter(|said| said.0 != id)
                    .for_each(|(from, claim)| replica.heard(*from, *claim));
                answers.extend(replica.answers().into_iter().map(|claim| (id, claim)));
            }
            said = answers;
        }
    }

    #[test]
    fn replicas_that_are_not_equally_far_find_the_odd_one_by_what_they_answer() {
        let mut replicas: Vec<Digests> = (0..3).map(|_| Digests::new(3, 1)).collect();
        for (replica, end) in replicas.iter_mut().zip([9, 10, 12]) {
            (1..=end)
                .for_each(|index| replica.executed(said(index, if end == 9 { 1000 + index } else { index })));
        }
        talk(&mut replicas);
        let found: Vec<_> = replicas.iter().map(|replica| replica.divergence().0).collect();
        assert_eq!(found, [Some(9), None, None]);
        assert!(replicas.iter().all(|replica| replica.undecided_at().is_none()));
    }

    #[test]
    fn where_no_two_agree_nobody_is_quarantined_and_all_say_so() {
        for members in [3, 5] {
            let mut replicas: Vec<Digests> = (0..members).map(|_| Digests::new(members, 1)).collect();
            for (id, replica) in (1..).zip(&mut replicas) {
                // Of five, two pairs agree.
                (1..=20).for_each(|index| {
                    replica.executed(said(index, if index < 5 { index } else { 100 * (id / 2) }));
                });
                if members == 3 {
                    replica.executed(said(21, id));
                } else {
                    replica.executed(said(21, 100 * (id / 2)));
                }
            }
            talk(&mut replicas);
            assert!(replicas.iter().all(|replica| replica.divergence().0.is_none()), "{members}");
            assert!(replicas.iter().all(|replica| replica.undecided_at() == Some(21)), "{members}");
        }
    }

    #[test]
    fn what_a_removed_replica_said_counts_for_nothing() {
        let mut digests = Digests::new(3, 1);
        digests.members([1, 2, 3]);
        digests.executed(said(1, 1));
        digests.heard(2, said(1, 7));
        digests.heard(9, said(1, 7));
        assert_eq!(digests.divergence(), (None, 1), "9 is no voter");
        // 2 is replaced by 4: what it said is forgotten, and what it says is not heard.
        digests.members([1, 3, 4]);
        digests.heard(2, said(1, 7));
        digests.heard(3, said(1, 7));
        assert_eq!((digests.divergence().0, digests.undecided_at()), (None, None));
        digests.heard(4, said(1, 7));
        assert_eq!(digests.divergence().0, Some(1));
        // Nor for what a majority has: of the voters only this one has entry 5.
        let mut digests = Digests::new(3, 1);
        digests.members([1, 2, 3]);
        (1..=5).for_each(|index| digests.executed(said(index, index)));
        digests.heard(2, said(5, 5));
        assert_eq!(digests.agreed(), 5);
        digests.members([1, 3, 4]);
        assert_eq!(digests.agreed(), 0);
    }

    /// The claims of an application of `revision` after each of these entries, from `chain` on; it replies with `reply`.
    fn run(chain: &mut Chain, revision: u64, entries: std::ops::Range<u64>, reply: u64) -> Vec<Claim> {
        let execute = |index| {
            chain.add(revision, index, reply);
            chain.claim(revision, index)
        };
        entries.map(execute).collect()
    }

    #[test]
    fn replies_of_two_revisions_are_not_compared_and_those_of_one_are_again_from_the_next_window_on() {
        // Both were of revision 1 when their states were captured, at another entry each.
        let (mut first, mut second) = (Chain::of(1), Chain::of(1));
        let old = run(&mut first, 1, 0..10, 7);
        assert_eq!(old, run(&mut second, 1, 0..20, 7)[..10]);
        let mut digests = Digests::new(3, 2);
        let ahead = run(&mut second, 2, 20..WINDOW + 10, 8);
        for claim in run(&mut first, 2, 10..WINDOW + 10, 8) {
            digests.executed(claim);
            // What one says that is still of revision 1, and one of revision 2 whose chain has replies of both.
            digests.heard(3, Claim { revision: 1, digest: 99, ..claim });
            if claim.index >= 20 {
                digests.heard(2, ahead[usize::try_from(claim.index - 20).unwrap()]);
            }
        }
        assert_eq!(digests.divergence(), (None, 0));
        assert_eq!(digests.agreed(), WINDOW + 9, "replies wait for nobody who cannot be compared");
        let [Some(latest), Some(end)] = digests.claims() else { panic!() };
        assert_eq!((latest.revision, end.revision), (2, 0));
        assert_eq!(latest, *ahead.last().unwrap());
        // From here on who is of the same revision counts.
        digests.heard(2, Claim { digest: 5, ..latest });
        digests.heard(3, Claim { digest: 5, ..latest });
        assert_eq!(digests.divergence(), (Some(WINDOW + 9), 2));
    }

    #[test]
    fn a_chain_that_another_revision_went_on_with_is_not_taken_up_again() {
        let mut chain = Chain::of(1);
        run(&mut chain, 1, 0..3, 7);
        run(&mut chain, 2, 3..5, 8);
        assert_eq!(chain.claim(1, 5).revision, 0);
        assert_eq!(chain.claim(1, WINDOW), Claim { revision: 1, index: WINDOW, digest: 0 });
    }

    #[test]
    fn what_differs_just_before_the_end_of_a_window_is_found_after_it() {
        let (mut odd, mut other) = (Chain::of(1), Chain::of(1));
        let mut digests = Digests::new(3, 1);
        let end = WINDOW - 1;
        run(&mut odd, 1, 0..end, 7);
        run(&mut other, 1, 0..end, 7);
        for claim in
            run(&mut odd, 1, end..end + 1, 8).into_iter().chain(run(&mut odd, 1, WINDOW..WINDOW + 5, 7))
        {
            digests.executed(claim);
        }
        let mut others = Digests::new(3, 1);
        for claim in run(&mut other, 1, end..WINDOW + 3, 7) {
            others.executed(claim);
        }
        for claim in others.claims().into_iter().flatten() {
            digests.heard(2, claim);
        }
        assert_eq!(digests.divergence(), (None, 1));
        digests.heard(3, others.claims()[1].unwrap());
        assert_eq!(digests.divergence(), (Some(end), 2));
    }
}
