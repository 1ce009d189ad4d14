//! What AWS does to those who call it, and what the program makes of it.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::json;

use crate::crash::census;
use crate::harness::Bed;
use crate::rollout::{assert_nothing_left, nginx, world};
use crate::support::{eventually, tools};

/// An error of the services that answer in XML.
pub(crate) fn xml(code: &str, message: &str) -> String {
    let error = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    format!("<Response><Errors>{error}</Errors><RequestID>1</RequestID></Response>")
}

/// The same as the query protocol says it.
fn query(code: &str, message: &str) -> String {
    let error = format!("<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>");
    format!("<ErrorResponse>{error}<RequestId>1</RequestId></ErrorResponse>")
}

#[test]
fn lost_replies_throttling_and_broken_services_change_nothing() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    let world = world(&bed).file("web.yaml", &nginx("1.27", 2));
    world.i2kit(&["deploy", "web.yaml"]).run();
    let whole = census(&bed);
    world.i2kit(&["destroy", "--all"]).run();

    let throttled = xml("RequestLimitExceeded", "slow down");
    bed.fault(&json!([
        {"match": "^CreateStack$", "lose": true, "count": 3},
        {"match": "^CreateLaunchTemplate$", "lose": true},
        {"match": "^CreateAutoScalingGroup$", "lose": true},
        {"match": "^RegisterImage$", "lose": true},
        {"match": "^DescribeLaunchTemplateVersions$", "status": 503, "body": throttled, "count": 2},
        {"match": "^DescribeAutoScalingGroups$", "status": 500, "body": "", "count": 2},
    ]));
    world.i2kit(&["deploy", "web.yaml"]).run();
    assert_eq!(census(&bed), whole);
    assert!(world.group("web").is_settled_at(1));

    world.write("web.yaml", &nginx("1.28", 3));
    bed.fault(&json!([
        {"match": "^CreateLaunchTemplateVersion$", "lose": true},
        {"match": "^UpdateAutoScalingGroup$", "lose": true},
        {"match": "^StartInstanceRefresh$", "lose": true},
        {"match": "^DescribeInstanceRefreshes$", "status": 400, "body": query("Throttling", "Rate exceeded"), "count": 2},
    ]));
    world.i2kit(&["deploy", "web.yaml"]).run();
    let group = world.group("web");
    assert!(group.is_settled_at(2), "{group:#?}");
    assert_eq!(group.revisions.len(), 2, "{group:#?}");

    bed.fault(&json!([
        {"match": "^DeleteAutoScalingGroup$", "lose": true},
        {"match": "^DeleteLaunchTemplate$", "lose": true},
        {"match": "^DeleteStack$", "lose": true, "count": 3},
        {"match": "^DeregisterImage$", "lose": true},
    ]));
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn what_cannot_go_on_says_why_and_what_to_do() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    let world = world(&bed).file("web.yaml", &nginx("1.27", 1));
    let deploy = || world.i2kit(&["deploy", "web.yaml"]);

    let expired = xml("ExpiredToken", "The security token included in the request is expired");
    bed.fault(&json!([{"match": "^DescribeLaunchTemplates$", "status": 400, "body": expired, "count": 99}]));
    deploy().code(7).says("log in again").run();

    let quota = query("LimitExceeded", "You have reached your quota of groups");
    bed.fault(&json!([{"match": "^CreateAutoScalingGroup$", "status": 400, "body": quota, "count": 99}]));
    deploy().code(7).says("a quota of the account is used up").run();
    bed.fault(&json!([]));

    // A stack that never came to be is made anew.
    world.i2kit(&["destroy", "--all"]).run();
    let failing = |operation: &str, last: &str| {
        let plan = json!({"name": "i2kit-service", "operation": operation, "reason": "no room for targets", "final": last});
        bed.call("POST", "/moto-api/i2kit/stack", &plan.to_string());
    };
    failing("create", "ROLLBACK_COMPLETE");
    deploy().code(7).says("no room for targets").run();
    deploy().run();
    assert!(world.group("web").is_settled_at(1));

    // An update that fails leaves what was there, and can be tried again.
    world.write("web.yaml", &nginx("1.27", 1).replace("port: 80}", "port: 8080}"));
    failing("update", "UPDATE_ROLLBACK_COMPLETE");
    deploy().code(7).says("no room for targets").run();
    deploy().prints(":8080").run();
    // What failed once and went well since is not told again.
    world.write("web.yaml", &nginx("1.27", 1).replace("port: 80}", "port: 8082}"));
    let plan = json!({"name": "i2kit-service", "operation": "update", "reason": "no listener", "final": "UPDATE_ROLLBACK_COMPLETE"});
    bed.call("POST", "/moto-api/i2kit/stack", &plan.to_string());
    deploy().code(7).says("no listener").run();
    deploy().prints(":8082").run();

    // One that cannot be undone needs a person, who is told what to type.
    world.write("web.yaml", &nginx("1.27", 1).replace("port: 80}", "port: 8081}"));
    failing("update", "UPDATE_ROLLBACK_FAILED");
    deploy().code(7).says("aws cloudformation continue-update-rollback").run();
    deploy().code(7).says("aws cloudformation continue-update-rollback").run();
}

