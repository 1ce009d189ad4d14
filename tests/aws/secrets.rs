//! Secrets on AWS: values go to Secrets Manager and to machines, and nowhere else.

use std::collections::BTreeSet;
use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::crash::census;
use crate::harness::Bed;
use crate::rollout::{assert_calls_are_known, assert_nothing_left, world};
use crate::support::{World, eventually, get, get_with, holders, kill, machines, root, tools};

/// What must be found nowhere.
const CANARY: &str = "canary-2c81d07e";

/// The example of Secrets, with this password and this number of machines that are looked back at.
fn manifest(password: &str) -> String {
    let text = fs::read_to_string(root().join("manifests/secrets.yaml")).unwrap();
    assert!(text.contains("change-me") && text.contains("spec:\n  selector:\n    matchLabels"));
    text.replace("change-me", password).replace(
        "spec:\n  selector:\n    matchLabels",
        "spec:\n  revisionHistoryLimit: 1\n  selector:\n    matchLabels",
    )
}

/// Names of what Secrets Manager keeps.
fn kept(bed: &Bed) -> BTreeSet<String> {
    let left: Vec<String> = serde_json::from_str(&bed.call("GET", "/moto-api/i2kit/left", "")).unwrap();
    left.iter().filter_map(|thing| thing.strip_prefix("secret ")).map(str::to_owned).collect()
}

/// How often the values of Secrets were sent since the last time.
fn sent(bed: &Bed) -> usize {
    assert_calls_are_known(bed).iter().filter(|call| *call == "CreateSecret").count()
}

/// The actions whose requests held the text that is watched.
fn seen(bed: &Bed) -> Vec<String> {
    serde_json::from_str(&bed.call("GET", "/_seen", "")).unwrap()
}

fn update(world: &World, manifest: &str) {
    world.write("pod.yaml", manifest);
    world.i2kit(&["deploy", "pod.yaml"]).run();
}

#[test]
fn values_are_kept_once_a_version_and_go_with_the_last_who_names_them() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    bed.call("POST", "/_watch", CANARY);
    let world = world(&bed).file("pod.yaml", &manifest(CANARY));
    let plan = world.i2kit(&["plan", "pod.yaml"]);
    plan.prints("+ SecretsManager::Secret login").prints("+ IAM::Role default").run();
    assert_eq!((sent(&bed), kept(&bed).len()), (0, 0), "a plan keeps nothing");
    world.i2kit(&["deploy", "pod.yaml"]).run();
    // The key of the versions, and one version.
    assert_eq!(sent(&bed), 2);
    let first = kept(&bed);
    assert!(first.len() == 2 && first.contains("i2kit-versions/test"), "{first:?}");
    assert!(first.iter().any(|name| name.starts_with("i2kit/test/default/login/")), "{first:?}");
    let untagged = bed.call("GET", "/moto-api/i2kit/untagged", "");
    assert_eq!(serde_json::from_str::<Vec<String>>(&untagged).unwrap(), Vec::<String>::new());

    // Equal values are not sent again, neither by the same manifest nor by one with another image.
    world.i2kit(&["deploy", "pod.yaml"]).prints("unchanged").run();
    update(&world, &manifest(CANARY).replace("exec httpd", "exec  httpd"));
    assert!(world.group("secrets").is_settled_at(2));
    assert_eq!((sent(&bed), kept(&bed)), (0, first.clone()));
    world.i2kit(&["diff", "pod.yaml"]).stdout("").run();

    // A changed value is a revision of the same image. Older values stay for as long as a revision names them.
    update(&world, &manifest("other").replace("exec httpd", "exec  httpd"));
    let group = world.group("secrets");
    assert!(group.is_settled_at(3) && group.revisions[0].launch.image == group.revisions[1].launch.image);
    assert_eq!((sent(&bed), kept(&bed).len()), (1, 3));
    world.i2kit(&["gc"]).stdout("nothing to delete\n").run();
    update(&world, &manifest("third"));
    let old = first.iter().find(|name| name.starts_with("i2kit/")).unwrap();
    world.i2kit(&["gc"]).prints(&format!("secret {old}")).run();
    assert!(kept(&bed).len() == 3 && !kept(&bed).contains(old), "{:?}", kept(&bed));

    // Values that another group names stay, whichever goes first.
    let two =
        manifest("third").replace("name: secrets", "name: second").replace("app: secrets", "app: second");
    world.write("two.yaml", &two);
    world.i2kit(&["deploy", "two.yaml"]).run();
    world.i2kit(&["destroy", "pod.yaml"]).run();
    let names = |bed: &Bed| kept(bed).into_iter().filter(|name| name.starts_with("i2kit/")).count();
    assert_eq!(names(&bed), 1, "{:?}", kept(&bed));
    assert_eq!(seen(&bed), ["CreateSecret"]);
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
    assert_calls_are_known(&bed);
}

