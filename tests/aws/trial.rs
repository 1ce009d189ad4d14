//! The trial of an account, against the model: its steps on paper, one machine that boots, what fails, and what is left.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::faults::xml;
use crate::harness::Bed;
use crate::rollout::{assert_calls_are_known, assert_nothing_left, nginx, world, world_of};
use crate::support::{Running, World, eventually, kill, machines, tools};

/// A world whose user may do what a trial does, and nothing else.
fn trial_world(bed: &Bed) -> World {
    let world = world(bed);
    let policy = world.i2kit(&["iam-policy", "--trial"]).run().stdout;
    assert!(policy.contains("i2kit-environment-trial-test"), "{policy}");
    let policy: Value = serde_json::from_str(&policy).unwrap();
    let told = json!({"Key": "deployer-of-test", "Documents": [policy]});
    bed.call("POST", "/moto-api/i2kit/policy", &told.to_string());
    world
}

/// Answers clients in place of the load balancer, whose name leads nowhere here, as machines of two revisions would; its
/// address.
fn balancer() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut request = Vec::new();
                let mut part = [0; 512];
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut part) {
                        Ok(length) if length > 0 => request.extend_from_slice(&part[..length]),
                        _ => return,
                    }
                }
                let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\npage 1\npage 2\n");
            });
        }
    });
    address
}

/// The outcome of each step, as the report's table has it.
fn outcomes(report: &str) -> Vec<(String, String)> {
    let rows = report.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.split(" | ").collect();
        let [number, _, outcome, _] = cells.as_slice() else { return None };
        number.parse::<u8>().ok()?;
        Some(((*number).to_owned(), (*outcome).to_owned()))
    });
    rows.collect()
}

/// A bed whose machines are there at once, and a world for a trial in it; none where tests with foreign tools do not run.
fn on_paper() -> Option<(Bed, World)> {
    let bed = tools().then(|| Bed::start_with(&["--boot-seconds", "0"]))?;
    let world = trial_world(&bed);
    Some((bed, world))
}

/// A trial that is started, once its machine is there: its step waits for a console that says nothing on paper.
fn started(bed: &Bed, world: &World) -> Running {
    bed.journal();
    let trial = Running(world.i2kit(&["trial", "--yes", "--only", "4,5", "--report", "trial.md"]).start());
    let mut calls = Vec::new();
    eventually("wait for the machine's console", || {
        calls.extend(bed.journal());
        // A deployment looks at a console as well, and calls others in between.
        calls.windows(3).any(|three| three.iter().all(|call| call == "GetConsoleOutput")).then_some(())
    });
    trial
}

#[test]
fn a_trial_takes_its_steps_on_paper_and_leaves_a_report_and_nothing_else() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    let world = trial_world(&bed);
    // The group's first two revisions are pages, and the third one is meant to fail.
    bed.call("POST", "/moto-api/i2kit/broken", r#"["i2kit-trial-test_default_trial 3"]"#);
    bed.journal();
    let cost = world.i2kit(&["trial"]).code(2).prints("makes an environment of its own, trial-test");
    cost.prints("It costs at most ")
        .prints(" 12 everything is deleted")
        .says("with --yes the trial starts")
        .run();
    assert_eq!(bed.journal(), Vec::<String>::new());

    let address = balancer();
    let steps = ["trial", "--yes", "--only", "1-4,7-11", "--address", &address, "--deadline", "10"];
    let trial = world.i2kit(&[&steps[..], &["--report", "trial.md"]].concat());
    trial
        .prints("passed    1 preflight")
        .prints("left out  5 one machine")
        .prints("passed   12 everything")
        .run();
    assert_nothing_left(&bed);
    let calls: BTreeSet<String> = assert_calls_are_known(&bed).into_iter().collect();
    assert!(calls.contains("RunInstances") && calls.contains("StartInstanceRefresh"), "{calls:?}");

    let report = fs::read_to_string(world.path().join("trial.md")).unwrap();
    let expected = (1..=12).map(|number: u8| {
        let outcome = if number == 5 || number == 6 { "left out" } else { "passed" };
        (number.to_string(), outcome.to_owned())
    });
    assert_eq!(outcomes(&report), expected.collect::<Vec<_>>(), "{report}");
    for found in [
        "at most ",
        "ok      permissions: ",
        "a snapshot of one block of 512 KiB was completed",
        "the environment's stack, with 2 subnets, was complete",
        "t3a.nano: ",
        "the first answer came after ",
        " connections, ",
        "after it `page 2` is served",
        "clients connected to --address",
        "was rolled back to revision 2",
        "- killed: ",
        "the run after them left one revision with one machine",
        "not shown: whether it answers everybody, since --address leads elsewhere",
        "no group, machine, template, image, snapshot or stack of the environment is left",
    ] {
        assert!(report.contains(found), "no `{found}` in {report}");
    }
    // One that a busy machine lets go on for too long comes to its end, and says so.
    let kills = report.matches("- killed: ").count() + report.matches("- came to its end before").count();
    assert_eq!(kills, 10, "{report}");
    let folder = world.path().display().to_string();
    for secret in ["123456789012", "deployer-of-test", "user/moto", "secret_access_key", folder.as_str()] {
        assert!(!report.contains(secret), "`{secret}` is in {report}");
    }
}

