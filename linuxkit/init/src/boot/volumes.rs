//! Makes the volumes of the pod that are not simply folders of the pod file system. They outlive every container.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path};

use i2kit_container::Instance;
use i2kit_container::secrets::{Secrets, is_name};
use i2kit_spec::{Bytes, LateContent, LateFile, POD_MOUNT, POD_VOLUMES, PodBoot, VOLUMES_MOUNT, VolumeKind};
use rustix::mount::{MountFlags, mount};

use super::{disk, scratch};
use crate::error::{Doing, Error};

/// Volumes have no devices of their own, whatever rights a container has.
const FLAGS: MountFlags = MountFlags::NODEV;

/// Folders inside volumes of files.
const FOLDER_MODE: u32 = 0o755;

/// Makes all volumes of the pod. They belong to its group where there is one, as kubelet gives them to a pod's `fsGroup`.
pub(crate) fn make(pod: &PodBoot, instance: &Instance, secrets: &Secrets) -> Result<(), Error> {
    let group = pod.fs_group;
    let owner = group.map(|group| disk::Owner { group, on_mismatch: pod.fs_group_on_mismatch });
    for volume in &pod.volumes {
        let target = Path::new(VOLUMES_MOUNT).join(&volume.name);
        fs::create_dir_all(&target).doing(|| format!("make {}", target.display()))?;
        match &volume.kind {
            VolumeKind::EmptyDir { size_limit, disk } => match disk.and_then(scratch::disk) {
                Some(disk) => disk.mount(&target, group)?,
                None => in_memory(&target, group, *size_limit, instance.memory)?,
            },
            VolumeKind::Disk { disk: number } => disk::make(*number, &target, owner)?,
            VolumeKind::Files { files } => {
                // Unlike tmpfs, ramfs is never swapped out. Containers only read it, so it does not grow.
                mount("ramfs", &target, "ramfs", FLAGS, c"mode=755")
                    .doing(|| format!("mount ramfs on {}", target.display()))?;
                let known = Path::new(POD_MOUNT).join(POD_VOLUMES).join(&volume.name);
                if known.is_dir() {
                    copy(&known, &target)?;
                }
                for file in files {
                    late_file(&target, file, instance, secrets)?;
                }
                if let Some(group) = group {
                    give(&target, group)?;
                }
            }
        }
    }
    Ok(())
}

/// The part of the machine's memory that a volume in it may take, as the kernel's own for such a file system: a half.
const LARGEST_PART: u64 = 2;

/// A file system in memory that everybody may write to.
fn in_memory(target: &Path, group: Option<u32>, limit: Option<Bytes>, memory: u64) -> Result<(), Error> {
    let size = limit.map_or(u64::MAX, |limit| limit.0).min(memory / LARGEST_PART);
    // With the group's bit, so that what is made inside belongs to the group too.
    let owner = group.map_or_else(|| "mode=777".into(), |group| format!("mode=2777,gid={group}"));
    let options = std::ffi::CString::new(format!("{owner},size={size}")).expect("numbers have no zero byte");
    mount("tmpfs", target, "tmpfs", FLAGS, options.as_c_str())
        .doing(|| format!("mount tmpfs on {} with {options:?}", target.display()))
}

/// Gives a folder of files, which containers only read, to a group that may read all of it.
fn give(path: &Path, group: u32) -> Result<(), Error> {
    let doing = || format!("give {} to group {group}", path.display());
    let found = fs::symlink_metadata(path).doing(doing)?;
    std::os::unix::fs::lchown(path, None, Some(group)).doing(doing)?;
    let added = if found.is_dir() { 0o2550 } else { 0o440 };
    let mode = found.permissions().mode() & 0o7777 | added;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).doing(doing)?;
    if found.is_dir() {
        for entry in fs::read_dir(path).doing(doing)? {
            give(&entry.doing(doing)?.path(), group)?;
        }
    }
    Ok(())
}

/// Copies a folder of the pod file system with its modes.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let doing = || format!("copy {}", from.display());
    for entry in fs::read_dir(from).doing(doing)? {
        let entry = entry.doing(doing)?;
        let target = to.join(entry.file_name());
        if entry.file_type().doing(doing)?.is_dir() {
            fs::create_dir(&target).doing(doing)?;
            copy(&entry.path(), &target)?;
        } else {
            // The file's mode comes along.
            fs::copy(entry.path(), &target).doing(doing)?;
        }
    }
    Ok(())
}

fn late_file(root: &Path, file: &LateFile, instance: &Instance, secrets: &Secrets) -> Result<(), Error> {
    match &file.content {
        LateContent::Instance(field) => write(root, &file.path, file.mode, instance.value(*field).as_bytes()),
        LateContent::Secret(wanted) => match secrets.key(&wanted.secret, &wanted.key)? {
            Some(value) => write(root, &file.path, file.mode, &value),
            None if wanted.optional => Ok(()),
            None => Err(missing(&wanted.secret, Some(&wanted.key))),
        },
        LateContent::WholeSecret(wanted) => match secrets.all(&wanted.secret)? {
            Some(keys) => keys.iter().try_for_each(|(key, value)| {
                let path = if file.path.is_empty() { key.clone() } else { format!("{}/{key}", file.path) };
                if is_name(key) { write(root, &path, file.mode, value) } else { Ok(()) }
            }),
            None if wanted.optional => Ok(()),
            None => Err(missing(&wanted.secret, None)),
        },
    }
}

fn missing(secret: &str, key: Option<&str>) -> Error {
    i2kit_container::Error::NoSecret { secret: secret.to_owned(), key: key.map(str::to_owned) }.into()
}

fn write(root: &Path, path: &str, mode: u32, bytes: &[u8]) -> Result<(), Error> {
    if !Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) || path.is_empty() {
        return Err(Error::Unknown { what: "path of a volume's file", value: path.to_owned() });
    }
    let target = root.join(path);
    let doing = || format!("write {}", target.display());
    let mut folder = root.to_owned();
    for part in Path::new(path).parent().unwrap_or(Path::new("")).components() {
        folder.push(part);
        if !folder.is_dir() {
            fs::create_dir(&folder).doing(doing)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(FOLDER_MODE)).doing(doing)?;
        }
    }
    fs::write(&target, bytes).doing(doing)?;
    fs::set_permissions(&target, fs::Permissions::from_mode(mode)).doing(doing)
}
