//! Any bytes as an erofs image: an error or a text, in bounded time.

use std::io::Cursor;

use i2kit::erofs::dump;

/// Fails when something does not hold.
pub(crate) fn run(data: &[u8]) {
    let mut image = data.to_vec();
    // The checksum, which no mutation would find, is marked as absent.
    if let Some(features) = image.get_mut(1024 + 8) {
        *features &= !1;
    }
    let _ = dump(Cursor::new(image));
}
