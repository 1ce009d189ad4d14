//! Pods as i2kit makes them of a manifest: read, checked and planned by the product's own code, on busybox layers.

use std::collections::BTreeMap;

use i2kit::manifest::api::Name;
use i2kit::manifest::{Options, SourceFile, read};
use i2kit::oci::{ContainerConfig, Digest, ImageConfig, Reference, ResolvedImage, RootFs};
use i2kit::plan::image::GuestFacts;
use i2kit::plan::seccomp::Profile;
use i2kit::plan::{pod, podfs};
use i2kit_spec::POD_BOOT_PATH;

use crate::pod::Pod;

/// A container with a shell for `Vm::shell`, as an entry of `containers`; `{…}` of YAML go on after it.
pub(crate) const SHELL: &str = "name: shell, image: busybox, command: [sh, -c, exec nc -ll -p 7 -e sh]";

/// The profile `calls.json`, which pods may name: no folders, no signals of one kind, no sockets of one family.
const PROFILE: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
  {"names": ["mkdir", "mkdirat", "a_call_of_the_future"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
  {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]},
  {"names": ["chroot"], "action": "SCMP_ACT_KILL_PROCESS", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
  {"names": ["link"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYS_ADMIN"]}}]}"#;

/// The pod that a Deployment with this pod `spec` runs, in YAML's flow form, from images whose user is `user`.
pub(crate) fn pod_of(spec: &str, user: &str) -> Pod {
    let text = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: test}}\nspec:\n  \
         selector: {{matchLabels: {{app: test}}}}\n  template:\n    metadata: {{labels: {{app: test}}}}\n    spec: {spec}\n"
    );
    let options = Options { allow_privileged: true, ..Options::default() };
    let file = SourceFile { name: "test.yaml".into(), bytes: text.into_bytes() };
    let reading = read(&[file], &options);
    assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
    let template = &reading.set.deployments[0].template;
    let spec = &template.spec;
    let images: BTreeMap<Reference, ResolvedImage> = spec
        .init_containers
        .iter()
        .chain(&spec.containers)
        .map(|container| (container.image.clone(), image(&container.image, user)))
        .collect();
    let digest = Digest::of(b"guest");
    let guest = GuestFacts {
        version: "0".into(),
        architecture: i2kit_spec::Architecture::Amd64,
        kernel_release: "6".into(),
        kernel: digest,
        initrd: digest,
        identity: None,
        cloud: None,
        stub: None,
    };
    let name = Name { namespace: "default".into(), name: "test".into() };
    let profiles = [("calls.json".to_owned(), Profile::parse(PROFILE).unwrap())].into();
    let facts = pod::Facts { images: &images, guest: &guest, profiles: &profiles };
    let mut plan = pod::image(&name, template, &facts).unwrap();
    for container in plan.boot.onboot.iter_mut().chain(&mut plan.boot.services) {
        container.layers = vec!["base".into(), "top".into()];
    }
    let mut planned = Pod::new();
    for file in podfs::files(&plan).into_iter().filter(|file| file.path != POD_BOOT_PATH) {
        planned = planned.file(file);
    }
    planned.boot = plan.boot;
    planned
}

fn image(reference: &Reference, user: &str) -> ResolvedImage {
    let manifest = Digest::of(b"busybox");
    ResolvedImage {
        reference: reference.clone(),
        manifest,
        config: ImageConfig {
            architecture: "amd64".into(),
            os: "linux".into(),
            config: ContainerConfig {
                cmd: vec!["sh".into()],
                env: vec!["PATH=/bin".into()],
                user: user.into(),
                ..ContainerConfig::default()
            },
            rootfs: RootFs { diff_ids: vec![] },
        },
        layers: vec![],
    }
}
