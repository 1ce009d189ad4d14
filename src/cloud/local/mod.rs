//! The local cloud: groups of qemu VMs behind an L4 balancer on this machine.
//!
//! One background process a user owns the groups, the balancers and the refreshes. It is started on demand, keeps its
//! state in SQLite, speaks HTTP on a unix socket, and ends with the last `destroy`. VMs are processes of groups of
//! their own: they outlive the process, and a new one adopts them.
//!
//! ```text
//! client --unix socket--> daemon --acts--> keeper: state <--step-- control loop --effects--> machines, balancers, names
//!                                            |      ^                  |
//!                                          store    |               engine (pure)
//!                                                   +------- health checks
//! ```
//!
//! `client` runs in the tool, `daemon` and `keeper` in the background process.

mod acme;
mod affinity;
mod blocking;
mod boot;
mod ca;
mod client;
mod clock;
mod daemon;
#[cfg(test)]
mod figures;
mod home;
mod keeper;
mod link;
mod lock;
mod log;
mod lost;
mod machine;
mod mover;
pub(crate) mod network;
mod provider;
mod proxy;
mod rendezvous;
mod socket;
mod sources;
mod store;
mod supervise;
mod support;
mod trust;
mod volumes;
mod wire;

pub use self::boot::{Status, Unit, disable, enable, status, text as unit_text};
pub use self::ca::Authority;
pub use self::client::{LocalCloud, Lost, destroy_lost};
pub use self::daemon::serve;
pub use self::home::Home;
pub use self::link::console::{parse as console_line, pod_end};
pub use self::link::status_check::{StatusAnswer, read_answer};
pub use self::mover::dns::message as dns;
pub use self::mover::egress::packets;
pub use self::mover::run as door;
pub use self::provider::{KIND, home};
pub use self::proxy::carrier::carry as carry_http;
pub use self::proxy::guardian::guard as guard_proxy;
pub use self::proxy::routing as http_routing;
pub use self::support::SUPPORT;
pub use self::trust::Trust;
