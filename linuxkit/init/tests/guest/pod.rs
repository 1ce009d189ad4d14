//! Pods made of busybox, and the disk that boots them.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use i2kit::disk;
use i2kit::erofs::{self, TreeFile};
use i2kit::oci::Digest;
use i2kit::plan::layout::{DiskLayout, Part};
use i2kit_spec::replica::POD_SOCKET_FOLDER;
use i2kit_spec::runtime::{
    Capabilities, Config, Linux, Mount, Namespace, NamespaceKind, OCI_VERSION, Process, Root, User,
};
use i2kit_spec::{
    ContainerBoot, POD_BOOT_PATH, POD_BOOT_VERSION, POD_PARTITION, PodBoot, PodMeta, Probes, Seconds,
};

/// The port on which a container made by [`Pod::shell`] gives a shell to whoever connects.
pub(crate) const SHELL_PORT: u16 = 7;

/// The port of the supervisor.
pub(crate) const HEALTH_PORT: u16 = 10256;

/// A pod under construction.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) boot: PodBoot,
    configs: Vec<(String, Config)>,
    files: Vec<TreeFile>,
    base_files: Vec<(String, u32, Vec<u8>)>,
    base_links: Vec<(String, String)>,
}

impl Pod {
    /// A pod without containers.
    pub(crate) fn new() -> Self {
        let boot = PodBoot {
            version: POD_BOOT_VERSION,
            pod: PodMeta { name: "test".into(), namespace: "default".into(), ..PodMeta::default() },
            grace_period_seconds: Seconds(2),
            health_port: HEALTH_PORT,
            ..PodBoot::default()
        };
        Self { boot, configs: vec![], files: vec![], base_files: vec![], base_links: vec![] }
    }

    /// Adds an init container that runs this shell script.
    pub(crate) fn onboot(mut self, name: &str, script: &str) -> Self {
        let bundle = format!("containers/onboot/{:03}-{name}", self.boot.onboot.len());
        self.boot.onboot.push(container(name, &bundle));
        self.configs.push((bundle, config(&["sh", "-c", script])));
        self
    }

    /// Adds a service that runs this shell script.
    pub(crate) fn service(mut self, name: &str, script: &str) -> Self {
        let bundle = format!("containers/services/{name}");
        self.boot.services.push(container(name, &bundle));
        self.configs.push((bundle, config(&["sh", "-c", script])));
        self
    }

    /// Adds a service through which the test can look around, see `Vm::shell`.
    pub(crate) fn shell(self) -> Self {
        self.service("shell", &format!("exec nc -ll -p {SHELL_PORT} -e sh"))
    }

    /// Changes the container that was added last.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.configs.last_mut().expect("a container was added before").1);
        self
    }

    /// Sets the user of the service that was added last.
    pub(crate) fn user(mut self, user: &str) -> Self {
        self.boot.services.last_mut().expect("a service was added before").user = user.into();
        self
    }

    /// Sets the probes of the service that was added last.
    pub(crate) fn probes(mut self, change: impl FnOnce(&mut Probes)) -> Self {
        change(&mut self.boot.services.last_mut().expect("a service was added before").probes);
        self
    }

    /// Adds a file to the pod file system.
    pub(crate) fn file(mut self, file: TreeFile) -> Self {
        self.files.push(file);
        self
    }

    /// Adds a file to the lowest layer of all containers.
    pub(crate) fn base_file(mut self, path: &str, content: &[u8]) -> Self {
        self.base_files.push((path.to_owned(), 0o644, content.to_vec()));
        self
    }

    /// Adds a program of this host, and the libraries that it is linked with, to the lowest layer of all containers.
    pub(crate) fn base_program(mut self, path: &str) -> Self {
        let output = std::process::Command::new("ldd").arg(path).output().expect("ldd runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
        for file in libraries.chain([path]) {
            let content = fs::read(file).unwrap_or_else(|error| panic!("{file}: {error}"));
            self.base_files.push((file.trim_start_matches('/').to_owned(), 0o755, content));
        }
        self
    }

    /// Makes the init container that was added last a sidecar, and has it ask the supervisor about the others, as the
    /// coordinator of a replicated pod does.
    pub(crate) fn coordinator(mut self) -> Self {
        let boot = self.boot.onboot.last_mut().expect("an init container was added before");
        boot.sidecar = true;
        let socket = mount("/run/i2kit", "bind", POD_SOCKET_FOLDER, "rbind,ro,nodev");
        self.with(|config| config.mounts.push(socket))
    }

    /// Adds a symbolic link to the lowest layer of all containers.
    pub(crate) fn base_link(mut self, path: &str, target: &str) -> Self {
        self.base_links.push((path.to_owned(), target.to_owned()));
        self
    }

    fn base_layer(&self, tar: &mut Tar) {
        base_layer(tar);
        for (path, target) in &self.base_links {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, path, target).unwrap();
        }
        for (path, mode, content) in &self.base_files {
            add(tar, path, *mode, tar::EntryType::Regular, content);
        }
    }

    /// Writes the disk.
    pub(crate) fn write_disk(&self, path: &Path) {
        let mut files = self.files.clone();
        files.push(TreeFile::file(POD_BOOT_PATH, serde_json::to_vec(&self.boot).unwrap()));
        for (bundle, config) in &self.configs {
            files.push(TreeFile::file(format!("{bundle}/config.json"), serde_json::to_vec(config).unwrap()));
        }
        let parts = [
            (POD_PARTITION, erofs::write_tree(&files).unwrap()),
            ("base", layer(|tar| self.base_layer(tar))),
            ("top", layer(top_layer)),
        ];
        let part = |(name, bytes): &(&str, Vec<u8>)| Part {
            name: (*name).into(),
            content: Digest::of(bytes),
            size: bytes.len() as u64,
        };
        let layout = DiskLayout::new(Digest::of(b"test"), parts.iter().map(part)).unwrap();
        let mut readers: Vec<&[u8]> = parts.iter().map(|(_, bytes)| bytes.as_slice()).collect();
        disk::assemble(&layout, &mut readers, fs::File::create(path).unwrap()).unwrap();
    }
}

