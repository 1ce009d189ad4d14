//! Verbs around a deployment: preflight, plan with its cost, policy, waiting apart, summary, gc; and whose things are
//! touched.

use std::collections::BTreeSet;
use std::fs;

use i2kit::cloud::aws::plan::calls;
use serde_json::json;

use crate::crash::census;
use crate::harness::Bed;
use crate::rollout::{assert_nothing_left, grant, nginx, world, world_of};
use crate::support::tools;

#[test]
fn every_call_is_in_the_policy_and_everything_has_its_tag() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    let world = world(&bed).file("web.yaml", &nginx("1.27", 2));
    world.i2kit(&["preflight"]).prints("ok      permissions").run();
    bed.call("POST", "/moto-api/i2kit/denied", r#"["ebs:PutSnapshotBlock"]"#);
    world.i2kit(&["preflight"]).code(7).prints("FAILED  permissions: denied: ebs:PutSnapshotBlock").run();

    bed.call("POST", "/moto-api/i2kit/denied", "[]");
    // Two machines, and one more while they are replaced, of two processors each.
    let headers = json!({"content-type": "application/x-amz-json-1.1"});
    let small = json!({"match": "^GetServiceQuota$", "status": 200, "headers": headers, "body": r#"{"Quota": {"Value": 1.0}}"#, "count": 99});
    bed.fault(&json!([small]));
    let preflight = world.i2kit(&["preflight", "web.yaml"]).code(7);
    preflight
        .prints("FAILED  quota of vCPUs: 6 of 1 are needed; raise it in Service Quotas")
        .prints("ok      quota of network load balancers: 1 of 1 are needed")
        .run();
    bed.fault(&json!([]));

    let plan = world.i2kit(&["plan", "web.yaml"]);
    plan.prints("+ AutoScaling::AutoScalingGroup web (t3a.nano)")
        .prints("estimated cost of a month: 0.00 -> ")
        .run();
    world.i2kit(&["deploy", "web.yaml"]).run();
    let untagged = bed.call("GET", "/moto-api/i2kit/untagged", "");
    assert_eq!(serde_json::from_str::<Vec<String>>(&untagged).unwrap(), Vec::<String>::new());
    world.i2kit(&["plan", "web.yaml"]).prints("unchanged").run();
    world.i2kit(&["diff", "web.yaml"]).stdout("").run();
    world.i2kit(&["status"]).prints("web    2/2").run();
    let json: serde_json::Value =
        serde_json::from_str(&world.i2kit(&["events", "--output", "json"]).run().stdout).unwrap();
    let reasons: BTreeSet<&str> =
        json.as_array().unwrap().iter().filter_map(|event| event["reason"].as_str()).collect();
    assert_eq!(reasons, BTreeSet::from(["RevisionMade", "Scaled", "Started", "Deployed"]));

    // Started by one run, waited for by another, with a page for the CI system.
    world.write("web.yaml", &nginx("1.28", 2));
    world.i2kit(&["diff", "web.yaml"]).code(10).prints("diff group/web").prints("nginx:1.28").run();
    world.i2kit(&["plan", "--detailed-exitcode", "web.yaml"]).code(10).run();
    world.i2kit(&["deploy", "--wait=false", "web.yaml"]).run();
    let page = world.path().join("summary.md");
    world.i2kit(&["wait"]).environment("GITHUB_STEP_SUMMARY", page.to_str().unwrap()).run();
    assert!(world.group("web").is_settled_at(2));
    let text = fs::read_to_string(page).unwrap();
    assert!(text.contains("| web | 2 | 2 of 2 | successful |"), "{text}");

    world.i2kit(&["rollback", "web"]).run();
    world.i2kit(&["scale", "web", "--replicas", "1"]).run();
    world.i2kit(&["logs", "web"]).run();
    world.i2kit(&["gc"]).stdout("nothing to delete\n").run();
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
    let journal: BTreeSet<String> = bed.journal().into_iter().collect();
    // The harness' own questions are no calls of the program.
    let unknown: Vec<_> =
        journal.iter().filter(|call| !call.contains("/moto-api/") && calls::action(call).is_none()).collect();
    assert!(unknown.is_empty(), "cloud::aws::plan::calls lacks {unknown:?}");
    assert!(journal.len() > 20, "{journal:?}");
}

#[test]
fn another_environment_is_not_touched() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    let other = world_of(&bed, "other").file("web.yaml", &nginx("1.27", 1));
    other.i2kit(&["deploy", "web.yaml"]).run();
    let before = census(&bed);
    let own = world(&bed).file("web.yaml", &nginx("1.27", 1));
    own.i2kit(&["deploy", "web.yaml"]).run();
    assert!(census(&bed) != before);
    own.i2kit(&["gc"]).run();
    own.i2kit(&["destroy", "--all"]).run();
    assert_eq!(census(&bed), before);
    assert!(other.group("web").is_settled_at(1));
    other.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn whoever_may_do_less_than_the_policy_is_told_by_preflight_and_refused() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    let world = world(&bed).file("web.yaml", &nginx("1.27", 1));
    // A new account: no service of AWS has acted in it yet.
    world.i2kit(&["preflight"]).prints("made at the first deployment: AWSServiceRoleForAutoScaling").run();
    let whole: serde_json::Value = serde_json::from_str(&world.i2kit(&["iam-policy"]).run().stdout).unwrap();
    let statements = whole["Statement"].as_array().unwrap();
    // Without each statement in turn, save those of what this manifest does not have, something is refused, and preflight has
    // said so.
    for (left_out, statement) in statements.iter().enumerate() {
        let sid = statement["Sid"].as_str().unwrap();
        let others: Vec<&serde_json::Value> = statements
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != left_out)
            .map(|(_, one)| one)
            .collect();
        let document = serde_json::json!({"Version": "2012-10-17", "Statement": others});
        let policy = serde_json::json!({"Key": "deployer-of-test", "Documents": [document]});
        bed.call("POST", "/moto-api/i2kit/policy", &policy.to_string());
        // Who may not even look is told that nothing can be simulated.
        let (code, told) =
            if sid == "Looks" { (0, "unknown permissions: ") } else { (7, "FAILED  permissions: denied: ") };
        world.i2kit(&["preflight"]).code(code).prints(told).run();
        if !["Keeps", "Key", "Encrypts", "Removes"].contains(&sid) {
            let refused =
                world.i2kit(&["deploy", "web.yaml"]).code(7).says("not authorized to perform").run();
            assert!(!refused.stderr.is_empty(), "{sid}");
        }
        grant(&bed, &world, "deployer-of-test");
        world.i2kit(&["destroy", "--all"]).run();
        assert_nothing_left(&bed);
    }
    world.i2kit(&["deploy", "web.yaml"]).run();
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn roles_keep_within_the_boundary_that_the_environment_names() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    let world = world(&bed).file("web.yaml", &nginx("1.27", 1));
    let boundary =
        world.i2kit(&["iam-policy", "--boundary"]).prints("secretsmanager:GetSecretValue").run().stdout;
    assert!(!boundary.contains("iam:"), "{boundary}");
    let file = fs::read_to_string(world.path().join("environment.yml")).unwrap();
    let arn = "arn:aws:iam::123456789012:policy/machines";
    world.write(
        "environment.yml",
        &file.replace("  type: aws\n", &format!("  type: aws\n  permissionsBoundary: {arn}\n")),
    );
    grant(&bed, &world, "deployer-of-test");
    world.i2kit(&["preflight"]).prints("ok      permissions").run();
    world.i2kit(&["deploy", "web.yaml"]).run();
    world.i2kit(&["destroy", "--all"]).run();
    // Who forgets it may make no role any more.
    world.write("environment.yml", &file);
    world.i2kit(&["deploy", "web.yaml"]).code(7).says("iam:CreateRole").run();
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}
