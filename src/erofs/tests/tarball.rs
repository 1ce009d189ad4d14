//! Making tars for tests, honest ones and others.

/// A tar under construction. Fields of an entry that a test does not set have a plain default.
#[derive(Debug, Default)]
pub(super) struct Tarball {
    pub(super) bytes: Vec<u8>,
}

/// The fields of one header.
#[derive(Debug, Clone)]
pub(super) struct Header<'a> {
    pub(super) kind: u8,
    pub(super) path: &'a [u8],
    pub(super) link: &'a [u8],
    pub(super) mode: u32,
    pub(super) owner: (u64, u64),
    pub(super) mtime: u64,
    pub(super) device: (u64, u64),
    /// Size that the header claims, when it is not the length of the data.
    pub(super) size: Option<u64>,
}

impl<'a> Header<'a> {
    /// A header of this type for this path.
    pub(super) fn new(kind: u8, path: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        let path = path.as_ref();
        Self { kind, path, link: b"", mode: 0o644, owner: (0, 0), mtime: 0, device: (0, 0), size: None }
    }

    /// The same with a link target.
    pub(super) fn link(mut self, target: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.link = target.as_ref();
        self
    }
}

impl Tarball {
    /// Appends an entry. Long names get GNU headers of their own.
    pub(super) fn add(&mut self, header: &Header<'_>, data: &[u8]) -> &mut Self {
        for (kind, name) in [(b'L', header.path), (b'K', header.link)] {
            if name.len() > 100 {
                let long = [name, b"\0"].concat();
                self.raw(&Header::new(kind, "././@LongLink"), &long);
            }
        }
        self.raw(header, data)
    }

    /// A directory.
    pub(super) fn directory(&mut self, path: &str) -> &mut Self {
        self.add(&Header { mode: 0o755, ..Header::new(b'5', path) }, b"")
    }

    /// A regular file.
    pub(super) fn file(&mut self, path: &str, data: &[u8]) -> &mut Self {
        self.add(&Header::new(b'0', path), data)
    }

    /// A symbolic link.
    pub(super) fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.add(&Header { mode: 0o777, ..Header::new(b'2', path).link(target) }, b"")
    }

    /// A hard link.
    pub(super) fn hard_link(&mut self, path: &str, target: &str) -> &mut Self {
        self.add(&Header::new(b'1', path).link(target), b"")
    }

    /// PAX records for the next entry.
    pub(super) fn pax(&mut self, records: &[(&str, &[u8])]) -> &mut Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            // The length counts its own digits.
            let length = (1..9).map(|digits| rest + digits).find(|n| n.to_string().len() == n - rest);
            data.extend(format!("{} {key}=", length.expect("some number of digits fits")).bytes());
            data.extend(*value);
            data.push(b'\n');
        }
        self.raw(&Header::new(b'x', "PaxHeaders/x"), &data)
    }

    /// One header block and data exactly as told, apart from cutting names to their fields.
    pub(super) fn raw(&mut self, header: &Header<'_>, data: &[u8]) -> &mut Self {
        let mut block = [0; 512];
        let mut put = |at: usize, length: usize, bytes: &[u8]| {
            let length = bytes.len().min(length);
            block[at..at + length].copy_from_slice(&bytes[..length]);
        };
        put(0, 100, header.path);
        put(100, 8, &number(header.mode.into(), 8));
        put(108, 8, &number(header.owner.0, 8));
        put(116, 8, &number(header.owner.1, 8));
        put(124, 12, &number(header.size.unwrap_or(data.len() as u64), 12));
        put(136, 12, &number(header.mtime, 12));
        put(148, 8, b"        ");
        put(156, 1, &[header.kind]);
        put(157, 100, header.link);
        put(257, 8, b"ustar\x0000");
        put(329, 8, &number(header.device.0, 8));
        put(337, 8, &number(header.device.1, 8));
        self.block(block).data(data)
    }

    /// A header block with its checksum made right.
    pub(super) fn block(&mut self, mut block: [u8; 512]) -> &mut Self {
        fix_checksum(&mut block);
        self.bytes.extend(block);
        self
    }

    /// Data with its padding.
    pub(super) fn data(&mut self, data: &[u8]) -> &mut Self {
        self.bytes.extend(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    /// The tar with its end mark.
    pub(super) fn finish(&self) -> Vec<u8> {
        [&self.bytes[..], &[0; 1024]].concat()
    }
}

/// Makes a header's checksum right.
pub(super) fn fix_checksum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..512].iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A number field: octal where it fits, else base 256.
fn number(value: u64, width: usize) -> Vec<u8> {
    let octal = format!("{value:0width$o}", width = width - 1);
    if octal.len() < width {
        return [octal.as_bytes(), b"\0"].concat();
    }
    let bytes = value.to_be_bytes();
    let mut field = vec![0; width.saturating_sub(8)];
    field.extend(&bytes[8 - width.min(8)..]);
    field[0] |= 0x80;
    field
}
