//! What the coordinator of a replicated pod may ask of the machine, over the socket that it alone sees.

use crate::pod::{Pod, SHELL_PORT};
use crate::vm::{PATIENCE, Vm, wanted};

/// Sends a request, and the words behind it as the input of a program; prints what comes, each frame as it is.
const ASK: &str = r#"my ($request, @input) = @ARGV;
socket(my $s, 1, 1, 0) or die "socket: $!";
connect($s, pack("Sa108", 1, "/run/i2kit/pod.sock")) or die "connect: $!";
my $bytes = "$request\n";
$bytes .= pack("N/a*", $_) for @input;
$bytes .= pack("N", 0) if $request =~ /run/;
syswrite($s, $bytes) == length($bytes) or die "write: $!";
while (sysread($s, my $part, 65536)) { $part =~ s/[^ -~\n]//g; print $part; }
"#;

/// A pod whose shell is the coordinator's, and an application that counts.
fn pod() -> Pod {
    let shell = format!("trap 'echo coordinator ends; exit 0' TERM; nc -ll -p {SHELL_PORT} -e sh & wait");
    Pod::new()
        .base_program("/usr/bin/perl")
        .base_file("ask.pl", ASK.as_bytes())
        .onboot("shell", &shell)
        .coordinator()
        .service("app", "trap 'echo application ends; exit 0' TERM; while :; do echo tick; sleep 0.1; done")
}

fn ask(vm: &mut Vm, request: &str, input: &str) -> String {
    vm.shell(&format!("/usr/bin/perl /ask.pl '{request}' {input}"))
}

fn ticks(vm: &Vm) -> usize {
    vm.console().matches("app | tick\n").count()
}

/// Waits until the application has written more than this.
fn goes_on(vm: &mut Vm, before: usize) {
    let begun = std::time::Instant::now();
    while ticks(vm) <= before {
        assert!(begun.elapsed() < PATIENCE, "{}", vm.console());
        vm.shell("sleep 0.2");
    }
}

#[test]
fn the_coordinator_stops_starts_freezes_and_runs_and_ends_first() {
    if !wanted() {
        return;
    }
    let mut vm = Vm::boot(&pod());
    let about = |order: &str| format!("{{\"do\":\"{order}\",\"containers\":[\"app\"]}}");

    // The application starts when its coordinator says so, and not before.
    vm.wait_answer("/readyz", |answer| answer.status == 503 && answer.body.contains("app: Held"));
    assert_eq!((ask(&mut vm, &about("stop"), "").as_str(), ticks(&vm)), ("\"done\"\n", 0));
    assert_eq!(ask(&mut vm, &about("start"), ""), "\"done\"\n");
    vm.ready();

    // What stands still writes nothing: after two words of the coordinator's own, what it wrote before has been read.
    assert_eq!(ask(&mut vm, &about("freeze"), ""), "\"done\"\n");
    for word in ["first", "second"] {
        vm.shell(&format!("echo {word} > /proc/1/fd/1"));
        vm.says(&format!("shell | {word}\n"));
    }
    let before = ticks(&vm);
    vm.shell("sleep 2");
    assert_eq!(ticks(&vm), before);
    assert_eq!(ask(&mut vm, &about("thaw"), ""), "\"done\"\n");
    goes_on(&mut vm, before);
    let refused = ask(&mut vm, &about("thaw"), "");
    assert!(refused.contains("app did not stand all the time"), "{refused}");

    // What is stopped stays so, however often that is asked, and is started without being a failure: also what stood still.
    assert_eq!(ask(&mut vm, &about("freeze"), ""), "\"done\"\n");
    for _ in 0..2 {
        assert_eq!(ask(&mut vm, &about("stop"), ""), "\"done\"\n");
    }
    vm.wait_answer("/readyz", |answer| answer.status == 503 && answer.body.contains("app: Held"));
    let stopped = ticks(&vm);
    for _ in 0..2 {
        assert_eq!(ask(&mut vm, &about("start"), ""), "\"done\"\n");
    }
    vm.ready();
    goes_on(&mut vm, stopped);
    let status = vm.get("/status").body;
    assert!(!status.contains("\"restarts\":1"), "{status}");

    // Programs have their streams, and their errors are in the log.
    let run = |command: &str| {
        format!(
            "{{\"do\":\"run\",\"container\":\"app\",\"command\":{command},\"env\":{{\"WORD\":\"seven\"}}}}"
        )
    };
    let said = ask(&mut vm, &run("[\"sh\",\"-c\",\"cat; echo; echo $WORD\"]"), "three 'more words'");
    assert_eq!(said, "threemore words\nseven\n{\"exit\":0}\n");
    let failed = ask(&mut vm, &run("[\"sh\",\"-c\",\"echo a complaint >&2; exit 3\"]"), "");
    assert_eq!(failed, "{\"exit\":3}\n");
    vm.says("app | a complaint\n");

    // An end of its own is counted, also when the coordinator has it started.
    ask(&mut vm, &run("[\"sh\",\"-c\",\"kill 1\"]"), "");
    vm.says("app | application ends\n");
    for order in ["stop", "start"] {
        assert_eq!(ask(&mut vm, &about(order), ""), "\"done\"\n");
    }
    vm.ready();
    vm.wait_answer("/status", |answer| answer.body.contains("\"restarts\":1"));

    // Nothing else is done for it.
    for wrong in [
        "{\"do\":\"stop\",\"containers\":[\"shell\"]}".to_owned(),
        "{\"do\":\"stop\",\"containers\":[\"nobody\"]}".to_owned(),
        run("[\"/no/such/program\"]").replace("app", "nobody"),
        "{\"do\":\"reboot\"}".to_owned(),
    ] {
        let refused = ask(&mut vm, &wrong, "");
        assert!(refused.starts_with("{\"refused\":"), "{wrong}: {refused}");
    }

    // It ends before its application, which it needs to hand over.
    vm.qmp("system_powerdown");
    assert!(vm.ended().success());
    let console = vm.console();
    let at = |text: &str| console.rfind(text).unwrap_or_else(|| panic!("no {text:?} in\n{console}"));
    assert!(at("shell | coordinator ends") < at("app | application ends"), "{console}");
}
