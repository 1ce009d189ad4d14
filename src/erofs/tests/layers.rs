//! What honest layers become: one example as a golden, its digest pinned, and the forms of entries one by one.

use std::io::Cursor;

use sha2::{Digest as _, Sha256};

use super::super::{Attributes, Time, dump};
use super::tarball::{Header, Tarball};
use super::{image, items};

/// A little of everything that layers have.
fn example() -> Vec<u8> {
    let mut tarball = Tarball::default();
    tarball
        .add(&Header { mode: 0o755, mtime: 1_700_000_000, ..Header::new(b'5', "./") }, b"")
        .directory("./bin")
        .pax(&[("mtime", b"1700000000.25"), ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x04\0\0")])
        .add(&Header { mode: 0o4755, ..Header::new(b'0', "./bin/ping") }, &[0x7f; 5000])
        .hard_link("./bin/ping4", "./bin/ping")
        .symlink("./bin/sh", "busybox")
        .add(&Header { owner: (33, 0x1_0000), ..Header::new(b'0', "./var/www/index.html") }, b"hello\n")
        .add(&Header { mode: 0o1777, ..Header::new(b'5', "./tmp") }, b"")
        .add(&Header { device: (1, 3), mode: 0o666, ..Header::new(b'3', "./dev/null") }, b"")
        .add(&Header { device: (259, 0x12345), ..Header::new(b'4', "./dev/nvme") }, b"")
        .add(&Header::new(b'6', "./run/pipe"), b"")
        .file("./etc/.wh.motd", b"")
        .file("./etc/.wh.issue", b"")
        .file("./opt/.wh..wh..opq", b"")
        .file("./opt/new", b"")
        .pax(&[("mtime", b"-86400.5")])
        .file("./etc/old", &[b'o'; 4096]);
    tarball.finish()
}

#[test]
fn a_layer_reads_as_it_was_written() {
    let image = image(&example()).expect("an honest layer");
    insta::assert_snapshot!(dump(Cursor::new(image)).expect("our own image"), @r"
    erofs 16384 bytes, 18 inodes
    dir    755 0:0 1700000000 /
    dir    755 0:0 0 /bin
    file  4755 0:0 1700000000.250000000 /bin/ping 5000 bytes sha256:8f7dbb725c81
          security.capability=\x01\x00\x00\x02\x00\x04\x00\x00
    same   /bin/ping4 = /bin/ping
    link   777 0:0 0 /bin/sh -> busybox
    dir    755 0:0 0 /dev
    char   666 0:0 0 /dev/null 1:3
    block  644 0:0 0 /dev/nvme 259:74565
    dir    755 0:0 0 /etc
    gone     0 0:0 0 /etc/issue
    gone     0 0:0 0 /etc/motd
    file   644 0:0 -86401.500000000 /etc/old 4096 bytes sha256:a362fb6c5c20
    dir    755 0:0 0 /opt
          trusted.overlay.opaque=y
    file   644 0:0 0 /opt/new 0 bytes sha256:e3b0c44298fc
    dir    755 0:0 0 /run
    fifo   644 0:0 0 /run/pipe
    dir   1777 0:0 0 /tmp
    dir    755 0:0 0 /var
    dir    755 0:0 0 /var/www
    file   644 33:65536 0 /var/www/index.html 6 bytes sha256:5891b5b522d5
    ");
}

/// The pins below say what to do when they fail.
const BYTES_CHANGED: &str = "images are cached under their diff id: raise FORMAT_VERSION with these bytes";

#[test]
fn the_bytes_of_a_layer_never_change() {
    let digest = hex::encode(Sha256::digest(image(&example()).expect("an honest layer")));
    assert_eq!(digest, "22b577472a9546c2338909a7706a96e9e1833daed837f6d3d6acf46dee075bec", "{BYTES_CHANGED}");
}

#[test]
fn an_empty_layer_is_one_block() {
    let image = image(&[]).expect("nothing is a layer too");
    assert_eq!(image.len(), 4096);
    insta::assert_snapshot!(dump(Cursor::new(image)).expect("our own image"), @r"
    erofs 4096 bytes, 1 inodes
    dir    755 0:0 0 /
    ");
}

#[test]
fn whiteouts_and_new_directories_of_one_name_make_it_opaque() {
    let opaque = |tarball: &Tarball| {
        let image = image(&tarball.finish()).expect("an honest layer");
        let xattrs = &items(&image)[&vec!["d".to_owned()]].attributes.xattrs;
        xattrs.get(&b"trusted.overlay.opaque"[..]) == Some(&b"y".to_vec())
    };
    assert!(opaque(Tarball::default().file(".wh.d", b"").directory("d")));
    assert!(opaque(Tarball::default().directory("d").file(".wh.d", b"")));
    assert!(opaque(Tarball::default().file(".wh.d", b"").file("d/f", b"")));
    assert!(opaque(Tarball::default().file("d/.wh..wh..opq", b"").directory("d")));
    assert!(!opaque(Tarball::default().file("d/.wh.f", b"").directory("d")));
}

#[test]
fn long_names_come_in_three_forms() {
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let mut gnu = Tarball::default();
    gnu.file(&long, b"x").symlink("s", &long);
    let mut pax = Tarball::default();
    pax.pax(&[("path", long.as_bytes())]).raw(&Header::new(b'0', "cut"), b"x");
    pax.pax(&[("linkpath", long.as_bytes())]).raw(&Header::new(b'2', "s").link("cut"), b"");
    let found = |tarball: &Tarball| items(&image(&tarball.finish()).expect("an honest layer"));
    let data: Vec<_> = found(&gnu).into_values().map(|item| item.data).collect();
    assert_eq!(data, [b"", b"", &b"x"[..], long.as_bytes()]);
    assert_eq!(found(&pax).keys().collect::<Vec<_>>(), found(&gnu).keys().collect::<Vec<_>>());

    // The ustar form divides the path at a slash.
    let mut block = [0; 512];
    block[..100].copy_from_slice(&[b'f'; 100]);
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[345..465].copy_from_slice(&[b'd'; 120]);
    let mut ustar = Tarball::default();
    let keys: Vec<_> = found(ustar.block(block)).into_keys().map(|path| path.join("/")).collect();
    assert_eq!(keys, [String::new(), "d".repeat(120), format!("{}/{}", "d".repeat(120), "f".repeat(100))]);
}

#[test]
fn sparse_files_come_in_three_forms() {
    let mut expected = vec![0; 20_000];
    expected[5000..5004].copy_from_slice(b"head");
    expected[15_000..15_004].copy_from_slice(b"tail");
    let data = b"headtail";
    let map = b"5000,4,15000,4";
    let mut forms: Vec<Tarball> = Vec::new();

    let mut listed = Tarball::default();
    listed.pax(&[("GNU.sparse.map", map), ("GNU.sparse.size", b"20000"), ("GNU.sparse.name", b"s")]);
    listed.file("GNUSparseFile.0/s", data);
    forms.push(listed);

    let mut repeated = Tarball::default();
    repeated.pax(&[
        ("GNU.sparse.size", b"20000"),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.offset", b"5000"),
        ("GNU.sparse.numbytes", b"4"),
        ("GNU.sparse.offset", b"15000"),
        ("GNU.sparse.numbytes", b"4"),
    ]);
    repeated.file("s", data);
    forms.push(repeated);

    let mut in_data = Tarball::default();
    let mut lines = b"2\n5000\n4\n15000\n4\n".to_vec();
    lines.resize(512, 0);
    lines.extend(data);
    in_data.pax(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.realsize", b"20000"),
    ]);
    in_data.file("GNUSparseFile.0/s", &lines);
    forms.push(in_data);

    for form in &mut forms {
        let image = image(&form.file("next", b"next").finish()).expect("an honest layer");
        let items = items(&image);
        assert_eq!(items[&vec!["s".to_owned()]].data, expected);
        assert_eq!(items[&vec!["next".to_owned()]].data, b"next");
    }
}

#[test]
fn the_old_sparse_form_goes_on_in_blocks_of_its_own() {
    let mut block = [0; 512];
    block[0] = b's';
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..136].copy_from_slice(b"00000000036\0");
    block[156] = b'S';
    block[257..265].copy_from_slice(b"ustar  \0");
    block[482] = 1;
    block[483..495].copy_from_slice(b"00000070000\0");
    let mut more = [0; 512];
    let pieces = (0..30_u64).map(|at| at * 900 + 7);
    let slots = block[386..482].chunks_exact_mut(24).collect::<Vec<_>>().into_iter();
    for (slot, offset) in slots.chain(more[..504].chunks_exact_mut(24)).zip(pieces.clone()) {
        slot.copy_from_slice(format!("{offset:011o}\0{:011o}\0", 1).as_bytes());
    }
    // 4 pieces are in the header and 21 in the next block; the last 5 need one more.
    more[504] = 1;
    let mut last = [0; 512];
    for (slot, offset) in last[..504].chunks_exact_mut(24).zip(pieces.clone().skip(25)) {
        slot.copy_from_slice(format!("{offset:011o}\0{:011o}\0", 1).as_bytes());
    }
    let mut tarball = Tarball::default();
    tarball.block(block).data(&more).data(&last).data(&[b'x'; 30]).file("next", b"next");
    let items = items(&image(&tarball.finish()).expect("an honest layer"));
    let data = &items[&vec!["s".to_owned()]].data;
    assert_eq!(data.len(), 0o70000);
    let found: Vec<u64> = (0..).zip(data).filter(|(_, byte)| **byte == b'x').map(|(at, _)| at).collect();
    assert_eq!(found, pieces.collect::<Vec<_>>());
    assert_eq!(items[&vec!["next".to_owned()]].data, b"next");
}

#[test]
fn global_headers_and_foreign_records_mean_nothing() {
    let mut tarball = Tarball::default();
    tarball.raw(&Header::new(b'g', "pax_global_header"), b"20 path=overridden!\n");
    tarball.pax(&[("LIBARCHIVE.creationtime", b"1"), ("comment", b"x"), ("path", b"")]).file("a", b"");
    let items = items(&image(&tarball.finish()).expect("an honest layer"));
    assert_eq!(items.into_keys().collect::<Vec<_>>(), [vec![], vec!["a".to_owned()]]);
}

#[test]
fn times_and_owners_of_any_size_survive() {
    let mut tarball = Tarball::default();
    let header = Header { mtime: 1 << 40, owner: (u32::MAX.into(), 1 << 21), ..Header::new(b'0', "a") };
    tarball
        .add(&header, b"")
        .pax(&[("mtime", b"-9223372036854775808"), ("uid", b"4294967295")])
        .file("b", b"");
    let items = items(&image(&tarball.finish()).expect("an honest layer"));
    let attributes = |name: &str| &items[&vec![name.to_owned()]].attributes;
    let base = Attributes { mode: 0o644, ..Attributes::default() };
    let mtime = Time { seconds: 1 << 40, nanos: 0 };
    assert_eq!(*attributes("a"), Attributes { uid: u32::MAX, gid: 1 << 21, mtime, ..base.clone() });
    let mtime = Time { seconds: i64::MIN, nanos: 0 };
    assert_eq!(*attributes("b"), Attributes { uid: u32::MAX, mtime, ..base });
}

#[test]
fn big_directories_and_late_links_span_many_runs() {
    let mut tarball = Tarball::default();
    for number in 0..9000 {
        tarball.file(&format!("many/{number:05}-{}", "x".repeat(number % 90)), &vec![b'd'; number % 300]);
    }
    for number in (0..9000).step_by(1000) {
        tarball
            .hard_link(&format!("linked-{number}"), &format!("many/{number:05}-{}", "x".repeat(number % 90)));
    }
    let image = image(&tarball.finish()).expect("an honest layer");
    let digest = hex::encode(Sha256::digest(&image));
    assert_eq!(digest, "6a0fbd7c4d5b8cdda06347ccf7f0ed2f44ed841ec3a8118043435a3f31d0d3d2", "{BYTES_CHANGED}");
    let items = items(&image);
    assert_eq!(items.len(), 9000 + 9 + 2);
    for (path, item) in &items {
        let Some(name) = path.get(1) else { continue };
        let number: usize = name[..5].parse().expect("names start with a number");
        assert_eq!(item.data.len(), number % 300);
        assert_eq!(item.links, if number.is_multiple_of(1000) { 2 } else { 1 }, "{name}");
    }
}
