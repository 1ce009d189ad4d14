//! One call of the program, and what is expected of it.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A call: arguments, then expectations, then [`Call::run`].
#[must_use = "a call does nothing until it is run"]
#[derive(Debug)]
pub(crate) struct Call {
    command: Command,
    code: i32,
    stdout: Option<String>,
    prints: Vec<String>,
    says: Vec<String>,
}

/// What a call that met all expectations wrote.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Results.
    pub(crate) stdout: String,
    /// Talk.
    pub(crate) stderr: String,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Call {
    /// A call of `command` that is expected to succeed.
    pub(crate) fn new(command: Command) -> Self {
        Self { command, code: 0, stdout: None, prints: Vec::new(), says: Vec::new() }
    }

    /// Sets an environment variable.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Expects this exit code.
    pub(crate) fn code(mut self, code: i32) -> Self {
        self.code = code;
        self
    }

    /// Expects exactly this on standard output.
    pub(crate) fn stdout(mut self, text: &str) -> Self {
        self.stdout = Some(text.to_owned());
        self
    }

    /// Expects this somewhere on standard output.
    pub(crate) fn prints(mut self, text: &str) -> Self {
        self.prints.push(text.to_owned());
        self
    }

    /// Expects this somewhere on standard error.
    pub(crate) fn says(mut self, text: &str) -> Self {
        self.says.push(text.to_owned());
        self
    }

    /// Runs the program to its end and fails the test where an expectation is not met.
    pub(crate) fn run(mut self) -> Outcome {
        let started = Instant::now();
        let output = self.command.stdin(Stdio::null()).output().unwrap();
        let took = started.elapsed();
        let (stdout, stderr) = texts(&output);
        let story = format!("{:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}", self.command);
        assert_eq!(output.status.code(), Some(self.code), "{story}");
        if let Some(expected) = &self.stdout {
            assert_eq!(&stdout, expected, "{story}");
        }
        for text in &self.prints {
            assert!(stdout.contains(text), "no `{text}` on standard output of {story}");
        }
        for text in &self.says {
            assert!(stderr.contains(text), "no `{text}` on standard error of {story}");
        }
        Outcome { stdout, stderr, took }
    }

    /// Starts the program and leaves it running, its output dropped.
    pub(crate) fn start(mut self) -> Child {
        self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}