fn container(name: &str, bundle: &str) -> ContainerBoot {
    ContainerBoot {
        name: name.into(),
        bundle: bundle.into(),
        layers: vec!["base".into(), "top".into()],
        ..ContainerBoot::default()
    }
}

/// A configuration as i2kit writes it, for the parts that these tests look at.
fn config(args: &[&str]) -> Config {
    let capabilities: Vec<String> =
        ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID"].map(Into::into).into();
    Config {
        oci_version: OCI_VERSION.into(),
        process: Process {
            terminal: false,
            user: User::default(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: vec!["PATH=/bin".into()],
            cwd: "/".into(),
            capabilities: Capabilities {
                bounding: capabilities.clone(),
                effective: capabilities.clone(),
                permitted: capabilities,
                ..Capabilities::default()
            },
            rlimits: vec![],
            no_new_privileges: true,
            oom_score_adj: None,
        },
        root: Root { path: "rootfs".into(), readonly: false },
        hostname: String::new(),
        mounts: mounts(),
        annotations: std::collections::BTreeMap::new(),
        linux: Linux {
            namespaces: [NamespaceKind::Pid, NamespaceKind::Mount, NamespaceKind::Cgroup]
                .map(|kind| Namespace { kind })
                .into(),
            resources: None,
            masked_paths: vec!["/proc/kcore".into(), "/sys/firmware".into()],
            readonly_paths: vec!["/proc/sys".into()],
            seccomp: None,
        },
    }
}

fn mounts() -> Vec<Mount> {
    let hosts = mount("/etc/hosts", "bind", "/etc/hosts", "rbind,rw");
    let resolv = mount("/etc/resolv.conf", "bind", "/etc/resolv.conf", "rbind,rw");
    vec![
        mount("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        mount("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        mount("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620"),
        mount("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
        mount("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        mount("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
        hosts,
        resolv,
    ]
}

/// A mount, its options joined by commas.
pub(crate) fn mount(destination: &str, kind: &str, source: &str, options: &str) -> Mount {
    Mount {
        destination: destination.into(),
        kind: kind.into(),
        source: source.into(),
        options: options.split(',').map(Into::into).collect(),
    }
}

type Tar = tar::Builder<Vec<u8>>;

fn layer(fill: impl FnOnce(&mut Tar)) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    fill(&mut tar);
    let mut image = Cursor::new(Vec::new());
    erofs::write_layer(tar.into_inner().unwrap().as_slice(), &mut image).unwrap();
    image.into_inner()
}

fn add(tar: &mut Tar, path: &str, mode: u32, kind: tar::EntryType, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, path, bytes).unwrap();
}

/// Busybox with its applets, and what the topmost layer changes.
fn base_layer(tar: &mut Tar) {
    let busybox = fs::read("/bin/busybox").expect("busybox-static is installed");
    add(tar, "bin/busybox", 0o755, tar::EntryType::Regular, &busybox);
    let applets = "cat chmod chown cut date df dd echo env false grep head hostname httpd id kill ln ls mkdir mknod mount nc pidof printf ps pwd \
                   readlink rm seq sh sleep stat stty tail touch tr true tty ulimit umask unshare wc wget yes";
    for applet in applets.split_whitespace() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    let passwd =
        "root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/www:/bin/false\n";
    add(tar, "etc/passwd", 0o644, tar::EntryType::Regular, passwd.as_bytes());
    add(tar, "etc/group", 0o644, tar::EntryType::Regular, b"root:x:0:\nweb:x:33:\nlog:x:4:web\n");
    add(tar, "www/index.html", 0o644, tar::EntryType::Regular, b"from the base\n");
    add(tar, "www/old", 0o644, tar::EntryType::Regular, b"");
    add(tar, "www/secret", 0o700, tar::EntryType::Regular, b"");
}

/// Hides a file of the base and replaces another.
fn top_layer(tar: &mut Tar) {
    add(tar, "www/.wh.old", 0o644, tar::EntryType::Regular, b"");
    add(tar, "www/index.html", 0o644, tar::EntryType::Regular, b"from the top\n");
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "etc/resolv.conf", "../run/nowhere/resolv.conf").unwrap();
}