#[test]
fn what_auto_scaling_refuses_is_told_from_what_it_does_not_find() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    let world = world(&bed).file("web.yaml", &nginx("1.27", 1));
    world.i2kit(&["deploy", "web.yaml"]).run();

    // The Service goes, and its machines stay.
    world.write("web.yaml", nginx("1.27", 1).split("---\n").next().unwrap());
    let many = "Trying to update too many Load Balancers/Target Groups at once. The limit is 10";
    let refused = query("ValidationError", many);
    bed.fault(&json!([{"match": "^DetachLoadBalancerTargetGroups$", "status": 400, "body": refused}]));
    let deploy = || world.i2kit(&["deploy", "--prune", "web.yaml"]);
    deploy().code(7).says("DetachLoadBalancerTargetGroups").says(many).says("mend what it names").run();
    // The answer to the first try is lost, and the second one finds nothing to detach.
    bed.fault(&json!([{"match": "^DetachLoadBalancerTargetGroups$", "lose": true}]));
    deploy().run();
    assert!(world.fleet().balancers.is_empty());

    // The reason comes at once, not after a quarter of an hour of waiting for machines that nobody ends.
    let protect =
        |names: &[&str]| drop(bed.call("POST", "/moto-api/i2kit/protected", &json!(names).to_string()));
    protect(&["i2kit-test_default_web"]);
    let destroy = || world.i2kit(&["destroy", "--all"]);
    let refused = destroy().code(7).says("DeleteAutoScalingGroup").says("deletion protection");
    refused.says("mend what it names").run();
    assert_eq!(world.group("web").current, Some(1));
    protect(&[]);
    // What the group is doing at that moment is waited for.
    let busy = "You cannot delete an AutoScalingGroup while there are scaling activities in progress for that group.";
    let busy = query("ScalingActivityInProgress", busy);
    bed.fault(&json!([{"match": "^DeleteAutoScalingGroup$", "status": 400, "body": busy, "count": 2}]));
    destroy().run();
    assert_nothing_left(&bed);
}

#[test]
fn machines_that_cannot_be_launched_or_never_answer_are_told_with_the_reason() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    // What cannot go on is given up soon; what can may take its time.
    let vain = |tag| nginx(tag, 2).replace("progressDeadlineSeconds: 600", "progressDeadlineSeconds: 10");
    let world = world(&bed).file("web.yaml", &vain("1.27"));
    let refused =
        |reason: &str| drop(bed.call("POST", "/moto-api/i2kit/refused", &json!(reason).to_string()));
    refused("You have requested more vCPU capacity than your current vCPU limit of 16 allows.");
    world.i2kit(&["deploy", "web.yaml"]).code(8).says("no progress for 10 s").says("vCPU limit of 16").run();
    world.i2kit(&["events"]).prints("Warning").prints("ScalingFailed").prints("vCPU limit of 16").run();
    refused("");
    world.write("web.yaml", &nginx("1.27", 2));
    world.i2kit(&["deploy", "web.yaml"]).run();
    assert!(world.group("web").is_settled_at(1));

    // The same in a refresh, which is rolled back for it.
    refused("We currently do not have sufficient t3a.nano capacity.");
    world.write("web.yaml", &vain("1.28"));
    let deploy = world.i2kit(&["deploy", "web.yaml"]).code(8);
    deploy.says("was rolled back to revision 1").says("sufficient t3a.nano capacity").run();
    refused("");
    world.i2kit(&["events", "web"]).prints("rolled back").run();
    assert!(world.group("web").is_settled_at(1));
}

#[test]
fn a_second_run_waits_for_the_first_and_names_it() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    let world = world(&bed).file("web.yaml", &nginx("1.27", 1));
    // Its stacks stay in progress until the second run has seen them.
    let settle = |seconds: &str| drop(bed.call("POST", "/moto-api/i2kit/settle", seconds));
    settle("100000");
    let mut first = world.i2kit(&["deploy", "web.yaml"]).environment("USER", "ana").start();
    eventually("the first stack to be in progress", || {
        let left = bed.call("GET", "/moto-api/i2kit/left", "");
        left.contains("stack i2kit-environment-test").then_some(())
    });
    let mut second = world.command(&["deploy", "web.yaml"]);
    let mut second = second.env("USER", "bob").stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(second.stderr.take().unwrap()).lines().map(Result::unwrap);
    let waits = said.any(|line| line.contains("waiting for stack i2kit-environment-test, which ana-"));
    settle("0.6");
    assert!(waits, "the second run does not say for whom it waits");
    let rest: Vec<String> = said.collect();
    assert!(second.wait().unwrap().success(), "{rest:?}");
    assert!(first.wait().unwrap().success());
    let group = world.group("web");
    assert!(group.is_settled_at(1), "{group:#?}");
    assert_eq!(group.revisions.len(), 1, "{group:#?}");
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}
