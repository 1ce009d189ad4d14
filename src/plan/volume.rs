//! Volumes: which of their files go into the pod file system, which the guest makes at boot, and what containers see.

use std::collections::BTreeMap;

use i2kit_spec::runtime::Mount;
use i2kit_spec::{Bytes, LateFile, POD_MOUNT, POD_VOLUMES, VOLUMES_MOUNT, VolumeBoot, VolumeKind};

use super::environment::Environment;
use super::fleet::LaunchDisk;
use super::image::{PlanContent, PlanFile};
use crate::manifest::api::{Container, FileContent, PodSpec, Volume, VolumeFile, VolumeSource};

/// The folder of a volume in the pod file system has this mode; its files have their own.
const FOLDER_MODE: u16 = 0o755;

/// A file that another one is mounted over.
const FILE_MODE: u16 = 0o644;

/// Permission bits of a file.
const MODE_BITS: u32 = 0o7777;

/// Size of the disk of an emptyDir without a limit. It takes room only as far as it is written.
const DISK_SIZE: Bytes = Bytes(16 << 30);

/// Disks are whole blocks of a file system.
const BLOCK: u64 = 4096;

/// How many disks that outlive it a machine has: with its other devices they fill its bus.
const MAX_KEPT_DISKS: usize = 8;

/// How many disks a machine has for emptyDirs; further ones lie in memory.
const MAX_DISKS: usize = 16;

/// Why a container's mount cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// More disks than a machine has places for.
    #[error("volume `{0}` is one disk too many: a machine has at most {MAX_KEPT_DISKS} that outlive it")]
    Disks(String),
    /// A path that does not stay inside the volume.
    #[error("subPath `{path}` of `{mount_path}` leads out of its volume; write a relative path without `..`")]
    Escapes {
        /// Where the volume is mounted.
        mount_path: String,
        /// The path.
        path: String,
    },
    /// A path that the volume does not have.
    #[error("subPath `{path}` of `{mount_path}` is not in volume `{volume}`, which has {known}")]
    Missing {
        /// Where the volume is mounted.
        mount_path: String,
        /// The path.
        path: String,
        /// The volume.
        volume: String,
        /// What the volume has.
        known: String,
    },
}

/// The volumes of a pod, taken apart.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    /// Files of the pod file system.
    pub(super) files: Vec<PlanFile>,
    /// What the guest makes.
    pub(super) boot: Vec<VolumeBoot>,
    /// Sizes of the scratch disks, in the order of their numbers.
    pub(super) disks: Vec<Bytes>,
    /// Disks that outlive the machine, in the order of their numbers.
    pub(super) kept: Vec<LaunchDisk>,
    /// Each volume by its name.
    sources: BTreeMap<String, Source>,
}

/// Where containers mount a volume from.
#[derive(Debug)]
struct Source {
    folder: String,
    writable: bool,
    /// Its paths, when all of them are known.
    paths: Option<Vec<String>>,
}

/// Size of the scratch disk of a volume that has one: a file system with room for the limit, whose own tables take a
/// sixty-fourth, and of which the kernel sets a fiftieth aside.
fn disk_size(volume: &Volume) -> Option<Bytes> {
    match volume.source {
        VolumeSource::EmptyDir { memory: false, size_limit_bytes: None } => Some(DISK_SIZE),
        VolumeSource::EmptyDir { memory: false, size_limit_bytes: Some(Bytes(limit)) } => {
            let tables = (limit / 20).saturating_add(256 << 10);
            Some(Bytes(limit.saturating_add(tables).div_ceil(BLOCK).saturating_mul(BLOCK)))
        }
        _ => None,
    }
}

/// Sizes of the disks of a pod's emptyDirs, in the order of their numbers; a pod whose image cannot be planned has none.
pub(super) fn scratch_sizes(pod: &PodSpec) -> Vec<Bytes> {
    Volumes::of(pod).map(|volumes| volumes.disks).unwrap_or_default()
}

