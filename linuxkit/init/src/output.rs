//! What goes out of the VM as text: PID 1's own lines and those of the containers, to the console, and into the journals
//! where somebody reads them. Knows nothing of what the lines are about.

use std::time::Duration;

use i2kit_spec::PodEnd;
use i2kit_spec::console::END;
use i2kit_supervisor::journal::GUEST;
use i2kit_supervisor::record::PhaseTime;
use i2kit_sys::clock;

use crate::console::Console;
use crate::container::Stream;
use crate::journal::Journals;

/// How much of a container's output is read at once; other containers get their turn in between.
const READ_BYTES: usize = 64 * 1024;

/// The console, and the journals when the VM has a reader for them.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) console: Console,
    pub(crate) journals: Option<Journals>,
    /// Whether containers' lines go to the console beside the journals.
    console_too: bool,
    /// Whether somebody outside asked the pod to stop.
    pub(crate) asked: bool,
    /// How the pod ended, and whether somebody had asked for that.
    pub(crate) ended: Option<(PodEnd, bool)>,
}

impl Output {
    /// An output without journals: all lines go to the console.
    pub(crate) fn new(console: Console) -> Self {
        Self { console, journals: None, console_too: false, asked: false, ended: None }
    }

    /// From now on lines go into these journals, and those of containers to the console only if `console_too`.
    pub(crate) fn keep(&mut self, journals: Journals, console_too: bool) {
        self.journals = Some(journals);
        self.console_too = console_too;
    }

    /// Writes a line of PID 1 itself.
    pub(crate) fn log(&mut self, text: &str) {
        self.console.log(text);
        if let Some(journals) = &mut self.journals {
            text.lines().for_each(|line| journals.line(GUEST, 0, ("stdout", line.as_bytes(), true)));
            journals.flush(GUEST, 0);
        }
    }

    /// Writes how long a phase took that began at `start`, and returns it.
    pub(crate) fn phase(&mut self, name: String, start: f64) -> PhaseTime {
        let end = clock::since_boot();
        self.log(&format!("{start:7.3} s  {name}, {:.0} ms", (end - start) * 1e3));
        PhaseTime { name, start, end }
    }

    /// Writes how the pod ended, in the line that the host looks for.
    pub(crate) fn log_end(&mut self, end: &PodEnd) {
        self.ended = Some((end.clone(), self.asked));
        let end = serde_json::to_string(end).unwrap_or_default();
        self.log(&format!("{END}{end}"));
    }

    /// Reads once from a container's stream. Returns whether there may be more, and none when the stream has ended.
    pub(crate) fn read(&mut self, name: &str, stream: &mut Stream) -> Option<bool> {
        let console = self.journals.is_none() || self.console_too;
        let (run, stream_name) = (stream.run, stream.name);
        let mut take = |line: &[u8], whole| {
            if let Some(journals) = &mut self.journals {
                journals.line(name, run, (stream_name, line, whole));
            }
            if console {
                self.console.container_line(name, line);
            }
        };
        let mut buffer = vec![0; READ_BYTES];
        let more = match rustix::io::read(&stream.pipe, &mut buffer) {
            Ok(0) => {
                stream.lines.finish(|line| take(line, true));
                None
            }
            Ok(length) => {
                stream.lines.push(&buffer[..length], take);
                Some(true)
            }
            Err(_) => Some(false),
        };
        if let Some(journals) = &mut self.journals {
            journals.flush(name, run);
        }
        more
    }

    /// Whether the host still lacks lines.
    pub(crate) fn is_behind(&self) -> bool {
        self.journals.as_ref().is_some_and(|journals| !journals.all_taken())
    }

    /// Waits until the console has everything, for a bounded time.
    pub(crate) fn drain(&mut self, limit: Duration) {
        self.console.drain(limit);
    }
}
