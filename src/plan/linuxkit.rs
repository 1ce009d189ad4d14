//! The written form of an image plan: a LinuxKit YAML, rendered from `templates/linuxkit.yml`.
//!
//! The words are those of LinuxKit's `moby` configuration. Every value goes through JSON, which YAML contains, so that
//! no text of a manifest can change the document's structure. LinuxKit has no word for a user by name: such a user
//! stands in `pod.json` alone, where the guest looks it up.

use i2kit_spec::{ContainerBoot, POD_BOOT_PATH};
use serde_json::{Value, json};

use super::image::{ContainerPlan, ImagePlan, PlanContent};
use super::podfs::pod_json;
use super::template::templates;

/// The template, compiled into the program so that it needs no files of its own.
const TEMPLATE: &str = include_str!("../../templates/linuxkit.yml");

/// The plan as LinuxKit YAML.
pub fn render(plan: &ImagePlan) -> String {
    templates()
        .render_template(TEMPLATE, &values(plan))
        .expect("the template names only values that `values` gives; a golden test renders it")
}

fn values(plan: &ImagePlan) -> Value {
    let entries = |boots: &[ContainerBoot]| -> Vec<Value> {
        boots
            .iter()
            .filter_map(|boot| {
                let container = plan.containers.iter().find(|container| container.bundle == boot.bundle)?;
                Some(entry(container, boot))
            })
            .collect()
    };
    json!({
        "imageId": plan.id().to_string(),
        "kernel": {
            "image": format!("i2kit/kernel:{}", plan.guest.kernel_release),
            "cmdline": plan.cmdline,
        },
        "init": format!("i2kit/init:{}", plan.guest.version),
        "onboot": entries(&plan.boot.onboot),
        "services": entries(&plan.boot.services),
        "files": files(plan),
    })
}

/// The files of the pod file system that are not made of the other entries.
fn files(plan: &ImagePlan) -> Vec<Value> {
    let boot = json!({
        "path": POD_BOOT_PATH,
        "mode": "0644",
        "directory": false,
        "binary": false,
        "contents": pod_json(plan),
    });
    let volumes = plan.files.iter().map(|file| {
        let (directory, binary, contents) = match &file.content {
            PlanContent::Directory => (true, false, ""),
            PlanContent::Text(text) => (false, false, text.as_str()),
            PlanContent::Base64(text) => (false, true, text.as_str()),
        };
        json!({
            "path": file.path,
            "mode": format!("{:04o}", file.mode),
            "directory": directory,
            "binary": binary,
            "contents": contents,
        })
    });
    std::iter::once(boot).chain(volumes).collect()
}

fn entry(container: &ContainerPlan, boot: &ContainerBoot) -> Value {
    let process = &container.config.process;
    let (binds, mounts): (Vec<_>, Vec<_>) =
        container.config.mounts.iter().partition(|mount| mount.kind == "bind");
    let (user, group) = boot.user.split_once(':').unwrap_or((&boot.user, ""));
    json!({
        "name": container.name,
        "image": container.image,
        "command": process.args,
        "env": process.env,
        "cwd": process.cwd,
        "uid": numeric(user, process.user.uid),
        "gid": boot.run_as_group.map_or_else(|| numeric(group, process.user.gid), Value::from),
        "capabilities": process.capabilities.bounding,
        "mounts": mounts,
        "binds": binds.iter().map(|bind| {
            format!("{}:{}:{}", bind.source, bind.destination, bind.options.join(","))
        }).collect::<Vec<_>>(),
        "rlimits": process.rlimits.iter().map(|limit| {
            let name = limit.kind.trim_start_matches("RLIMIT_").to_lowercase();
            format!("{name},{},{}", limit.soft, limit.hard)
        }).collect::<Vec<_>>(),
        "maskedPaths": container.config.linux.masked_paths,
        "readonlyPaths": container.config.linux.readonly_paths,
        "noNewPrivileges": process.no_new_privileges,
        "readonly": container.config.root.readonly,
        "resources": container.config.linux.resources,
    })
}

/// A numeric id other than root's; `null` for root and for names.
fn numeric(written: &str, configured: u32) -> Value {
    match written.parse::<u32>() {
        Ok(0) => Value::Null,
        Ok(id) => json!(id),
        Err(_) if written.is_empty() && configured != 0 => json!(configured),
        Err(_) => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::example;

    #[test]
    fn golden() {
        insta::assert_snapshot!(render(&example::plan()));
    }

    #[test]
    fn no_text_of_a_manifest_changes_the_structure() {
        let mut plan = example::plan();
        let nasty = "x: \"y\"\n- {{z}} 'q' # \u{2028} \u{0}".to_owned();
        plan.containers[0].config.process.args = vec![nasty.clone()];
        let document: serde_yaml::Value = serde_yaml::from_str(&render(&plan)).unwrap();
        assert_eq!(document["onboot"][0]["command"][0], nasty.as_str());
    }
}
