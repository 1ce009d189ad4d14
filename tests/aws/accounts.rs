//! Kinds of accounts: of the free plan, and in regions whose zones do not offer everything.

use serde_json::json;

use crate::frame::held;
use crate::harness::Bed;
use crate::rollout::{assert_calls_are_known, assert_nothing_left, nginx, world};
use crate::support::{eventually, tools};

/// A pod that is given up soon.
fn hurried(replicas: u32) -> String {
    nginx("1.27", replicas).replace("progressDeadlineSeconds: 600", "progressDeadlineSeconds: 10")
}

#[test]
fn an_account_of_the_free_plan_starts_what_it_may() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    bed.call("POST", "/moto-api/i2kit/catalogue", r#"{"free": true}"#);
    let world = world(&bed).file("web.yaml", &hurried(2));
    // Whoever does not say so is told what to say.
    world
        .i2kit(&["deploy", "web.yaml"])
        .code(8)
        .says("not eligible for Free Tier")
        .says("provider.freePlan: true")
        .run();
    world.i2kit(&["destroy", "--all"]).run();
    let file = std::fs::read_to_string(world.path().join("environment.yml")).unwrap();
    world.write("environment.yml", &file.replace("  type: aws\n", "  type: aws\n  freePlan: true\n"));
    world.i2kit(&["deploy", "web.yaml"]).run();
    let line = "kinds i2kit-test_default_web t3.micro on-demand, t3.micro on-demand".to_owned();
    eventually(&line, || held(&bed).contains(&line).then_some(()));
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
    assert_calls_are_known(&bed);
}

#[test]
fn zones_and_types_are_those_that_the_region_offers() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    // The first zone has next to nothing, and nowhere is the cheapest type.
    let usual = ["t3.nano", "t3.micro", "t3.small", "c6i.xlarge"];
    let offers = json!({"us-east-1a": ["t3.micro"], "us-east-1b": usual, "us-east-1c": usual});
    bed.call("POST", "/moto-api/i2kit/catalogue", &json!({"offers": offers}).to_string());
    let world = world(&bed).file("web.yaml", &hurried(2));
    world.i2kit(&["deploy", "web.yaml"]).run();
    let lines = held(&bed);
    assert!(
        lines.contains(&"group i2kit-test_default_web 2 2 2 ['us-east-1b', 'us-east-1c']".to_owned()),
        "{lines:#?}"
    );
    assert!(
        lines.contains(&"kinds i2kit-test_default_web t3.nano on-demand, t3.nano on-demand".to_owned()),
        "{lines:#?}"
    );
    // What a region offers later moves no subnet.
    let offers = json!({"us-east-1a": usual, "us-east-1b": usual, "us-east-1c": usual, "us-east-1d": usual});
    bed.call("POST", "/moto-api/i2kit/catalogue", &json!({"offers": offers}).to_string());
    world.i2kit(&["deploy", "web.yaml"]).prints("unchanged").run();
    // Nor does it where an earlier version of the program did not write down which zones these are.
    let older = json!({"name": "i2kit-environment-test", "output": "Zones"});
    bed.call("POST", "/moto-api/i2kit/older", &older.to_string());
    world.write("web.yaml", &hurried(2).replace("1.27", "1.28"));
    world.i2kit(&["deploy", "web.yaml"]).run();
    assert!(world.group("web").is_settled_at(2));
    let line = "group i2kit-test_default_web 2 2 2 ['us-east-1b', 'us-east-1c']".to_owned();
    assert!(held(&bed).contains(&line), "{:#?}", held(&bed));

    // A type that the manifest names must be able to boot the image.
    let named = "      nodeSelector: {node.kubernetes.io/instance-type: t2.micro}\n      containers:\n";
    world.write("web.yaml", &hurried(2).replace("      containers:\n", named));
    world.i2kit(&["deploy", "web.yaml"]).code(7).says("t2.micro does not boot by UEFI").run();
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
    assert_calls_are_known(&bed);
}

#[test]
fn a_share_of_spot_machines_is_of_the_type_that_is_offered() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    // Nowhere is the cheapest type, and the manifest names none.
    let usual = ["t3.nano", "t3.micro"];
    let offers = json!({"us-east-1a": usual, "us-east-1b": usual});
    bed.call("POST", "/moto-api/i2kit/catalogue", &json!({"offers": offers}).to_string());
    let share = "metadata: {labels: {app: web}, annotations: {i2kit.dev/spot: '50%'}}";
    let world = world(&bed).file("web.yaml", &hurried(2).replace("metadata: {labels: {app: web}}", share));
    world.i2kit(&["deploy", "web.yaml"]).run();
    let line = "kinds i2kit-test_default_web t3.nano on-demand, t3.nano spot".to_owned();
    eventually(&line, || held(&bed).contains(&line).then_some(()));
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}
