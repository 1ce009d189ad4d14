//! What a person does at a terminal: shells in containers, the serial console, lines as they come. util-linux's `script`
//! is the terminal.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, World, machines};

/// A terminal of 30 lines with 100 characters, on which the program runs.
struct Terminal {
    script: Child,
    shown: Arc<Mutex<Vec<u8>>>,
    device: PathBuf,
}

impl Terminal {
    /// Starts the program. When it has ended, the terminal shows its exit code, and whether lines can be edited again.
    fn start(world: &World, arguments: &[&str]) -> Self {
        let program = world.command(arguments);
        let words = [program.get_program()].into_iter().chain(program.get_args());
        let words: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
        let device = world.path().join("terminal");
        let line = format!(
            "trap : INT; tty > {}; stty rows 30 cols 100; {}; echo ended with $?; stty -a | grep -o ' icanon'",
            device.display(),
            words.join(" ")
        );
        let mut command = Command::new("script");
        command.args(["--quiet", "--flush", "--command", &line, "/dev/null"]).current_dir(world.path());
        command.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = command.spawn().expect("util-linux is installed");
        let mut output = script.stdout.take().unwrap();
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let kept = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                kept.lock().unwrap().extend(&buffer[..length]);
            }
        });
        Self { script, shown, device }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).replace('\r', "")
    }

    /// Waits until it shows this.
    fn shows(&self, text: &str) {
        let start = Instant::now();
        while !self.shown().contains(text) {
            assert!(start.elapsed() < PATIENCE, "no {text:?} on the terminal, but {:?}", self.shown());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn types(&mut self, keys: &str) {
        self.script.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    /// Changes its size, as whoever drags its window does.
    fn resize(&self, rows: u16, columns: u16) {
        let device = fs::read_to_string(&self.device).unwrap();
        let [rows, columns] = [rows, columns].map(|number| number.to_string());
        let resized =
            Command::new("stty").args(["-F", device.trim(), "rows", &rows, "cols", &columns]).status();
        assert!(resized.unwrap().success());
    }

    /// Waits for the end.
    fn ended(mut self, code: u8) {
        self.shows(&format!("ended with {code}\n"));
        self.shows(" icanon");
        drop(self.script.stdin.take());
        self.script.wait().unwrap();
    }
}

const MANIFEST: &str = "name: seen
containers:
  count:
    image: busybox:1.35
    command: [/bin/sh, -c, 'n=0; while :; do n=$((n+1)); echo line $n; sleep 0.2; done']
";

#[test]
fn a_person_at_a_terminal_looks_into_machines() {
    if !machines() {
        return;
    }
    let world = World::new().file("seen.yaml", MANIFEST);
    world.i2kit(&["deploy", "seen.yaml"]).run();
    let id = world.group("seen").instances[0].id.clone();

    let mut shell = Terminal::start(&world, &["exec", "-it", "seen", "--", "sh"]);
    shell.shows("# ");
    shell.types("stty size; tty\r");
    shell.shows("\n30 100\n/dev/pts/0\n");
    shell.resize(50, 80);
    // The size is on its way; whoever asks too early asks again.
    shell.types("until stty size | grep '50 80'; do sleep 0.1; done\r");
    shell.shows("\n50 80\n");
    shell.types("echo going; sleep 1000\r");
    shell.shows("\ngoing\n");
    shell.types("\u{3}");
    shell.types("echo code $?\r");
    shell.shows("\ncode 130\n");
    shell.types("exit 5\r");
    shell.ended(5);

    let mut lines = Terminal::start(&world, &["logs", "-f", "seen", "--timestamps"]);
    lines.shows(" line 3\n");
    let last = world.i2kit(&["logs", "seen", "--tail", "1"]).run().stdout;
    let last: u32 = last.trim().rsplit(' ').next().unwrap().parse().unwrap();
    lines.shows(&format!(" line {}\n", last + 5));
    lines.types("\u{3}");
    lines.ended(130);

    // What is typed goes nowhere, and the program says so.
    let mut console = Terminal::start(&world, &["console", "seen"]);
    console.shows(&format!("the serial console of {id}; "));
    console.shows("services, ");
    console.types("reboot\r\u{3}");
    console.ended(130);
    world.i2kit(&["exec", "seen", "--", "true"]).run();
    world.i2kit(&["destroy", "seen"]).run();
    world.assert_nothing_left();
}
