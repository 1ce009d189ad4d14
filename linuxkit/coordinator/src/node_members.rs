//! Members of the group: how a replica becomes one, and how the leader takes one in.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::lock;
use crate::member::{Seen, Step, decide};
use crate::node::Node;
use crate::order::handle::ViewRole;
use crate::order::messages::{Joined, Message};
use crate::wire::frame::Kind;
use crate::wire::link::{Greeter as _, Link};

/// Between two attempts to become a member.
const JOINS: Duration = Duration::from_millis(300);

/// How long it may take until state and log are here.
const JOIN_PATIENCE: Duration = Duration::from_hours(1);

/// Between two looks of a leader whether a change of members was left half-way.
const LOOKS: Duration = Duration::from_millis(500);

impl Node {
    /// Becomes a member, for as long as this replica is none.
    pub(crate) async fn become_member(self: Arc<Self>) {
        let mut view = self.order.view();
        let mut refuses = false;
        loop {
            let is_voter = |members: &crate::log::Members| {
                members.configs.iter().flatten().any(|id| *id == self.log.id())
            };
            if is_voter(&view.borrow_and_update().members) {
                *lock(&self.joining) = None;
                // Who is taken out of the group ends up here again, as a replica without a vote.
                if view.wait_for(|view| !is_voter(&view.members)).await.is_err() {
                    return;
                }
                continue;
            }
            let waits_for = match decide(self.settings.slot, &self.seen()) {
                Step::Found(_) if self.settings.was_founded => {
                    if !std::mem::replace(&mut refuses, true) {
                        crate::report!(
                            "no replica has a log, and the group had a state before: no new group is founded. Give a slot its earlier disk; or begin with an empty \
                             state: destroy the group with its volumes, and deploy it anew"
                        );
                    }
                    Some("a replica that has the group's log: all disks are empty, and the group had a state before".to_owned())
                }
                Step::Found(members) => {
                    crate::report!(
                        "no replica has a log: a new group of {} begins, with an empty state",
                        members.len()
                    );
                    self.order.found(members).await.err().map(|error| error.to_string())
                }
                Step::AwaitFounder => Some("slot 0 to found the group".to_owned()),
                Step::AwaitSlots(slots) => {
                    let hosts =
                        slots.iter().filter_map(|slot| self.settings.config.members.get(*slot as usize));
                    let hosts: Vec<&str> = hosts.map(String::as_str).collect();
                    Some(format!("{} to say whether there is a group", hosts.join(", ")))
                }
                Step::Join => self.join_group().await,
            };
            *lock(&self.joining) = waits_for;
            tokio::time::sleep(JOINS).await;
        }
    }

    fn seen(&self) -> Vec<Option<Seen>> {
        let me = self.fence.hello();
        let seen = |slot: u32, link: &Option<Link>| match link {
            Some(link) => {
                link.connected().map(|connected| connected.hello).filter(|hello| hello.slot == slot)
            }
            None => Some(me.clone()),
        };
        let hellos = (0..).zip(&self.slots.bulk).map(|(slot, link)| seen(slot, link));
        hellos.map(|hello| hello.map(|hello| Seen { id: hello.id, empty: hello.empty })).collect()
    }

    /// Asks the leader, or who may know him. What is given back is what it waits for.
    async fn join_group(&self) -> Option<String> {
        *lock(&self.joining) = Some("the state and the log of its group".to_owned());
        let mut next = self.order.view().borrow().leader.map(|leader| leader.1);
        let mut others: Vec<u32> =
            (0..).zip(&self.slots.bulk).filter(|(_, link)| link.is_some()).map(|(slot, _)| slot).collect();
        let until = Instant::now() + JOIN_PATIENCE;
        while Instant::now() < until {
            let Some(slot) = next.take().or_else(|| others.pop()) else { break };
            let Some(Some(link)) = self.slots.bulk.get(slot as usize) else { continue };
            let question = (self.log.id(), u64::from(self.settings.slot)).encode();
            let Ok(answer) = link.call(Kind::Join, question, JOIN_PATIENCE).await else { continue };
            match Joined::decode(answer) {
                Ok(Joined::Done) => return None,
                Ok(Joined::Ask(leader)) => {
                    // A leader that is named is asked once: others know more when he does not answer.
                    next = leader.filter(|leader| others.contains(leader));
                    others.retain(|other| Some(*other) != next);
                }
                Ok(Joined::Refused(reason)) => return Some(format!("its group to take it: {reason}")),
                Err(error) => return Some(error.to_string()),
            }
        }
        Some("a leader of its group that takes it".to_owned())
    }

    /// Makes the replica `id` the one of `slot`, when this one leads.
    pub(crate) async fn join(&self, id: u64, slot: u32) -> Joined {
        let view = self.order.view().borrow().clone();
        if view.role != ViewRole::Leader {
            return Joined::Ask(view.leader.map(|leader| leader.1));
        }
        if slot as usize >= self.settings.config.members.len() {
            return Joined::Refused(format!("the group has no slot {slot}"));
        }
        let Ok(_change) = self.changes.try_lock() else {
            return Joined::Refused("another change of members is under way".into());
        };
        let voters: Vec<u64> = view.members.configs.iter().flatten().copied().collect();
        let alone = view.members.nodes.iter().filter(|node| node.1 == slot).count() == 1;
        if view.members.configs.len() == 1 && voters.contains(&id) && alone {
            return Joined::Done;
        }
        crate::report!(
            "slot {slot} has a new replica {id}: it gets the state and the log, and then takes the place of the one before"
        );
        let is_gone = || {
            let links = [&self.slots.order, &self.slots.bulk].into_iter();
            let links = links.filter_map(|links| links.get(slot as usize)?.as_ref()?.connected());
            let ids: Vec<u64> = links.map(|connected| connected.hello.id).collect();
            !ids.is_empty() && !ids.contains(&id)
        };
        match self.order.replace(id, slot, is_gone).await {
            Ok(()) => Joined::Done,
            Err(error) => {
                crate::report!("the new replica {id} of slot {slot} is no member: {error}");
                Joined::Refused(error.to_string())
            }
        }
    }

    /// Ends changes of members that a leader before began, for ever: one that ended between their two steps leaves a group that needs two
    /// majorities.
    pub(crate) async fn end_changes(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOKS).await;
            let is_half = {
                let view = self.order.view();
                let view = view.borrow();
                view.role == ViewRole::Leader && view.members.configs.len() > 1
            };
            let Ok(_change) = self.changes.try_lock() else { continue };
            if !is_half {
                continue;
            }
            crate::report!("a change of members was left half-way: it is ended");
            if let Err(error) = self.order.end_change().await {
                crate::report!("the change of members is not ended: {error}; it is tried again");
            }
        }
    }
}
