//! Files of the pod in a container: those by which names are found, the termination message, and the shared memory of the
//! pod's IPC namespace. They are bind mounts of what PID 1 makes here.
//!
//! The files of a container lie on a small file system of its own: what it writes to them is seen by no other container and
//! not by the guest, and filling it takes room from nobody else.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use i2kit_spec::TERMINATION_LOG;
use i2kit_spec::runtime::{Mount, NamespaceKind};
use rustix::mount::{MountFlags, mount};

use crate::error::{Doing, Error};
use crate::spec::Spec;
use crate::text::one_line;
use crate::users;

/// Where the containers' own files are, a folder each.
const FOLDER: &str = "/run/i2kit/own";

/// The files by which names are found, of which each container has a copy: in the VM, where `config.json` has their
/// source, and in the folder.
const NAMES: [(&str, &str); 3] =
    [("/etc/hosts", "hosts"), ("/etc/hostname", "hostname"), ("/etc/resolv.conf", "resolv.conf")];

/// The file of the termination message.
const TERMINATION_MESSAGE: &str = "termination-log";

/// How much of the message is read: the kubelet's bound.
const TERMINATION_MESSAGE_BYTES: u64 = 4096;

/// Bytes and files of a container's folder: room for a few thousand names, and for nothing else.
const LIMITS: &str = "size=256k,nr_inodes=16";

/// The pod's `/dev/shm`.
const SHARED_MEMORY: &str = "/run/i2kit/shm";

/// Its size: that of Kubernetes' runtimes.
const SHARED_MEMORY_LIMIT: &str = "size=65536k";

/// Makes the shared memory of the pod, which outlives every container.
pub fn make_shared_memory(in_namespace: bool) -> Result<(), Error> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    make_tmpfs(Path::new(SHARED_MEMORY), flags, &format!("mode=1777,{SHARED_MEMORY_LIMIT}"), in_namespace)
}

fn make_tmpfs(target: &Path, flags: MountFlags, options: &str, in_namespace: bool) -> Result<(), Error> {
    let owner = owner(in_namespace);
    let options = CString::new(format!("{options},uid={owner},gid={owner}")).expect("there is no zero byte");
    fs::create_dir_all(target).doing(|| format!("make {}", target.display()))?;
    mount("tmpfs", target, "tmpfs", flags, options.as_c_str())
        .doing(|| format!("mount tmpfs on {} with {options:?}", target.display()))
}

/// The VM's number of the containers' root.
fn owner(in_namespace: bool) -> u32 {
    if in_namespace { users::FIRST } else { 0 }
}

/// Makes the files of a container that is about to start, as they are at every start.
pub(crate) fn make(name: &str, in_namespace: bool) -> Result<(), Error> {
    let folder = Path::new(FOLDER).join(name);
    if !folder.is_dir() {
        make_tmpfs(
            &folder,
            MountFlags::NOSUID | MountFlags::NODEV,
            &format!("mode=755,{LIMITS}"),
            in_namespace,
        )?;
    }
    // What the last run wrote, up to the size of the folder, goes first: the other files need room.
    remove(&folder.join(TERMINATION_MESSAGE))?;
    for (source, file) in NAMES {
        let text = fs::read(source).doing(|| format!("read {source}"))?;
        write(&folder.join(file), &text, 0o644, in_namespace)?;
    }
    // Whoever the container's programs run as, they may leave a message.
    write(&folder.join(TERMINATION_MESSAGE), b"", 0o666, in_namespace)
}

