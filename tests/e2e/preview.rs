//! `i2kit preview`, ended in each phase by each signal that ends it: nothing is left behind.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::inotify;

use crate::support::{World, eventually, machines, soaks, tools};

/// Ctrl-C, the end of a job, the end of a terminal.
static SIGNALS: [&str; 3] = ["-INT", "-TERM", "-HUP"];

/// A pod that does this, may take so many seconds to end, and is ready when that command succeeds.
fn manifest(script: &str, grace: u32, ready: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: {grace}
      containers:
        - name: web
          image: busybox:1.35
          command: [/bin/sh, -c, '{script}']
          readinessProbe: {{exec: {{command: [/bin/sh, -c, '{ready}']}}, periodSeconds: 1, timeoutSeconds: 60}}
"
    )
}

/// A preview, which says what it says in the file `said` of the world.
fn start(world: &World) -> Child {
    let said = File::create(world.path().join("said")).unwrap();
    let mut command = world.command(&["preview", "web.yaml"]);
    command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said).spawn().unwrap()
}

/// Waits until it has said this.
fn says(world: &World, text: &str) {
    let said = || fs::read_to_string(world.path().join("said")).unwrap();
    eventually(text, || said().contains(text).then_some(()));
}

fn send(signal: &str, preview: &Child) {
    assert!(Command::new("kill").args([signal, &preview.id().to_string()]).status().unwrap().success());
}

/// Fails unless it ends with that code and has left nothing.
fn ends(world: &World, preview: &mut Child, code: i32) {
    let status = eventually("end of the preview", || preview.try_wait().unwrap());
    let said = fs::read_to_string(world.path().join("said")).unwrap();
    assert_eq!(status.code(), Some(code), "{status}: {said}");
    world.assert_nothing_left();
}

#[test]
fn a_preview_that_asks_for_an_image_ends_by_any_signal() {
    if !tools() {
        return;
    }
    // A registry that takes questions and answers none.
    let registry = TcpListener::bind("127.0.0.1:0").unwrap();
    registry.set_nonblocking(true).unwrap();
    let environment = format!(
        "name: test-{}-asks\nregistries:\n  docker.io:\n    mirrors: [\"{}\"]\n    plainHttp: true\n",
        std::process::id(),
        registry.local_addr().unwrap()
    );
    let world = World::bare().file("environment.yml", &environment);
    world.write("web.yaml", &manifest("exec sleep 1000", 1, "true"));
    for signal in SIGNALS {
        let mut preview = start(&world);
        let question = eventually("question for an image", || registry.accept().ok());
        send(signal, &preview);
        ends(&world, &mut preview, 130);
        drop(question);
        // It may have had others.
        while registry.accept().is_ok() {}
    }
}

/// The largest file of a folder.
fn largest(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

/// The same path with that behind it.
fn behind(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

#[test]
fn a_preview_that_fetches_or_converts_a_layer_ends_by_any_signal() {
    if !tools() {
        return;
    }
    let world = World::new().with_own_cache();
    world.write("web.yaml", &manifest("exec sleep 1000", 1, "true"));
    world.i2kit(&["build", "web.yaml"]).run();
    // The layer is missing, and then what it is made from; another one has the right to write it, for whom it waits.
    for folder in ["layers/sha256", "blobs/sha256"] {
        let missing = largest(&world.cache().join("i2kit").join(folder));
        fs::remove_file(&missing).unwrap();
        let _ = fs::remove_file(behind(&missing, ".sum"));
        let partial = behind(&missing, ".partial");
        let writer = File::create(&partial).unwrap();
        writer.lock().unwrap();
        for signal in SIGNALS {
            let watch =
                inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).unwrap();
            inotify::add_watch(&watch, &partial, inotify::WatchFlags::OPEN).unwrap();
            let mut preview = start(&world);
            let mut events = [0u8; 4096];
            eventually("wait for the other one", || rustix::io::read(&watch, &mut events).ok());
            send(signal, &preview);
            ends(&world, &mut preview, 130);
        }
    }
}

#[test]
fn a_preview_with_machines_leaves_nothing_behind() {
    if !machines() {
        return;
    }
    let signals = |first: usize| if soaks() { &SIGNALS[..] } else { &SIGNALS[first..=first] };
    let world = World::new();
    // With a machine that boots, and whose pod never gets ready.
    world.write("web.yaml", &manifest("exec sleep 1000", 1, "false"));
    for signal in signals(2) {
        let mut preview = start(&world);
        eventually("a machine", || {
            world.fleet().groups.iter().any(|group| !group.instances.is_empty()).then_some(())
        });
        send(signal, &preview);
        ends(&world, &mut preview, 130);
    }

    // With one that serves.
    world.write("web.yaml", &manifest("exec sleep 1000", 1, "true"));
    for signal in signals(1) {
        let mut preview = start(&world);
        says(&world, "Serving; Ctrl-C ends the preview");
        // What runs already is not taken for a preview of its own.
        world.i2kit(&["preview", "web.yaml"]).code(7).says("web is deployed already").run();
        send(signal, &preview);
        says(&world, "tearing down");
        // While it ends, a job that is cancelled and a terminal that goes say the same again. It may have ended.
        for again in ["-TERM", "-HUP"] {
            let _ = Command::new("kill").args([again, &preview.id().to_string()]).status();
        }
        ends(&world, &mut preview, 0);
    }
    if soaks() {
        the_rest_is_left_to_destroy(&world);
    }
}

/// Ctrl-C again leaves what is not torn down yet: here a pod that takes minutes to end.
fn the_rest_is_left_to_destroy(world: &World) {
    world.write("web.yaml", &manifest("trap \"\" TERM; while :; do sleep 1; done", 3600, "true"));
    let mut preview = start(world);
    says(world, "Serving; Ctrl-C ends the preview");
    send("-INT", &preview);
    says(world, "tearing down");
    send("-INT", &preview);
    assert_eq!(preview.wait().unwrap().code(), Some(130));
    let mut destroy = world.i2kit(&["destroy", "--all"]).start();
    let status = eventually("end of what was left", || {
        for (pid, _) in world.processes().iter().filter(|(_, arguments)| arguments.contains("qemu-system")) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        destroy.try_wait().unwrap()
    });
    assert!(status.success());
    world.assert_nothing_left();
}
