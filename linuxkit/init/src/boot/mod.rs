//! The boot: carries out its phases up to the health port, each with its time on the console. The first error ends it.
//!
//! `phase` lists the phases; every other file here does the work of one of them and knows none of the others, but for the
//! command line's parameters (`cmdline`). What comes of the boot is a value, [`Booted`], with which the pod's life begins.

mod apart;
mod block;
pub(crate) mod cloud;
mod cmdline;
mod device_mapper;
mod dhcp;
mod disk;
mod ext4;
mod fence;
mod identity;
mod modules;
mod network;
pub(crate) mod phase;
mod port;
mod resolver;
mod scratch;
mod secrets;
mod sysctl;
mod verity;
mod volumes;

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use i2kit_container::{Instance, Sandbox, Spec, cgroup, oom, pod_files, users};
use i2kit_spec::replica::{POD_SOCKET, POD_SOCKET_FOLDER};
use i2kit_spec::runtime::Config;
use i2kit_spec::{
    ContainerBoot, POD_BOOT_PATH, POD_BOOT_VERSION, POD_MOUNT, POD_PARTITION, PodBoot, VOLUMES_MOUNT,
};
use i2kit_supervisor::record::PhaseTime;
use i2kit_sys::clock;
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{Resource, Rlimit};

use self::cmdline::Parameters;
use self::phase::Phase;
use crate::container::Role;
use crate::error::{Doing, Error};
use crate::journal::Journals;
use crate::output::Output;
use crate::power::PowerButton;
use crate::supervisor::Supervisor;

/// Where the new root is put together, inside the initramfs.
const NEW_ROOT: &str = "/newroot";

/// Where layers are mounted in the VM: a short name, because overlayfs takes all of them in one option of a page.
const LAYERS: &str = "/l";

/// Where layers are mounted a second time, with the owners of the pod's user namespace.
const SHIFTED_LAYERS: &str = "/u";

/// A machine in which the pod can live.
#[derive(Debug)]
pub(crate) struct Booted {
    /// The pod, read from the disk.
    pub(crate) pod: PodBoot,
    /// Its containers: init containers in their order, then services.
    pub(crate) containers: Vec<(Spec, Role)>,
    /// What they share.
    pub(crate) sandbox: Sandbox,
    /// The supervisor, which is due.
    pub(crate) supervisor: Supervisor,
    /// The power button, where the kernel has one.
    pub(crate) power: Option<PowerButton>,
    /// How long each phase took.
    pub(crate) phases: Vec<PhaseTime>,
}

/// The machine so far.
#[derive(Debug, Default)]
struct Machine {
    parameters: Parameters,
    pod: PodBoot,
    containers: Vec<(Spec, Role)>,
    sandbox: Sandbox,
    power: Option<PowerButton>,
    supervisor: Option<Supervisor>,
}

/// Runs all phases before the first container.
pub(crate) fn run(output: &mut Output) -> Result<Booted, Error> {
    let mut machine = Machine::default();
    let mut times = vec![];
    run_phases(phase::until_pod(modules::present()), &mut machine, output, &mut times)?;
    let phases = phase::of_machine(&machine.pod, cloud::present(), machine.parameters.awaited);
    run_phases(phases, &mut machine, output, &mut times)?;
    let Machine { pod, containers, sandbox, power, supervisor, .. } = machine;
    let supervisor = supervisor.expect("the health phase is the last one, and makes the supervisor");
    Ok(Booted { pod, containers, sandbox, supervisor, power, phases: times })
}

fn run_phases(
    phases: Vec<Phase>,
    machine: &mut Machine,
    output: &mut Output,
    times: &mut Vec<PhaseTime>,
) -> Result<(), Error> {
    for phase in phases {
        let start = clock::since_boot();
        carry_out(&phase, machine, output)?;
        times.push(output.phase(phase.to_string(), start));
    }
    Ok(())
}

