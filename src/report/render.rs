//! Renderers: events to a terminal with progress bars, to plain lines, or to JSON lines. All talk goes to standard
//! error; results go to standard output.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::event::{Event, Events};
use crate::text;

/// How results and talk are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs: one JSON document on standard output, events as JSON lines on standard error.
    Json,
}

/// The sink that renders events in `format`; `quiet` leaves only warnings.
pub fn events(format: Format, quiet: bool) -> Events {
    match format {
        Format::Json => Events::new(|event| json_line(&event)),
        Format::Text if quiet => Events::new(|event| {
            if let Event::Warning { .. } = event {
                plain_line(&event);
            }
        }),
        // A terminal that cannot move its cursor (`TERM` says which) would not show what goes through the bars either.
        Format::Text if std::io::stderr().is_terminal() && !ProgressDrawTarget::stderr().is_hidden() => {
            let bars = Bars::default();
            Events::new(move |event| bars.show(&event))
        }
        Format::Text => {
            let lines = Lines::default();
            Events::new(move |event| lines.show(&event))
        }
    }
}

/// Writes a result to standard output: text of one or more lines, part of which strangers wrote, so that what acts on a
/// terminal becomes visible. A reader that went away (`i2kit logs | head`) is not an error.
pub fn result(result: &str) {
    said(&text::visible(result));
}

/// Writes a JSON document to standard output, with the same values and nothing in it that acts on a terminal.
pub fn document(document: &str) {
    said(&text::json(document));
}

/// Writes to standard output what was made visible already, field by field.
pub fn said(text: &str) {
    let mut out = anstream::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes findings as talk. Their colours are ours; what strangers wrote was made visible when they were rendered.
pub fn findings(text: &str) {
    let mut out = anstream::stderr().lock();
    let _ = writeln!(out, "{text}");
}

/// Writes bytes that a command in a container wrote, to standard output or to standard error, as they are. Returns
/// whether they were taken.
pub fn bytes(bytes: &[u8], is_error: bool) -> bool {
    let write = |out: &mut dyn Write| out.write_all(bytes).and_then(|()| out.flush()).is_ok();
    if is_error { write(&mut std::io::stderr().lock()) } else { write(&mut std::io::stdout().lock()) }
}

/// Whether results may have colours: a terminal that has not been asked to do without (`NO_COLOR`).
pub fn colour() -> bool {
    anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never
}

/// Writes the last words of a command that failed.
pub fn failure(format: Format, message: String) {
    let event = Event::Error { message };
    match format {
        Format::Text => plain_line(&event),
        Format::Json => json_line(&event),
    }
}

/// Writes a message that belongs to no event, as [`result`] makes it visible.
pub fn message(message: &str) {
    findings(&text::talk(message));
}

fn json_line(event: &Event) {
    let line = serde_json::to_string(event).expect("events have only string keys");
    let mut out = std::io::stderr().lock();
    let _ = writeln!(out, "{}", text::json(&line));
}

fn plain_line(event: &Event) {
    if let Some(line) = event.line() {
        message(&line);
    }
}

/// Plain lines, for files and pipes: what has no known end is said when it begins, everything else when it ended.
#[derive(Default)]
struct Lines {
    /// Titles of the tasks under way that were not said yet.
    silent: Mutex<HashMap<String, String>>,
}

impl Lines {
    fn show(&self, event: &Event) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::TaskStarted { id, title, total: Some(_) } => {
                silent.insert(id.clone(), title.clone());
            }
            Event::TaskFinished { id, outcome } => {
                if let Some(title) = silent.remove(id) {
                    message(&finished(&title, outcome));
                }
            }
            _ => plain_line(event),
        }
    }
}

/// How a task that ended is told.
fn finished(title: &str, outcome: &str) -> String {
    if outcome == "done" { title.to_owned() } else { format!("{title}: {outcome}") }
}

/// Progress bars of the tasks under way.
#[derive(Default)]
struct Bars {
    screen: MultiProgress,
    tasks: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    fn show(&self, event: &Event) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::TaskStarted { id, title, total } => {
                // It draws nothing before it is part of the screen, or what it drew would stay behind.
                let bar = ProgressBar::with_draw_target(*total, ProgressDrawTarget::hidden());
                let bar = self.screen.add(bar);
                let style = if total.is_some() {
                    "  {msg:50!} [{bar:24}] {bytes}/{total_bytes}"
                } else {
                    "  {msg:50!} {spinner}"
                };
                bar.set_style(ProgressStyle::with_template(style).expect("the style is well formed"));
                bar.set_message(text::line(title).into_owned());
                tasks.insert(id.clone(), bar);
            }
            Event::TaskProgress { id, done } => {
                if let Some(bar) = tasks.get(id) {
                    bar.set_position(*done);
                }
            }
            Event::TaskFinished { id, outcome } => {
                if let Some(bar) = tasks.remove(id) {
                    let line = finished(&bar.message(), outcome);
                    bar.finish_and_clear();
                    self.print(&line);
                }
            }
            _ => {
                if let Some(line) = event.line() {
                    self.print(&line);
                }
            }
        }
    }

    fn print(&self, line: &str) {
        // A screen without bars hides its lines when it is not drawn; printing through it keeps bars below the text.
        if self.screen.println(text::talk(line)).is_err() {
            message(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use indicatif::TermLike;

    use super::*;

    /// A terminal that keeps what is written to it.
    #[derive(Debug, Clone, Default)]
    struct Terminal(Arc<Mutex<String>>);

    impl Terminal {
        fn add(&self, text: &str, end: &str) {
            self.0.lock().unwrap().extend([text, end]);
        }
    }

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            200
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.add(text, "\n");
            Ok(())
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.add(text, "");
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_between_bars_act_on_nothing() {
        let terminal = Terminal::default();
        let screen =
            MultiProgress::with_draw_target(ProgressDrawTarget::term_like(Box::new(terminal.clone())));
        let bars = Bars { screen, ..Bars::default() };
        let text = || "x\u{1b}[2J\n::error::y".to_owned();
        bars.show(&Event::Warning { message: text() });
        bars.show(&Event::TaskStarted { id: "a".into(), title: text(), total: None });
        bars.show(&Event::TaskFinished { id: "a".into(), outcome: text() });
        let shown = terminal.0.lock().unwrap().clone();
        assert!(shown.contains("warning: x␛[2J") && shown.contains("x␛[2J␊::error::y: x␛[2J"), "{shown:?}");
        assert_eq!(shown.matches("| ::error::y").count(), 2, "{shown:?}");
        assert!(!shown.contains("\u{1b}[2J"), "{shown:?}");
        assert!(!shown.lines().any(|line| line.trim_start().starts_with("::")), "{shown:?}");
    }
}
