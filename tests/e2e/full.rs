//! A disk that is full, under the local cloud's folder: what it takes is refused with a word about what to do, and nothing
//! that runs is lost.

use std::fs::{self, File};
use std::io::Write as _;

use i2kit::plan::fleet::Health;

use crate::support::{World, eventually, get, kill, machines, wait_for_page};

/// Room for the images of two revisions, and for what the local cloud keeps.
const MEBIBYTES: u32 = 96;

/// One machine that says its revision.
const MANIFEST: &str = "name: full
public: true
containers:
  httpd:
    image: busybox:1.35
    command: [/bin/sh, -c, 'echo REVISION > index.html; exec httpd -f -p 80']
    ports: [80]
";

/// Takes all room that is left.
fn fill(world: &World) {
    let mut filling = File::create(world.state().join("filling")).unwrap();
    while filling.write_all(&[1; 4096]).is_ok() {}
}

/// Gives it back.
fn make_room(world: &World) {
    fs::remove_file(world.state().join("filling")).unwrap();
}

/// The process of the one machine that is healthy.
fn machine(world: &World) -> Option<u32> {
    world.group("full").members().find(|member| member.health == Health::Healthy)?.pid
}

#[test]
fn a_full_disk_is_told_and_everything_goes_on_once_there_is_room() {
    if !machines() {
        return;
    }
    let world = World::new().with_small_disk(MEBIBYTES);
    let manifest = |revision: &str| world.write("full.yaml", &MANIFEST.replace("REVISION", revision));
    manifest("first");
    // Not even the local cloud's process starts; its log has no room for the reason.
    fill(&world);
    let call = world.i2kit(&["deploy", "full.yaml"]).code(7).says("no room is left where");
    call.says("make room there and run the command again").run();
    make_room(&world);
    world.i2kit(&["deploy", "full.yaml"]).run();
    let address = world.address("full");
    wait_for_page(&address, "first");
    let before = machine(&world);
    assert!(before.is_some());

    // An update is refused before it changes anything, and the machine goes on, also under another local cloud.
    fill(&world);
    manifest("second");
    let call = world.i2kit(&["deploy", "full.yaml"]).code(7).says("No space left on device");
    call.says("make room there").run();
    assert!(get(&address, "/").unwrap().text.contains("first"));
    kill(world.local_cloud());
    world.i2kit(&["status"]).prints("full").run();
    eventually("health under the next local cloud", || (machine(&world) == before).then_some(()));
    assert!(get(&address, "/").unwrap().text.contains("first"));

    // The same command goes through once there is room.
    make_room(&world);
    world.i2kit(&["deploy", "full.yaml"]).run();
    wait_for_page(&address, "second");
    assert_ne!(machine(&world), before);

    // What is to go needs no room.
    fill(&world);
    world.i2kit(&["destroy", "--all"]).run();
    world.assert_nothing_left();
}
