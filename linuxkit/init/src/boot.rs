//! Carries out the phases of the boot, each with its time on the console. The first error ends the boot.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use i2kit_spec::runtime::Config;
use i2kit_spec::{
    ContainerBoot, POD_BOOT_PATH, POD_BOOT_VERSION, POD_MOUNT, POD_PARTITION, PodBoot, VOLUMES_MOUNT,
};
use rustix::mount::{MountFlags, mount, mount_move};

use crate::container::{SCRATCH, Spec, own};
use crate::error::{Doing, Error};
use crate::facts::{self, Facts};
use crate::guest::{Guest, of_role};
use crate::journal::Journals;
use crate::lifecycle::{Container, Role};
use crate::phase::{self, Phase};
use crate::power::PowerButton;
use crate::record::{PhaseTime, Stage};
use crate::supervised::Supervised;
use crate::{
    apart, cgroup, clock, cloud, cmdline, container, fence, modules, network, port, resolver, secrets,
    sysctl, users, verity, volumes,
};

/// Where the new root is put together, inside the initramfs.
const NEW_ROOT: &str = "/newroot";

/// Where layers are mounted in the VM: a short name, because overlayfs takes all of them in one option of a page.
const LAYERS: &str = "/l";

/// Runs all phases, or up to the one in which the pod is asked to stop.
pub(crate) fn run(guest: &mut Guest) -> Result<(), Error> {
    run_phases(guest, phase::until_pod(modules::present()))?;
    let phases = phase::of_pod(&guest.pod, cloud::present());
    run_phases(guest, phases)
}

fn run_phases(guest: &mut Guest, phases: Vec<Phase>) -> Result<(), Error> {
    for phase in phases {
        if guest.stopping.is_some() {
            return Ok(());
        }
        let start = clock::since_boot();
        carry_out(guest, &phase)?;
        let end = clock::since_boot();
        let name = phase.to_string();
        guest.say(&format!("{start:7.3} s  {name}, {:.0} ms", (end - start) * 1e3));
        guest.phases.push(PhaseTime { name, start, end });
        guest.touch();
    }
    Ok(())
}

