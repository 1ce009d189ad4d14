//! What changes the group itself: who leads, and the recovery from the loss of a majority.

use std::cmp::Reverse;
use std::time::Duration;

use bytes::Bytes;
use i2kit_spec::replica::{LeadRequest, Led, RecoverRequest, Recovered, Recovery, Refused, Survivor};

use crate::control::Denied;
use crate::lock::lock;
use crate::log::{EntryId, Members};
use crate::member::era::{self, Era};
use crate::member::fence::Ending;
use crate::node::{Node, random};
use crate::order::handle::{View, ViewRole};
use crate::order::messages::{Message as _, Surveyed};
use crate::order::raft::CLOSE;
use crate::wire::frame::Kind;
use crate::wire::link::Link;

/// How long a slot may take to lead.
const TAKES_OVER: Duration = Duration::from_secs(5);

/// How long another replica may take to say how far its log goes.
const SURVEY: Duration = Duration::from_secs(1);

/// How long the disk may take to have a recovery, before the replica ends without a word whether it has.
const WRITES: Duration = Duration::from_secs(5);

/// A voter, and what it says of itself; nothing where it is not connected.
type Voter = ((u64, u32), Option<Result<Surveyed, ()>>);

impl Node {
    /// Whether a majority of each configuration's voters is connected, this replica counted.
    pub(crate) fn has_quorum(&self, members: &Members) -> bool {
        let is_there = |id: &&u64| {
            **id == self.log.id() || members.slot(**id).is_some_and(|slot| self.is_connected(**id, slot))
        };
        let has_majority = |config: &Vec<u64>| config.iter().filter(is_there).count() * 2 > config.len();
        members.configs.iter().all(has_majority)
    }

    /// Whether the replica `id` is at the other end of the connection to `slot`.
    fn is_connected(&self, id: u64, slot: u32) -> bool {
        let link = self.slots.order.get(slot as usize).and_then(Option::as_ref);
        link.and_then(Link::connected).is_some_and(|connected| connected.hello.id == id)
    }

    fn is_of(&self, group: &str) -> Result<(), Denied> {
        let own = &self.settings.config.group;
        if own == group {
            return Ok(());
        }
        Err(Denied::new(409, format!("this is a replica of {own}, not of {group}")))
    }

    /// Has the replica of a slot lead.
    ///
    /// # Errors
    /// This one does not lead, the slot cannot, or it did not in time.
    pub(crate) async fn lead(&self, asked: &LeadRequest) -> Result<Led, Denied> {
        self.is_of(&asked.group)?;
        let slot = asked.slot;
        if slot as usize >= self.settings.config.members.len() {
            return Err(Denied::new(400, format!("the group has no slot {slot}")));
        }
        let mut changes = self.order.view();
        let view = changes.borrow_and_update().clone();
        let id = self.may_lead(&view, slot)?;
        if id == self.log.id() {
            return Ok(Led { leader: slot, term: view.term });
        }
        crate::report!("the lead is to go to slot {slot}, as somebody asked");
        let failed = |error: String| Denied::new(503, error);
        self.order
            .hand_over(self.log.id(), |voter| voter == id)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let took_over = async {
            let view = changes.wait_for(|view| view.leader.is_some_and(|leader| leader.0 == id)).await;
            view.map(|view| view.term)
        };
        match tokio::time::timeout(TAKES_OVER, took_over).await {
            Ok(Ok(term)) => Ok(Led { leader: slot, term }),
            Ok(Err(_)) => Err(failed(self.order.ended())),
            Err(_) => {
                if self.leads() {
                    // A leader that hands over takes no commands.
                    drop(self.order.elect().await);
                }
                let seconds = TAKES_OVER.as_secs();
                Err(failed(format!(
                    "slot {slot} did not take the lead over within {seconds} s; nothing is lost, try again"
                )))
            }
        }
    }

    /// The replica of a slot that may lead in place of this one.
    fn may_lead(&self, view: &View, slot: u32) -> Result<u64, Denied> {
        if view.role != ViewRole::Leader {
            let leader = view.leader.map(|leader| leader.1).filter(|_| self.order.is_in_touch());
            let error = match leader {
                Some(leader) => format!("slot {leader} leads: ask there"),
                None => "this replica does not lead, and knows of no leader".to_owned(),
            };
            return Err(Denied(409, Refused { error, leader }));
        }
        let refused = |text: String| Denied::new(409, text);
        let voters = view.members.configs.last().into_iter().flatten();
        let mut of_slot = voters.copied().filter(|id| view.members.slot(*id) == Some(slot));
        let id = of_slot
            .next()
            .ok_or_else(|| refused(format!("slot {slot} has no vote: wait until it has joined")))?;
        if id == self.log.id() {
            return Ok(id);
        }
        if !self.is_connected(id, slot) {
            return Err(refused(format!("slot {slot} is not connected with the leader")));
        }
        if !lock(&self.shared.digests).is_right(id) {
            return Err(refused(format!("the replies of slot {slot} are not those of a majority")));
        }
        let (committed, matched) = self.order.progress();
        match matched.get(&id) {
            Some(matched) if matched + CLOSE >= committed => Ok(id),
            _ => Err(refused(format!("slot {slot} has not caught up: wait until it is ready"))),
        }
    }

