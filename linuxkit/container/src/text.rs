//! Text of containers, made fit for one line of a console or a record.

/// The text as one line that no reader takes for several lines or for a terminal's commands: control characters become
/// spaces.
pub fn one_line(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
