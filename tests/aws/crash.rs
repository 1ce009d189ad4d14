//! The program is killed after every single call of a deployment: run again, it makes the same as a run that was left in
//! peace, nothing twice and nothing without an owner.

use std::collections::BTreeMap;

use crate::harness::Bed;
use crate::rollout::{assert_nothing_left, nginx, world};
use crate::support::{World, eventually, kill, soaks, tools};

/// What the account holds: how many of each kind of thing.
pub(crate) fn census(bed: &Bed) -> BTreeMap<String, usize> {
    let things: Vec<String> = serde_json::from_str(&bed.call("GET", "/moto-api/i2kit/left", "")).unwrap();
    let mut kinds = BTreeMap::new();
    for thing in things {
        *kinds.entry(thing.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    kinds
}

/// Of the calls, those after which the program is killed: but for a soak test, one of so many that only look. Every one
/// that changes something is among them.
const LOOK_EVERY: usize = 4;

/// Whether a call changes nothing.
fn looks(call: &str) -> bool {
    ["Describe", "GET ", "List", "Get"].iter().any(|word| call.starts_with(word))
}

/// The calls after which the program is killed. Of the blocks that are sent one after the other these are the first and the
/// last.
fn moments(journal: &[String]) -> Vec<usize> {
    let is_block = |index: usize| journal.get(index).is_some_and(|call| call.starts_with("PUT /snapshots/"));
    let inside = |index: &usize| is_block(*index) && *index > 0 && is_block(index - 1) && is_block(index + 1);
    let every = if soaks() { 1 } else { LOOK_EVERY };
    let mut seen = 0;
    let chosen = |index: &usize| {
        seen += usize::from(looks(&journal[*index]));
        !looks(&journal[*index]) || seen % every == 0
    };
    (0..journal.len()).filter(|index| !inside(index)).filter(chosen).collect()
}

/// Kills a deployment after its call number `moment`; whether it came that far.
pub(crate) fn deploy_and_kill(bed: &Bed, world: &World, moment: usize) -> bool {
    bed.fault(&serde_json::json!([{"match": "", "skip": moment, "hang": true}]));
    let mut deploy = world.i2kit(&["deploy", "web.yaml"]).start();
    let hung = eventually("a call to hang, or the end", || {
        if bed.call("GET", "/_hung", "") == "true" {
            return Some(true);
        }
        deploy.try_wait().unwrap().map(|_| false)
    });
    if hung {
        kill(deploy.id());
        deploy.wait().unwrap();
    }
    bed.fault(&serde_json::json!([]));
    hung
}

/// One of three parts of a deployment's calls; parts run side by side, each in an account of its own.
fn killed_in_part(part: usize) {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let world = world(&bed).file("web.yaml", &nginx("1.27", 2).replace("nginx:1.27", "busybox:1.35"));
    bed.journal();
    world.i2kit(&["deploy", "web.yaml"]).run();
    let (journal, whole) = (bed.journal(), census(&bed));
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);

    let moments = moments(&journal);
    let size = moments.len().div_ceil(3);
    let mut killed = 0;
    for moment in moments.iter().copied().skip(part * size).take(size) {
        if !deploy_and_kill(&bed, &world, moment) {
            // Waiting takes a call more or less: this run was done before.
            world.i2kit(&["destroy", "--all"]).run();
            continue;
        }
        killed += 1;
        let call = journal.get(moment);
        world.i2kit(&["deploy", "web.yaml"]).run();
        assert!(world.group("web").is_settled_at(1), "killed after call {moment}, {call:?}");
        assert_eq!(census(&bed), whole, "killed after call {moment}, {call:?}");
        world.i2kit(&["destroy", "--all"]).run();
        assert_nothing_left(&bed);
        #[expect(clippy::print_stderr, reason = "the test takes minutes: it says how far it is")]
        {
            eprintln!("killed after call {moment} of {}, {call:?}: made good", journal.len());
        }
    }
    assert!(killed * 2 > size, "only {killed} of {size} calls were the last ones");
}

/// The same of an update, after every call that changes something: between two of these the account stays the same. Each
/// kill is of another update of one group, which keeps one old revision.
#[test]
fn killed_after_any_call_of_an_update_the_next_run_makes_it_good() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let manifest = |number: usize| {
        nginx("1.27", 2)
            .replace(
                "nginx:1.27",
                &format!("busybox:1.35\n          args: [httpd, -f, \"-h\", \"/{number}\"]"),
            )
            .replace("  replicas:", "  revisionHistoryLimit: 1\n  replicas:")
    };
    let world = world(&bed).file("web.yaml", &manifest(0));
    world.i2kit(&["deploy", "web.yaml"]).run();
    world.write("web.yaml", &manifest(1));
    world.i2kit(&["deploy", "web.yaml"]).run();
    bed.journal();
    world.write("web.yaml", &manifest(2));
    world.i2kit(&["deploy", "web.yaml"]).run();
    let (journal, whole) = (bed.journal(), census(&bed));

    let (mut killed, mut done) = (0, 0);
    for moment in moments(&journal).into_iter().filter(|moment| !looks(&journal[*moment])) {
        let before = world.group("web");
        let next = before.current.unwrap() + 1;
        world.write("web.yaml", &manifest(usize::try_from(next).unwrap()));
        killed += usize::from(deploy_and_kill(&bed, &world, moment));
        world.i2kit(&["deploy", "web.yaml"]).run();
        let (group, call) = (world.group("web"), journal.get(moment));
        assert!(group.is_settled_at(next), "killed after call {moment}, {call:?}: {group:#?}");
        assert_eq!(group.revisions.len(), 2, "killed after call {moment}, {call:?}: {group:#?}");
        assert_eq!(census(&bed), whole, "killed after call {moment}, {call:?}");
        done += 1;
        #[expect(clippy::print_stderr, reason = "the test takes minutes: it says how far it is")]
        {
            eprintln!("update killed after call {moment} of {}, {call:?}: made good", journal.len());
        }
    }
    assert!(killed * 2 > done, "only {killed} of {done} calls were the last ones");
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn killed_after_any_call_of_the_upload_the_next_run_makes_it_good() {
    killed_in_part(0);
}

#[test]
fn killed_after_any_call_of_the_frame_the_next_run_makes_it_good() {
    killed_in_part(1);
}

#[test]
fn killed_after_any_call_of_the_start_the_next_run_makes_it_good() {
    killed_in_part(2);
}
