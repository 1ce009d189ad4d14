//! The qemu command line of a machine, as a pure function.

use std::ffi::OsString;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;

use i2kit_spec::cmdline;
use i2kit_spec::secrets::SECRETS_PORT;

use super::{images, platform, qmp};
use crate::plan::fleet::{Accelerator, LaunchSpec};

/// The host's end of the control channel, in the machine's folder.
pub(crate) const CONTROL: &str = "control.sock";

/// The output of the machine's serial port, in the machine's folder.
pub(crate) const CONSOLE: &str = "console.log";

/// What a machine is started from.
#[derive(Debug)]
pub(crate) struct Machine<'m> {
    pub(crate) id: &'m str,
    /// What its guest calls itself.
    pub(crate) name: &'m str,
    /// Its index, when it is one of an Indexed Job.
    pub(crate) index: Option<u32>,
    pub(crate) launch: &'m LaunchSpec,
    pub(crate) network: &'m NetworkDevice,
    /// The folder of its image, absolute.
    pub(crate) image: &'m Path,
    /// The image's own kernel command line.
    pub(crate) cmdline: &'m str,
    /// What runs its instructions.
    pub(crate) accelerator: Accelerator,
    /// The environment variables of qemu.
    pub(crate) environment: &'m [(OsString, OsString)],
}

/// What the process of a machine is given at its start.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    /// The descriptors of the scratch disks, which qemu inherits, in the order of their numbers.
    pub(crate) scratch: Vec<RawFd>,
    /// Those of the disks that outlive the machine, with their locks.
    pub(crate) disks: Vec<RawFd>,
    /// The user id that qemu changes to when it has opened its files; without one it keeps this process's.
    pub(crate) user: Option<u32>,
}

/// A machine's network device, as the network gives it.
#[derive(Debug)]
pub(crate) struct NetworkDevice {
    /// The backend: the value of `-netdev`, with the id `net`.
    pub(crate) netdev: String,
    /// The device's hardware address; qemu's own without it.
    pub(crate) hardware: Option<[u8; 6]>,
    /// The environment's network, in which qemu runs; this host's without it.
    pub(crate) inside: Option<Inside>,
    /// Words of the kernel command line: the guest's addresses and its resolver.
    pub(crate) cmdline: String,
}

/// A place in an environment's network.
#[derive(Debug)]
pub(crate) struct Inside {
    /// The user namespace.
    pub(crate) user: OwnedFd,
    /// The network namespace.
    pub(crate) net: OwnedFd,
    /// The machine's interface.
    pub(crate) tap: OwnedFd,
}

/// An option of qemu and its value.
type Argument = (&'static str, String);

/// The arguments that start `machine` from within its own folder.
pub(crate) fn arguments(machine: &Machine, grants: &Grants) -> Vec<String> {
    let all = board(machine)
        .into_iter()
        .chain(disk(machine))
        .chain(devices(machine))
        .chain(control(grants))
        .chain(secrets(machine))
        .chain(scratch(grants))
        .chain(disks(grants));
    all.flat_map(|(name, value)| [name.to_owned(), value]).filter(|argument| !argument.is_empty()).collect()
}

/// Processor, memory, kernel.
fn board(machine: &Machine) -> [Argument; 14] {
    let file = |name: &str| machine.image.join(name).display().to_string();
    let (accelerator, processor) = match machine.accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        // One thread a virtual processor, and a cache of translated code that grows to what runs: a boot fills less than 32 MiB,
        // and with so much a Java VM, PostgreSQL or Python take 1.7 times the processor, since it is emptied again and again.
        Accelerator::Tcg => ("tcg,thread=multi,tb-size=128", "max"),
    };
    let index = machine.index.map(|index| format!(" {}={index}", cmdline::INDEX)).unwrap_or_default();
    let (image, network) = (machine.cmdline, &machine.network.cmdline);
    let append = format!("{image} {}={}{index} {network}", cmdline::INSTANCE, machine.name);
    [
        ("-name", format!("guest={}", machine.id)),
        ("-machine", platform::of(machine.launch.architecture).machine.to_owned()),
        ("-accel", accelerator.to_owned()),
        ("-cpu", processor.to_owned()),
        ("-m", machine.launch.memory_mib.to_string()),
        ("-smp", machine.launch.vcpus.to_string()),
        // A guest whose processor has no random numbers would wait for its first ones.
        ("-device", "virtio-rng-pci".to_owned()),
        // Nothing but what is named here; a reset, which is how a panic ends, ends the machine.
        ("-nodefaults", String::new()),
        ("-no-user-config", String::new()),
        ("-no-reboot", String::new()),
        ("-display", "none".to_owned()),
        ("-kernel", file(images::KERNEL)),
        ("-initrd", file(images::INITRD)),
        ("-append", append),
    ]
}

/// The disk of the image. It is read only, so that there is nothing to flush: what outlives a machine is not on its
/// disks.
fn disk(machine: &Machine) -> [Argument; 2] {
    let path = machine.image.join(images::DISK).display().to_string();
    let node =
        format!("driver=vmdk,node-name=disk,read-only=on,file.driver=file,file.filename={}", escaped(&path));
    [("-blockdev", node), ("-device", "virtio-blk-pci,drive=disk".to_owned())]
}

