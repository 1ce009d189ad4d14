//! Names of Jobs that have `generateName` only. A cluster makes up a new name at each call; here the name is a function
//! of the job, so that an unchanged one is not run again and a changed one is another.

use sha2::{Digest as _, Sha256};

use super::tree::{Node, Value};

/// Digits of the digest that are part of the name: enough to tell the versions of a job apart.
const DIGITS: usize = 8;

/// Longest prefix, so that the name is a DNS label.
const PREFIX: usize = 63 - DIGITS;

/// Gives the Job its name, unless it has one.
pub(super) fn name_job(root: &mut Node<'_>) {
    let Some(meta) = root.get("metadata").filter(|meta| meta.get("name").is_none()) else { return };
    let Some(prefix) = meta.get("generateName").filter(|prefix| prefix.scalar().is_some()) else { return };
    let mut hash = Sha256::new();
    absorb(root, &mut hash);
    let digest = hash.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let prefix_text: String = prefix.scalar().unwrap_or_default().chars().take(PREFIX).collect();
    let name = Node::text(prefix_text + &digest[..DIGITS], prefix.span);
    let Value::Map(entries) = &mut root.value else { return };
    let Some(entry) = entries.iter_mut().find(|entry| entry.key == "metadata") else { return };
    let Value::Map(fields) = &mut entry.value.value else { return };
    fields.retain(|field| field.key != "name");
    let Value::Map(made) = Node::map([("name", name)], entry.key_span).value else { return };
    fields.extend(made);
}

/// The value of the node, whatever its spelling in the file.
fn absorb(node: &Node<'_>, hash: &mut Sha256) {
    let mut text = |tag: u8, text: &str| {
        hash.update([tag]);
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    match &node.value {
        Value::Scalar(scalar) => text(b's', &scalar.text),
        Value::List(items) => {
            text(b'l', "");
            for item in items {
                absorb(item, hash);
            }
            hash.update([b'e']);
        }
        Value::Map(entries) => {
            text(b'm', "");
            for entry in entries {
                hash.update([b'k']);
                hash.update((entry.key.len() as u64).to_le_bytes());
                hash.update(entry.key.as_bytes());
                absorb(&entry.value, hash);
            }
            hash.update([b'e']);
        }
    }
}
