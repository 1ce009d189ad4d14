//! The mover: what carries traffic. It listens for Services and answers the machines' questions for names.
//!
//! Its interface is two values: it is given [`Routes`] as often as they change, and gives a [`Report`]. It knows no
//! group, no health and no record.

pub(crate) mod admission;
mod balancer;
pub(crate) mod dns;
mod routes;

use std::sync::Arc;

use self::admission::Shares;
use self::balancer::Balancer;
use self::dns::Dns;
pub(crate) use self::routes::{Backend, ListenerId, NameServer, Report, Route, Routes};
use super::log::Log;
use super::supervise::Tasks;

/// Carries traffic.
#[derive(Debug)]
pub(crate) struct Mover {
    balancer: Balancer,
    dns: Dns,
}

impl Mover {
    /// Carries nothing yet. Its sockets have these shares of descriptors; failures are shown in `tasks` and `log`.
    pub(crate) fn new(shares: Shares, tasks: &Arc<Tasks>, log: &Arc<Log>) -> Self {
        Self {
            balancer: Balancer::new(shares, Arc::clone(tasks), Arc::clone(log)),
            dns: Dns::new(shares, Arc::clone(tasks), Arc::clone(log)),
        }
    }

    /// Carries `routes` from now on, and nothing else. A socket that cannot be bound is logged once for each reason,
    /// and tried again at the next call. Called by one task alone.
    pub(crate) async fn apply(&self, routes: Routes) {
        self.dns.apply(routes.name_servers).await;
        self.balancer.apply(routes.listeners).await;
    }

    /// What is carried now.
    pub(crate) fn report(&self) -> Report {
        let mut report = Report::default();
        self.dns.report(&mut report);
        self.balancer.report(&mut report);
        report
    }
}
