//! How fast, and how little: what is sent of a first image, of a changed one and of an unchanged one. Prints figures,
//! which `scripts/bench` shows; only what does not depend on the machine is asserted.

use std::path::Path;
use std::process::Command;

use crate::harness::Bed;
use crate::rollout::{nginx, world};
use crate::support::tools;

/// Blocks that were put since the last time, and how many a second.
fn rate(bed: &Bed) -> (u64, f64) {
    let (count, seconds): (u64, f64) = serde_json::from_str(&bed.call("GET", "/_rate", "")).unwrap();
    bed.call("DELETE", "/_rate", "");
    (count, f64::from(u32::try_from(count).unwrap()) / seconds.max(0.001))
}

#[test]
#[expect(clippy::print_stderr, reason = "figures are what this test is for")]
fn only_what_changed_is_sent_and_as_fast_as_by_a_bare_client() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    let world = world(&bed).file("web.yaml", &nginx("1.27", 1));
    let deploy = || world.i2kit(&["deploy", "--wait=false", "web.yaml"]).run();
    deploy();
    let (blocks, own) = rate(&bed);
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aws");
    let setup = Command::new(tests.join("setup")).output().unwrap();
    let mut bare = Command::new(String::from_utf8(setup.stdout).unwrap().trim());
    bare.args(["-m", "bed.bare", "--endpoint", &bed.endpoint, "--blocks", &blocks.to_string()]);
    assert!(bare.env("PYTHONPATH", &tests).env("PYTHONDONTWRITEBYTECODE", "1").status().unwrap().success());
    let (_, theirs) = rate(&bed);
    eprintln!(
        "figure: first upload: {blocks} blocks, {:.0} % of a bare client's rate (goal: at least 80 %; {own:.0}/s)",
        own / theirs * 100.0
    );

    world.write("web.yaml", &nginx("1.28", 1));
    deploy();
    let (changed, _) = rate(&bed);
    eprintln!("figure: one changed layer of an image: {changed} blocks sent (goal: at most 6)");
    assert!((1..=6).contains(&changed), "{changed} blocks");

    bed.journal();
    deploy();
    let sent: Vec<String> = bed.journal().into_iter().filter(|call| call.contains("/snapshots")).collect();
    assert_eq!(sent, Vec::<String>::new());
    eprintln!("figure: nothing changed: {} calls about blocks (goal: 0)", sent.len());
    world.i2kit(&["destroy", "--all"]).run();

    let mut many = String::new();
    for index in 0..50 {
        let one = nginx("1.27", 1).replace(": web}", &format!(": web{index}}}"));
        let ports = format!("port: {}, targetPort: 80}}", 8000 + index);
        many += &one.replace("port: 80}", &ports);
        many += "---\n";
    }
    world.write("many.yaml", many.trim_end_matches("---\n"));
    let plan = world.i2kit(&["plan", "many.yaml"]).prints("estimated cost").run();
    eprintln!(
        "figure: plan of 50 services on AWS: {:.2} s (goal: 1 s), program not optimized",
        plan.took.as_secs_f64()
    );
}
