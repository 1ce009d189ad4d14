//! The network of machines: the device that a machine is started with, and where its ports are reached from this host.
//!
//! Nothing else knows how packets get to a machine. Every machine has qemu's user-mode network ([`user`]); another
//! kind of network is another file with these functions. Addresses of balancers and name servers are in
//! [`addresses`].

pub(crate) mod addresses;
mod attachment;
mod user;

pub(crate) use self::attachment::{Attachment, GuestPort};
pub(crate) use self::user::{connect, device, discover, open};