fn carry_out(guest: &mut Guest, phase: &Phase) -> Result<(), Error> {
    match phase {
        Phase::PseudoFilesystems => pseudo_filesystems(),
        Phase::CommandLine => {
            let path = "/proc/cmdline";
            guest.parameters = cmdline::parse(&fs::read_to_string(path).doing(|| format!("read {path}"))?)?;
            Ok(())
        }
        Phase::Modules => modules::load(),
        Phase::Pod => {
            guest.pod = mount_pod()?;
            Ok(())
        }
        Phase::Layers => {
            guest.containers = mount_layers(&guest.pod)?;
            guest.machine.alone = guest.containers.len() == 1;
            if guest.containers.iter().any(|container| container.spec.may_set_packet_filters()) {
                modules::load_packet_filters()?;
            }
            Ok(())
        }
        Phase::SwitchRoot => switch_root(),
        Phase::Network => {
            network::up(&mut guest.parameters)?;
            Ok(())
        }
        Phase::Cloud => {
            guest.parameters.instance = cloud::boot()?;
            Ok(())
        }
        Phase::Hostname => hostname(guest),
        Phase::Secrets => apart::run(secrets::receive),
        Phase::Volumes => {
            let (pod, machine) = (&guest.pod, &guest.machine);
            apart::run(|| volumes::make(&pod.volumes, pod.fs_group, &machine.facts, &machine.secrets))
        }
        Phase::Users => make_users(guest),
        Phase::SharedMemory => own::make_shared_memory(guest.machine.users.is_some()),
        Phase::Cgroups => {
            cgroup::make_tree()?;
            fence::close(&guest.parameters)
        }
        Phase::Sysctls => sysctl::set(&guest.pod.sysctls),
        Phase::SharedProcesses => {
            guest.machine.pause = Some(container::start_pause()?);
            Ok(())
        }
        Phase::Health => health(guest),
        Phase::Onboot(index, _) if guest.containers[*index].role == Role::Sidecar => {
            guest.run_sidecar(*index)
        }
        Phase::Onboot(index, _) => guest.run_onboot(*index),
        Phase::Services => {
            for index in of_role(&guest.containers, Role::Service) {
                guest.start(index);
            }
            guest.stage = Stage::Running;
            Ok(())
        }
    }
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
fn mount_layers(pod: &PodBoot) -> Result<Vec<Container>, Error> {
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

fn containers(pod: &PodBoot) -> Result<Vec<Container>, Error> {
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
        Ok(Container::new(Spec { boot: boot.clone(), config: read_config(boot)?, layers }, role))
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
    for name in ["upper", "root"] {
        let folder = format!("{SCRATCH}/{name}");
        fs::create_dir_all(&folder).doing(|| format!("make {folder}"))?;
    }
    mount("cgroup2", cgroup::MOUNT, "cgroup2", restricted, c"nsdelegate")
        .doing(|| format!("mount cgroup2 on {}", cgroup::MOUNT))
}

/// Has the containers use their layers with the owners of the pod's user namespace.
fn shift_layers(containers: &mut [Container], namespace: BorrowedFd<'_>) -> Result<(), Error> {
    for layer in containers.iter_mut().flat_map(|container| &mut container.spec.layers) {
        *layer = users::shift_layer(layer, namespace)?;
    }
    Ok(())
}

fn make_users(guest: &mut Guest) -> Result<(), Error> {
    let namespace = users::make()?;
    shift_layers(&mut guest.containers, namespace.as_fd())?;
    if Path::new(VOLUMES_MOUNT).exists() {
        users::shift_files(Path::new(VOLUMES_MOUNT))?;
    }
    guest.machine.users = Some(namespace);
    Ok(())
}

fn hostname(guest: &mut Guest) -> Result<(), Error> {
    let pod = &guest.pod.pod.name;
    let instance = &guest.parameters.instance;
    let instance = if instance.is_empty() { pod } else { instance }.clone();
    let names = &guest.pod.names;
    let name = names.hostname.clone().unwrap_or_else(|| instance.clone());
    rustix::system::sethostname(name.as_bytes()).doing(|| format!("set the host name {name}"))?;
    let network = guest.parameters.network.as_ref();
    fs::create_dir_all("/etc").doing(|| "make /etc".into())?;
    // Containers see these by the bind mounts of their config.json.
    for (path, text) in [
        ("/etc/hosts", resolver::hosts(&name, names, network)),
        ("/etc/hostname", format!("{name}\n")),
        ("/etc/resolv.conf", resolver::resolv_conf(names, network)),
    ] {
        fs::write(path, text).doing(|| format!("write {path}"))?;
    }
    guest.machine.hostname = name;
    let path = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(path).doing(|| format!("read {path}"))?.trim().clone_into(&mut guest.boot_id);
    guest.machine.facts = Facts {
        name: instance,
        uid: guest.boot_id.clone(),
        address: network.map_or(Ipv4Addr::LOCALHOST, |network| network.address).to_string(),
        processors: facts::processors(),
        memory: facts::memory(),
    };
    Ok(())
}

fn health(guest: &mut Guest) -> Result<(), Error> {
    match PowerButton::listen() {
        Ok(power) => guest.power = Some(power),
        // A kernel without ACPI has no button; such a VM is stopped by other means.
        Err(error) => guest.say(&format!("no power button: {error}")),
    }
    let channel = match port::open(i2kit_spec::control::PORT)? {
        Some(port) => {
            let names = guest.containers.iter().map(Container::name);
            let journals = Journals::new(names).doing(|| "make the journals".into())?;
            let bell = journals.bell().try_clone_to_owned().doing(|| "share the journals' bell".into())?;
            guest.journals = Some(journals);
            Some((port, bell))
        }
        None => None,
    };
    if guest.journals.is_none() && cloud::present() {
        let names = guest.containers.iter().map(Container::name);
        guest.journals = Some(Journals::new(names).doing(|| "make the journals".into())?);
        guest.console_too = true;
        cloud::send_logs()?;
    }
    guest.supervisor = Some(Supervised::listen(guest.pod.health_port, channel)?);
    guest.start_supervisor();
    Ok(())
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