/// Puts a new file in the place of the one of the last run.
fn write(path: &Path, bytes: &[u8], mode: u32, in_namespace: bool) -> Result<(), Error> {
    let doing = || format!("write {}", path.display());
    remove(path)?;
    fs::write(path, bytes).doing(doing)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).doing(doing)?;
    let owner = owner(in_namespace);
    chown(path, Some(owner), Some(owner)).doing(doing)
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).doing(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The termination message that a container's programs left, as one line; empty when they left none.
pub fn termination_message(name: &str) -> String {
    let read = |path: PathBuf| -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TERMINATION_MESSAGE_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TERMINATION_MESSAGE_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    // A container that never started has no file.
    let bytes = read(Path::new(FOLDER).join(name).join(TERMINATION_MESSAGE)).unwrap_or_default();
    one_line(&String::from_utf8_lossy(&bytes))
}

/// The mounts of a container: those of its configuration, with what is its own and the pod's in the place of the VM's, and
/// the file of the termination message where nothing else is mounted there.
pub(crate) fn mounts(spec: &Spec) -> Vec<Mount> {
    let folder = format!("{FOLDER}/{}", spec.boot.name);
    let shares_memory = !spec.has(NamespaceKind::Ipc);
    let own = |mount: &Mount| {
        let mut mount = mount.clone();
        if mount.kind == "bind"
            && let Some((_, file)) = NAMES.iter().find(|(source, _)| *source == mount.source)
        {
            mount.source = format!("{folder}/{file}");
        } else if mount.kind == "tmpfs" && mount.destination == "/dev/shm" && shares_memory {
            mount.kind = "bind".into();
            mount.source = SHARED_MEMORY.into();
            // Size and mode are the pod's.
            mount.options.retain(|option| !option.contains('='));
        }
        mount
    };
    let mut mounts: Vec<Mount> = spec.config.mounts.iter().map(own).collect();
    let destination = spec.boot.termination_message_path.as_deref().unwrap_or(TERMINATION_LOG);
    if mounts.iter().all(|mount| mount.destination != destination) {
        mounts.push(Mount {
            destination: destination.to_owned(),
            kind: "bind".into(),
            source: format!("{folder}/{TERMINATION_MESSAGE}"),
            options: vec!["rbind".into(), "rw".into()],
        });
    }
    mounts
}

#[cfg(test)]
mod tests {
    use i2kit_spec::runtime::Namespace;

    use super::*;

    fn spec(namespaces: &[NamespaceKind]) -> Spec {
        let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| Mount {
            destination: destination.into(),
            kind: kind.into(),
            source: source.into(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        let mut config = crate::example::config();
        config.linux.namespaces = namespaces.iter().map(|kind| Namespace { kind: *kind }).collect();
        config.mounts = vec![
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "mode=1777", "size=65536k"]),
            mount("/etc/hosts", "bind", "/etc/hosts", &["rbind", "rw"]),
            mount("/etc/app", "bind", "/pod/volumes/app", &["rbind", "ro"]),
        ];
        Spec {
            boot: i2kit_spec::ContainerBoot { name: "web".into(), ..Default::default() },
            config,
            layers: vec![],
        }
    }

    fn lines(spec: &Spec) -> Vec<String> {
        let line = |m: Mount| format!("{} {} {} {}", m.destination, m.kind, m.source, m.options.join(","));
        mounts(spec).into_iter().map(line).collect()
    }

    #[test]
    fn names_are_the_containers_own_and_memory_is_the_pods() {
        assert_eq!(
            lines(&spec(&[NamespaceKind::Mount])),
            [
                "/dev/shm bind /run/i2kit/shm nosuid",
                "/etc/hosts bind /run/i2kit/own/web/hosts rbind,rw",
                "/etc/app bind /pod/volumes/app rbind,ro",
                "/dev/termination-log bind /run/i2kit/own/web/termination-log rbind,rw",
            ]
        );
        let alone = lines(&spec(&[NamespaceKind::Ipc]));
        assert_eq!(alone[0], "/dev/shm tmpfs shm nosuid,mode=1777,size=65536k");
    }

    #[test]
    fn last_words_go_where_the_manifest_wants_them_unless_something_is_there() {
        let mut spec = spec(&[]);
        spec.boot.termination_message_path = Some("/var/log/end".into());
        assert!(lines(&spec)[3].starts_with("/var/log/end bind /run/i2kit/own/web/termination-log"));
        spec.boot.termination_message_path = Some("/etc/app".into());
        assert_eq!(lines(&spec).len(), 3);
    }
}
