//! What the guest writes to the VM's console, where hosts read it.
//!
//! A container's line is `NAME | TEXT`; a line of the guest itself is `i2kit: TEXT`, which no container's line can be
//! because container names have no colon. Anything else comes from the kernel or the firmware. [`END`] begins the guest's last
//! line, from which a host reads the [`PodEnd`](crate::PodEnd); a change is a change of format (docs/formats.md).

/// Stands between a container's name and its line.
pub const SEPARATOR: &str = " | ";

/// Prefix of the guest's own lines on the console.
pub const GUEST_PREFIX: &str = "i2kit: ";

/// After [`GUEST_PREFIX`]: what follows on the line is the [`crate::PodEnd`] as JSON. Said once, right before the VM ends.
pub const END: &str = "end ";
