//! Layers made to do harm, or made wrong: each is refused with its reason or means something harmless.

use std::io::{Seek, SeekFrom, Write};

use super::super::{EntryProblem, ErofsError, MAX_IMAGE, NodeKind, Reader, write_layer};
use super::tarball::{Header, Tarball};
use super::{image, items};

fn problem(tarball: &Tarball) -> EntryProblem {
    match image(&tarball.finish()) {
        Err(ErofsError::Entry { problem, .. }) => problem,
        other => panic!("an entry should be refused, got {:?}", other.map(|image| image.len())),
    }
}

fn paths(tarball: &Tarball) -> Vec<String> {
    let image = image(&tarball.finish()).expect("a harmless layer");
    items(&image).into_keys().map(|path| path.join("/")).filter(|path| !path.is_empty()).collect()
}

#[test]
fn absolute_paths_are_below_the_root() {
    assert_eq!(paths(Tarball::default().file("/etc//./passwd", b"x")), ["etc", "etc/passwd"]);
}

#[test]
fn parent_paths_are_refused() {
    for path in ["../x", "a/../../x", "a/..", "/.."] {
        assert_eq!(problem(Tarball::default().file(path, b"x")), EntryProblem::ParentPath, "{path}");
    }
    let mut link = Tarball::default();
    assert_eq!(problem(link.file("a", b"").hard_link("b", "../../etc/shadow")), EntryProblem::ParentPath);
}

#[test]
fn symbolic_links_lead_nowhere_outside() {
    let mut tarball = Tarball::default();
    tarball.symlink("out", "../../../../etc").symlink("abs", "/etc").file("out/a", b"x").file("abs/b", b"y");
    assert_eq!(paths(&tarball), ["abs", "etc", "etc/a", "etc/b", "out"]);
    let mut looping = Tarball::default();
    looping.symlink("a", "b").symlink("b", "a").file("a/x", b"");
    assert_eq!(problem(&looping), EntryProblem::SymlinkLoop);
}

#[test]
fn links_that_multiply_a_path_are_refused() {
    let mut tarball = Tarball::default();
    for level in 1..30 {
        let twice = format!("{0}/../{0}/..", level - 1);
        tarball.symlink(&level.to_string(), &twice);
    }
    assert_eq!(problem(tarball.file("29/x", b"")), EntryProblem::SymlinkLoop);
}

#[test]
fn hard_links_need_a_file_of_this_layer() {
    let linked = |target: &str| {
        let mut tarball = Tarball::default();
        problem(tarball.directory("d").symlink("s", "d").hard_link("h", target))
    };
    assert_eq!(linked("etc/shadow"), EntryProblem::LinkTarget("etc/shadow".to_owned()));
    assert_eq!(linked("d"), EntryProblem::LinkToDirectory("d".to_owned()));
    assert_eq!(linked("/"), EntryProblem::LinkToDirectory("/".to_owned()));
    assert_eq!(linked("s/x"), EntryProblem::LinkTarget("s/x".to_owned()));
    assert_eq!(linked("h"), EntryProblem::LinkTarget("h".to_owned()));
}

#[test]
fn later_entries_win() {
    let mut tarball = Tarball::default();
    tarball.file("a", b"old").file("a", b"new").hard_link("b", "a").file("a", b"newest");
    let image = image(&tarball.finish()).expect("a harmless layer");
    let items = items(&image);
    let found = |path: &str| (&items[&vec![path.to_owned()]].data[..], items[&vec![path.to_owned()]].links);
    assert_eq!(found("a"), (&b"newest"[..], 1));
    assert_eq!(found("b"), (&b"new"[..], 1));
}

#[test]
fn files_and_directories_replace_each_other() {
    let mut tarball = Tarball::default();
    tarball.file("a", b"").directory("a").file("a/b", b"").file("c/d/e", b"").file("c", b"");
    assert_eq!(paths(&tarball), ["a", "a/b", "c"]);
    let mut through = Tarball::default();
    assert_eq!(problem(through.file("a", b"").file("a/b", b"")), EntryProblem::NotADirectory("a".to_owned()));
    let mut root = Tarball::default();
    assert_eq!(problem(root.file("./", b"")), EntryProblem::Root);
}

#[test]
fn reserved_names_are_only_whiteouts() {
    for path in [".wh.a/b", "a/.wh.", "a/.wh..", "a/.wh..."] {
        assert_eq!(problem(Tarball::default().file(path, b"")), EntryProblem::ReservedName, "{path}");
    }
    assert_eq!(paths(Tarball::default().file("a/.wh..wh.plnk", b"").file("a/.wh..wh.aufs", b"")), ["a"]);
}

