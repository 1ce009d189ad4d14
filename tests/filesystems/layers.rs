//! Layers as erofs images: the kernel, GNU tar and `fsck.erofs` must see in them what our reader sees.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;

use i2kit::erofs::write_layer;
use tar::{Builder, EntryType, Header};

use super::mounts::{Mount, mounts};
use super::snapshot::{assert_same, of_image, of_tree};
use super::{run, tools};

/// A tar with everything that GNU tar can extract.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        let mut layer = Self(Builder::new(Vec::new()));
        layer.add(EntryType::Directory, "./", "", b"");
        layer
    }

    fn header(kind: EntryType, size: usize) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o640 });
        header.set_uid(1000);
        header.set_gid(70_000);
        header.set_mtime(1_700_000_000);
        header.set_size(size as u64);
        header
    }

    fn add(&mut self, kind: EntryType, path: &str, link: &str, data: &[u8]) -> &mut Self {
        let mut header = Self::header(kind, data.len());
        if link.is_empty() {
            self.0.append_data(&mut header, path, data).unwrap();
        } else {
            self.0.append_link(&mut header, path, link).unwrap();
        }
        self
    }

    fn device(&mut self, kind: EntryType, path: &str, major: u32, minor: u32) -> &mut Self {
        let mut header = Self::header(kind, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.0.append_data(&mut header, path, &b""[..]).unwrap();
        self
    }

    fn pax(&mut self, records: &[(&str, &[u8])]) -> &mut Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    fn file(&mut self, path: &str, data: &[u8]) -> &mut Self {
        self.add(EntryType::Regular, path, "", data)
    }

    fn directory(&mut self, path: &str) -> &mut Self {
        self.add(EntryType::Directory, path, "", b"")
    }

    /// Writes the tar and its image to `folder`.
    fn write(self, folder: &Path, name: &str) {
        let tar = self.0.into_inner().unwrap();
        write_layer(&tar[..], File::create(folder.join(name)).unwrap()).unwrap();
        fs::write(folder.join(format!("{name}.tar")), tar).unwrap();
        run("fsck.erofs", &[folder.join(name)]);
    }
}

/// Every kind of entry, with sizes around the borders of blocks.
fn everything() -> Layer {
    let mut layer = Layer::new();
    layer.directory("sizes");
    for size in [0, 1, 100, 4031, 4032, 4033, 4095, 4096, 4097, 8127, 8128, 8129, 12_288, 1 << 20, 300_001] {
        let data: Vec<u8> = std::iter::successors(Some(7_u32), |x| Some(x.wrapping_mul(1_664_525) + 1_013))
            .map(|x| x.to_be_bytes()[0])
            .take(size)
            .collect();
        layer.file(&format!("sizes/{size}"), &data);
    }
    layer.directory("many");
    for number in 0..5000 {
        layer.file(&format!("many/{number}-{}", "n".repeat(number % 200)), format!("{number}").as_bytes());
    }
    layer.add(EntryType::Link, "linked", "many/17-nnnnnnnnnnnnnnnnn", b"");
    layer.add(EntryType::Link, "linked too", "many/17-nnnnnnnnnnnnnnnnn", b"");
    layer.add(EntryType::Symlink, "short", "sizes/1", b"");
    layer.add(EntryType::Symlink, "long", &"long/".repeat(700), b"");
    layer.add(EntryType::Symlink, "longest", &"l".repeat(4095), b"");
    layer.add(EntryType::Link, "short too", "short", b"");
    layer.directory(&"d".repeat(255)).file(&format!("{}/{}", "d".repeat(255), "f".repeat(255)), b"deep");
    layer.device(EntryType::Char, "null", 1, 3).device(EntryType::Block, "disk", 259, 70_000);
    layer.add(EntryType::Fifo, "pipe", "", b"");
    layer.file("-before-the-dot", b"-").file("\u{fc}mlaut", b"");
    layer.pax(&[("mtime", b"-12345.75")]).file("before the epoch", b"");
    layer.pax(&[("mtime", b"8589934592.123456789")]).file("after 2106", b"");
    layer.pax(&[("mtime", b"1.5")]).add(EntryType::Symlink, "old link", "x", b"");
    layer
        .pax(&[
            ("SCHILY.xattr.user.text", b"value"),
            ("SCHILY.xattr.user.binary", b"a\nb=\xff\x01"),
            ("SCHILY.xattr.trusted.big", &[b'x'; 3000]),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ])
        .file("attributes", &[b'a'; 2000]);
    layer.pax(&[("SCHILY.xattr.user.on", b"directory")]).directory("with attributes");
    layer.pax(&[("SCHILY.xattr.user.huge", &[b'h'; 3900])]).file("attributes too", &[b'a'; 5000]);
    layer
}

