//! Reading a layer: its tar, unpacked while it is read, and its identity checked on the way.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use super::error::Error;
use crate::oci::media::LayerFormat;
use crate::oci::{DiffId, Digest};

/// Buffer before the decoder: large enough that system calls do not show, small against the memory budget.
const BUFFER: usize = 128 * 1024;

/// Window of the largest zstd frame that is accepted, as a power of two: what `zstd --long` makes.
const ZSTD_WINDOW: u32 = 27;

/// What a layer may unpack to besides [`EXPANSION`] times its blob: a small layer with one large sparse file is real.
const EXPANSION_FREE: u64 = 4 << 30;

/// How many times larger than its blob a layer may become. Files of zeros are packed to a thousandth; a layer that is
/// larger than a few GiB holds something else too.
const EXPANSION: u64 = 200;

/// The uncompressed tar of a layer. Reading to the end checks the diff id: the last read fails when it is another one,
/// so a consumer that stops early must call [`LayerReader::finish`].
pub struct LayerReader {
    tar: Box<dyn Read + Send>,
    hash: Sha256,
    expected: DiffId,
    /// Bytes of the blob, bytes that may come of it, and bytes that have come.
    size: u64,
    limit: u64,
    count: u64,
    /// Known at the end.
    actual: Option<DiffId>,
}

/// Opens the layer in the file at `path`, whose content is of `media_type` and must unpack to `diff_id`. How it is
/// packed is what its first bytes show, as for other engines: builders and registries mislabel layers, and the diff id
/// says whether the content is right.
pub fn open_layer(path: &Path, media_type: &str, diff_id: DiffId) -> Result<LayerReader, Error> {
    open_watched_layer((path, media_type, diff_id), |_| {})
}

/// The same, with the bytes of the file that were read so far going to `progress`.
pub fn open_watched_layer(
    (path, media_type, diff_id): (&Path, &str, DiffId),
    progress: impl Fn(u64) + Send + 'static,
) -> Result<LayerReader, Error> {
    LayerFormat::of(media_type)?;
    let file = File::open(path).map_err(Error::io("open", path))?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    let mut input = BufReader::with_capacity(BUFFER, Watched { file, done: 0, shown: 0, progress });
    let start = input.fill_buf().map_err(Error::io("read", path))?;
    if let Some(packing) = LayerFormat::other_packing(start) {
        return Err(Error::Packing { place: format!("layer {}", diff_id.0.short()), packing });
    }
    let format = LayerFormat::of_bytes(start);
    let tar = decode(input, format).map_err(Error::io("read", path))?;
    let limit = EXPANSION_FREE.saturating_add(size.saturating_mul(EXPANSION));
    Ok(LayerReader { tar, hash: Sha256::new(), expected: diff_id, size, limit, count: 0, actual: None })
}

/// A file whose reader is watched.
struct Watched<P> {
    file: File,
    done: u64,
    /// What was reported last.
    shown: u64,
    progress: P,
}

/// Bytes between two reports.
const REPORT: u64 = 1 << 20;

impl<P: Fn(u64)> Read for Watched<P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        self.done += length as u64;
        if self.done - self.shown >= REPORT || (length == 0 && self.done > self.shown) {
            self.shown = self.done;
            (self.progress)(self.done);
        }
        Ok(length)
    }
}

/// The bytes of `input` without their compression.
pub(super) fn decode<'a>(
    input: impl BufRead + Send + 'a,
    format: LayerFormat,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match format {
        LayerFormat::Tar => Box::new(input),
        LayerFormat::Gzip => Box::new(MultiGzDecoder::new(input)),
        LayerFormat::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW)?;
            Box::new(decoder)
        }
    })
}

impl LayerReader {
    /// Reads what the consumer left, such as the padding behind the tar's end, and checks the diff id.
    pub fn finish(mut self) -> Result<(), Error> {
        let mut rest = [0; 8192];
        loop {
            match self.read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(Error::of_layer(error)),
            }
        }
    }

    /// At the end of the tar: the error of a wrong digest, at every call.
    fn check(&mut self) -> Result<(), Error> {
        let hash = &mut self.hash;
        let actual = *self
            .actual
            .get_or_insert_with(|| DiffId(Digest::from_bytes(std::mem::take(hash).finalize().into())));
        if actual == self.expected { Ok(()) } else { Err(Error::DiffId { expected: self.expected, actual }) }
    }
}

impl Error {
    /// The error that a [`LayerReader`] hid inside an I/O error, for whoever got it through a tar reader.
    pub fn of_layer(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(inner) => inner,
            Err(source) => Self::Unpack(source),
        }
    }
}

impl Read for LayerReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.tar.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.count += count as u64;
        if self.count > self.limit {
            let error = Error::Expansion { size: self.size, limit: self.limit };
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        if count == 0 && !buffer.is_empty() {
            self.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        Ok(count)
    }
}

impl std::fmt::Debug for LayerReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerReader").field("expected", &self.expected).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::oci::media;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn open(content: &[u8], media_type: &str, diff_id: &[u8]) -> LayerReader {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        open_layer(file.path(), media_type, DiffId(Digest::of(diff_id))).unwrap()
    }

    #[test]
    fn every_format_unpacks_to_the_same_bytes() {
        let tar = b"tar ".repeat(50_000);
        let halves = [gzip(&tar[..70_000]), gzip(&tar[70_000..])].concat();
        let zstd = zstd::encode_all(tar.as_slice(), 1).unwrap();
        for (content, media_type) in [
            (tar.clone(), media::OCI_LAYER),
            (gzip(&tar), media::OCI_LAYER_GZIP),
            (halves, media::OCI_LAYER_GZIP),
            (zstd, media::OCI_LAYER_ZSTD),
        ] {
            let mut out = Vec::new();
            open(&content, media_type, &tar).read_to_end(&mut out).unwrap();
            assert_eq!(out, tar, "{media_type}");
        }
    }

    #[test]
    fn the_first_bytes_say_how_a_layer_is_packed() {
        let tar = b"tar ".repeat(50_000);
        let zstd = zstd::encode_all(tar.as_slice(), 1).unwrap();
        for (content, media_type) in [
            (tar.clone(), media::OCI_LAYER_GZIP),
            (zstd, media::OCI_LAYER_GZIP),
            (gzip(&tar), media::OCI_LAYER),
            (gzip(&tar), media::OCI_LAYER_ZSTD),
        ] {
            open(&content, media_type, &tar).finish().unwrap();
        }
    }

    #[test]
    fn a_layer_becomes_only_so_much_larger() {
        let mut reader = open(&gzip(&vec![7; 100_000]), media::OCI_LAYER_GZIP, b"");
        reader.limit = 99_999;
        let error = reader.finish().unwrap_err().to_string();
        assert!(error.contains("more than 99999 bytes"), "{error}");
    }

    #[test]
    fn another_diff_id_is_an_error_at_the_end() {
        let mut reader = open(b"content", media::OCI_LAYER, b"other");
        let error = io::copy(&mut reader, &mut io::sink()).unwrap_err();
        assert!(matches!(Error::of_layer(error), Error::DiffId { .. }));
        let early = open(b"content", media::OCI_LAYER, b"other");
        assert!(matches!(early.finish(), Err(Error::DiffId { .. })));
        open(b"content", media::OCI_LAYER, b"content").finish().unwrap();
    }

    #[test]
    fn a_cut_off_layer_is_an_error() {
        let content = gzip(&b"0123456789".repeat(1000));
        let reader = open(&content[..content.len() - 9], media::OCI_LAYER_GZIP, b"");
        assert!(matches!(reader.finish(), Err(Error::Unpack(_))));
    }
}