fn carry_out(phase: &Phase, machine: &mut Machine, output: &mut Output) -> Result<(), Error> {
    match phase {
        Phase::PseudoFilesystems => pseudo_filesystems(),
        Phase::CommandLine => {
            let path = "/proc/cmdline";
            machine.parameters = cmdline::parse(&fs::read_to_string(path).doing(|| format!("read {path}"))?)?;
            Ok(())
        }
        Phase::Modules => modules::load(),
        Phase::Pod => {
            machine.pod = mount_pod()?;
            Ok(())
        }
        Phase::Layers => {
            machine.containers = mount_layers(&machine.pod)?;
            machine.sandbox.alone = machine.containers.len() == 1;
            if machine.containers.iter().any(|(spec, _)| spec.may_set_packet_filters()) {
                modules::load_packet_filters()?;
            }
            Ok(())
        }
        Phase::SwitchRoot => switch_root(),
        Phase::Identity => {
            machine.parameters = identity::receive()?;
            Ok(())
        }
        Phase::Network => network::up(&mut machine.parameters),
        Phase::Cloud => {
            (machine.parameters.instance, machine.parameters.index) = cloud::boot()?;
            Ok(())
        }
        Phase::Hostname => hostname(machine),
        Phase::Secrets => apart::run(secrets::receive),
        Phase::Volumes => {
            let Machine { pod, sandbox, .. } = machine;
            apart::run(|| volumes::make(pod, &sandbox.instance, &sandbox.secrets))
        }
        Phase::Users => make_users(machine),
        Phase::SharedMemory => Ok(pod_files::make_shared_memory(machine.sandbox.users.is_some())?),
        Phase::Cgroups => {
            lift_process_limit()?;
            cgroup::make_tree()?;
            fence::close(&machine.parameters)
        }
        Phase::Sysctls => sysctl::set(&machine.pod.sysctls),
        Phase::SharedProcesses => {
            let pause = i2kit_container::start_pause()?;
            oom::set(&pause.as_raw_nonzero().to_string(), oom::PAUSE)?;
            machine.sandbox.pause = Some(pause);
            Ok(())
        }
        Phase::Health => health(machine, output),
        Phase::Onboot(..) | Phase::Services => {
            unreachable!("the phases of the pod's life are carried out by its guest")
        }
    }
}

/// The kernel's own limit of processes follows the machine's memory and is a few hundred in a small one, counted over all
/// containers that have one user number. Containers inherit that there is none; cgroups bound their processes.
fn lift_process_limit() -> Result<(), Error> {
    let unlimited = Rlimit { current: None, maximum: None };
    rustix::process::setrlimit(Resource::Nproc, unlimited).doing(|| "lift RLIMIT_NPROC".into())
}

fn pseudo_filesystems() -> Result<(), Error> {
    let restricted = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_new("proc", "/proc", restricted, "")?;
    mount_new("sysfs", "/sys", restricted, "")?;
    mount_new("devtmpfs", "/dev", MountFlags::NOSUID, "mode=755")
}

fn mount_new(kind: &str, target: &str, flags: MountFlags, data: &str) -> Result<(), Error> {
    fs::create_dir_all(target).doing(|| format!("make {target}"))?;
    let data = std::ffi::CString::new(data).expect("options of our own have no zero byte");
    mount(kind, target, kind, flags, data.as_c_str()).doing(|| format!("mount {kind} on {target}"))
}

/// Mounts the new root with the pod file system in it, and reads the pod.
fn mount_pod() -> Result<PodBoot, Error> {
    mount_new("tmpfs", NEW_ROOT, MountFlags::NOSUID | MountFlags::NODEV, "mode=755,size=16m")?;
    let devices = verity::find(&[POD_PARTITION])?;
    let target = format!("{NEW_ROOT}{POD_MOUNT}");
    mount_erofs(&devices[0], &target)?;
    let path = Path::new(&target).join(POD_BOOT_PATH);
    parse_pod(&path, &fs::read(&path).doing(|| format!("read {}", path.display()))?)
}

fn parse_pod(path: &Path, bytes: &[u8]) -> Result<PodBoot, Error> {
    let json = |source| Error::Json { path: path.display().to_string(), source };
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(json)?;
    // The version first: a pod of another version may well have fields that this guest would call wrong.
    let found = value.get("version").and_then(serde_json::Value::as_u64).unwrap_or(0);
    if found != u64::from(POD_BOOT_VERSION) {
        return Err(Error::PodVersion {
            path: path.display().to_string(),
            found,
            expected: POD_BOOT_VERSION,
        });
    }
    // From the text again, for errors with a line and a column.
    serde_json::from_slice(bytes).map_err(json)
}

fn mount_erofs(device: &Path, target: &str) -> Result<(), Error> {
    fs::create_dir_all(target).doing(|| format!("make {target}"))?;
    mount(device, target, "erofs", MountFlags::RDONLY | MountFlags::NODEV, None)
        .doing(|| format!("mount {} on {target}", device.display()))
}

