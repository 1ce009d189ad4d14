//! Rules about the annotations of a replicated pod. What they have to do with the rest of the set is in `set/replicated.rs`.

use crate::manifest::check::replicated::{Fault, KEYS, PREFIX, REPLICATED, STATE, read};
use crate::manifest::check::report::Check;
use crate::manifest::code::Code;
use crate::manifest::support;
use crate::manifest::tree::{Entry, Node};
use crate::manifest::words::nearest;

/// The texts of the annotations, each by itself, and keys that mean nothing.
pub(in crate::manifest) fn replicated(check: &mut Check<'_>, template: &Node<'_>) {
    let entries = template.at(&["metadata", "annotations"]).map_or(&[][..], Node::entries);
    let own = |entry: &&Entry<'_>| entry.key == REPLICATED || entry.key.starts_with(PREFIX);
    let own: Vec<&Entry<'_>> = entries.iter().filter(own).collect();
    let text = |key: &str| own.iter().find(|entry| entry.key == key).and_then(|entry| entry.value.scalar());
    let read = read(text);
    report_missing_hooks(check, &own, read.as_ref().map_or(&[], |(_, faults)| faults));
    for entry in &own {
        let shown = check.shown(entry.value.scalar().unwrap_or_default());
        check.below(&["metadata", "annotations", entry.key.as_ref()], |check| {
            if !KEYS.contains(&entry.key.as_ref()) {
                let message = format!("there is no annotation `{}`", entry.key);
                let near = nearest(&entry.key, KEYS);
                let help = near.map(|near| format!("did you mean `{near}`?"));
                check.report(Code::UnknownField, entry.key_span, message).maybe_help(help);
            } else if let Some((_, faults)) = &read {
                for fault in faults.iter().filter(|fault| fault.key == entry.key) {
                    let message = format!("{}, got {shown}", fault.must);
                    check.report(Code::InvalidValue, entry.value.span, message);
                }
                if entry.key == REPLICATED {
                    check.supported(entry.value.span, support::REPLICATED, support::REPLICATED);
                }
            } else {
                let message = format!("has no meaning without `{REPLICATED}`");
                check
                    .report(Code::NoMeaning, entry.key_span, message)
                    .help(format!("write `{REPLICATED}: http`, or remove this annotation"));
            }
        });
    }
}

/// Hooks of which one has no command.
fn report_missing_hooks(check: &mut Check<'_>, own: &[&Entry<'_>], faults: &[Fault]) {
    let Some(state) = own.iter().find(|entry| entry.key == STATE) else { return };
    for fault in faults.iter().filter(|fault| own.iter().all(|entry| entry.key != fault.key)) {
        check.below(&["metadata", "annotations", STATE], |check| {
            check
                .report(Code::ReplicatedState, state.value.span, format!("`{}` is missing", fault.key))
                .help("give both commands: one writes the state to standard output, one reads it from standard input");
        });
    }
}
