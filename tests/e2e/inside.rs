//! Looking into running machines: logs, commands, files, the serial console.

use std::fs;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Call, World, eventually, kill, machines};

/// A machine that counts, and starts one of its containers again.
const MANIFEST: &str = "name: inside
containers:
  count:
    image: busybox:1.35
    command: [/bin/sh, -c, 'n=0; while :; do n=$((n+1)); echo line $n; sleep 0.05; done']
  again:
    image: busybox:1.35
    command: [/bin/sh, -c, 'test -e /proc/self || exit 1; echo run; sleep 2; exit 3']
";

/// What outlives a command has neither its variables nor its descriptors, and qemu no rights beyond what it needs.
fn processes_have_what_is_theirs(world: &World, id: &str) {
    let processes = world.processes();
    let named = |word: &str| processes.iter().find(|(_, arguments)| arguments.contains(word)).unwrap().0;
    let qemu = named(&format!("guest={id} "));
    // Beside the local cloud and the machine: the front door, and the holder of the network where there is one.
    named("local-door");
    assert!(processes.len() >= 4, "{processes:?}");
    for (pid, arguments) in &processes {
        let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
        assert!(
            environment.contains("PATH=") && !environment.contains("CI_TOKEN"),
            "{arguments}: {environment}"
        );
        for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            let leads_to = fs::read_link(descriptor.path()).unwrap_or_default();
            assert!(!leads_to.ends_with("stray"), "{descriptor:?} of {arguments}");
        }
    }
    let status = fs::read_to_string(format!("/proc/{qemu}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), (vec!["1".to_owned()], vec!["2".to_owned()]));
    assert_eq!((field("CapEff:"), field("CapPrm:")), (vec!["0".repeat(16)], vec!["0".repeat(16)]));
    assert!(field("Uid:").iter().chain(&field("Gid:")).all(|id| id != "0"), "{status}");
    let limits = fs::read_to_string(format!("/proc/{}/limits", world.local_cloud())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let values: Vec<&str> = files.split_whitespace().collect();
    assert_eq!(values[3], values[4], "the limit of descriptors is as high as it may be: {files}");
}

/// A local cloud that is asked to end does, also while somebody follows lines that have no end.
fn the_local_cloud_ends_while_lines_are_followed(world: &World) {
    let mut follower = world.command(&["logs", "inside", "-f"]).stdout(Stdio::piped()).spawn().unwrap();
    follower.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let pid = world.local_cloud();
    assert!(Command::new("kill").arg(pid.to_string()).status().unwrap().success());
    let asked = Instant::now();
    eventually("end of the local cloud", || {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.is_empty().then_some(())
    });
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    let _ = follower.kill();
    follower.wait().unwrap();
}

#[test]
fn containers_are_looked_into() {
    if !machines() {
        return;
    }
    let world = World::new();
    world.write("inside.yaml", MANIFEST);
    // With a secret in its environment, and a descriptor that is nobody else's.
    let script =
        format!("exec 9> stray; ulimit -Sn 256; exec {} deploy inside.yaml", env!("CARGO_BIN_EXE_i2kit"));
    let mut shell = world.command(&[]);
    let variables: Vec<_> = shell.get_envs().map(|(n, v)| (n.to_owned(), v.unwrap().to_owned())).collect();
    shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir(world.path()).env_clear().envs(variables);
    Call::new(shell).environment("CI_TOKEN", "a-token-of-a-job").run();
    let id = world.group("inside").instances[0].id.clone();
    processes_have_what_is_theirs(&world, &id);

    // Commands: where they run, what they say, and how they end.
    world.i2kit(&["exec", "inside", "--", "cat", "/etc/hostname"]).stdout(&format!("{id}\n")).run();
    world
        .i2kit(&["exec", "inside/1", "-c", "count", "--", "sh", "-c", "echo bad >&2; exit 9"])
        .code(9)
        .says("bad")
        .run();
    world.i2kit(&["exec", "inside", "--", "no-such"]).code(127).says("\"no-such\" is not found").run();
    world.i2kit(&["exec", "inside", "-c", "cuont", "--", "id"]).code(9).says("it has again, count").run();
    world.i2kit(&["exec", "inside/7", "--", "id"]).code(9).says(&format!("it has {id}")).run();

    // Files, there and back.
    let lines: Vec<String> = (1..=200_000).map(|number| number.to_string()).collect();
    let bytes = lines.join("\n") + "\n";
    world.write("numbers", &bytes);
    world.i2kit(&["cp", "numbers", "inside:/tmp/"]).run();
    world.i2kit(&["exec", "inside", "--", "sh", "-c", "wc -l < /tmp/numbers"]).stdout("200000\n").run();
    world.i2kit(&["cp", "inside:/tmp/numbers", "back"]).run();
    assert_eq!(std::fs::read_to_string(world.path().join("back")).unwrap(), bytes);
    let stream = world.i2kit(&["cp", "inside:/tmp/numbers", "-"]).run().stdout;
    assert!(stream.starts_with("numbers\0") && stream.contains(&bytes), "a tar stream");
    world.i2kit(&["cp", "inside:/nowhere/x", "y"]).code(1).says("nowhere").run();

    // Lines with their times; no line is lost or comes twice when the process that collects them is killed.
    let lines = || world.i2kit(&["logs", "inside", "-c", "count", "--timestamps"]).run().stdout;
    let count = lines().lines().count();
    let mut follower = world.i2kit(&["logs", "inside", "-f"]).start();
    kill(world.local_cloud());
    eventually("lines after the kill", || (lines().lines().count() > count + 40).then_some(()));
    // It ends with the process that it followed.
    let _ = follower.kill();
    follower.wait().unwrap();
    let lines = lines();
    let mut last = String::new();
    for (number, line) in (1..).zip(lines.lines()) {
        let (source, text) = line.split_once(" | ").unwrap();
        let (time, text) = text.split_once(' ').unwrap();
        assert_eq!(
            (source, text),
            (format!("{id} count").as_str(), format!("line {number}").as_str()),
            "{lines}"
        );
        assert!(time > last.as_str() && time.starts_with("20") && time.ends_with('Z'), "{line}");
        time.clone_into(&mut last);
    }
    world.i2kit(&["exec", "inside", "--", "true"]).run();
    the_local_cloud_ends_while_lines_are_followed(&world);
    eventually("an earlier run", || {
        let before = world.i2kit(&["logs", "inside", "-c", "again", "--previous"]);
        let current = world.i2kit(&["logs", "inside", "-c", "again"]).run().stdout;
        (current.lines().count() > 1).then(|| before.stdout(&format!("{id} again | run\n")).run())
    });
    world.i2kit(&["logs", "inside", "--since", "1m", "--tail", "1"]).prints(" | ").run();
    // A container that ends again and again shows how in the status.
    eventually("the end of a run", || {
        let status = world.i2kit(&["status", "inside"]).run().stdout;
        status.contains("last: Error, exit code 3").then_some(())
    });
    // Older lines are left out, by the host's clock, which the machine's follows.
    eventually("no old lines", || {
        let since = world.i2kit(&["logs", "inside", "-c", "count", "--since", "10s", "--timestamps"]);
        let lines = since.run().stdout;
        let count = lines.lines().count();
        (count > 0 && count < 220 && !lines.contains("Z line 1\n")).then_some(())
    });
    world.i2kit(&["destroy", "inside"]).run();
    world.assert_nothing_left();
}
