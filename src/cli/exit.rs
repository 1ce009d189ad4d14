//! Exit codes and what leads to them. The table in `docs/exit-codes.md` lists them for users.

use std::process::ExitCode;

/// Why the program ends as it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command did what it was asked, or found nothing to do.
    Success = 0,
    /// Something failed that has no code of its own.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A manifest is refused.
    Manifest = 3,
    /// The environment file is refused.
    Environment = 4,
    /// An image could not be found, fetched or verified.
    Image = 5,
    /// The guest bundle is missing or broken, or a machine image could not be built.
    Build = 6,
    /// The cloud refused or did not answer.
    Cloud = 7,
    /// A rollout did not become healthy: it was rolled back, or nothing moved for too long.
    Rollout = 8,
    /// What was named does not exist.
    NotFound = 9,
    /// `plan --detailed-exitcode` found something to change.
    Changes = 10,
    /// Somebody else changed the environment meanwhile, and the rest was not done.
    Overtaken = 11,
    /// The command was interrupted (128 + SIGINT).
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error on its way out, with the code that it ends in.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// What happened; `None` when it was reported already.
    pub error: Option<anyhow::Error>,
}

impl Failure {
    /// Ends in `exit` without another word.
    pub fn silent(exit: Exit) -> Self {
        Self { exit, error: None }
    }

    /// Ends in `exit` with `error`.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: Some(error.into()) }
    }

    /// What happened, with its causes; `see the messages` when it was reported already.
    pub fn words(&self) -> String {
        self.error.as_ref().map_or_else(|| "see the messages".to_owned(), |error| format!("{error:#}"))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { exit: Exit::Failure, error: Some(error) }
    }
}

/// Gives room errors the code that they end in.
pub trait OrExit<T> {
    /// The value, or a failure that ends in `exit`.
    fn or_exit(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(exit, error))
    }
}
