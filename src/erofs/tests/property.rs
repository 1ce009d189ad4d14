//! Images against the model, for layers that no one would write by hand.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::super::{Attributes, Time};
use super::model::{Action, Model, Op, tar};
use super::tarball::fix_checksum;
use super::{image, items};

/// Few names, so that entries meet each other.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "[abc]",
        1 => "[-.]x|\u{e9}|zz",
        1 => Just("long".repeat(50)),
    ]
}

fn path() -> impl Strategy<Value = String> {
    vec(name(), 1..4).prop_map(|names| names.join("/"))
}

fn target() -> impl Strategy<Value = String> {
    prop_oneof![
        path(),
        path().prop_map(|path| format!("/{path}")),
        path().prop_map(|path| format!("../{path}"))
    ]
}

/// Lengths around the borders of blocks and of what fits behind an inode.
fn data() -> impl Strategy<Value = Vec<u8>> {
    let length =
        prop_oneof![0..40_usize, 3900..4200_usize, 8000..8300_usize, Just(4032), Just(4033), Just(70_000)];
    (length, any::<u8>()).prop_map(|(length, seed)| {
        std::iter::successors(Some(seed), |byte| Some(byte.wrapping_mul(31).wrapping_add(7)))
            .take(length)
            .collect()
    })
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let times = (any::<i64>(), 0..1_000_000_000_u32)
        .prop_map(|(seconds, nanos)| Time { seconds: seconds.max(i64::MIN + 1), nanos });
    let xattr_name = "(user|trusted|security)\\.[a-c]{1,3}".prop_map(String::into_bytes);
    let value = prop_oneof![9 => vec(any::<u8>(), 1..30), 1 => vec(any::<u8>(), 3990..4100)];
    (0..0o10_000_u16, any::<u32>(), 0..3_u32, times, btree_map(xattr_name, value, 0..3))
        .prop_map(|(mode, uid, gid, mtime, xattrs)| Attributes { mode, uid, gid, mtime, xattrs })
}

fn op() -> impl Strategy<Value = Op> {
    let action = prop_oneof![
        4 => Just(Action::Directory),
        6 => data().prop_map(Action::File),
        3 => target().prop_map(Action::Symlink),
        3 => path().prop_map(Action::HardLink),
        1 => (1..4096_u32, 0..1_u32 << 20).prop_map(|(major, minor)| Action::Character(major, minor)),
        1 => Just(Action::Fifo),
        2 => Just(Action::Whiteout),
        1 => Just(Action::Opaque),
    ];
    (path(), action, attributes()).prop_map(|(path, action, attributes)| Op { path, action, attributes })
}

/// Entries as the model accepts them: those that it refuses are left out, and some of them are kept apart.
fn accepted(ops: Vec<Op>) -> (Vec<Op>, Option<Op>) {
    let mut model = Model::new();
    let (mut good, mut bad) = (Vec::new(), None);
    for op in ops {
        // A refused entry may have made parents, so the model starts over.
        if model.apply(&op).is_some() {
            good.push(op);
        } else {
            bad = Some(op);
            model = replay(&good);
        }
    }
    (good, bad)
}

fn replay(ops: &[Op]) -> Model {
    let mut model = Model::new();
    for op in ops {
        model.apply(op).expect("it was accepted before");
    }
    model
}

proptest! {

    #[test]
    fn an_image_holds_what_extraction_would_give(ops in vec(op(), 0..25)) {
        let (good, bad) = accepted(ops);
        let tar_bytes = tar(&good);
        let bytes = image(&tar_bytes).expect("the model accepts it");
        prop_assert_eq!(items(&bytes), replay(&good).items());
        prop_assert_eq!(image(&tar_bytes).expect("the model accepts it"), bytes, "equal input, equal bytes");
        if let Some(bad) = bad
            && replay(&good).apply(&bad).is_none()
        {
            let all = [&good[..], &[bad]].concat();
            prop_assert!(image(&tar(&all)).is_err(), "the model refuses it");
        }
    }

    #[test]
    fn damaged_tars_give_whole_images_or_errors(
        ops in vec(op(), 1..10),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        repair in any::<bool>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = tar(&ops);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
            if repair {
                let start = at - at % 512;
                fix_checksum(&mut bytes[start..start + 512]);
            }
        }
        if let Ok(image) = image(&bytes) {
            whole(&image);
        }
        bytes.truncate(cut.index(bytes.len()));
        if let Ok(image) = image(&bytes) {
            whole(&image);
        }
    }

    #[test]
    fn damaged_images_are_read_without_panic(
        ops in vec(op(), 1..10),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let (good, _) = accepted(ops);
        let mut bytes = image(&tar(&good)).expect("the model accepts it");
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        // The checksum would hide the rest of the reader from the test.
        bytes[1024 + 8] &= !1;
        let _ = super::super::dump(std::io::Cursor::new(bytes));
    }
}

/// Reads everything in an image.
fn whole(image: &[u8]) {
    super::super::dump(std::io::Cursor::new(image)).expect("our own image");
}