#[test]
fn a_machine_that_boots_takes_the_first_six_steps() {
    if !tools() || !machines() {
        return;
    }
    let bed = Bed::start_with(&["--boot", "--probe-interval", "1"]);
    let world = trial_world(&bed);
    let environment = fs::read_to_string(world.path().join("environment.yml")).unwrap();
    let endpoint = "  region: us-east-1\n  machinesEndpoint: http://169.254.170.2\n";
    world.write("environment.yml", &environment.replace("  region: us-east-1\n", endpoint));
    let trial = world.i2kit(&["trial", "--yes", "--only", "1-6", "--report", "trial.md", "--output", "json"]);
    let told: Value = serde_json::from_str(&trial.run().stdout).unwrap();
    let report = fs::read_to_string(world.path().join("trial.md")).unwrap();
    let steps = told["steps"].as_array().unwrap();
    assert!(
        steps.len() == 12 && steps[4]["outcome"] == "passed" && steps[5]["outcome"] == "passed",
        "{told:#}"
    );
    for found in [
        " s  network, ",
        " s  cloud, ",
        "its container's first line was there after ",
        "serving page 1",
        "the power button was pressed",
    ] {
        assert!(report.contains(found), "no `{found}` in {report}");
    }
    assert_nothing_left(&bed);
}

