//! The pod file system: the few files that differ from pod to pod.

use i2kit_spec::{POD_BOOT_PATH, runtime};

use super::image::{ImagePlan, PlanFile};
use crate::erofs::{TreeContent, TreeFile};

/// All files, sorted by path: `pod.json`, each container's `config.json`, and the files of volumes.
pub fn files(plan: &ImagePlan) -> Vec<TreeFile> {
    let boot = TreeFile::file(POD_BOOT_PATH, pod_json(plan));
    let configs = plan.containers.iter().map(|container| {
        TreeFile::file(format!("{}/config.json", container.bundle), config_json(&container.config))
    });
    let volumes = plan.files.iter().map(|PlanFile { path, mode, content }| TreeFile {
        path: path.clone(),
        mode: *mode,
        content: content.bytes().map_or(TreeContent::Directory, TreeContent::File),
    });
    let mut files: Vec<TreeFile> = std::iter::once(boot).chain(configs).chain(volumes).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// The contents of `pod.json`.
pub(super) fn pod_json(plan: &ImagePlan) -> String {
    serde_json::to_string_pretty(&plan.boot).expect("a boot description has only string keys") + "\n"
}

/// The contents of a container's `config.json`, indented by four spaces as LinuxKit writes it.
fn config_json(config: &runtime::Config) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    serde::Serialize::serialize(config, &mut serializer).expect("a config has only string keys");
    bytes.push(b'\n');
    String::from_utf8(bytes).expect("serde_json writes UTF-8")
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
