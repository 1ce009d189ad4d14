//! Watching an environment in AWS: it is looked at again and again, and a refresh that stands still is rolled back. Auto
//! Scaling itself gives up after an hour, whatever the group's settings say; that holds where nobody watches.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;

use super::environment::Aws;
use super::wait::FIRST_PAUSE;
use crate::cloud::{CloudError, Scope, Updates, polling, watch};
use crate::manifest::api::Name;
use crate::plan::fleet::{Fleet, InstanceGroup, Refresh, RefreshStatus};

/// How often a group that is waited for is looked at. That takes five calls; AWS' balancers check every five seconds.
const POLL: Duration = Duration::from_secs(2);

/// How far a refresh came, and when it last came further: more of its VMs healthy than ever before. VMs that fail and
/// are replaced come and go without that.
struct Progress {
    started: u64,
    most: u32,
    since: Instant,
}

/// The refreshes under way, by their groups.
#[derive(Default)]
struct Deadlines(BTreeMap<Name, Progress>);

impl Deadlines {
    /// Whether the group's refresh is to be rolled back; one that is on its way back never is.
    fn is_over(&mut self, group: &InstanceGroup) -> bool {
        let is_watched = |refresh: &&Refresh| refresh.status == RefreshStatus::InProgress;
        let Some(refresh) = group.active_refresh().filter(is_watched) else {
            self.0.remove(&group.name);
            return false;
        };
        let known = self.0.get(&group.name).filter(|known| known.started == refresh.started);
        if known.is_none_or(|known| refresh.available > known.most) {
            let progress =
                Progress { started: refresh.started, most: refresh.available, since: Instant::now() };
            self.0.insert(group.name.clone(), progress);
        }
        let deadline = Duration::from(group.settings.progress_deadline_seconds);
        self.0.get(&group.name).is_some_and(|progress| progress.since.elapsed() >= deadline)
    }
}

impl Aws {
    /// Updates of the environment, or of one group.
    pub(super) fn watched<'c>(&'c self, scope: &Scope) -> Updates<'c> {
        let pause = if self.settings.endpoint.is_some() { FIRST_PAUSE } else { POLL };
        let observations = Box::pin(polling::observations(self, scope, pause));
        let start = (observations, Deadlines::default());
        watch::updates(futures::stream::unfold(start, move |(mut observations, mut deadlines)| async move {
            let observed = match observations.next().await? {
                Ok(fleet) => self.keep_deadlines(&mut deadlines, &fleet).await.map(|()| fleet),
                Err(error) => Err(error),
            };
            Some((observed, (observations, deadlines)))
        }))
    }

    async fn keep_deadlines(&self, deadlines: &mut Deadlines, fleet: &Fleet) -> Result<(), CloudError> {
        // AWS itself keeps the deadline of a Job.
        let refreshed = fleet.groups.iter().filter(|group| group.settings.job.is_none());
        for group in refreshed.filter(|group| deadlines.is_over(group)) {
            let deadline = group.settings.progress_deadline_seconds;
            let mut reason = format!("no progress for {deadline}: {}", group.complaints());
            if let Some(causes) = self.causes(&group.name).await {
                reason = format!("{reason}\n{causes}");
            }
            self.give_up(&group.name, &reason).await?;
        }
        Ok(())
    }
}
