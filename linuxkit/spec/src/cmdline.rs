//! Kernel command line parameters that carry what differs between two VMs of one image.
//!
//! The image itself is the same for every VM of a revision, so an instance learns its name and its address here.

/// `i2kit.instance=NAME`: the VM's name, which becomes the pod's hostname.
pub const INSTANCE: &str = "i2kit.instance";

/// `i2kit.net=ADDRESS/PREFIX,GATEWAY[,DNS]`: a static IPv4 set-up of the first network interface. Without it the
/// guest asks by DHCP.
pub const NET: &str = "i2kit.net";
