//! What a replica says of itself.

use i2kit_spec::replica::{MemberStatus, ReplicaStatus, Role};

use crate::lock::lock;
use crate::node::Node;
use crate::order::handle::ViewRole;

impl Node {
    /// The document of `/replicas`.
    pub(crate) fn status(&self) -> ReplicaStatus {
        let view = self.order.view().borrow().clone();
        let (committed, matched) = self.order.progress();
        let progress = *self.executor.progress.borrow();
        let (_, divergences) = lock(&self.shared.digests).divergence();
        let diverged_at = self.diverged_at();
        let joining = lock(&self.joining).clone();
        let voters: Vec<u64> = view.members.configs.iter().flatten().copied().collect();
        let is_member = view.members.slot(self.log.id()).is_some();
        let role = match view.role {
            _ if diverged_at.is_some() => Role::Quarantined,
            ViewRole::Leader => Role::Leader,
            ViewRole::Follower => Role::Follower,
            ViewRole::Candidate => Role::Candidate,
            ViewRole::Learner if is_member => Role::Learner,
            ViewRole::Learner => Role::Starting,
        };
        let members = view.members.nodes.iter().map(|(id, slot)| MemberStatus {
            slot: *slot,
            id: *id,
            voter: voters.contains(id),
            matched: matched.get(id).copied(),
        });
        ReplicaStatus {
            slot: self.settings.slot,
            id: self.log.id(),
            role,
            term: view.term,
            leader: view.leader.map(|leader| leader.1).filter(|_| self.order.is_in_touch()),
            committed,
            applied: progress.next.saturating_sub(1),
            members: members.collect(),
            diverged_at,
            divergences,
            log_bytes: self.log.bytes(),
            waits_for: self.waits_for(joining, progress.life.is_some()),
            recoveries: self.fence.era().number,
            has_quorum: self.has_quorum(&view.members),
        }
    }

    fn waits_for(&self, joining: Option<String>, has_application: bool) -> Option<String> {
        if let Some(joining) = joining {
            return Some(format!("it waits for {joining}"));
        }
        if let Some(stall) = self.shared.stall.shown() {
            return Some(stall);
        }
        if self.ends.load(std::sync::atomic::Ordering::Relaxed) {
            return Some("it ends".to_owned());
        }
        if !has_application {
            return Some("the application begins anew, and is given the log again".to_owned());
        }
        self.log_is_full()
            .then(|| "the log has reached its limit, and no snapshot takes its place".to_owned())
    }
}
