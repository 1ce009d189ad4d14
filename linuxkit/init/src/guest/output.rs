//! What containers write and what PID 1 says itself: to the journals, to the console, and at the end to the host.

use std::time::{Duration, Instant};

use super::Guest;
use crate::error::Error;
use crate::journal::{GUEST, Journals};
use crate::lifecycle::Life;

/// How much of a container's output is read at once; other containers get their turn in between.
const READ_BYTES: usize = 64 * 1024;

impl Guest {
    /// Says something: on the console, and to whoever reads the containers' lines.
    pub(crate) fn say(&mut self, text: &str) {
        self.console.say(text);
        if let Some(journals) = &mut self.journals {
            text.lines().for_each(|line| journals.line(GUEST, 0, ("stdout", line.as_bytes(), true)));
            journals.flush(GUEST, 0);
        }
    }

    pub(super) fn tell_end(&mut self, index: usize) {
        let container = &self.containers[index];
        let Some(ended) = &container.last else { return };
        let next = match container.life {
            Life::Waiting(due) => {
                let delay = due.saturating_duration_since(Instant::now()).as_secs_f64();
                format!(", to be started again in {delay:.0} s")
            }
            _ => String::new(),
        };
        let text = format!("{}: {ended}{next}", container.name());
        self.say(&text);
    }

    /// Reads once from a stream. Returns whether there may be more; a stream that ended is removed.
    pub(super) fn read_stream(&mut self, container: usize, stream: usize) -> bool {
        let container = &mut self.containers[container];
        let name = container.spec.boot.name.clone();
        let Some(output) = container.streams.get_mut(stream) else { return false };
        let run = output.run;
        let console = self.journals.is_none() || self.console_too;
        let mut take = |line: &[u8], whole| {
            if let Some(journals) = &mut self.journals {
                journals.line(&name, run, (output.name, line, whole));
            }
            if console {
                self.console.container_line(&name, line);
            }
        };
        let mut buffer = vec![0; READ_BYTES];
        let more = match rustix::io::read(&output.pipe, &mut buffer) {
            Ok(0) => {
                output.lines.finish(|line| take(line, true));
                container.streams.remove(stream);
                false
            }
            Ok(length) => {
                output.lines.push(&buffer[..length], take);
                true
            }
            Err(_) => false,
        };
        if let Some(journals) = &mut self.journals {
            journals.flush(&name, run);
        }
        more
    }

    /// Waits until the host has all lines, for a bounded time.
    pub(super) fn deliver(&mut self, limit: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + limit;
        self.leaving = Some(deadline);
        let missing = |journals: &Journals| !journals.all_taken();
        while self.journals.as_ref().is_some_and(missing) && Instant::now() < deadline {
            self.turn()?;
        }
        Ok(())
    }
}
