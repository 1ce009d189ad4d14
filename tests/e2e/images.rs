//! Machine images, from every kind of source, judged by foreign tools.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Images, World, mirror, root, tools};

/// A pod whose image is `app:1`.
const APP: &str = "name: app\ncontainers:\n  app:\n    image: app:1\n    ports: [80]\n";

fn layout() -> PathBuf {
    root().join("target/test-images/layout")
}

/// All files below `folder` with their bytes, by relative path.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push((path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    if !tools() {
        return;
    }
    let manifest = root().join("manifests/nginx.yaml");
    let built = || {
        let world = World::new().with_own_cache();
        world.i2kit(&["build", manifest.to_str().unwrap(), "--dir", "out"]).run();
        contents(&world.path().join("out"))
    };
    let (first, second) = (built(), built());
    assert!(!first.is_empty());
    let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&first), names(&second));
    for ((name, a), (_, b)) in first.iter().zip(&second) {
        assert!(a == b, "{} differs", name.display());
    }
}

#[test]
fn foreign_tools_accept_what_is_built() {
    if !tools() {
        return;
    }
    let world = World::new();
    for example in ["nginx", "redis", "hello"] {
        let manifest = root().join(format!("manifests/{example}.yaml"));
        world.i2kit(&["build", manifest.to_str().unwrap(), "--dir", "out"]).run();
    }
    for example in ["nginx", "redis", "hello"] {
        let disk = format!("out/{example}/disk.raw");
        world.tool("sgdisk", &["--verify", &disk]).prints("No problems found").run();
    }
}

#[test]
fn images_come_from_layouts_and_archives_too() {
    if !tools() {
        return;
    }
    let source = format!("oci:{}:busybox-1.35", layout().display());
    let mut plans = Vec::new();
    for (target, key) in
        [("oci:image", "layout: image"), ("docker-archive:image.tar:app:1", "archive: image.tar")]
    {
        let world = World::bare()
            .file("environment.yml", &format!("name: test\nimages:\n  app:1:\n    {key}\n"))
            .file("app.yaml", APP);
        world.tool("skopeo", &["copy", "--quiet", &source, target]).run();
        world.i2kit(&["build", "app.yaml"]).run();
        plans.push(world.i2kit(&["plan", "app.yaml", "--output", "json"]).run().stdout);
    }
    assert!(plans.iter().all(|plan| plan.contains("app")));
}

#[test]
fn an_image_that_no_registry_has_is_named() {
    if !tools() {
        return;
    }
    let nowhere = format!("{}/library/nothing:1", mirror(Images::Common));
    let world = World::new().file("app.yaml", &APP.replace("app:1", &nowhere));
    world.i2kit(&["build", "app.yaml"]).code(5).says(&nowhere).run();
}

#[test]
fn a_missing_guest_names_the_command_that_makes_it() {
    if !tools() {
        return;
    }
    let world = World::new().file("app.yaml", APP);
    world
        .i2kit(&["build", "app.yaml"])
        .environment("I2KIT_GUEST", "nowhere")
        .code(6)
        .says("scripts/guest")
        .run();
}
