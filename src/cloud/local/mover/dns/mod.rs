//! Name servers: one for each environment, on a loopback address that its machines reach.
//!
//! A server answers for `SERVICE.NAMESPACE.svc.cluster.local` as a cluster's DNS does, and relays every other
//! question to the name servers of this host. It is asked over UDP and over TCP, as [RFC 7766] wants it of every
//! server.
//!
//! [RFC 7766]: https://www.rfc-editor.org/rfc/rfc7766

mod answers;
mod datagram;
mod framing;
pub mod message;
mod relay;
mod server;
mod stream;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use self::answers::{Answers, PORT};
use self::message::Zone;
use self::server::Server;
use super::admission::Shares;
use super::routes::{NameServer, Report};
use crate::cloud::local::log::Log;
use crate::cloud::local::supervise::Tasks;
use crate::manifest::api::Name;

/// The full name of a Service.
pub(crate) fn service_name(service: &Name) -> String {
    format!("{}.{}.svc.{}", service.name, service.namespace, message::DOMAIN)
}

/// All name servers, by environment.
#[derive(Debug)]
pub(super) struct Dns {
    servers: Mutex<BTreeMap<String, Entry>>,
    /// Descriptors for the questions of all environments.
    descriptors: Arc<Semaphore>,
    tasks: Arc<Tasks>,
    log: Arc<Log>,
    /// How long a TCP connection may be silent.
    idle: Duration,
}

/// The name server of one environment.
#[derive(Debug)]
struct Entry {
    address: Ipv4Addr,
    server: Result<Server, Failure>,
}

/// Why a server could not be started.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    error: String,
    /// Whether another program has its address.
    is_taken: bool,
}

impl Failure {
    /// The failure of the server at `address`, and what to do about it.
    fn advice(&self, address: Ipv4Addr) -> String {
        let advice = if self.is_taken {
            format!(
                "another program has that address (`ss -lnp 'sport = :{PORT}'` as root names it): end it, or give this \
                 environment another name"
            )
        } else {
            format!(
                "run as root, or let anybody have the port by `sysctl net.ipv4.ip_unprivileged_port_start={PORT}`"
            )
        };
        let error = &self.error;
        format!(
            "pods do not find Services by name: {address}:{PORT} cannot be served: {error}; {advice}, then start the VMs \
             again"
        )
    }
}

impl Dns {
    /// No server yet.
    pub(super) fn new(shares: Shares, tasks: Arc<Tasks>, log: Arc<Log>) -> Self {
        let descriptors = Arc::new(Semaphore::new(shares.names));
        Self { servers: Mutex::default(), descriptors, tasks, log, idle: stream::IDLE }
    }

    fn servers(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the servers that answer, and warnings.
    pub(super) fn report(&self, report: &mut Report) {
        for (environment, entry) in self.servers().iter() {
            let warnings = match &entry.server {
                Ok(server) => {
                    report.name_servers.insert(environment.clone(), entry.address);
                    server.warnings()
                }
                Err(failure) => vec![failure.advice(entry.address)],
            };
            report.warnings.entry(environment.clone()).or_default().extend(warnings);
        }
    }

    /// Makes the servers what is wanted. Those that cannot be started are tried again at the next call.
    pub(super) async fn apply(&self, wanted: BTreeMap<String, NameServer>) {
        for server in self.take_unwanted(&wanted) {
            server.close().await;
        }
        let mut servers = self.servers();
        for (environment, NameServer { address, zone }) in wanted {
            let before = match servers.get(&environment).map(|entry| &entry.server) {
                Some(Ok(server)) => {
                    server.set_zone(zone);
                    continue;
                }
                Some(Err(failure)) => Some(failure),
                None => None,
            };
            let server = self.start(&environment, (address, PORT).into(), zone).map_err(|error| Failure {
                is_taken: error.kind() == io::ErrorKind::AddrInUse,
                error: error.to_string(),
            });
            if let Err(failure) = &server
                && before != Some(failure)
            {
                self.log.say(format_args!("{}", failure.advice(address)));
            }
            servers.insert(environment, Entry { address, server });
        }
    }

    fn take_unwanted(&self, wanted: &BTreeMap<String, NameServer>) -> Vec<Server> {
        let is_unwanted = |environment: &String, entry: &Entry| {
            wanted.get(environment).is_none_or(|server| server.address != entry.address)
        };
        let mut servers = self.servers();
        let taken = servers.extract_if(.., |environment, entry| is_unwanted(environment, entry));
        taken.filter_map(|(_, entry)| entry.server.ok()).collect()
    }

    fn start(&self, environment: &str, address: SocketAddr, zone: Zone) -> io::Result<Server> {
        let answers = Answers::new(environment, zone, &self.descriptors, &self.log, self.idle);
        Server::start(environment, address, answers, (&self.tasks, &self.log))
    }
}

#[cfg(test)]
mod tests;
