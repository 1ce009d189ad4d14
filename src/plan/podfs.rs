//! The pod file system: the few files that differ from pod to pod.

use i2kit_spec::POD_BOOT_PATH;

use super::image::ImagePlan;
use super::linuxkit;

/// Mode of the files that every pod has.
const MODE: u16 = 0o644;

/// A file of the pod file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFile {
    /// Path without a leading slash.
    pub path: String,
    /// Permission bits.
    pub mode: u16,
    /// Content; a directory has none.
    pub contents: Option<Vec<u8>>,
}

/// All files, sorted by path: `pod.json`, each container's `config.json`, and the files of volumes.
pub fn files(plan: &ImagePlan) -> Vec<PodFile> {
    let boot = file(POD_BOOT_PATH.into(), linuxkit::pod_json(plan));
    let configs = plan.containers.iter().map(|container| {
        file(format!("{}/config.json", container.bundle), linuxkit::config_json(&container.config))
    });
    let volumes = plan.files.iter().map(|file| PodFile {
        path: file.path.clone(),
        mode: file.mode,
        contents: file.content.bytes(),
    });
    let mut files: Vec<PodFile> = std::iter::once(boot).chain(configs).chain(volumes).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn file(path: String, text: String) -> PodFile {
    PodFile { path, mode: MODE, contents: Some(text.into_bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::example;

    #[test]
    fn every_container_has_its_config() {
        let paths: Vec<String> = files(&example::plan()).into_iter().map(|file| file.path).collect();
        assert_eq!(
            paths,
            [
                "containers/onboot/000-prepare/config.json",
                "containers/services/web/config.json",
                "etc/i2kit/pod.json"
            ]
        );
    }
}
