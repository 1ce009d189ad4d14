//! The user namespace of a pod with `hostUsers: false`: root in its containers is nobody in particular in the VM.
//!
//! All containers of the pod share it, so that they agree on who owns what in their volumes. Layers are mounted a second
//! time with their owners shifted, which the kernel can do for erofs; what lies in memory is given to the shifted owners
//! instead, because the kernel cannot shift tmpfs.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Uid};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::{Pid, Signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{Doing, Error};

/// The VM's number of the containers' root; there are as many numbers from there on as below it.
pub(crate) const FIRST: u32 = 65_536;

/// The greatest number of a user or a group in the namespace.
pub(crate) const LAST: u32 = FIRST - 1;

/// Makes the namespace.
pub fn make() -> Result<OwnedFd, Error> {
    let (pid, pidfd) = i2kit_sys::fork(libc::CLONE_NEWUSER, None, || {
        loop {
            rustix::event::pause();
        }
    })
    .doing(|| "make a user namespace".into())?;
    let namespace = map(pid);
    // The namespace lives as long as somebody holds it; its first process is reaped as any other.
    let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
    namespace
}

fn map(pid: Pid) -> Result<OwnedFd, Error> {
    let folder = format!("/proc/{}", pid.as_raw_nonzero());
    for file in ["uid_map", "gid_map"] {
        let path = format!("{folder}/{file}");
        fs::write(&path, format!("0 {FIRST} {FIRST}")).doing(|| format!("write {path}"))?;
    }
    // A container that binds a low port has no capability over the VM's network; the pod's ports are its own anyway.
    for (name, value) in [("ip_unprivileged_port_start", "0"), ("ping_group_range", "0 2147483647")] {
        let path = format!("/proc/sys/net/ipv4/{name}");
        fs::write(&path, value).doing(|| format!("write {path}"))?;
    }
    let path = format!("{folder}/ns/user");
    fs::File::open(&path).map(Into::into).doing(|| format!("open {path}"))
}

/// Mounts a layer with shifted owners in this folder, once. Returns its mount point.
pub fn shift_layer(folder: &str, layer: &str, namespace: BorrowedFd<'_>) -> Result<String, Error> {
    let name = Path::new(layer).file_name().unwrap_or_default().to_string_lossy();
    let target = format!("{folder}/{name}");
    if Path::new(&target).exists() {
        return Ok(target);
    }
    let doing = || format!("mount {layer} with shifted owners");
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, layer, flags).doing(doing)?;
    i2kit_sys::shift_owners(tree.as_fd(), namespace).doing(doing)?;
    fs::create_dir_all(&target).doing(doing)?;
    move_mount(&tree, "", CWD, target.as_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).doing(doing)?;
    Ok(target)
}

/// Gives everything in a folder to the owners' shifted numbers, except for file systems on disks: they are shifted when
/// containers mount them.
pub fn shift_files(folder: &Path) -> Result<(), Error> {
    let doing = || format!("give {} to the pod's users", folder.display());
    for entry in fs::read_dir(folder).doing(doing)? {
        let path = entry.doing(doing)?.path();
        if rustix::fs::statfs(&path).is_ok_and(|found| found.f_type == libc::EXT4_SUPER_MAGIC) {
            continue;
        }
        let found = fs::symlink_metadata(&path).doing(doing)?;
        let (uid, gid) = (Uid::from_raw(found.uid() + FIRST), Gid::from_raw(found.gid() + FIRST));
        rustix::fs::chownat(CWD, &path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).doing(doing)?;
        if found.is_dir() {
            shift_files(&path)?;
        }
    }
    Ok(())
}

/// Enters the namespace: the calling process is root in it, and nobody outside.
pub(crate) fn enter(namespace: BorrowedFd<'_>) -> Result<(), Error> {
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::User))
        .doing(|| "enter the pod's user namespace".into())
}
