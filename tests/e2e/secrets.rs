//! Secrets, deployed: they reach the containers and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::{World, eventually, get, get_with, holders, kill, machines, root};

/// What must be found nowhere.
const CANARY: &str = "canary-7f3a9c51";

/// Processes whose command line or environment holds the text.
fn processes(text: &str) -> Vec<String> {
    let has = |path: String| fs::read(path).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text));
    let pids =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    pids.filter(|pid| pid.parse::<u32>().is_ok())
        .filter(|pid| has(format!("/proc/{pid}/cmdline")) || has(format!("/proc/{pid}/environ")))
        .collect()
}

#[test]
fn a_secret_reaches_its_container_and_nothing_else() {
    if !machines() {
        return;
    }
    let world = World::new();
    world.write_example("manifests/secrets.yaml", "pod.yaml", &[("change-me", CANARY)]);
    let mut said = world.i2kit(&["plan", "pod.yaml"]).run().stdout;
    said += &world.i2kit(&["plan", "pod.yaml", "--output", "json"]).run().stdout;
    let deployed = world.i2kit(&["deploy", "pod.yaml", "--output", "json"]).run();
    said += &deployed.stdout;
    said += &deployed.stderr;
    let address = world.address("secrets");
    let page = |path: &str, login: &str| {
        let login = STANDARD.encode(login);
        get_with(&address, path, &format!("Authorization: Basic {login}\r\n")).unwrap()
    };
    assert_eq!(get(&address, "/password").unwrap().status, 401);
    // The variables are in the server's configuration, and the volume is what it serves.
    let login = format!("admin:{CANARY}");
    let answer = page("/password", &login);
    assert!(answer.status == 200 && answer.text.ends_with(CANARY), "{}", answer.text);
    for arguments in [
        vec!["status", "--output", "json"],
        vec!["history", "secrets", "--output", "json"],
        vec!["logs", "secrets"],
        vec!["build", "pod.yaml", "--dir", "built"],
        vec!["check", "pod.yaml", "--output", "json"],
    ] {
        let call = world.i2kit(&arguments).run();
        said += &call.stdout;
        said += &call.stderr;
    }
    assert!(!said.contains(CANARY), "{said}");
    assert_eq!(processes(CANARY), Vec::<String>::new());

    // On disk it is in the manifest and in the one file that is said to hold it; images, database, consoles and the
    // cache have it in no form.
    let texts = [CANARY.to_owned(), STANDARD.encode(CANARY)];
    let mut found = BTreeSet::new();
    holders(world.path(), &texts, &mut found);
    let image = world.group("secrets").revisions[0].launch.image.0.hex();
    let image = world.cache().join("i2kit/images").join(image);
    assert!(image.is_dir(), "{}", image.display());
    holders(&image, &texts, &mut found);
    let store: Vec<&String> = found.iter().filter(|path| !path.ends_with("/pod.yaml")).collect();
    assert!(store.len() == 1 && store[0].contains("/local/secrets/"), "{found:?}");

    // Inside the machine it is on no command line, of the kernel or of a process.
    let lines = "cat /proc/cmdline /proc/*/cmdline";
    let call = world.i2kit(&["exec", "secrets", "--", "sh", "-c", lines]).prints("i2kit.identity=").run();
    assert!(texts.iter().all(|text| !call.stdout.contains(text)), "{}", call.stdout);

    // Equal values are no rollout; all processes of ours may die, and a machine that is replaced has the value.
    world.i2kit(&["deploy", "pod.yaml"]).prints("unchanged").run();
    kill(world.local_cloud());
    kill(world.group("secrets").instances[0].pid.unwrap());
    eventually("replacement", || {
        let answer = get(&address, "/password").ok()?;
        (answer.status == 401 && world.group("secrets").healthy() == 1).then_some(())
    });
    assert_eq!(page("/password", &login).status, 200);

    // A changed value is another revision, and the same image.
    let image = |number: usize| world.group("secrets").revisions[number].launch.image;
    world.write_example("manifests/secrets.yaml", "pod.yaml", &[("change-me", "other")]);
    world.i2kit(&["deploy", "pod.yaml"]).run();
    eventually("the new value", || (page("/password", "admin:other").status == 200).then_some(()));
    assert_eq!(image(0), image(1));

    world.i2kit(&["destroy", "pod.yaml"]).run();
    world.assert_nothing_left();
    assert!(!Path::new(store[0]).exists());
}

#[test]
fn a_secret_may_come_from_a_file_of_the_environment() {
    if !machines() {
        return;
    }
    let world = World::new();
    let mut text = fs::read_to_string(root().join("manifests/secrets.yaml")).unwrap();
    text = text.split_once("---\n").unwrap().1.to_owned();
    world.write("pod.yaml", &text);
    world.i2kit(&["plan", "pod.yaml"]).code(3).run();
    world.i2kit(&["plan", "pod.yaml", "--external", "secret/login"]).code(4).run();
    let environment = fs::read_to_string(world.path().join("environment.yml")).unwrap();
    world.write("environment.yml", &format!("{environment}secrets:\n  login: login.env\n"));
    world.write("login.env", "user=me\npassword=from-a-file\n");
    world.i2kit(&["deploy", "pod.yaml"]).run();
    let login = STANDARD.encode("me:from-a-file");
    let header = format!("Authorization: Basic {login}\r\n");
    let answer = get_with(&world.address("secrets"), "/user", &header).unwrap();
    assert!(answer.status == 200 && answer.text.ends_with("me"), "{}", answer.text);
}