#[test]
fn the_kernel_and_gnu_tar_agree_with_our_reader() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    everything().write(folder.path(), "image");
    let ours = of_image(&path("image"));
    assert!(ours.len() > 5000);
    if !mounts() {
        return;
    }
    fs::create_dir(path("mounted")).unwrap();
    let mounted = path("mounted");
    let _mount = Mount::image(&path("image"), &mounted);
    assert_same(&ours, &of_tree(&mounted));

    fs::create_dir(path("extracted")).unwrap();
    let options = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"].map(OsString::from);
    let files = [path("image.tar").into(), "-C".into(), path("extracted").into()];
    run("tar", &[options.as_slice(), &files].concat());
    assert_same(&ours, &of_tree(&path("extracted")));
}

#[test]
fn our_reader_reads_what_mkfs_makes() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("tree/many")).unwrap();
    for number in 0..500 {
        fs::write(path(&format!("tree/many/{number}")), vec![b'x'; number * 37]).unwrap();
    }
    std::os::unix::fs::symlink("many/7", path("tree/link")).unwrap();
    fs::hard_link(path("tree/many/7"), path("tree/hard")).unwrap();
    run("mkfs.erofs", &[path("image"), path("tree")]);
    assert_same(&of_image(&path("image")), &of_tree(&path("tree")));
}

#[test]
fn layers_over_each_other_are_what_the_registry_meant() {
    if !tools() || !mounts() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut base = Layer::new();
    base.directory("etc").file("etc/motd", b"old").file("etc/passwd", b"root").directory("etc/kept.d");
    base.file("etc/kept.d/a", b"a").directory("cache").file("cache/old", b"").directory("gone");
    base.file("gone/file", b"").directory("replaced").file("replaced/old", b"");
    base.write(folder.path(), "base");
    let mut top = Layer::new();
    top.directory("etc").file("etc/.wh.motd", b"").directory("etc/kept.d").file("etc/kept.d/b", b"b");
    top.directory("cache").file("cache/.wh..wh..opq", b"").file("cache/new", b"").file(".wh.gone", b"");
    top.file(".wh.replaced", b"").directory("replaced").file("replaced/new", b"");
    top.write(folder.path(), "top");
    for name in ["base.d", "top.d", "merged"] {
        fs::create_dir(path(name)).unwrap();
    }
    let (base, top, merged) = (path("base.d"), path("top.d"), path("merged"));
    let _base = Mount::image(&path("base"), &base);
    let _top = Mount::image(&path("top"), &top);
    let _merged = Mount::overlay(&[&top, &base], &merged);
    let found: Vec<String> = of_tree(&merged).into_keys().collect();
    let expected = [
        "",
        "cache",
        "cache/new",
        "etc",
        "etc/kept.d",
        "etc/kept.d/a",
        "etc/kept.d/b",
        "etc/passwd",
        "replaced",
        "replaced/new",
    ];
    assert_eq!(found, expected);
    assert!(!merged.join("gone").exists() && !merged.join("etc/motd").exists());
}