/// The disks of a pod that outlive its machine, in the order of their numbers; a pod whose image cannot be planned has none.
pub(super) fn disks(pod: &PodSpec) -> Vec<LaunchDisk> {
    Volumes::of(pod).map(|volumes| volumes.kept).unwrap_or_default()
}

impl Volumes {
    /// The volumes of `pod` that its containers mount.
    pub(super) fn of(pod: &PodSpec) -> Result<Self, VolumeError> {
        let mut volumes = Self::default();
        let mounts = pod.init_containers.iter().chain(&pod.containers).flat_map(|c| &c.volume_mounts);
        let used: Vec<&str> = mounts.map(|mount| mount.volume.as_str()).collect();
        for volume in pod.volumes.iter().filter(|volume| used.contains(&volume.name.as_str())) {
            volumes.add(volume, pod.fs_group.is_some())?;
        }
        for container in pod.init_containers.iter().chain(&pod.containers) {
            volumes.make_room(container);
        }
        Ok(volumes)
    }

    /// Gives volumes of files a mount point for each volume that is mounted below them, as kubelet does: nothing can be
    /// made in them later.
    fn make_room(&mut self, container: &Container) {
        for outer in
            container.volume_mounts.iter().filter(|m| m.sub_path.is_none() && m.sub_path_expr.is_none())
        {
            if self.sources.get(&outer.volume).is_none_or(|source| source.writable) {
                continue;
            }
            let root = destination(&outer.mount_path);
            for inner in &container.volume_mounts {
                let target = destination(&inner.mount_path);
                let Some(below) = target.strip_prefix(&root).and_then(|rest| rest.strip_prefix('/')) else {
                    continue;
                };
                let path = format!("{POD_VOLUMES}/{}/{below}", outer.volume);
                if self.files.iter().any(|file| file.path == path) {
                    continue;
                }
                let known = self.sources.get(&inner.volume).and_then(|source| source.paths.as_ref());
                let is_file =
                    inner.sub_path.as_ref().zip(known).is_some_and(|(sub, paths)| paths.contains(sub));
                let (mode, content) = if is_file {
                    (FILE_MODE, PlanContent::of(b""))
                } else {
                    (FOLDER_MODE, PlanContent::Directory)
                };
                self.files.push(PlanFile { path, mode, content });
            }
        }
    }

    fn add(&mut self, volume: &Volume, owned: bool) -> Result<(), VolumeError> {
        let name = &volume.name;
        let made = format!("{VOLUMES_MOUNT}/{name}");
        let source = match &volume.source {
            VolumeSource::EmptyDir { size_limit_bytes, .. } => {
                let disk = u32::try_from(self.disks.len()).ok().filter(|_| disk_size(volume).is_some());
                let disk = disk.filter(|_| self.disks.len() < MAX_DISKS);
                self.disks.extend(disk.and(disk_size(volume)));
                let kind = VolumeKind::EmptyDir { size_limit: *size_limit_bytes, disk };
                self.boot.push(VolumeBoot { name: name.clone(), kind });
                Source { folder: made, writable: true, paths: None }
            }
            VolumeSource::Files(files) => {
                let (known, late): (Vec<&VolumeFile>, Vec<&VolumeFile>) =
                    files.iter().partition(|file| matches!(file.content, FileContent::Bytes(_)));
                let folder = format!("{POD_VOLUMES}/{name}");
                if late.is_empty() || !known.is_empty() {
                    self.files.push(PlanFile {
                        path: folder.clone(),
                        mode: FOLDER_MODE,
                        content: PlanContent::Directory,
                    });
                }
                self.files.extend(known.iter().filter_map(|file| plan_file(&folder, file)));
                let files: Vec<LateFile> = late.into_iter().filter_map(late_file).collect();
                let paths = files.is_empty().then(|| known.iter().map(|file| file.path.clone()).collect());
                // Their group cannot be set in the image, which several machines may have with other groups.
                if files.is_empty() && !owned {
                    Source { folder: format!("{POD_MOUNT}/{folder}"), writable: false, paths }
                } else {
                    self.boot.push(VolumeBoot { name: name.clone(), kind: VolumeKind::Files { files } });
                    Source { folder: made, writable: false, paths }
                }
            }
            VolumeSource::Claim { claim, read_only } => {
                self.keep(name, LaunchDisk::Claim(claim.clone()))?;
                Source { folder: made, writable: !read_only, paths: None }
            }
            VolumeSource::Member => {
                self.keep(name, LaunchDisk::Member(name.clone()))?;
                Source { folder: made, writable: true, paths: None }
            }
            // PID 1 makes it for whoever mounts it.
            VolumeSource::PodSocket => {
                Source { folder: i2kit_spec::replica::POD_SOCKET_FOLDER.into(), writable: false, paths: None }
            }
        };
        self.sources.insert(name.clone(), source);
        Ok(())
    }

