//! How far a machine came, as its serial console has it.

use i2kit_spec::console::GUEST_PREFIX;

/// Phases of the guest that show what a cloud must give: disk, network, metadata; the last one is before the containers.
const WANTED: [&str; 4] = ["layers", "network", "cloud", "health"];

/// What the guest says of its clock and of the power button.
const CLOCK: &str = "the clock was";
const BUTTON: &str = "the power button was pressed";

/// The guest's own lines, without their prefix.
fn own(console: &str) -> impl Iterator<Item = &str> {
    console.lines().filter_map(|line| line.trim_end().strip_prefix(GUEST_PREFIX)).map(str::trim)
}

/// The phase that a line is about: `1.234 s  network, 12 ms`.
fn phase(line: &str) -> Option<&str> {
    let (seconds, rest) = line.split_once(" s  ")?;
    seconds.trim().parse::<f64>().ok()?;
    rest.split_once(',').map(|(name, _)| name)
}

/// The phases that are not there yet.
pub(super) fn missing(console: &str) -> Vec<&'static str> {
    let there: Vec<&str> = own(console).filter_map(phase).collect();
    WANTED.into_iter().filter(|wanted| !there.contains(wanted)).collect()
}

/// What is told of a boot: how much firmware and kernel said, the guest's phases with their times, and its clock.
pub(super) fn findings(console: &str) -> Vec<String> {
    let before = console.lines().take_while(|line| !line.starts_with(GUEST_PREFIX)).count();
    let lines = own(console).filter(|line| phase(line).is_some() || line.starts_with(CLOCK));
    let noun = if before == 1 { "line" } else { "lines" };
    let mut found = vec![format!("{before} {noun} of firmware and kernel before the guest's first one")];
    found.extend(lines.map(|line| format!("console: {line}")));
    found
}

/// Whether the guest noticed the power button.
pub(super) fn noticed_button(console: &str) -> bool {
    own(console).any(|line| line.contains(BUTTON))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_read_from_the_guest_s_own_lines() {
        let console = "BdsDxe: starting Boot0001\r\ni2kit:   1.204 s  layers, 3 ms\r\ni2kit:   1.300 s  network, 80 ms\r\n\
                       web | i2kit:   1.400 s  health, 1 ms\r\ni2kit: the clock was set by 0.120 s\r\n";
        assert_eq!(missing(console), ["cloud", "health"]);
        assert_eq!(
            findings(console),
            [
                "1 line of firmware and kernel before the guest's first one",
                "console: 1.204 s  layers, 3 ms",
                "console: 1.300 s  network, 80 ms",
                "console: the clock was set by 0.120 s",
            ]
        );
        assert!(!noticed_button(console));
        assert!(noticed_button("i2kit: the power button was pressed\n"));
        assert!(missing("").len() == WANTED.len() && phase("stopping the pod, grace period 5 s").is_none());
    }
}
