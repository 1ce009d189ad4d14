//! Files and volumes of pods, deployed.

use crate::support::{World, get, machines, root, wait_for_page};

#[test]
fn files_come_from_config_maps_the_instance_and_other_containers() {
    if !machines() {
        return;
    }
    let world = World::new();
    world.i2kit(&["deploy", &root().join("manifests/files.yaml").display().to_string()]).run();
    let address = world.address("files");
    wait_for_page(&address, "a page from a ConfigMap");
    let page = |path: &str| get(&address, path).unwrap().text;
    assert!(page("/memory").ends_with("\r\n\r\n64"), "{}", page("/memory"));
    assert!(page("/scratch/state").contains("prepared at level debug by 10."), "{}", page("/scratch/state"));
    assert!(page("/about/labels").ends_with("app=\"files\""), "{}", page("/about/labels"));
    let name = &world.group("files").instances[0].id;
    assert!(page("/about/name").ends_with(&**name), "{} {name}", page("/about/name"));

    // Scratch space is a file system of its own, and its bound; the file that it lies in has no name.
    let words = "grep ' /site/scratch ' /proc/self/mounts | cut -d' ' -f 3; \
                 df -k /site/scratch | tail -n 1 | tr -s ' ' | cut -d' ' -f 4";
    let call = world.i2kit(&["exec", "files", "--", "sh", "-c", words]).run();
    let (kind, free) = call.stdout.trim().split_once('\n').unwrap();
    assert_eq!(kind, "ext4");
    assert!((1024..1400).contains(&free.parse::<u32>().unwrap()), "{free} KiB are free");

    // A changed ConfigMap is another image, and a rollout.
    world.write_example("manifests/files.yaml", "files.yaml", &[("a page from", "another page from")]);
    world.i2kit(&["deploy", "files.yaml"]).run();
    wait_for_page(&world.address("files"), "another page from a ConfigMap");
}
