//! The local cloud: groups of qemu VMs behind an L4 balancer on this machine.
//!
//! One background process a user owns the groups, the balancers and the refreshes. It is started on demand, keeps its
//! state in SQLite, speaks HTTP on a unix socket, and ends with the last `destroy`. VMs are processes of groups of
//! their own: they outlive the process, and a new one adopts them.
//!
//! ```text
//! client --unix socket--> server --verbs--> keeper <--ticks-- control loop --decide--> acts --> vm, balancer
//!                                             |                                                  ^
//!                                           store                        health checks ----------+
//! ```

mod client;
mod clock;
mod control;
mod exec;
mod home;
mod keeper;
mod link;
mod log;
mod lost;
mod machine;
mod mover;
mod network;
mod provider;
mod server;
mod socket;
mod start;
mod store;
mod supervise;
mod support;
mod wire;

pub use self::client::LocalCloud;
pub use self::home::Home;
pub use self::lost::{Lost, destroy_lost};
pub use self::mover::dns::message as dns;
pub use self::provider::{KIND, home};
pub use self::server::serve;
pub use self::support::SUPPORT;