    /// Takes a disk that outlives the machine. Two volumes of one claim are one disk.
    fn keep(&mut self, name: &str, disk: LaunchDisk) -> Result<(), VolumeError> {
        let known = self.kept.iter().position(|kept| *kept == disk);
        let number = known.unwrap_or(self.kept.len());
        if number >= MAX_KEPT_DISKS {
            return Err(VolumeError::Disks(name.to_owned()));
        }
        if known.is_none() {
            self.kept.push(disk);
        }
        let disk = u32::try_from(number).expect("there are few disks");
        self.boot.push(VolumeBoot { name: name.to_owned(), kind: VolumeKind::Disk { disk } });
        Ok(())
    }

    /// The mounts of `container`, outer ones first, and the destinations whose source the guest has to expand.
    pub(super) fn mounts(
        &self,
        container: &Container,
        environment: &Environment,
    ) -> Result<(Vec<Mount>, Vec<String>), VolumeError> {
        let (mut mounts, mut expand) = (Vec::new(), Vec::new());
        for wanted in &container.volume_mounts {
            // The checker has found the volume.
            let Some(source) = self.sources.get(&wanted.volume) else { continue };
            let late = matches!(environment, Environment::Late(_));
            let written = wanted.sub_path_expr.as_deref().map(|text| environment.expand(text));
            let sub_path = written.as_deref().or(wanted.sub_path.as_deref()).unwrap_or_default();
            let sub_path = sub_path.trim_matches('/');
            if sub_path.split('/').any(|part| part == "..") {
                let path = sub_path.to_owned();
                return Err(VolumeError::Escapes { mount_path: wanted.mount_path.clone(), path });
            }
            let destination = destination(&wanted.mount_path);
            if wanted.sub_path_expr.is_some() && late {
                expand.push(destination.clone());
            } else {
                source.check(&wanted.volume, &wanted.mount_path, sub_path)?;
            }
            let expanded = wanted.sub_path_expr.is_some() && late;
            let path = if sub_path.is_empty() && !expanded { String::new() } else { format!("/{sub_path}") };
            let access = if wanted.read_only || !source.writable { "ro" } else { "rw" };
            mounts.push(Mount {
                destination,
                kind: "bind".into(),
                source: format!("{}{path}", source.folder),
                options: ["rbind", access, "nodev"].map(Into::into).into(),
            });
        }
        mounts.sort_by_key(|mount| mount.destination.matches('/').count());
        Ok((mounts, expand))
    }
}

impl Source {
    fn check(&self, volume: &str, mount_path: &str, sub_path: &str) -> Result<(), VolumeError> {
        let Some(paths) = &self.paths else { return Ok(()) };
        let has = |path: &String| {
            path == sub_path || path.strip_prefix(sub_path).is_some_and(|rest| rest.starts_with('/'))
        };
        if sub_path.is_empty() || paths.iter().any(has) {
            return Ok(());
        }
        Err(VolumeError::Missing {
            mount_path: mount_path.to_owned(),
            path: sub_path.to_owned(),
            volume: volume.to_owned(),
            known: if paths.is_empty() { "no files".into() } else { paths.join(", ") },
        })
    }
}

