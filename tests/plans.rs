//! What every example manifest becomes: its image plan as LinuxKit YAML, checked by LinuxKit's rules, and the rollout
//! plan against an empty environment. Images are made up here, so that the goldens depend on the examples alone.

#[path = "support/linuxkit.rs"]
mod linuxkit_rules;

use std::collections::BTreeMap;
use std::path::Path;

use i2kit::manifest::api::ObjectSet;
use i2kit::manifest::{self, SourceFile};
use i2kit::oci::{
    ContainerConfig, Descriptor, DiffId, Digest, ImageConfig, Layer, Reference, ResolvedImage, RootFs,
};
use i2kit::plan::fleet::Fleet;
use i2kit::plan::image::{GuestFacts, ImagePlan, LaunchImage};
use i2kit::plan::rollout::{self, Desired};
use i2kit::plan::{linuxkit, pod, replicated, workload};

/// An image of two layers that runs `/entrypoint`.
fn image(reference: &Reference) -> ResolvedImage {
    let layer = |text: &str| {
        let digest = Digest::of(text.as_bytes());
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip".to_owned();
        Layer { blob: Descriptor { media_type, digest, size: 1 }, diff_id: DiffId(digest) }
    };
    let layers = vec![layer("base"), layer(&reference.repository)];
    let manifest = Digest::of(reference.to_string().as_bytes());
    ResolvedImage {
        reference: reference.with_digest(manifest),
        manifest,
        config: ImageConfig {
            architecture: "amd64".into(),
            os: "linux".into(),
            config: ContainerConfig { entrypoint: vec!["/entrypoint".into()], ..ContainerConfig::default() },
            rootfs: RootFs { diff_ids: layers.iter().map(|layer| layer.diff_id).collect() },
        },
        layers,
    }
}

fn read(path: &Path) -> ObjectSet {
    let name = path.file_name().expect("examples have names").to_string_lossy().into_owned();
    let files = [SourceFile { name, bytes: std::fs::read(path).expect("the example can be read") }];
    let reading = manifest::read(&files, &manifest::Options::default());
    assert!(!reading.has_errors(), "{:#?}", reading.diagnostics);
    replicated::expand(reading.set)
}

fn plans(set: &ObjectSet) -> Vec<ImagePlan> {
    let guest = GuestFacts {
        version: "0.1.0".into(),
        architecture: i2kit_spec::Architecture::Amd64,
        kernel_release: "6.1.0-1-cloud-amd64".into(),
        kernel: Digest::of(b"kernel"),
        initrd: Digest::of(b"initrd"),
        identity: None,
        cloud: None,
        stub: None,
    };
    let mut images: BTreeMap<Reference, ResolvedImage> = set
        .pods()
        .flat_map(|(_, template)| &template.spec.containers)
        .map(|container| (container.image.clone(), image(&container.image)))
        .collect();
    images.insert(replicated::reference(), replicated::image(Digest::of(b"coordinator"), 1));
    set.pods()
        .map(|(name, template)| {
            let facts = pod::Facts { images: &images, guest: &guest, profiles: &BTreeMap::new() };
            pod::image(name, template, &facts).expect("the example can be planned")
        })
        .collect()
}

#[test]
fn every_example_obeys_linuxkits_rules() {
    insta::glob!("../manifests", "**/*.yaml", |path| {
        let yaml: Vec<String> = plans(&read(path)).iter().map(linuxkit::render).collect();
        for document in &yaml {
            assert_eq!(linuxkit_rules::violations(document), Vec::<String>::new(), "{document}");
        }
        insta::assert_snapshot!("linuxkit", yaml.join("---\n"));
    });
}

#[test]
fn every_example_has_a_rollout_plan() {
    insta::glob!("../manifests", "**/*.yaml", |path| {
        let set = read(path);
        let images: Vec<LaunchImage> = plans(&set).iter().map(LaunchImage::from).collect();
        let (groups, balancers) = workload::desired(&set, &images, &BTreeMap::new());
        let desired = Desired {
            environment: "local".into(),
            groups,
            balancers,
            disks: workload::disks(&set),
            classes: vec![],
            cause: "i2kit deploy".into(),
            prune: false,
        };
        let fleet = Fleet { environment: "local".into(), ..Fleet::default() };
        insta::assert_snapshot!("rollout", rollout::rollout(&desired, &fleet).to_string());
    });
}

#[test]
fn the_rules_refuse_what_linuxkit_refuses() {
    let good = linuxkit::render(&plans(&read(Path::new("manifests/nginx.yaml")))[0]);
    for (from, to, expected) in [
        ("kernel:\n", "kernel:\n  size: 1\n", "schema: "),
        ("nofile,1024,524288", "files,1,2", "rlimit files,1,2"),
        ("mode: \"0644\"", "mode: \"rw\"", "mode rw is not an octal string"),
        ("path: \"etc/", "path: \"run/", "hidden by a tmpfs at boot"),
        ("cwd: \"/\"", "cwd: \"srv\"", "cwd srv is not absolute"),
    ] {
        let bad = good.replace(from, to);
        assert_ne!(bad, good, "{from}");
        let found = linuxkit_rules::violations(&bad).join("\n");
        assert!(found.contains(expected), "{found}");
    }
}
