//! The 512 bytes in front of an entry: numbers, names and types of the V7, ustar, GNU and star forms.

use super::entry::{Entry, EntryKind};
use super::number::{number, until_nul};
use super::pax::Fields;

const HEADER: usize = 512;

/// A header whose checksum is right.
#[derive(Debug)]
pub(super) struct RawHeader<'a> {
    bytes: &'a [u8; HEADER],
}

/// Which of the fields behind the link name exist.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    V7,
    Ustar,
    Star,
    Gnu,
}

impl<'a> RawHeader<'a> {
    /// Checks the checksum.
    pub(super) fn new(bytes: &'a [u8; HEADER]) -> Result<Self, String> {
        let stored = number(&bytes[148..156])?;
        let others = || bytes[..148].iter().chain(&[b' '; 8]).chain(&bytes[156..]);
        let sum: i64 = others().map(|byte| i64::from(*byte)).sum();
        // Old writers summed the bytes as signed numbers.
        let signed: i64 = others().map(|byte| i64::from(byte.cast_signed())).sum();
        if stored != sum && stored != signed {
            return Err(format!("its checksum is {sum}, it says {stored}"));
        }
        Ok(Self { bytes })
    }

    /// The type flag.
    pub(super) fn kind(&self) -> u8 {
        self.bytes[156]
    }

    /// The length of the data.
    pub(super) fn size(&self) -> Result<u64, String> {
        let size = number(&self.bytes[124..136])?;
        u64::try_from(size).map_err(|_| format!("the size is {size}"))
    }

    /// Length with holes of a sparse file in the old GNU form.
    pub(super) fn gnu_real_size(&self) -> Result<u64, String> {
        let size = number(&self.bytes[483..495])?;
        u64::try_from(size).map_err(|_| format!("the sparse size is {size}"))
    }

    /// The old GNU form's sparse map, and whether it goes on in the next block.
    pub(super) fn gnu_sparse_slots(&self) -> (&[u8], bool) {
        (&self.bytes[386..482], self.bytes[482] != 0)
    }

    /// The entry, with what PAX records override.
    pub(super) fn entry(&self, pax: &Fields, offset: u64) -> Result<Entry, String> {
        let path = pax.path.clone().unwrap_or_else(|| self.path());
        let link = || pax.link.clone().unwrap_or_else(|| until_nul(&self.bytes[157..257]).to_vec());
        let size = pax.size.map_or_else(|| self.size(), Ok);
        let kind = match self.kind() {
            // The oldest archives mark a directory by the slash behind its name.
            0 if path.ends_with(b"/") => EntryKind::Directory,
            b'1' => EntryKind::HardLink(link()),
            b'2' => EntryKind::Symlink(link()),
            b'3' => self.device().map(|(major, minor)| EntryKind::Character(major, minor))?,
            b'4' => self.device().map(|(major, minor)| EntryKind::Block(major, minor))?,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            0 | b'0' | b'7' | b'S' => EntryKind::File(size?),
            other => EntryKind::Other(char::from(other)),
        };
        let (seconds, nanos) = match pax.mtime {
            Some(mtime) => mtime,
            None => (number(&self.bytes[136..148])?, 0),
        };
        Ok(Entry {
            offset,
            path,
            kind,
            mode: u16::try_from(number(&self.bytes[100..108])? & 0o7777)
                .expect("twelve bits fit into sixteen"),
            uid: pax.uid.map_or_else(|| number(&self.bytes[108..116]), Ok)?,
            gid: pax.gid.map_or_else(|| number(&self.bytes[116..124]), Ok)?,
            seconds,
            nanos,
            xattrs: pax.xattrs.clone(),
        })
    }

    fn form(&self) -> Form {
        match (&self.bytes[257..263], &self.bytes[263..265]) {
            (b"ustar\0", _) if &self.bytes[508..512] == b"tar\0" => Form::Star,
            (b"ustar\0", _) => Form::Ustar,
            (b"ustar ", b" \0") => Form::Gnu,
            _ => Form::V7,
        }
    }

    fn path(&self) -> Vec<u8> {
        let name = until_nul(&self.bytes[..100]);
        let prefix = match self.form() {
            Form::Ustar => until_nul(&self.bytes[345..500]),
            Form::Star => until_nul(&self.bytes[345..476]),
            // GNU tar keeps times where the others have the prefix.
            Form::V7 | Form::Gnu => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    fn device(&self) -> Result<(u64, u64), String> {
        if self.form() == Form::V7 {
            return Ok((0, 0));
        }
        let part = |range: std::ops::Range<usize>| {
            let value = number(&self.bytes[range])?;
            u64::try_from(value).map_err(|_| format!("a device number is {value}"))
        };
        Ok((part(329..337)?, part(337..345)?))
    }
}