/// Puts the mounts of volumes among the container's own: one replaces whatever is mounted in its place, and comes
/// before what is mounted below it, which it would hide.
pub(super) fn insert(mounts: &mut Vec<Mount>, volumes: Vec<Mount>) {
    for volume in volumes {
        mounts.retain(|mount| mount.destination != volume.destination);
        let below = |mount: &Mount| {
            mount.destination.strip_prefix(&volume.destination).is_some_and(|rest| rest.starts_with('/'))
        };
        let at = mounts.iter().position(below).unwrap_or(mounts.len());
        mounts.insert(at, volume);
    }
}

/// An absolute path without a slash at its end, and without parts that mean the folder itself or the one above: a mount
/// below another one is known by its beginning.
pub(super) fn destination(mount_path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in mount_path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

fn mode(file: &VolumeFile) -> u16 {
    u16::try_from(file.mode & MODE_BITS).expect("twelve bits fit")
}

fn plan_file(folder: &str, file: &VolumeFile) -> Option<PlanFile> {
    let FileContent::Bytes(bytes) = &file.content else { return None };
    Some(PlanFile {
        path: format!("{folder}/{}", file.path),
        mode: mode(file),
        content: PlanContent::of(bytes),
    })
}

fn late_file(file: &VolumeFile) -> Option<LateFile> {
    let FileContent::Late(content) = &file.content else { return None };
    Some(LateFile { path: file.path.clone(), mode: file.mode & MODE_BITS, content: content.clone() })
}

#[cfg(test)]
mod tests {
    use i2kit_spec::{EnvValue, EnvVar, InstanceField, LateContent};

    use super::*;
    use crate::manifest::api::VolumeMount;
    use crate::plan::container;

    fn file(path: &str, content: FileContent) -> VolumeFile {
        VolumeFile { path: path.into(), mode: 0o640, content }
    }

    fn bytes(path: &str) -> VolumeFile {
        file(path, FileContent::Bytes(path.as_bytes().to_vec()))
    }

    fn volume(name: &str, source: VolumeSource) -> Volume {
        Volume { name: name.into(), source }
    }

    fn mount(volume: &str, path: &str) -> VolumeMount {
        VolumeMount {
            volume: volume.into(),
            mount_path: path.into(),
            read_only: false,
            sub_path: None,
            sub_path_expr: None,
        }
    }

    fn pod(mounts: Vec<VolumeMount>) -> PodSpec {
        let web = Container { volume_mounts: mounts, ..Container::new("web", "nginx".parse().unwrap()) };
        let scratch = VolumeSource::EmptyDir { memory: false, size_limit_bytes: Some(Bytes(5)) };
        let mixed = vec![bytes("a"), file("ip", FileContent::Late(LateContent::Instance(InstanceField::Ip)))];
        PodSpec {
            containers: vec![web],
            volumes: vec![
                volume("scratch", scratch),
                volume("config", VolumeSource::Files(vec![bytes("a/b"), bytes("c")])),
                volume("mixed", VolumeSource::Files(mixed)),
                volume("unused", VolumeSource::Claim { claim: "disk".into(), read_only: false }),
            ],
            ..PodSpec::default()
        }
    }

    fn mounts(pod: &PodSpec) -> Result<Vec<String>, VolumeError> {
        let container = &pod.containers[0];
        let (mounts, expand) = Volumes::of(pod)?.mounts(container, &Environment::of(container))?;
        let line =
            |mount: &Mount| format!("{} {} {}", mount.destination, mount.source, mount.options.join(","));
        Ok(mounts.iter().map(line).chain(expand.into_iter().map(|path| format!("expand {path}"))).collect())
    }

    #[test]
    fn scratch_space_that_is_not_to_lie_in_memory_has_disks_as_long_as_there_are_some() {
        let names: Vec<String> = (0..18).map(|number| format!("v{number}")).collect();
        let scratch =
            |name: &String, memory| volume(name, VolumeSource::EmptyDir { memory, size_limit_bytes: None });
        let web = Container {
            volume_mounts: names.iter().map(|name| mount(name, &format!("/{name}"))).collect(),
            ..Container::new("web", "nginx".parse().unwrap())
        };
        let volumes = names.iter().map(|name| scratch(name, name == "v0")).collect();
        let pod = PodSpec { containers: vec![web], volumes, ..PodSpec::default() };
        let volumes = Volumes::of(&pod).unwrap();
        let disks: Vec<Option<u32>> = volumes
            .boot
            .iter()
            .map(|volume| match volume.kind {
                VolumeKind::EmptyDir { disk, .. } => disk,
                VolumeKind::Files { .. } | VolumeKind::Disk { .. } => panic!("scratch space alone"),
            })
            .collect();
        assert_eq!(disks[0], None);
        assert!(disks[1..17].iter().copied().eq((0..16).map(Some)), "{disks:?}");
        assert_eq!((disks[17], volumes.disks.len()), (None, 16));
    }

    #[test]
    fn what_is_known_lies_in_the_image_and_the_rest_is_made_at_boot() {
        let pod = pod(vec![mount("mixed", "/m"), mount("config", "/etc/app/"), mount("scratch", "/data")]);
        let volumes = Volumes::of(&pod).unwrap();
        let paths: Vec<(&str, u16)> =
            volumes.files.iter().map(|file| (file.path.as_str(), file.mode)).collect();
        assert_eq!(
            paths,
            [
                ("volumes/config", 0o755),
                ("volumes/config/a/b", 0o640),
                ("volumes/config/c", 0o640),
                ("volumes/mixed", 0o755),
                ("volumes/mixed/a", 0o640),
            ]
        );
        let made: Vec<&str> = volumes.boot.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(made, ["scratch", "mixed"]);
        let kind = VolumeKind::EmptyDir { size_limit: Some(Bytes(5)), disk: Some(0) };
        assert_eq!((&volumes.boot[0].kind, &volumes.disks[..]), (&kind, &[Bytes(260 << 10)][..]));
        assert_eq!(
            mounts(&pod).unwrap(),
            [
                "/m /volumes/mixed rbind,ro,nodev",
                "/data /volumes/scratch rbind,rw,nodev",
                "/etc/app /pod/volumes/config rbind,ro,nodev",
            ]
        );
    }

    #[test]
    fn what_is_mounted_inside_a_volume_of_files_finds_room() {
        let inner = VolumeMount { sub_path: Some("c".into()), ..mount("config", "/m/deep/c") };
        let pod = pod(vec![mount("mixed", "/m"), mount("scratch", "/m/space"), inner]);
        let files = Volumes::of(&pod).unwrap().files;
        let has = |path: &str| files.iter().find(|file| file.path == path).map(|file| &file.content);
        assert_eq!(has("volumes/mixed/space"), Some(&PlanContent::Directory));
        assert_eq!(has("volumes/mixed/deep/c"), Some(&PlanContent::Text(String::new())));
    }

    #[test]
    fn a_group_that_owns_the_volumes_is_set_at_boot() {
        let pod = PodSpec { fs_group: Some(7), ..pod(vec![mount("config", "/c")]) };
        assert_eq!(mounts(&pod).unwrap(), ["/c /volumes/config rbind,ro,nodev"]);
    }

    #[test]
    fn sub_paths_stay_inside_and_exist_where_that_is_known() {
        let with = |volume: &str, path: &str| {
            let sub_path = Some(path.to_owned());
            mounts(&pod(vec![VolumeMount { sub_path, ..mount(volume, "/x") }]))
        };
        assert_eq!(with("config", "a").unwrap(), ["/x /pod/volumes/config/a rbind,ro,nodev"]);
        assert_eq!(with("scratch", "any/").unwrap(), ["/x /volumes/scratch/any rbind,rw,nodev"]);
        assert_eq!(
            with("config", "d").unwrap_err().to_string(),
            "subPath `d` of `/x` is not in volume `config`, which has a/b, c"
        );
        assert!(matches!(with("scratch", "a/../../b"), Err(VolumeError::Escapes { .. })));
    }

    #[test]
    fn a_path_with_variables_is_expanded_by_whoever_knows_them() {
        let sub_path_expr = Some("$(A)/x".to_owned());
        let mut pod = pod(vec![VolumeMount { sub_path_expr, ..mount("scratch", "/x") }]);
        let variable = |value| vec![EnvVar { name: "A".into(), value }];
        pod.containers[0].env = variable(EnvValue::Written("one".into()));
        assert_eq!(mounts(&pod).unwrap(), ["/x /volumes/scratch/one/x rbind,rw,nodev"]);
        pod.containers[0].env = variable(EnvValue::Instance(InstanceField::Name));
        assert_eq!(mounts(&pod).unwrap(), ["/x /volumes/scratch/$(A)/x rbind,rw,nodev", "expand /x"]);
    }

    #[test]
    fn mount_points_are_known_by_their_names() {
        for (written, path) in [
            ("/data", "/data"),
            ("data/", "/data"),
            ("/a//b/./c", "/a/b/c"),
            ("/c/../../evil", "/evil"),
            ("/..", "/"),
        ] {
            assert_eq!(destination(written), path, "{written}");
        }
        // Nothing of the image is made outside of the volume that another one is mounted in.
        let pod = pod(vec![mount("config", "/c"), mount("scratch", "/c/../../../x")]);
        let files = Volumes::of(&pod).unwrap().files;
        assert!(files.iter().all(|file| file.path.starts_with("volumes/config")), "{files:?}");
    }

    proptest::proptest! {
        /// Whatever the variables are: a source lies in the folder of its volume, or the mount is refused, here or by the
        /// guest, which opens it below that folder.
        #[test]
        fn a_path_with_variables_stays_below_its_volume(
            text in "(/|\\.\\.|\\.|a|\\$\\(A\\)|\\$\\(B\\)|\\$){0,6}",
            a in "(/|\\.\\.|b|\\$\\(B\\)){0,4}",
            b in "(/|\\.\\.|c){0,4}",
            volume in proptest::sample::select(vec!["scratch", "config", "mixed"]),
            late: bool,
        ) {
            let mut pod = pod(vec![VolumeMount { sub_path_expr: Some(text), ..mount(volume, "/x") }]);
            let variable = |name: &str, value| EnvVar { name: name.into(), value };
            let mut env = vec![
                variable("A", EnvValue::Fixed(a.clone())),
                variable("B", EnvValue::Fixed(b.clone())),
            ];
            if late {
                env.push(variable("C", EnvValue::Instance(InstanceField::Name)));
            }
            pod.containers[0].env = env;
            let volumes = Volumes::of(&pod).unwrap();
            let container = &pod.containers[0];
            if let Ok((mounts, expand)) = volumes.mounts(container, &Environment::of(container)) {
                let values = [("A".to_owned(), a), ("B".to_owned(), b)].into();
                let source = i2kit_spec::expand(&mounts[0].source, &values);
                let folder = &volumes.sources[volume].folder;
                let below = source.strip_prefix(folder.as_str()).unwrap();
                proptest::prop_assert!(below.is_empty() || below.starts_with('/'), "{source}");
                let known = source == mounts[0].source && expand.is_empty();
                proptest::prop_assert!(!known || !below.split('/').any(|part| part == ".."), "{source}");
                // What is left to the guest is a part of a volume there, whose opening is bound to the volume.
                proptest::prop_assert!(expand.is_empty() || below.starts_with('/'), "{source}");
            }
        }
    }

    #[test]
    fn a_volume_hides_nothing_that_is_mounted_below_it() {
        let pod = pod(vec![mount("scratch", "/etc"), mount("config", "/dev/shm")]);
        let container = &pod.containers[0];
        let environment = Environment::of(container);
        let (volumes, _) = Volumes::of(&pod).unwrap().mounts(container, &environment).unwrap();
        let image = crate::oci::ContainerConfig { cmd: vec!["run".into()], ..Default::default() };
        let config = container::config(container, &image, &environment, volumes, &pod).unwrap();
        let at = |path: &str| config.mounts.iter().position(|mount| mount.destination == path).unwrap();
        assert!(at("/etc") < at("/etc/hosts"));
        assert_eq!(config.mounts.iter().filter(|mount| mount.destination == "/dev/shm").count(), 1);
        assert!(at("/dev") < at("/dev/shm"));
    }
}