#[test]
fn killed_while_values_are_put_the_next_run_makes_it_good() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let world = world(&bed).file("pod.yaml", &manifest(CANARY));
    world.i2kit(&["deploy", "pod.yaml"]).run();
    let whole = census(&bed);
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
    let moments =
        [("^GetSecretValue$", 0), ("^CreateSecret$", 0), ("^DescribeSecret$", 0), ("^CreateSecret$", 1)];
    for (call, skip) in moments {
        bed.fault(&json!([{"match": call, "skip": skip, "hang": true}]));
        let mut deploy = world.i2kit(&["deploy", "pod.yaml"]).start();
        eventually(call, || (bed.call("GET", "/_hung", "") == "true").then_some(()));
        kill(deploy.id());
        deploy.wait().unwrap();
        bed.fault(&json!([]));
        world.i2kit(&["deploy", "pod.yaml"]).run();
        assert!(world.group("secrets").is_settled_at(1), "killed after {call} {skip}");
        assert_eq!(census(&bed), whole, "killed after {call} {skip}");
        // Once killed while it deletes as well.
        bed.fault(&json!([{"match": "^DeleteSecret$", "skip": 0, "hang": true}]));
        let mut destroy = world.i2kit(&["destroy", "--all"]).start();
        eventually("DeleteSecret", || (bed.call("GET", "/_hung", "") == "true").then_some(()));
        kill(destroy.id());
        destroy.wait().unwrap();
        bed.fault(&json!([]));
        world.i2kit(&["destroy", "--all"]).run();
        assert_nothing_left(&bed);
    }

    bed.fault(&json!([{"match": "^CreateSecret$", "lose": true, "count": 2}, {"match": "^DeleteSecret$", "lose": true}]));
    world.i2kit(&["deploy", "pod.yaml"]).run();
    assert_eq!(census(&bed), whole);
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn a_machine_reads_its_secret_with_its_role_and_nothing_else_has_it() {
    if !tools() || !machines() {
        return;
    }
    let bed = Bed::start_with(&["--boot", "--probe-interval", "1"]);
    bed.call("POST", "/_watch", CANARY);
    let world = world(&bed).file("pod.yaml", &manifest(CANARY));
    let environment = fs::read_to_string(world.path().join("environment.yml")).unwrap();
    let endpoint = "  region: us-east-1\n  machinesEndpoint: http://169.254.170.2\n";
    world.write("environment.yml", &environment.replace("  region: us-east-1\n", endpoint));
    let mut said = world.i2kit(&["plan", "pod.yaml", "--output", "json"]).run().stdout;
    for arguments in [
        vec!["deploy", "pod.yaml", "--output", "json"],
        vec!["diff", "pod.yaml"],
        vec!["status", "--output", "json"],
        vec!["history", "secrets", "--output", "json"],
        vec!["events", "--output", "json"],
        vec!["logs", "secrets"],
    ] {
        let call = world.i2kit(&arguments).run();
        said += &call.stdout;
        said += &call.stderr;
    }
    assert!(!said.contains(CANARY), "{said}");
    let address = eventually("a machine that serves", || {
        let state: Value =
            serde_json::from_slice(&fs::read(bed.folder.path().join("state.json")).ok()?).ok()?;
        let machine = state.as_object()?.values().next()?;
        let address = format!("127.0.0.1:{}", machine["ports"]["8080"].as_u64()?);
        (get(&address, "/password").ok()?.status == 401).then_some(address)
    });
    // The variables are in the server's configuration, and the volume is what it serves.
    let login = format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("admin:{CANARY}")));
    let page = get_with(&address, "/password", &login).unwrap();
    assert!(page.status == 200 && page.text.ends_with(CANARY), "{}", page.text);

    // Of all requests one holds it; templates, user data, tags, snapshots, consoles and logs have it in no form.
    assert_eq!(seen(&bed), ["CreateSecret"]);
    let mut found = BTreeSet::new();
    let texts = [CANARY.to_owned(), STANDARD.encode(CANARY)];
    holders(world.path(), &texts, &mut found);
    let cache = world.cache().join("i2kit/aws");
    assert!(cache.is_dir(), "{} is where AWS' part of the cache is", cache.display());
    holders(&cache, &texts, &mut found);
    holders(bed.folder.path(), &texts, &mut found);
    let others: Vec<&String> = found.iter().filter(|path| !path.ends_with("/pod.yaml")).collect();
    assert!(others.is_empty(), "{others:?}");
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}
