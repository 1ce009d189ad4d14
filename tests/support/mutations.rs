//! Inputs for parsers of outside bytes: valid ones, and ones that are made of these by small changes. They are the same in
//! every run, so that what fails fails again.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Bytes that formats give a meaning to: ends, signs of JSON and of headers, and numbers at their bounds.
const TELLING: &[u8] = b"\0\x01\x7f\x80\xff\n\r\t \"'\\/:.,-+={}[]()<>%$#*0139";

/// The longest run of bytes that one change takes away, repeats, fills or brings from another seed.
const RUN: usize = 64;

/// Gives `check` each of `seeds`, and then `count` inputs that are made of them.
///
/// Fails at the first input for which `check` panics, and shows it as it is written in Rust.
pub(crate) fn survive(seeds: &[Vec<u8>], count: usize, mut check: impl FnMut(&[u8])) {
    assert!(!seeds.is_empty(), "there is nothing to make inputs of");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for number in 0..seeds.len() + count {
        let mut bytes = seeds[number % seeds.len()].clone();
        if number >= seeds.len() {
            for _ in 0..=random.below(4) {
                change(&mut bytes, seeds, &mut random);
            }
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| check(&bytes)));
        assert!(outcome.is_ok(), "input {number} makes it panic: b\"{}\"", bytes.escape_ascii());
    }
}

/// Makes one change at a place that comes by chance.
fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let part = at..at + random.below((bytes.len() - at).min(RUN) + 1);
    match random.below(8) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.byte();
            }
        }
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(part)),
        4 => {
            let doubled = bytes[part].to_vec();
            drop(bytes.splice(at..at, doubled));
        }
        5 => {
            let inserted: Vec<u8> = (0..=random.below(8)).map(|_| random.byte()).collect();
            drop(bytes.splice(at..at, inserted));
        }
        6 => {
            let value = random.byte();
            bytes[part].fill(value);
        }
        _ => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len() + 1);
            let to = from + random.below((other.len() - from).min(RUN) + 1);
            drop(bytes.splice(part, other[from..to].iter().copied()));
        }
    }
}

/// Numbers by xorshift (Marsaglia 2003, with 13, 7 and 17).
struct Random(u64);

impl Random {
    fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.number() % bound as u64).expect("it is below a number of bytes")
    }

    /// Half of them are telling ones.
    fn byte(&mut self) -> u8 {
        if self.below(2) == 0 { self.number().to_le_bytes()[4] } else { TELLING[self.below(TELLING.len())] }
    }
}
