//! What a pod file system says of its pod, for whoever runs the image and did not plan it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use i2kit_spec::POD_BOOT_PATH;
use serde::Deserialize;

use crate::erofs::Reader;

/// As much of `pod.json` as is read here: the file may be of another version of this program.
#[derive(Debug, Deserialize)]
struct Pod {
    onboot: Vec<Container>,
    services: Vec<Container>,
}

#[derive(Debug, Deserialize)]
struct Container {
    name: String,
}

/// The names of all containers of the pod whose file system is `file`, init containers among them. Nothing when the
/// file is no pod file system.
pub fn containers(file: &Path) -> Option<BTreeSet<String>> {
    let mut reader = Reader::new(BufReader::new(File::open(file).ok()?)).ok()?;
    let node = reader.lookup(POD_BOOT_PATH.as_bytes()).ok()?;
    let pod: Pod = serde_json::from_slice(&reader.read(&node).ok()?).ok()?;
    Some(pod.onboot.into_iter().chain(pod.services).map(|container| container.name).collect())
}

/// A pod file system with the containers `init` and `web`.
#[cfg(test)]
pub(crate) fn sample() -> Vec<u8> {
    let json = r#"{"version": 1, "later": true, "onboot": [{"name": "init", "bundle": "x"}], "services": [{"name": "web"}]}"#;
    crate::erofs::write_tree(&[crate::erofs::TreeFile::file(POD_BOOT_PATH, json)]).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_containers_are_in_the_pod_file_system() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pod.erofs");
        std::fs::write(&path, sample()).unwrap();
        assert_eq!(containers(&path), Some(BTreeSet::from(["init".into(), "web".into()])));
        std::fs::write(&path, [0; 4096]).unwrap();
        assert_eq!(containers(&path), None);
        assert_eq!(containers(&folder.path().join("none")), None);
    }
}
