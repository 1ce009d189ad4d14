//! The qemu command line of a machine, as a pure function.

use std::ffi::OsString;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;

use i2kit_spec::cmdline;
use i2kit_spec::identity::{IDENTITY_PORT, IDENTITY_VERSION};
use i2kit_spec::secrets::SECRETS_PORT;

use super::{images, platform, qmp};
use crate::plan::fleet::{Accelerator, LaunchSpec};

/// The host's end of the control channel, in the machine's folder.
pub(crate) const CONTROL: &str = "control.sock";

/// The host's end of the port by which a guest is told who it is, in the machine's folder.
pub(crate) const IDENTITY: &str = "identity.sock";

/// Where the state of the devices is awaited by a machine that starts from a template, in its folder.
pub(crate) const INCOMING: &str = "incoming.sock";

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
    /// Where its memory is.
    pub(crate) memory: MemoryPlace<'m>,
    /// The environment variables of qemu.
    pub(crate) environment: &'m [(OsString, OsString)],
}

/// Where the memory of a machine is, and so how it begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MemoryPlace<'m> {
    /// In the process alone: the machine boots.
    Own,
    /// In this file, as the machine writes it: the machine boots, and becomes a template.
    Template(&'m Path),
    /// A template's file, and what the machine has written since, which is in the process alone. The state of the devices comes
    /// over [`INCOMING`], and then the machine goes on where the template stopped.
    Copied(MemoryFile<'m>),
}

/// The file with the memory of a template.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryFile<'m> {
    /// Where it is, absolute.
    pub(crate) path: &'m Path,
    /// Whether this qemu can use it without being able to write it: from version 8.2 on.
    pub(crate) read_only: bool,
}

/// Whether the guest of an image with this kernel command line is told who it is over a port, in messages of this version.
pub(crate) fn is_told(cmdline: &str) -> bool {
    let own = format!("{}={IDENTITY_VERSION}", cmdline::IDENTITY);
    cmdline.split_whitespace().any(|word| word == own)
}

/// What tells a machine from others of its image, as parameters of a kernel command line.
pub(crate) fn parameters(name: &str, index: Option<u32>, network: &NetworkDevice) -> String {
    let index = index.map(|index| format!(" {}={index}", cmdline::INDEX)).unwrap_or_default();
    format!("{}={name}{index} {}", cmdline::INSTANCE, network.cmdline)
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
        .chain(memory(machine))
        .chain(control(grants))
        .chain(identity(machine))
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
    let told = if is_told(machine.cmdline) {
        format!("{}={}", cmdline::IDENTITY, cmdline::IDENTITY_AWAITED)
    } else {
        parameters(machine.name, machine.index, machine.network)
    };
    let append = format!("{} {told}", machine.cmdline);
    let memory = match machine.memory {
        MemoryPlace::Own => "",
        // Without a description of the devices' state at its end, which its reader would look for in vain.
        MemoryPlace::Template(_) | MemoryPlace::Copied(_) => ",memory-backend=ram,suppress-vmdesc=on",
    };
    [
        ("-name", format!("guest={}", machine.id)),
        ("-machine", format!("{}{memory}", platform::of(machine.launch.architecture).machine)),
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

/// The memory, where it is not simply the process's own, and what awaits the state of the devices.
fn memory(machine: &Machine) -> Vec<Argument> {
    let file = |path: &Path, how: &str| {
        let path = escaped(&path.display().to_string());
        let size = machine.launch.memory_mib;
        ("-object", format!("memory-backend-file,id=ram,size={size}M,mem-path={path},{how}"))
    };
    // The state that is saved has no section about the capabilities of a migration, and so none is awaited.
    let plain = ("-global", "migration.send-configuration=off".to_owned());
    match machine.memory {
        MemoryPlace::Own => vec![],
        MemoryPlace::Template(path) => vec![file(path, "share=on"), plain],
        MemoryPlace::Copied(MemoryFile { path, read_only }) => {
            let how = if read_only { "share=off,readonly=on,rom=off" } else { "share=off" };
            vec![file(path, how), plain, ("-incoming", format!("unix:{INCOMING}"))]
        }
    }
}

/// The port by which the guest is told who it is, in a machine whose guest knows it.
fn identity(machine: &Machine) -> Vec<Argument> {
    if !is_told(machine.cmdline) {
        return Vec::new();
    }
    vec![
        ("-chardev", format!("socket,id=identity,path={IDENTITY},server=on,wait=off")),
        ("-device", format!("virtserialport,chardev=identity,name={IDENTITY_PORT}")),
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
            memory: MemoryPlace::Own,
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

    #[test]
    fn a_machine_that_is_told_who_it_is_has_nothing_of_it_in_its_arguments() {
        let launch = example::launch(ImageId(Digest::of(b"image")));
        let network = network::device(&[], Some(Ipv4Addr::new(127, 78, 3, 4)));
        let machine = |id, name, memory| Machine {
            id,
            name,
            index: Some(3),
            launch: &launch,
            network: &network,
            image: Path::new("/state/images/a"),
            cmdline: "quiet i2kit.identity=1",
            accelerator: Accelerator::Tcg,
            memory,
            environment: &[],
        };
        let told = |machine: &Machine| arguments(machine, &Grants::default());
        let template = told(&machine("t", "t", MemoryPlace::Template(Path::new("ram"))));
        let file = MemoryFile { path: Path::new("/cache/a,b/ram"), read_only: false };
        let one = told(&machine("one", "web-0", MemoryPlace::Copied(file)));
        let two = told(&machine("one", "web-1", MemoryPlace::Copied(file)));
        assert_eq!(one, two, "its name is no argument");
        assert!(
            one.iter()
                .all(|argument| !argument.contains("i2kit.instance") && !argument.contains("i2kit.net"))
        );
        // What the guest sees of its machine is the same for both.
        let seen = |arguments: &[String]| -> Vec<String> {
            let own = ["guest=", "memory-backend-file,", "-incoming", "unix:incoming"];
            let is_own = |argument: &String| own.iter().any(|start| argument.starts_with(start));
            arguments.iter().filter(|argument| !is_own(argument)).cloned().collect()
        };
        assert_eq!(seen(&template), seen(&one));
        assert!(
            one.contains(
                &"memory-backend-file,id=ram,size=128M,mem-path=/cache/a,,b/ram,share=off".to_owned()
            )
        );
        let read_only = MemoryFile { read_only: true, ..file };
        let newer = told(&machine("one", "web-0", MemoryPlace::Copied(read_only)));
        assert!(newer.iter().any(|argument| argument.ends_with(",share=off,readonly=on,rom=off")));
        let booted = told(&machine("one", "web-0", MemoryPlace::Own));
        assert!(!booted.iter().any(|argument| argument.contains("memory-backend")), "{booted:?}");
        assert!(booted.iter().any(|argument| argument.ends_with(" i2kit.identity=1 i2kit.identity=port")));
        assert!(!is_told("quiet i2kit.identity=2") && !is_told("quiet"));
    }
}
