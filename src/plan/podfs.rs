//! The pod file system: the few files that differ from pod to pod.

use i2kit_spec::POD_BOOT_PATH;

use super::image::ImagePlan;
use super::linuxkit;

/// A regular file of the pod file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFile {
    /// Path without a leading slash.
    pub path: String,
    /// Content.
    pub contents: Vec<u8>,
}

/// All files, sorted by path: `pod.json` and each container's `config.json`.
pub fn files(plan: &ImagePlan) -> Vec<PodFile> {
    let boot = PodFile { path: POD_BOOT_PATH.into(), contents: linuxkit::pod_json(plan).into_bytes() };
    let configs = plan.containers.iter().map(|container| PodFile {
        path: format!("{}/config.json", container.bundle),
        contents: linuxkit::config_json(&container.config).into_bytes(),
    });
    let mut files: Vec<PodFile> = std::iter::once(boot).chain(configs).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
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
