//! Cuts the output of containers into lines.

use std::io::BufRead;

/// The longest line that is kept whole, the same bound as in Kubernetes' container log format.
const LINE_BYTES: usize = 16 * 1024;

/// Cuts a stream of bytes into lines. A line longer than the bound is cut into pieces.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes bytes and hands out the lines that they complete, without their newline, and whether each is a whole one.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8], bool)) {
        while !bytes.is_empty() {
            let room = LINE_BYTES - self.rest.len();
            let window = &bytes[..bytes.len().min(room)];
            match newline(window) {
                Some(end) if self.rest.is_empty() => {
                    line(&bytes[..end], true);
                    bytes = &bytes[end + 1..];
                }
                Some(end) => {
                    self.rest.extend_from_slice(&bytes[..end]);
                    line(&self.rest, true);
                    self.rest.clear();
                    bytes = &bytes[end + 1..];
                }
                None => {
                    self.rest.extend_from_slice(window);
                    bytes = &bytes[window.len()..];
                    if self.rest.len() == LINE_BYTES {
                        line(&self.rest, false);
                        self.rest.clear();
                    }
                }
            }
        }
    }

    /// The last line, when the stream ended without a newline.
    pub(crate) fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.rest.is_empty() {
            line(&std::mem::take(&mut self.rest));
        }
    }
}

/// Where the first newline is. The standard library's search for a byte is many times faster than a loop over bytes.
fn newline(mut bytes: &[u8]) -> Option<usize> {
    let all = bytes;
    let length = bytes.skip_until(b'\n').ok()?;
    all[..length].ends_with(b"\n").then(|| length - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let mut lines = Lines::default();
        for chunk in chunks {
            lines.push(chunk, |line, _| out.push(line.to_vec()));
        }
        lines.finish(|line| out.push(line.to_vec()));
        out
    }

    #[test]
    fn lines_are_cut_at_newlines_wherever_reads_end() {
        assert_eq!(lines(&[b"a\nb", b"c\n", b"\n", b"d"]), [&b"a"[..], b"bc", b"", b"d"]);
        assert_eq!(lines(&[]), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_long_line_is_cut_into_pieces() {
        let long = vec![b'x'; LINE_BYTES + 10];
        let got = lines(&[&long, b"\n"]);
        assert_eq!(got.iter().map(Vec::len).collect::<Vec<_>>(), [LINE_BYTES, 10]);
    }
}