#[test]
fn names_that_linux_cannot_hold_are_refused() {
    let mut tarball = Tarball::default();
    assert_eq!(problem(tarball.file(&"n".repeat(256), b"")), EntryProblem::NameLength(256));
    let deep = "d/".repeat(3000);
    assert_eq!(problem(Tarball::default().file(&deep, b"")), EntryProblem::PathLength(6000));
    assert_eq!(problem(Tarball::default().pax(&[("path", b"a\0b")]).file("x", b"")), EntryProblem::Nul);
    assert_eq!(problem(Tarball::default().symlink("s", "")), EntryProblem::EmptyTarget);
    assert_eq!(problem(Tarball::default().symlink("s", &"t".repeat(4096))), EntryProblem::PathLength(4096));
}

#[test]
fn numbers_that_linux_cannot_hold_are_refused() {
    let owner = |owner| problem(Tarball::default().add(&Header { owner, ..Header::new(b'0', "a") }, b""));
    assert_eq!(owner((1 << 32, 0)), EntryProblem::Owner(1 << 32));
    assert_eq!(problem(Tarball::default().pax(&[("gid", b"-2")]).file("a", b"")), EntryProblem::Owner(-2));
    let device = Header { device: (4096, 0), ..Header::new(b'3', "a") };
    assert_eq!(problem(Tarball::default().add(&device, b"")), EntryProblem::Device { major: 4096, minor: 0 });
    assert_eq!(problem(Tarball::default().add(&Header::new(b'M', "a"), b"")), EntryProblem::Type('M'));
}

#[test]
fn overlayfs_redirects_do_not_come_from_a_layer() {
    let mut tarball = Tarball::default();
    let records: [(&str, &[u8]); 3] = [
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.com.apple.provenance", b"x"),
        ("SCHILY.xattr.user.kept", b"y"),
    ];
    let image = image(&tarball.pax(&records).directory("d").finish()).expect("a harmless layer");
    let xattrs = &items(&image)[&vec!["d".to_owned()]].attributes.xattrs;
    assert_eq!(xattrs.keys().collect::<Vec<_>>(), [b"user.kept"]);
}

#[test]
fn attributes_that_fit_nowhere_are_refused() {
    let big = vec![b'x'; 0x1_0000];
    let mut tarball = Tarball::default();
    assert!(matches!(
        problem(tarball.pax(&[("SCHILY.xattr.user.big", &big)]).file("a", b"")),
        EntryProblem::Xattrs(_)
    ));
    let mut root = Tarball::default();
    assert!(matches!(
        problem(root.pax(&[("SCHILY.xattr.user.big", &big[..3000])]).directory("./")),
        EntryProblem::Xattrs(_)
    ));
}

#[test]
fn sizes_that_lie_end_with_the_input() {
    let mut terabyte = Tarball::default();
    terabyte.raw(&Header { size: Some(1 << 40), ..Header::new(b'0', "a") }, b"x");
    assert_eq!(problem(&terabyte), EntryProblem::ImageSize(MAX_IMAGE));
    let mut gigabyte = Tarball::default();
    gigabyte.raw(&Header { size: Some(1 << 30), ..Header::new(b'0', "a") }, b"x");
    assert!(matches!(image(&gigabyte.finish()), Err(ErofsError::Truncated { offset: 2048 })));
    let mut name = Tarball::default();
    name.raw(&Header { size: Some(1 << 40), ..Header::new(b'L', "a") }, b"x");
    assert!(matches!(image(&name.finish()), Err(ErofsError::Header { offset: 0, .. })));
}

#[test]
fn cut_off_tars_are_refused_except_between_entries() {
    let mut tarball = Tarball::default();
    let whole = tarball.file("a", &[1; 700]).finish();
    assert!(image(&whole[..512 + 1024]).is_ok(), "the end mark may be missing");
    for cut in [1, 511, 512, 513, 512 + 700, 512 + 1023, 512 + 1024 + 1] {
        assert!(matches!(image(&whole[..cut]), Err(ErofsError::Truncated { .. })), "{cut}");
    }
    let mut described = Tarball::default();
    described.pax(&[("path", b"b")]);
    assert!(matches!(image(&described.bytes), Err(ErofsError::Truncated { .. })));
}

#[test]
fn damaged_headers_say_where() {
    let mut bytes = Tarball::default().file("a", b"x").file("b", b"y").finish();
    bytes[1024] = b'c';
    assert!(matches!(image(&bytes), Err(ErofsError::Header { offset: 1024, .. })));
    let refused = image(&bytes).expect_err("the checksum is wrong");
    assert_eq!(refused.to_string(), "malformed tar header at byte 1024: its checksum is 3809, it says 3808");
}

