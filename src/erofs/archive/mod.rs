//! Reading a tar that a stranger made (a layer, what a container sends), one entry at a time, in bounded memory.
//!
//! Not the `tar` crate's `Archive`: that one holds long names and PAX records of any length in memory, splits PAX
//! records at line ends although extended attributes are binary, and takes negative numbers for huge ones. Layers
//! come from strangers, so every length is checked here before anything is read. What an entry means (which fields
//! override which, which types have data) follows Go's `archive/tar`, since that is what layers are made with.
//!
//! It does not know paths: names are bytes as the tar gives them.

mod entry;
mod header;
mod number;
mod pax;
mod sparse;

use std::io::{BufRead, BufReader, Read};

use super::error::{EntryProblem, ErofsError};
pub use entry::{Entry, EntryKind};
use header::RawHeader;
use pax::Records;
pub(super) use sparse::Segment;

/// Tar's unit.
const RECORD: u64 = RECORD_SIZE as u64;
const RECORD_SIZE: usize = 512;
/// Longest PAX header, long name or sparse map: the limit of Go's `archive/tar`.
const MAX_EXTENSION: u64 = 1 << 20;
/// Large enough that reading from a file or a decoder costs few calls.
const INPUT_BUFFER: usize = 128 << 10;

/// A piece of a file's data.
#[derive(Debug)]
pub enum Piece<'a> {
    /// Bytes of the tar.
    Bytes(&'a [u8]),
    /// A hole of a sparse file.
    Zeros(u64),
}

/// A tar that is read from start to end.
#[derive(Debug)]
pub struct Archive<R> {
    input: BufReader<R>,
    offset: u64,
    /// Bytes of the current entry that are not read yet, and the padding behind them.
    left: u64,
    padding: u64,
    /// Where the current entry's bytes belong when it is sparse.
    segments: Option<Vec<Segment>>,
    /// Length of the current file, holes included.
    size: u64,
}

impl<R: Read> Archive<R> {
    /// Starts at the first header.
    pub fn new(input: R) -> Self {
        let input = BufReader::with_capacity(INPUT_BUFFER, input);
        Self { input, offset: 0, left: 0, padding: 0, segments: None, size: 0 }
    }