#[test]
fn a_step_that_fails_is_told_and_everything_is_deleted_all_the_same() {
    let Some((bed, world)) = on_paper() else { return };
    let fault = json!({"name": "i2kit-service", "operation": "create", "reason": "no room for targets", "final": "ROLLBACK_COMPLETE"});
    bed.call("POST", "/moto-api/i2kit/stack", &fault.to_string());
    let address = balancer();
    let steps = ["trial", "--yes", "--only", "1-4,7-9", "--address", &address, "--report", "trial.md"];
    let trial =
        world.i2kit(&steps).code(7).prints("FAILED    7 three machines").prints("no room for targets");
    trial
        .prints("not run   8 a rollout")
        .prints("it needs step 7, which did not pass")
        .prints("passed   12 ")
        .run();
    assert_nothing_left(&bed);
    let report = fs::read_to_string(world.path().join("trial.md")).unwrap();
    let outcomes = outcomes(&report);
    let outcome = |number: usize| outcomes[number - 1].1.as_str();
    assert_eq!((outcome(7), outcome(8), outcome(9), outcome(12)), ("FAILED", "not run", "not run", "passed"));

    // Types that no zone offers are found out before anything is started.
    bed.call("POST", "/moto-api/i2kit/catalogue", r#"{"free": true}"#);
    let trial = world.i2kit(&["trial", "--yes", "--only", "4", "--report", "free.md"]);
    trial.prints("not eligible for Free Tier").prints("t3.micro: refused in no zone").run();
    assert_nothing_left(&bed);
}

#[test]
fn what_a_killed_trial_left_is_deleted_when_it_is_asked_for() {
    let Some((bed, world)) = on_paper() else { return };
    let mut trial = started(&bed, &world);
    kill(trial.0.id());
    trial.0.wait().unwrap();
    // The page is written after each step.
    let report = fs::read_to_string(world.path().join("trial.md")).unwrap();
    assert!(report.contains("| 4 | dry runs of launches, by type and zone | passed |"), "{report}");
    // It may be under way still, somewhere else.
    let next = world.i2kit(&["trial", "--yes", "--only", "1", "--report", "next.md"]).code(11);
    next.says("holds Auto Scaling group i2kit-trial-test_default_trial").says("or one is under way").run();
    assert!(!world.path().join("next.md").exists());
    let down = world.i2kit(&["trial", "--take-down"]);
    down.prints("no group, machine, template, image, snapshot or stack of the environment is left").run();
    assert_nothing_left(&bed);
    // A report is not written over.
    let again = world.i2kit(&["trial", "--yes", "--only", "1", "--report", "trial.md"]).code(2);
    again.says("the report trial.md exists; name another with --report").run();
    assert_eq!(fs::read_to_string(world.path().join("trial.md")).unwrap(), report);
}

#[test]
fn a_real_environment_that_is_called_like_a_trial_s_is_left_alone() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let real = world_of(&bed, "trial-test").file("web.yaml", &nginx("1.27", 1));
    real.i2kit(&["deploy", "web.yaml"]).run();
    let before = bed.call("GET", "/moto-api/i2kit/left", "");
    let world = trial_world(&bed);
    world
        .i2kit(&["trial", "--yes", "--only", "1", "--report", "trial.md"])
        .code(11)
        .says("_default_web")
        .run();
    let down = world.i2kit(&["trial", "--take-down"]).code(4);
    down.says("the environment trial-test holds web, which no trial makes").says("nothing was deleted").run();
    assert_eq!(bed.call("GET", "/moto-api/i2kit/left", ""), before);
    assert!(real.group("web").is_settled_at(1));
    real.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn what_cannot_be_deleted_at_first_is_deleted_later() {
    let Some((bed, world)) = on_paper() else { return };
    let fault = json!({"name": "i2kit-environment", "operation": "delete", "reason": "something uses the network", "final": "DELETE_FAILED"});
    bed.call("POST", "/moto-api/i2kit/stack", &fault.to_string());
    let trial = world.i2kit(&["trial", "--yes", "--only", "4", "--report", "trial.md"]);
    trial
        .says("it is tried again in 1 s")
        .prints("the first try did not delete everything: ")
        .prints("something uses the network")
        .prints("passed   12 ")
        .run();
    assert_nothing_left(&bed);
}

#[test]
fn launches_that_are_refused_for_who_asks_end_with_the_cloud_s_code() {
    let Some((bed, world)) = on_paper() else { return };
    let refused = |code: &str, message: &str| {
        let body = xml(code, message);
        bed.fault(&json!([{"match": "^RunInstances$", "status": 400, "body": body, "count": 9999}]));
    };
    refused("UnauthorizedOperation", "You are not authorized");
    let trial = world.i2kit(&["trial", "--yes", "--only", "4", "--report", "denied.md"]).code(7);
    trial.prints("every launch was refused for who asked").prints("`i2kit iam-policy --trial`").run();
    refused("AuthFailure", "nobody knows these credentials");
    let trial = world.i2kit(&["trial", "--yes", "--only", "4", "--report", "unknown.md"]).code(7);
    trial.prints("RunInstances failed: AuthFailure").run();
    bed.fault(&json!([]));
    assert_nothing_left(&bed);
}

#[test]
fn nothing_is_made_beside_what_is_not_known() {
    let Some((bed, world)) = on_paper() else { return };
    let body = xml("AuthFailure", "nobody knows these credentials");
    bed.fault(&json!([{"match": "^DescribeSnapshots$", "status": 401, "body": body, "count": 9999}]));
    let trial = world.i2kit(&["trial", "--yes", "--only", "1-4", "--report", "trial.md"]).code(7);
    trial.says("what an earlier trial left is not known: ").says("nobody knows these credentials").run();
    assert!(!world.path().join("trial.md").exists());
    // Deleting is not tried for an hour either.
    world.i2kit(&["trial", "--take-down"]).code(7).says("nobody knows these credentials").run();
    bed.fault(&json!([]));
    assert_nothing_left(&bed);
}

#[test]
fn a_deployment_of_a_trial_ends_with_the_trial() {
    if !tools() {
        return;
    }
    // Machines never become healthy within the test: the deployment waits for as long as it lives.
    let bed = Bed::start_with(&["--boot-seconds", "100000"]);
    let manifest = nginx("1.27", 1).replace("name: web}", "name: trial}");
    let world = trial_world(&bed).file("trial.yaml", &manifest);
    let mut command = world.command(&["trial", "--deploy", "trial.yaml"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut deployment = Running(command.spawn().unwrap());
    eventually("the deployment's group", || {
        let left = bed.call("GET", "/moto-api/i2kit/left", "");
        left.contains("\"group i2kit-trial-test_default_trial\"").then_some(())
    });
    assert!(deployment.0.try_wait().unwrap().is_none(), "it waits for its machine");
    drop(deployment.0.stdin.take());
    let status = eventually("end of the deployment", || deployment.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(130));
    world.i2kit(&["trial", "--take-down"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn an_interrupted_trial_deletes_what_it_made_and_writes_its_report() {
    let Some((bed, world)) = on_paper() else { return };
    let mut trial = started(&bed, &world);
    assert!(Command::new("kill").args(["-INT", &trial.0.id().to_string()]).status().unwrap().success());
    let status = eventually("end of the trial", || trial.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(130));
    assert_nothing_left(&bed);
    let report = fs::read_to_string(world.path().join("trial.md")).unwrap();
    assert!(report.contains("the trial was interrupted"), "{report}");
    assert!(report.contains("- its group had what it should have after "), "{report}");
    assert_eq!(outcomes(&report).len(), 12, "{report}");
}