/// A sparse file in the old GNU form whose header claims `size` bytes with one piece of data at `offset`.
fn sparse(offset: u64, size: u64) -> Tarball {
    let mut block = [0; 512];
    block[0] = b's';
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..136].copy_from_slice(b"00000000004\0");
    block[156] = b'S';
    block[257..265].copy_from_slice(b"ustar  \0");
    block[386..398].copy_from_slice(format!("{offset:011o}\0").as_bytes());
    block[398..410].copy_from_slice(b"00000000004\0");
    block[483] = 0x80;
    block[487..495].copy_from_slice(&size.to_be_bytes());
    let mut tarball = Tarball::default();
    tarball.block(block).data(b"data");
    tarball
}

#[test]
fn a_sparse_terabyte_is_refused() {
    assert_eq!(problem(&sparse(0, 1 << 40)), EntryProblem::ImageSize(MAX_IMAGE));
}

#[test]
fn sparse_maps_that_contradict_themselves_are_refused() {
    assert_eq!(problem(&sparse(10, 13)), EntryProblem::Sparse("a piece ends behind the file"));
    let pax = |map: &[u8]| {
        let records: [(&str, &[u8]); 2] = [("GNU.sparse.size", b"100"), ("GNU.sparse.map", map)];
        problem(Tarball::default().pax(&records).file("s", b"data"))
    };
    assert_eq!(pax(b"0,4,2,0"), EntryProblem::Sparse("pieces overlap"));
    assert_eq!(pax(b"0,5"), EntryProblem::Sparse("its pieces are not as long as the data"));
    assert_eq!(pax(b"18446744073709551615,4"), EntryProblem::Sparse("a piece ends beyond any file"));
    let records: [(&str, &[u8]); 2] = [("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"100")];
    let in_data = |data: &[u8]| problem(Tarball::default().pax(&records).file("s", data));
    assert_eq!(in_data(b"1\n"), EntryProblem::Sparse("it does not end"));
    assert_eq!(in_data(&[b'1'; 600]), EntryProblem::Sparse("it does not end"));
    assert_eq!(
        in_data(&[b"x\n", &[0; 600][..]].concat()),
        EntryProblem::Sparse("it is not a list of numbers")
    );
    assert_eq!(
        in_data(&[b"99999999\n", &[0; 600][..]].concat()),
        EntryProblem::Sparse("it has too many pieces")
    );
}

/// An output that counts instead of keeping what it is given.
#[derive(Default)]
struct Counter {
    written: u64,
    position: u64,
}

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.written += bytes.len() as u64;
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Seek for Counter {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        if let SeekFrom::Start(offset) = to {
            self.position = offset;
        }
        Ok(self.position)
    }
}

#[test]
fn large_holes_are_skipped() {
    let mut out = Counter::default();
    let tar = sparse(0, 50 << 30).finish();
    let summary = write_layer(&tar[..], &mut out).expect("a large sparse file is allowed");
    assert!(summary.size > 50 << 30 && out.written < 1 << 20, "{} bytes written", out.written);
}

#[test]
fn bytes_behind_the_end_are_read_but_mean_nothing() {
    let whole = [Tarball::default().file("a", b"").finish(), vec![0xff; 100_000]].concat();
    let mut input = &whole[..];
    write_layer(&mut input, std::io::Cursor::new(Vec::new())).expect("a harmless layer");
    assert!(input.is_empty(), "whoever hashes the input needs all of it");
}

#[test]
fn a_reader_refuses_what_is_no_image() {
    let read = |bytes: &[u8]| Reader::new(std::io::Cursor::new(bytes.to_vec())).map(|_| ());
    assert!(matches!(read(b""), Err(ErofsError::Damaged(_))));
    assert!(matches!(read(&[0; 4096]), Err(ErofsError::Damaged(_))));
    let mut image = image(&Tarball::default().file("a", b"x").finish()).expect("a harmless layer");
    assert!(matches!(read(&image[..4096]), Err(ErofsError::Damaged(_))));
    image[1024 + 14] ^= 1;
    assert!(matches!(read(&image), Err(ErofsError::Damaged(reason)) if reason.contains("checksum")));
}

#[test]
fn directories_that_contain_themselves_end_a_dump() {
    let image = image(&Tarball::default().directory("a").finish()).expect("a harmless layer");
    let mut reader = Reader::new(std::io::Cursor::new(&image)).expect("our own image");
    let child = reader.lookup(b"a").expect("it was written");
    assert_eq!(child.kind, NodeKind::Directory);
    let root = reader.root().expect("our own image").nid;
    let mut looped = image.clone();
    let entry = image.windows(8).rposition(|bytes| bytes == child.nid.to_le_bytes());
    for at in (0..image.len() - 8).filter(|at| image[*at..*at + 8] == child.nid.to_le_bytes()) {
        looped[at..at + 8].copy_from_slice(&root.to_le_bytes());
    }
    assert!(entry.is_some(), "the directory entry is somewhere");
    looped[1024 + 8] &= !1;
    let refused = super::super::dump(std::io::Cursor::new(looped)).expect_err("a directory in itself");
    assert!(matches!(refused, ErofsError::Damaged(_)), "{refused}");
}