    /// What a recovery from this replica would be.
    pub(crate) async fn recovery(&self) -> Recovery {
        let view = self.order.view().borrow().clone();
        let voters = self.survey(&view.members).await;
        let last = self.log.last().unwrap_or_default();
        let known = |(voter, said): &Voter| Some((*voter, (*said)?.ok()?.last.unwrap_or_default()));
        let is_voter = voters.iter().any(|voter| voter.0.0 == self.log.id());
        let mut survivors: Vec<((u64, u32), EntryId)> = voters.iter().filter_map(known).collect();
        survivors.sort_by_key(|((_, slot), last)| (Reverse((last.term, last.index)), *slot));
        let survivor = |((id, slot), last): ((u64, u32), EntryId)| Survivor {
            slot,
            id,
            term: last.term,
            last: last.index,
        };
        Recovery {
            group: self.settings.config.group.clone(),
            slot: self.settings.slot,
            id: self.log.id(),
            refused: self.why_not(&view, &voters),
            has_quorum: is_voter && self.has_quorum(&view.members),
            term: last.term,
            last: last.index,
            committed: self.order.progress().0,
            survivors: survivors.into_iter().map(survivor).collect(),
            lost: voters.iter().filter(|voter| voter.1.is_none()).map(|voter| voter.0.1).collect(),
            recoveries: self.fence.era().number,
        }
    }

    /// Asks all voters that are connected how far their logs go.
    async fn survey(&self, members: &Members) -> Vec<Voter> {
        let mut ids: Vec<u64> = members.configs.iter().flatten().copied().collect();
        ids.sort_unstable();
        ids.dedup();
        let asked = ids.into_iter().map(async |id| {
            let slot = members.slot(id).unwrap_or(u32::MAX);
            let voter = (id, slot);
            if id == self.log.id() {
                return (voter, Some(Ok(Surveyed { leads: self.leads(), last: self.log.last() })));
            }
            let link = self.slots.order.get(slot as usize).and_then(Option::as_ref);
            let Some(link) = link.filter(|_| self.is_connected(id, slot)) else { return (voter, None) };
            let answer = link.call(Kind::Survey, Bytes::new(), SURVEY).await.map_err(drop);
            (voter, Some(answer.and_then(|answer| Surveyed::decode(answer).map_err(drop))))
        });
        futures_util::future::join_all(asked).await
    }

    /// Why the group cannot be recovered from this replica.
    fn why_not(&self, view: &View, voters: &[Voter]) -> Option<String> {
        let own = self.log.last();
        if own.is_none() {
            return Some("this replica's log has nothing: it joins by itself when there is a group".into());
        }
        if !voters.iter().any(|voter| voter.0.0 == self.log.id()) {
            return Some("this replica has no vote in its group: recover from one that has".into());
        }
        if let Some(at) = self.diverged_at() {
            return Some(format!(
                "this replica is quarantined, its replies differed at index {at}: recover from another"
            ));
        }
        if self.has_quorum(&view.members) {
            return Some(
                "a majority of the group is connected: it needs no recovery, and finds a leader by itself"
                    .into(),
            );
        }
        let newest = |last: Option<EntryId>| last.map(|last| (last.term, last.index));
        for ((id, slot), said) in voters {
            match said {
                Some(Err(())) => {
                    return Some(format!(
                        "slot {slot} is connected and does not answer: ask again; where it stays so, `i2kit scale NAME --replicas 0` and \
                         `i2kit deploy` start all machines of the group anew, with their disks"
                    ));
                }
                Some(Ok(said)) if *id != self.log.id() && said.leads => {
                    return Some(format!(
                        "slot {slot} leads: if it has lost its majority as well, recover from that one"
                    ));
                }
                Some(Ok(said)) if newest(said.last) > newest(own) => {
                    return Some(format!("slot {slot} has a newer log: recover from it"));
                }
                _ => {}
            }
        }
        None
    }

    /// Makes this replica the only member of its group: the disk says so when this returns, and the next start does it.
    ///
    /// From the moment that it is written on, `ending` has what ends this replica when it is dropped, whatever came of the writing: the
    /// disk may say so already, and a replica that went on in its group of before would lose at a later start what it had acknowledged.
    ///
    /// # Errors
    /// The group can go on by itself, another replica has more, or the disk does not take it.
    pub(crate) async fn recover(
        &self,
        asked: &RecoverRequest,
        ending: &mut Option<Ending>,
    ) -> Result<Recovered, Denied> {
        self.is_of(&asked.group)?;
        if asked.id != self.log.id() {
            return Err(Denied::new(409, "this replica has another log by now: look at it again"));
        }
        // A change of members that waits for a majority holds the lock, and comes to nothing: it is no reason to refuse. Otherwise none begins.
        let _change = self.changes.try_lock().ok();
        let found = self.recovery().await;
        if let Some(why) = found.refused {
            return Err(Denied::new(409, why));
        }
        let failed = |error: std::io::Error| {
            Denied::new(
                503,
                format!(
                    "nobody knows whether the recovery is written ({error}): the replica begins anew, and shows it"
                ),
            )
        };
        let next = Era { number: found.recoveries + 1, id: random().map_err(failed)? };
        let folder = self.settings.place.log.clone();
        *ending = Some(Ending::new(self.fence.clone()));
        let written = tokio::task::spawn_blocking(move || era::save(&folder, next, true));
        let written =
            tokio::time::timeout(WRITES, written).await.map_err(std::io::Error::from).map_err(failed)?;
        written.map_err(std::io::Error::other).and_then(|written| written).map_err(failed)?;
        crate::report!(
            "the group is recovered from this replica, up to entry {} of its log: slots {:?} did not answer, and are out of it",
            found.last,
            found.lost
        );
        Ok(Recovered { recoveries: next.number, last: found.last })
    }
}
