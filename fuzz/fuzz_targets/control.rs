//! Any bytes on the control channel, in any pieces: what is read is written and read again the same, and a whole
//! message behind any bytes is found.

#![no_main]

use i2kit_spec::control::{Decoder, Message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut decoder = Decoder::default();
    let size = data.first().map_or(1, |byte| usize::from(*byte) + 1);
    for part in data.chunks(size) {
        decoder.push(part);
        for message in decoder.by_ref() {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            let mut again = Decoder::default();
            again.push(&bytes);
            assert_eq!(again.next().as_ref(), Some(&message));
        }
    }
    let last = Message::Close { stream: 7 };
    let mut bytes = Vec::new();
    last.encode(&mut bytes);
    decoder.push(&bytes);
    // A beginning of a frame in the bytes may wait for as much as a frame holds.
    decoder.push(&[0; 70_000]);
    assert_eq!(decoder.last(), Some(last));
});
