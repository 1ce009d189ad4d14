//! The mover: what carries traffic. Listeners of Services, and the name servers that machines ask.

pub(crate) mod admission;
pub(crate) mod balancer;
pub(crate) mod dns;
