//! An image as text, one line an entry, for goldens and for people.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{Read, Seek};

use sha2::{Digest as _, Sha256};

use super::error::ErofsError;
use super::reader::{Node, NodeKind, Reader};

/// Renders everything that a mounted image would show: type, permissions, owner, time, path, and what belongs to the
/// type. Further names of one inode are marked. Extended attributes follow, indented.
pub fn dump<R: Read + Seek>(image: R) -> Result<String, ErofsError> {
    let mut reader = Reader::new(image)?;
    let mut text = format!("erofs {} bytes, {} inodes\n", reader.size(), reader.inodes());
    let root = reader.root()?;
    let mut seen = HashSet::from([root.nid]);
    let mut linked: HashMap<u64, String> = HashMap::new();
    let mut pending = vec![("/".to_owned(), root)];
    while let Some((path, node)) = pending.pop() {
        if !matches!(node.kind, NodeKind::Directory | NodeKind::Character(0, 0)) && node.links > 1 {
            if let Some(first) = linked.get(&node.nid) {
                let _ = writeln!(text, "same   {path} = {first}");
                continue;
            }
            linked.insert(node.nid, path.clone());
        }
        line(&mut text, &mut reader, &path, &node)?;
        if node.kind != NodeKind::Directory {
            continue;
        }
        for entry in reader.entries(&node)?.into_iter().rev() {
            let child = reader.node(entry.nid)?;
            if child.kind == NodeKind::Directory && !seen.insert(child.nid) {
                return Err(ErofsError::Damaged(format!("directory {} has two names", child.nid)));
            }
            let parent = path.trim_end_matches('/');
            pending.push((format!("{parent}/{}", entry.name.escape_ascii()), child));
        }
    }
    Ok(text)
}

fn line<R: Read + Seek>(
    text: &mut String,
    reader: &mut Reader<R>,
    path: &str,
    node: &Node,
) -> Result<(), ErofsError> {
    let (kind, detail) = match node.kind {
        NodeKind::File => {
            let mut hasher = Sha256::new();
            reader.pieces(node, &mut |bytes| {
                hasher.update(bytes);
                Ok(())
            })?;
            let sum = hex::encode(&hasher.finalize()[..6]);
            ("file", format!(" {} bytes sha256:{sum}", node.size))
        }
        NodeKind::Directory => ("dir", String::new()),
        NodeKind::Symlink => ("link", format!(" -> {}", reader.read(node)?.escape_ascii())),
        NodeKind::Character(0, 0) => ("gone", String::new()),
        NodeKind::Character(major, minor) => ("char", format!(" {major}:{minor}")),
        NodeKind::Block(major, minor) => ("block", format!(" {major}:{minor}")),
        NodeKind::Fifo => ("fifo", String::new()),
        NodeKind::Socket => ("sock", String::new()),
    };
    let attributes = &node.attributes;
    let time = attributes.mtime;
    let nanos = if time.nanos == 0 { String::new() } else { format!(".{:09}", time.nanos) };
    let (mode, uid, gid) = (attributes.mode, attributes.uid, attributes.gid);
    let _ = writeln!(text, "{kind:5} {mode:4o} {uid}:{gid} {}{nanos} {path}{detail}", time.seconds);
    for (name, value) in &attributes.xattrs {
        let _ = writeln!(text, "      {}={}", name.escape_ascii(), value.escape_ascii());
    }
    Ok(())
}
