//! Any bytes on the control channel, in any pieces: what is read is written and read again the same, a whole message
//! behind any bytes is found, and the work is linear in the bytes.

use i2kit_spec::control::{Decoder, MAX_PAYLOAD, Message};

/// Fails when something does not hold.
pub(crate) fn run(data: &[u8]) {
    let mut decoder = Decoder::default();
    let size = data.first().map_or(1, |byte| usize::from(*byte) + 1);
    for part in data.chunks(size) {
        decoder.push(part);
        for message in decoder.by_ref() {
            let mut bytes = Vec::new();
            // Written again, fields that were left out may make it too long.
            if message.encode(&mut bytes).is_err() {
                continue;
            }
            let mut again = Decoder::default();
            again.push(&bytes);
            assert_eq!(again.next().as_ref(), Some(&message));
        }
    }
    // A byte is looked at three times to find a frame, summed once in one and twice in vain; 4 of the longest come on top,
    // and each piece is looked at once more when the rest of a frame comes.
    let pieces = data.len().div_ceil(size);
    assert!(decoder.examined() <= (6 * data.len() + 8 * pieces + 4 * MAX_PAYLOAD) as u64);
    let last = Message::Close { stream: 7 };
    let mut bytes = Vec::new();
    last.encode(&mut bytes).expect("it is short");
    decoder.push(&bytes);
    // A beginning of a frame in the bytes may wait for as much as a frame holds.
    decoder.push(&vec![0; 70_000]);
    assert_eq!(decoder.last(), Some(last));
}
