//! The terminal that this program was started on: its size, and raw mode for as long as a command elsewhere has its
//! keys.

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use crate::cloud::exec::Size;

/// Whether standard input is a terminal.
pub(super) fn is_terminal() -> bool {
    isatty(rustix::stdio::stdin())
}

/// The terminal's size; nothing when there is no terminal.
pub(super) fn size() -> Option<Size> {
    let size =
        tcgetwinsize(rustix::stdio::stdin()).or_else(|_| tcgetwinsize(rustix::stdio::stdout())).ok()?;
    Some(Size { rows: size.ws_row, columns: size.ws_col })
}

/// A terminal in raw mode: each key goes on as it is. Dropping it gives the terminal its old mode back.
pub(super) struct Raw(Termios);

impl Raw {
    /// Makes the terminal raw.
    pub(super) fn enter() -> std::io::Result<Self> {
        let before = tcgetattr(rustix::stdio::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to give back.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &self.0);
    }
}
