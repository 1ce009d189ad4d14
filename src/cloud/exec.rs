//! A command in a container of a VM, as the tool sees it: what goes in and what comes out. Knows no cloud.

use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::error::CloudError;

/// What is to run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Command {
    /// The container; the pod's first one without it.
    pub container: Option<String>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Whether it gets input.
    pub input: bool,
    /// The size of its terminal, if it gets one.
    pub terminal: Option<Size>,
}

/// The size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// A command that runs. Dropping it ends the command.
pub struct Session {
    /// Takes input, and waits when the command does not.
    pub input: mpsc::Sender<Input>,
    /// Ends with [`Output::Ended`], or with an error.
    pub output: BoxStream<'static, Result<Output, CloudError>>,
}

/// What goes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Bytes of the standard input, or keys of the terminal.
    Bytes(Vec<u8>),
    /// The standard input ends.
    End,
    /// The terminal has another size.
    Resize(Size),
}

/// What comes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The standard output, or the terminal.
    Out(Vec<u8>),
    /// The standard error.
    Err(Vec<u8>),
    /// The VM has not answered yet; it is waited for. Said once.
    Unanswered,
    /// The command ended with this code; 128 plus the signal when one killed it.
    Ended(i32),
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}