    /// The next entry, as [`Archive::entry`]. At the end of the archive the rest of the input is read, so that whoever
    /// hashes the input sees all of it.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, ErofsError> {
        let entry = self.entry()?;
        if entry.is_none() {
            self.drain()?;
        }
        Ok(entry)
    }

    /// The next entry, after what was not read of the last one has been skipped; none at the end of the archive, behind
    /// which nothing is read.
    pub fn entry(&mut self) -> Result<Option<Entry>, ErofsError> {
        let mut records = Records::default();
        let (mut long_path, mut long_link) = (None, None);
        let mut start = None;
        loop {
            self.skip_data()?;
            let offset = self.offset;
            let Some(block) = self.header_block()? else {
                if start.is_some() {
                    return Err(ErofsError::Truncated { offset });
                }
                return Ok(None);
            };
            let header = RawHeader::new(&block).map_err(|reason| ErofsError::Header { offset, reason })?;
            let wrong = |reason: String| ErofsError::Header { offset, reason };
            let entry_start = *start.get_or_insert(offset);
            match header.kind() {
                b'x' => records = Records::parse(&self.extension(&header)?).map_err(wrong)?,
                // Go's reader and with it every container engine ignores global headers.
                b'g' => {
                    self.extension(&header)?;
                    start = None;
                }
                b'L' => long_path = Some(number::until_nul(&self.extension(&header)?).to_vec()),
                b'K' => long_link = Some(number::until_nul(&self.extension(&header)?).to_vec()),
                _ => {
                    let mut entry = header.entry(records.fields(), entry_start).map_err(wrong)?;
                    if let Some(path) = long_path {
                        entry.path = path;
                    }
                    if let (Some(long), EntryKind::HardLink(link) | EntryKind::Symlink(link)) =
                        (long_link, &mut entry.kind)
                    {
                        *link = long;
                    }
                    self.begin_data(&header, &records, &mut entry).map_err(|error| match error {
                        DataError::Header(reason) => wrong(reason),
                        DataError::Sparse(reason) => entry.refused(EntryProblem::Sparse(reason)),
                        DataError::Erofs(error) => error,
                    })?;
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// Bytes of the current entry in the archive, those of holes left out.
    pub fn stored(&self) -> u64 {
        self.left
    }

    /// What follows the archive's end in the input.
    pub fn into_rest(self) -> impl Read {
        self.input
    }

    /// Hands the current file's data to `sink` from its first byte to its last, holes included.
    pub fn data(
        &mut self,
        sink: &mut dyn FnMut(Piece<'_>) -> Result<(), ErofsError>,
    ) -> Result<(), ErofsError> {
        let Some(segments) = self.segments.take() else {
            return self.bytes(self.left, sink);
        };
        let mut position = 0;
        for segment in segments {
            if segment.offset > position {
                sink(Piece::Zeros(segment.offset - position))?;
            }
            self.bytes(segment.length, sink)?;
            position = segment.offset + segment.length;
        }
        if self.size > position {
            sink(Piece::Zeros(self.size - position))?;
        }
        Ok(())
    }

    fn bytes(
        &mut self,
        mut length: u64,
        sink: &mut dyn FnMut(Piece<'_>) -> Result<(), ErofsError>,
    ) -> Result<(), ErofsError> {
        while length > 0 {
            let offset = self.offset;
            let available = fill(&mut self.input, offset)?;
            if available.is_empty() {
                return Err(ErofsError::Truncated { offset });
            }
            let take = available.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            sink(Piece::Bytes(&available[..take]))?;
            self.input.consume(take);
            self.offset += take as u64;
            self.left -= take as u64;
            length -= take as u64;
        }
        Ok(())
    }

    /// Notes how many bytes follow the header, and reads the map where the file is sparse.
    fn begin_data(
        &mut self,
        header: &RawHeader<'_>,
        records: &Records,
        entry: &mut Entry,
    ) -> Result<(), DataError> {
        self.segments = None;
        let EntryKind::File(physical) = entry.kind else {
            // Some writers put a size on other types, but no data follows.
            return Ok(());
        };
        self.set_left(physical);
        let (segments, size) = if header.kind() == b'S' {
            (self.gnu_sparse_map(header)?, header.gnu_real_size().map_err(DataError::Header)?)
        } else if let Some(map) = records.sparse.map() {
            let segments = match map {
                sparse::Map::Listed(segments) => segments,
                sparse::Map::InData => self.sparse_map_in_data()?,
            };
            let size = records.sparse.size.ok_or(DataError::Sparse("it has no size"))?;
            if let Some(name) = &records.sparse.name {
                entry.path.clone_from(name);
            }
            (segments, size)
        } else {
            self.size = physical;
            return Ok(());
        };
        sparse::check(&segments, size, self.left).map_err(DataError::Sparse)?;
        entry.kind = EntryKind::File(size);
        self.size = size;
        self.segments = Some(segments);
        Ok(())
    }

    /// The map of the old GNU form: in the header, and in blocks behind it.
    fn gnu_sparse_map(&mut self, header: &RawHeader<'_>) -> Result<Vec<Segment>, DataError> {
        let mut segments = Vec::new();
        let (slots, mut more) = header.gnu_sparse_slots();
        sparse::push_slots(&mut segments, slots).map_err(DataError::Header)?;
        while more {
            if segments.len() >= sparse::MAX_SEGMENTS {
                return Err(DataError::Sparse("it has too many pieces"));
            }
            let mut block = [0; RECORD_SIZE];
            self.exact(&mut block)?;
            sparse::push_slots(&mut segments, &block[..504]).map_err(DataError::Header)?;
            more = block[504] != 0;
        }
        Ok(segments)
    }

    /// The map of the PAX form 1.0: decimal lines at the start of the data, padded to a tar record.
    fn sparse_map_in_data(&mut self) -> Result<Vec<Segment>, DataError> {
        let mut text = Vec::new();
        let mut lines = 0;
        loop {
            if self.left < RECORD || text.len() as u64 >= MAX_EXTENSION {
                return Err(DataError::Sparse("it does not end"));
            }
            let mut block = [0; RECORD_SIZE];
            self.exact(&mut block)?;
            self.left -= RECORD;
            text.extend(block);
            lines += block.split(|byte| *byte == b'\n').count() - 1;
            if lines > 0 && lines > 2 * sparse::count_line(&text).map_err(DataError::Sparse)? {
                return sparse::parse_lines(&text).map_err(DataError::Sparse);
            }
        }
    }

    /// The next header, `None` at the end of the archive: a zero record, or the end of the input between entries.
    fn header_block(&mut self) -> Result<Option<[u8; RECORD_SIZE]>, ErofsError> {
        if fill(&mut self.input, self.offset)?.is_empty() {
            return Ok(None);
        }
        let mut block = [0; RECORD_SIZE];
        self.exact(&mut block)?;
        Ok(block.iter().any(|byte| *byte != 0).then_some(block))
    }

    /// The data of a header that describes the next one.
    fn extension(&mut self, header: &RawHeader<'_>) -> Result<Vec<u8>, ErofsError> {
        let offset = self.offset - RECORD;
        let length = header.size().map_err(|reason| ErofsError::Header { offset, reason })?;
        if length > MAX_EXTENSION {
            let reason = format!("an extended header of {length} bytes, more than {MAX_EXTENSION}");
            return Err(ErofsError::Header { offset, reason });
        }
        self.set_left(length);
        let mut bytes = Vec::new();
        self.bytes(length, &mut |piece| {
            if let Piece::Bytes(more) = piece {
                bytes.extend_from_slice(more);
            }
            Ok(())
        })?;
        Ok(bytes)
    }

    fn set_left(&mut self, length: u64) {
        self.left = length;
        self.padding = length.wrapping_neg() % RECORD;
    }

    fn skip_data(&mut self) -> Result<(), ErofsError> {
        self.bytes(self.left, &mut |_| Ok(()))?;
        self.left = self.padding;
        self.padding = 0;
        self.bytes(self.left, &mut |_| Ok(()))
    }

    fn drain(&mut self) -> Result<(), ErofsError> {
        loop {
            let length = fill(&mut self.input, self.offset)?.len();
            if length == 0 {
                return Ok(());
            }
            self.input.consume(length);
            self.offset += length as u64;
        }
    }

    fn exact(&mut self, block: &mut [u8; RECORD_SIZE]) -> Result<(), ErofsError> {
        self.input.read_exact(block).map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => ErofsError::Truncated { offset: self.offset },
            _ => ErofsError::Input { offset: self.offset, source },
        })?;
        self.offset += RECORD;
        Ok(())
    }
}

/// The buffered bytes of the input; none at its end. An interrupted read is repeated.
fn fill<R: Read>(input: &mut BufReader<R>, offset: u64) -> Result<&[u8], ErofsError> {
    loop {
        match input.fill_buf() {
            Ok(_) => break,
            Err(source) if source.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(ErofsError::Input { offset, source }),
        }
    }
    Ok(input.buffer())
}

/// What can go wrong between an entry's header and its data.
enum DataError {
    Header(String),
    Sparse(&'static str),
    Erofs(ErofsError),
}

impl From<ErofsError> for DataError {
    fn from(error: ErofsError) -> Self {
        Self::Erofs(error)
    }
}