/// Mounts each layer once, however many containers have it.
fn mount_layers(pod: &PodBoot) -> Result<Vec<(Spec, Role)>, Error> {
    let names = layers(pod);
    let devices = verity::find(&names)?;
    for (index, device) in devices.iter().enumerate() {
        mount_erofs(device, &format!("{NEW_ROOT}{LAYERS}/{index}"))?;
    }
    containers(pod)
}

/// The pod's layers, each once, in the order in which they are mounted.
fn layers(pod: &PodBoot) -> Vec<&str> {
    let mut names: Vec<&str> =
        pod.onboot.iter().chain(&pod.services).flat_map(|c| &c.layers).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn containers(pod: &PodBoot) -> Result<Vec<(Spec, Role)>, Error> {
    let names = layers(pod);
    let mount_point = |layer: &String| {
        let index =
            names.binary_search(&layer.as_str()).expect("the names were collected from the same containers");
        format!("{LAYERS}/{index}")
    };
    let container = |boot: &ContainerBoot, role| {
        let over = format!("{POD_MOUNT}/{}", i2kit_spec::over(&boot.name));
        let over = Path::new(&format!("{NEW_ROOT}{over}")).is_dir().then_some(over);
        let layers = over.into_iter().chain(boot.layers.iter().rev().map(mount_point)).collect();
        Ok((Spec { boot: boot.clone(), config: read_config(boot)?, layers }, role))
    };
    let role = |boot: &ContainerBoot| if boot.sidecar { Role::Sidecar } else { Role::Onboot };
    let onboot = pod.onboot.iter().map(|boot| container(boot, role(boot)));
    let services = pod.services.iter().map(|boot| container(boot, Role::Service));
    onboot.chain(services).collect()
}

fn read_config(boot: &ContainerBoot) -> Result<Config, Error> {
    let path = PathBuf::from(format!("{NEW_ROOT}{POD_MOUNT}/{}/config.json", boot.bundle));
    let bytes = fs::read(&path).doing(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Json { path: path.display().to_string(), source })
}

/// Makes the new root `/`. The kernel refuses `pivot_root` from an initramfs, so that the new root is moved over it; the
/// initramfs's files are removed first, because they would stay in memory underneath.
fn switch_root() -> Result<(), Error> {
    cloud::keep(NEW_ROOT)?;
    for path in ["/init", "/lib", "/etc"] {
        let path = Path::new(path);
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).doing(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
    }
    for name in ["proc", "sys", "dev"] {
        let target = format!("{NEW_ROOT}/{name}");
        fs::create_dir(&target).doing(|| format!("make {target}"))?;
        mount_move(format!("/{name}"), target).doing(|| format!("move /{name}"))?;
    }
    rustix::process::chdir(NEW_ROOT).doing(|| "enter the new root".into())?;
    mount_move(".", "/").doing(|| "move the new root".into())?;
    rustix::process::chroot(".").doing(|| "change the root".into())?;
    rustix::process::chdir("/").doing(|| "enter the root".into())?;
    let restricted = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_new("tmpfs", "/run", restricted, "mode=755,size=16m")?;
    i2kit_container::make_scratch()?;
    mount("cgroup2", cgroup::MOUNT, "cgroup2", restricted, c"nsdelegate")
        .doing(|| format!("mount cgroup2 on {}", cgroup::MOUNT))
}

/// Makes the pod's user namespace. Its containers use their layers with the namespace's owners.
fn make_users(machine: &mut Machine) -> Result<(), Error> {
    let namespace = users::make()?;
    for layer in machine.containers.iter_mut().flat_map(|(spec, _)| &mut spec.layers) {
        *layer = users::shift_layer(SHIFTED_LAYERS, layer, namespace.as_fd())?;
    }
    if Path::new(VOLUMES_MOUNT).exists() {
        users::shift_files(Path::new(VOLUMES_MOUNT))?;
    }
    machine.sandbox.users = Some(namespace);
    Ok(())
}

fn hostname(machine: &mut Machine) -> Result<(), Error> {
    let Machine { parameters, pod, sandbox, .. } = machine;
    let instance = if parameters.instance.is_empty() { &pod.pod.name } else { &parameters.instance };
    // As in Kubernetes the index wins over a hostname that the manifest gives.
    let numbered = parameters.index.map(|index| format!("{}-{index}", pod.pod.name));
    let name = numbered.as_ref().or(pod.names.hostname.as_ref()).unwrap_or(instance);
    rustix::system::sethostname(name.as_bytes()).doing(|| format!("set the host name {name}"))?;
    let network = parameters.network.as_ref();
    fs::create_dir_all("/etc").doing(|| "make /etc".into())?;
    // Containers see these by the bind mounts of their config.json.
    for (path, text) in [
        ("/etc/hosts", resolver::hosts(name, &pod.names, (network, parameters.network6.as_ref()))),
        ("/etc/hostname", format!("{name}\n")),
        ("/etc/resolv.conf", resolver::resolv_conf(&pod.names, network)),
    ] {
        fs::write(path, text).doing(|| format!("write {path}"))?;
    }
    let path = "/proc/sys/kernel/random/boot_id";
    let boot_id = fs::read_to_string(path).doing(|| format!("read {path}"))?;
    sandbox.hostname.clone_from(name);
    sandbox.instance = Instance {
        name: instance.clone(),
        index: parameters.index,
        uid: boot_id.trim().to_owned(),
        addresses: std::iter::once(network.map_or(Ipv4Addr::LOCALHOST, |network| network.address).into())
            .chain(parameters.network6.map(|network| network.address.into()))
            .collect(),
        processors: i2kit_container::processors(),
        memory: i2kit_container::memory(),
    };
    Ok(())
}

/// Listens for what comes from outside: the power button, the health port, and the host's control channel, which gets the
/// containers' lines.
fn health(machine: &mut Machine, output: &mut Output) -> Result<(), Error> {
    match PowerButton::listen() {
        Ok(power) => machine.power = Some(power),
        // A kernel without ACPI has no button; such a VM is stopped by other means.
        Err(error) => output.log(&format!("no power button: {error}")),
    }
    let names = || machine.containers.iter().map(|(spec, _)| spec.boot.name.as_str());
    let journals = || Journals::new(names()).doing(|| "make the journals".into());
    let channel = match port::open(i2kit_spec::control::PORT)? {
        Some(port) => {
            let journals = journals()?;
            let bell = journals.bell().try_clone_to_owned().doing(|| "share the journals' bell".into())?;
            output.keep(journals, false);
            Some((port, bell))
        }
        None => None,
    };
    if channel.is_none() && cloud::present() {
        // Nobody reads the journals on a host.
        output.keep(journals()?, true);
        cloud::send_logs()?;
    }
    let mut supervisor = Supervisor::listen(machine.pod.health_port, channel)?;
    if machine.containers.iter().any(|(spec, _)| asks_the_pod(spec)) {
        supervisor.serve_pod(pod_socket()?);
    }
    machine.supervisor = Some(supervisor);
    Ok(())
}

/// Whether a container sees the socket on which the coordinator of a replicated pod asks.
pub(crate) fn asks_the_pod(spec: &Spec) -> bool {
    spec.config.mounts.iter().any(|mount| mount.source == POD_SOCKET_FOLDER)
}

/// Makes that socket, which the supervisor serves. Its folder is mounted into that container alone, and whoever is root there
/// may be somebody else here.
fn pod_socket() -> Result<OwnedFd, Error> {
    fs::create_dir_all(POD_SOCKET_FOLDER).doing(|| format!("make {POD_SOCKET_FOLDER}"))?;
    let name = Path::new(POD_SOCKET).file_name().unwrap_or_default();
    let path = Path::new(POD_SOCKET_FOLDER).join(name);
    let doing = || format!("listen at {}", path.display());
    let listener = UnixListener::bind(&path).doing(doing)?;
    listener.set_nonblocking(true).doing(doing)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).doing(doing)?;
    Ok(listener.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_of_another_version_is_refused_with_what_to_do() {
        let parse = |text: &str| {
            parse_pod(Path::new("/pod/etc/i2kit/pod.json"), text.as_bytes()).unwrap_err().to_string()
        };
        let message = parse(r#"{"version": 7, "novel": true}"#);
        assert!(
            message.starts_with("/pod/etc/i2kit/pod.json is of version 7, and this guest reads version 1"),
            "{message}"
        );
        assert!(message.contains("scripts/guest"));
        let message = parse(r#"{"version": 1, "novel": true}"#);
        assert!(message.contains("novel"), "{message}");
    }
}
