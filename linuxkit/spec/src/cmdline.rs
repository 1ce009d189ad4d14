//! Kernel command line parameters that carry what differs between two VMs of one image.
//!
//! The image itself is the same for every VM of a revision, so an instance learns its name and its address here.

/// `i2kit.instance=NAME`: the VM's name, which becomes the pod's hostname.
pub const INSTANCE: &str = "i2kit.instance";

/// `i2kit.index=NUMBER`: the VM's index, when it is one of an Indexed Job. Its hostname is that of the pod's group and the
/// index then.
pub const INDEX: &str = "i2kit.index";

/// `i2kit.net=ADDRESS/PREFIX,GATEWAY[,DNS]`: a static IPv4 set-up of the first network interface. Without it the
/// guest asks by DHCP.
pub const NET: &str = "i2kit.net";

/// `i2kit.net6=ADDRESS/PREFIX,GATEWAY,HARDWARE`: an address of IPv6 for the first network interface beside that of [`NET`], and
/// the gateway with its Ethernet address: nobody is asked for it, and nobody else's word about it counts. Without the
/// parameter the guest sets none.
pub const NET6: &str = "i2kit.net6";

/// `i2kit.services=ADDRESS/PREFIX`: loopback addresses that belong to the host and not to the VM: packets to them go
/// to the gateway. A host that emulates the network hands it to its own loopback, where its balancers listen.
pub const SERVICES: &str = "i2kit.services";

/// `i2kit.identity=VERSION` in an image's own command line: the image's guest takes what is one VM's alone over the port
/// [`IDENTITY_PORT`](crate::identity::IDENTITY_PORT), in messages of this version. A guest does nothing because of it.
/// `i2kit.identity=port`, which the host adds: the guest waits for such a message before it brings the network up, and takes the
/// parameters above from it. The later of the two counts.
pub const IDENTITY: &str = "i2kit.identity";

/// The value of [`IDENTITY`] that has the guest wait.
pub const IDENTITY_AWAITED: &str = "port";

/// What every VM's kernel command line starts with. `console=ttyS0`: the serial console is where the guest speaks.
/// `quiet`: each line of the kernel's own log costs time on an emulated serial port. `panic=-1`: when PID 1 fails or the
/// kernel panics, the VM restarts at once, which a host that forbids restarts (qemu's `-no-reboot`) sees as its end.
/// `cryptomgr.notests`: the self-tests of algorithms that nothing in a pod's kernel uses cost 0.4 s of an emulated boot.
/// `no_timer_check`: the kernel's test of the timer interrupt counts ticks in a busy loop and panics when a loaded host
/// that emulates the VM stops it for that long; the virtual timer needs no test.
pub const BASE: &str = "console=ttyS0 quiet panic=-1 cryptomgr.notests no_timer_check";

/// What a disk that firmware boots adds to [`BASE`]. `nvme_core.io_timeout`: a volume that lies in a network may be away for
/// minutes, and a read that fails for good ends the pod; without a bound it waits.
pub const DISK: &str = "nvme_core.io_timeout=4294967295";
