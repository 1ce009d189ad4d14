//! The network of machines: the device that a machine is started with, and where its ports are reached from this host.
//!
//! Nothing else knows how packets get to a machine. Every machine has qemu's user-mode network ([`user`]); another
//! kind of network is another file with these functions. Addresses of balancers and name servers are in
//! [`addresses`].

pub(crate) mod addresses;
mod attachment;
#[expect(
    unsafe_code,
    reason = "TUNSETIFF, IP_TRANSPARENT, SO_MARK and others have no safe wrapper; each use states why it is sound"
)]
pub(crate) mod sys;
mod user;

pub(crate) use self::attachment::{Attachment, GuestPort};
pub(crate) use self::user::{connect, device, discover, open};
