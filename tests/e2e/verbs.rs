//! What needs no machine: help, refusals, exit codes.

use crate::support::{World, tools};

#[test]
fn no_verb_is_a_question() {
    World::bare().i2kit(&[]).code(2).says("Usage: i2kit").run();
}

#[test]
fn every_error_of_a_manifest_is_told_in_one_run() {
    let world = World::bare();
    world.write_example(
        "manifests/nginx.yaml",
        "bad.yaml",
        &[("replicas: 3", "replica: 3"), ("containerPort: 80", "containerPort: eighty")],
    );
    let call = world.i2kit(&["check", "bad.yaml"]).code(3);
    call.prints("bad.yaml:9").prints("did you mean `replicas`").prints("containerPort").run();
}

#[test]
fn examples_are_free_of_errors() {
    let manifests = crate::support::root().join("manifests");
    World::bare().i2kit(&["check", manifests.to_str().unwrap()]).run();
}

#[test]
fn a_missing_file_is_named() {
    World::bare().i2kit(&["check", "nowhere.yaml"]).code(3).says("nowhere.yaml").run();
}

#[test]
fn an_unknown_key_of_the_environment_is_refused() {
    let world = World::bare().file("environment.yml", "name: test\nregistry: {}\n");
    world.i2kit(&["status"]).code(4).says("registry").run();
}

#[test]
fn an_empty_environment_says_how_to_fill_it() {
    let world = World::bare();
    world.i2kit(&["status"]).prints("i2kit deploy").run();
    world.i2kit(&["logs", "nginx"]).code(9).says("nothing is deployed").run();
    world.i2kit(&["destroy", "--all"]).run();
    world.assert_nothing_left();
}

#[test]
fn a_trial_needs_an_account() {
    let world = World::bare();
    world
        .i2kit(&["trial", "--yes"])
        .code(4)
        .says("a trial is of an account")
        .says("the local cloud, which has none")
        .says("of type aws")
        .run();
}

#[test]
fn completions_name_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        World::bare().i2kit(&["completions", shell]).prints("rollback").prints("restart").run();
    }
}

#[test]
fn the_local_cloud_starts_with_the_computer_by_a_unit_that_systemd_accepts() {
    let world = World::bare();
    let status = world.i2kit(&["local-cloud", "status"]).prints("does not run").run();
    assert!(status.stdout.contains("disabled ("), "{}", status.stdout);
    let unit = world.i2kit(&["local-cloud", "enable", "--print"]).prints(" local-cloud\n").run().stdout;
    assert!(unit.contains(&format!("Environment=\"HOME={}\"", world.path().display())), "{unit}");
    if !std::path::Path::new("/run/systemd/system").exists() {
        world.i2kit(&["local-cloud", "enable"]).code(7).says("has no systemd").says("env -i").run();
        world.i2kit(&["local-cloud", "disable"]).says("it was not enabled").run();
    }
    if !tools() {
        return;
    }
    world.write("i2kit-local-cloud.service", &unit);
    let path = world.path().join("i2kit-local-cloud.service").display().to_string();
    let said = world.tool("systemd-analyze", &["--man=no", "verify", &path]).run().stderr;
    assert!(said.lines().all(|line| !line.contains("i2kit-local-cloud")), "{said}");
}
