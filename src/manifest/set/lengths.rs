//! How long texts become when variables are expanded in them. Each variable may double the one above it, so that a
//! short manifest could mean more bytes than any machine has: what no program can be given is refused before anybody
//! writes it out.

use std::collections::BTreeMap;

use super::document::Document;
use super::variables::{Text, Variables};
use super::{Set, finding};
use crate::manifest::check::variable_references;
use crate::manifest::code::Code;
use crate::manifest::tree::Node;

/// The longest argument or `NAME=VALUE` of a program, in bytes: 32 pages with the zero at its end. Source: execve(2).
const MAX_TEXT: usize = 32 * 4096 - 1;

impl<'s> Set<'s, '_> {
    /// Refuses texts of a container that become too long.
    pub(super) fn lengths(
        &mut self,
        document: &Document<'_>,
        container: &'s Node<'_>,
        variables: &Variables<'s>,
        texts: &[Text<'s, '_>],
    ) {
        let mut known: BTreeMap<&str, usize> = BTreeMap::new();
        let mut own = texts.iter().filter(|text| text.sees.is_some()).peekable();
        for (i, variable) in container.get("env").map_or(&[][..], Node::items).iter().enumerate() {
            let text = own.next_if(|text| text.sees == Some(i));
            let Some(name) = variable.str("name") else { continue };
            let mut length = match variable.get("value").and_then(Node::scalar) {
                Some(text) => self.length(document, variables, &known, text),
                None => self.length_elsewhere(document, variable),
            };
            let whole = name.len() + 1 + length;
            if let Some(text) = text.filter(|_| whole > MAX_TEXT) {
                self.too_long(document, text, whole);
                // Those below that refer to it are not its fault.
                length = 0;
            }
            known.insert(name, length);
        }
        for text in texts.iter().filter(|text| text.sees.is_none()) {
            let length = self.length(document, variables, &known, text.node.scalar().unwrap_or_default());
            if length > MAX_TEXT {
                self.too_long(document, text, length);
            }
        }
    }

    /// How many bytes a text has when the variables are expanded in it; `$$` is counted as two.
    fn length(
        &self,
        document: &Document<'_>,
        variables: &Variables<'s>,
        known: &BTreeMap<&str, usize>,
        text: &str,
    ) -> usize {
        let reference = |length: usize, name: &str| {
            let value = known.get(name).copied().or_else(|| {
                let value = self.of_sources(document, variables, name)?.value;
                Some(value.scalar().unwrap_or_default().len())
            });
            // The reference itself goes: its name and `$()`.
            value.map_or(length, |value| length.saturating_sub(name.len() + 3).saturating_add(value))
        };
        variable_references(text).fold(text.len(), reference)
    }

    /// How many bytes the value of a variable has that is a key of an object of the set.
    fn length_elsewhere(&self, document: &Document<'_>, variable: &Node<'_>) -> usize {
        let held = |(field, kind): (&str, &str)| {
            let reference = variable.at(&["valueFrom", field])?;
            self.index.held(kind, &document.namespace, reference.str("name")?, reference.str("key")?)
        };
        let held = [("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")].into_iter().find_map(held);
        held.and_then(|held| held.value.scalar()).map_or(0, str::len)
    }

    fn too_long(&mut self, document: &Document<'_>, text: &Text<'_, '_>, length: usize) {
        let message = format!(
            "with its variables expanded this has {length} bytes; a program is given at most {MAX_TEXT} in one text"
        );
        let mut found = finding(Code::InvalidValue, document, &text.path, text.node.span, message);
        found.help("write a shorter text, or put it into a file of a ConfigMap");
        self.findings.push(found);
    }
}