/// Network and console.
fn devices(machine: &Machine) -> [Argument; 4] {
    let bytes = machine.network.hardware.map(|address| address.map(|byte| format!("{byte:02x}")).join(":"));
    let hardware = bytes.map(|address| format!(",mac={address}")).unwrap_or_default();
    [
        ("-netdev", machine.network.netdev.clone()),
        ("-device", format!("virtio-net-pci,netdev=net,romfile={hardware}")),
        // Appending, so that the file can be cut while qemu writes to it.
        ("-chardev", format!("file,id=console,path={CONSOLE},append=on")),
        ("-serial", "chardev:console".to_owned()),
    ]
}

/// QMP, the control channel, and the confinement of qemu.
fn control(grants: &Grants) -> impl Iterator<Item = Argument> {
    // The filter that keeps qemu from becoming another user would keep it from becoming the one that it should be.
    let elevate = if grants.user.is_none() { ",elevateprivileges=deny" } else { "" };
    let arguments = [
        ("-qmp", format!("unix:{},server=on,wait=off", qmp::SOCKET)),
        ("-device", "virtio-serial-pci".to_owned()),
        ("-chardev", format!("socket,id=control,path={CONTROL},server=on,wait=off")),
        ("-device", format!("virtserialport,chardev=control,name={}", i2kit_spec::control::PORT)),
        ("-sandbox", format!("on,obsolete=deny,spawn=deny,resourcecontrol=deny{elevate}")),
    ];
    // It gives up its capabilities with its user.
    let user = grants.user.map(|user| ("-runas", format!("{user}:{user}")));
    arguments.into_iter().chain(user)
}

/// The port by which the guest reads its Secrets. Standard input is a file in memory, so that the values have no name
/// that another process could open.
fn secrets(machine: &Machine) -> Vec<Argument> {
    if machine.launch.secrets.is_empty() {
        return Vec::new();
    }
    vec![
        ("-chardev", "stdio,id=secrets,signal=off".to_owned()),
        ("-device", format!("virtserialport,chardev=secrets,name={SECRETS_PORT}")),
    ]
}

/// The scratch disks. Nothing on them outlives the machine, so that nothing need be flushed; what the guest frees is
/// freed here, and a full disk of the host is an error in the guest and no reason to stop the machine.
fn scratch(grants: &Grants) -> impl Iterator<Item = Argument> {
    (0..).zip(&grants.scratch).flat_map(|(number, descriptor)| {
        let serial = i2kit_spec::scratch_serial(number);
        let node = format!(
            "driver=raw,node-name=scratch{number},discard=unmap,cache.no-flush=on,file.driver=file,\
             file.discard=unmap,file.locking=off,file.filename=/dev/fdset/{descriptor}"
        );
        let device = format!(
            "virtio-blk-pci,drive=scratch{number},serial={serial},discard=on,rerror=report,werror=report"
        );
        [("-add-fd", format!("fd={descriptor},set={descriptor}")), ("-blockdev", node), ("-device", device)]
    })
}

/// The disks that outlive the machine. What the guest flushes is on the host's disk when it is told so; what it frees is
/// freed here, and a full disk of the host is an error in the guest, which then has written nothing that it was told it
/// had. The descriptor has the lock that this file has one writer.
fn disks(grants: &Grants) -> impl Iterator<Item = Argument> {
    (0..).zip(&grants.disks).flat_map(|(number, descriptor)| {
        let serial = i2kit_spec::disk_serial(number);
        let name = qmp::disk_node(usize::try_from(number).unwrap_or_default());
        let node = format!(
            "driver=raw,node-name={name},discard=unmap,file.driver=file,file.discard=unmap,file.locking=off,\
             file.filename=/dev/fdset/{descriptor}"
        );
        let device =
            format!("virtio-blk-pci,drive={name},serial={serial},discard=on,rerror=report,werror=report");
        [("-add-fd", format!("fd={descriptor},set={descriptor}")), ("-blockdev", node), ("-device", device)]
    })
}

/// A value inside a comma-separated option.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::cloud::local::network;
    use crate::manifest::api::Protocol;
    use crate::oci::Digest;
    use crate::plan::example;
    use crate::plan::image::ImageId;

    #[test]
    fn the_command_line_says_everything() {
        let launch = LaunchSpec { vcpus: 2, ..example::launch(ImageId(Digest::of(b"image"))) };
        let ports = [(80, Protocol::Tcp), (53, Protocol::Udp), (10256, Protocol::Tcp)];
        let network = network::device(&ports, Some(Ipv4Addr::new(127, 78, 3, 4)));
        let machine = Machine {
            id: "nginx-1-x7hq2",
            name: "nginx-0",
            index: None,
            launch: &launch,
            network: &network,
            image: Path::new("/state/images/a,b"),
            cmdline: "console=ttyS0 quiet",
            accelerator: Accelerator::Tcg,
            environment: &[],
        };
        insta::assert_snapshot!(
            "qemu",
            arguments(&machine, &Grants { scratch: vec![9], disks: vec![11], user: None }).join("\n")
        );
        let third = arguments(&Machine { index: Some(3), ..machine }, &Grants::default());
        assert!(third.iter().any(|argument| argument.contains(" i2kit.instance=nginx-0 i2kit.index=3 ")));
        let other = arguments(&machine, &Grants { user: Some(0x7000_0001), ..Grants::default() });
        let added = other.iter().filter(|argument| argument.contains("1879048193") || *argument == "-runas");
        assert_eq!(added.collect::<Vec<_>>(), ["-runas", "1879048193:1879048193"]);
        assert!(!other.iter().any(|argument| argument.contains("elevateprivileges")), "{other:?}");
    }
}
