//! Tests of the room as a whole: images against a model, hostile tars, pinned bytes.

mod hostile;
mod layers;
mod model;
mod property;
mod tarball;

use std::io::Cursor;

use super::{ErofsError, NodeKind, Reader, Summary, write_layer};
use model::{Item, Items};

/// The image of a tar.
fn image(tar: &[u8]) -> Result<Vec<u8>, ErofsError> {
    let mut out = Cursor::new(Vec::new());
    let summary: Summary = write_layer(tar, &mut out)?;
    let image = out.into_inner();
    assert_eq!(image.len() as u64, summary.size);
    assert_eq!(image.len() % 4096, 0);
    Ok(image)
}

/// Everything in an image, in the terms of the model.
fn items(image: &[u8]) -> Items {
    let mut reader = Reader::new(Cursor::new(image)).expect("our own image");
    let mut items = Items::new();
    let mut pending = vec![(Vec::new(), reader.root().expect("our own image"))];
    while let Some((path, node)) = pending.pop() {
        let data = match node.kind {
            NodeKind::Directory => Vec::new(),
            _ => reader.read(&node).expect("our own image"),
        };
        if node.kind == NodeKind::Directory {
            let entries = reader.entries(&node).expect("our own image");
            assert!(entries.is_sorted_by(|a, b| a.name < b.name), "names are in order and unique");
            let mut subdirectories = 0;
            for entry in entries {
                let child = reader.node(entry.nid).expect("our own image");
                subdirectories += u32::from(child.kind == NodeKind::Directory);
                let name = String::from_utf8(entry.name).expect("tests use plain names");
                pending.push(([&path[..], &[name]].concat(), child));
            }
            assert_eq!(node.links, 2 + subdirectories);
        }
        let links = if node.kind == NodeKind::Directory { 0 } else { node.links };
        items.insert(path, Item { kind: node.kind, attributes: node.attributes, data, links });
    }
    items
}
