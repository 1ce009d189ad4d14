//! Unified kernel images: systemd's EFI stub with kernel, initial RAM file system and command line as further sections
//! of the same PE file, so that firmware loads (and can measure or verify) all of them as one program.
//!
//! Bytes are patched in place instead of writing a new PE file: the stub's own sections must stay where they are.

use object::LittleEndian as LE;
use object::pe::{
    IMAGE_DIRECTORY_ENTRY_SECURITY, IMAGE_SCN_CNT_INITIALIZED_DATA, IMAGE_SCN_MEM_READ, ImageNtHeaders64,
    ImageSectionHeader,
};
use object::read::pe::{ImageNtHeaders as _, ImageOptionalHeader as _};
use object::{U32, pod};

use super::error::DiskError;

/// Sections start at multiples of this in memory: firmware may protect whole pages only.
const PAGE: u32 = 4096;

/// What the stub boots.
#[derive(Debug, Clone, Copy)]
pub struct Kernel<'a> {
    /// The kernel, a bzImage.
    pub linux: &'a [u8],
    /// The initial RAM file system.
    pub initrd: &'a [u8],
    /// The kernel's command line.
    pub cmdline: &'a str,
}

/// The image that boots `kernel` by way of `stub`.
pub fn uki(stub: &[u8], kernel: &Kernel<'_>) -> Result<Vec<u8>, DiskError> {
    // The kernel comes last: kernels unpack themselves in place and may run over what follows.
    let added: [(&[u8], &[u8]); 3] =
        [(b".cmdline", kernel.cmdline.as_bytes()), (b".initrd", kernel.initrd), (b".linux", kernel.linux)];
    let headers = Headers::read(stub)?;
    let room = headers.first_data.saturating_sub(headers.table_end) / size_of::<ImageSectionHeader>();
    if room < added.len() {
        return Err(DiskError::Stub(format!(
            "its headers have room for {room} sections, not for {}",
            added.len()
        )));
    }
    let mut out = stub.to_vec();
    let mut address = headers.memory_end;
    let mut table = headers.table_end;
    let mut data_size = 0_u32;
    for (name, content) in added {
        out.resize(out.len().next_multiple_of(headers.file_alignment), 0);
        let length = fits(content.len())?;
        let section = ImageSectionHeader {
            name: padded(name),
            virtual_size: U32::new(LE, length),
            virtual_address: U32::new(LE, address),
            size_of_raw_data: U32::new(LE, fits(content.len().next_multiple_of(headers.file_alignment))?),
            pointer_to_raw_data: U32::new(LE, fits(out.len())?),
            characteristics: U32::new(LE, IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ),
            ..ImageSectionHeader::default()
        };
        out[table..table + size_of::<ImageSectionHeader>()].copy_from_slice(pod::bytes_of(&section));
        table += size_of::<ImageSectionHeader>();
        out.extend_from_slice(content);
        data_size = data_size.saturating_add(length.next_multiple_of(PAGE));
        address = address
            .checked_add(length)
            .and_then(|end| end.checked_next_multiple_of(PAGE))
            .ok_or_else(|| DiskError::Stub("kernel and initrd are larger than 4 GiB".into()))?;
    }
    out.resize(out.len().next_multiple_of(headers.file_alignment), 0);
    headers.patch(&mut out, address, data_size, added.len())?;
    Ok(out)
}

/// What must be known of the stub.
struct Headers {
    /// Where the NT headers lie.
    nt: usize,
    /// The end of the section table.
    table_end: usize,
    /// Where the first section's content lies.
    first_data: usize,
    /// The end of the last section in memory.
    memory_end: u32,
    file_alignment: usize,
}

impl Headers {
    fn read(stub: &[u8]) -> Result<Self, DiskError> {
        let bad = |reason: String| DiskError::Stub(reason);
        let file = object::read::pe::PeFile64::parse(stub).map_err(|e| bad(e.to_string()))?;
        let nt = file.dos_header().nt_headers_offset() as usize;
        let optional = file.nt_headers().optional_header();
        let sections = file.section_table();
        let table = nt
            + size_of::<u32>()
            + size_of::<object::pe::ImageFileHeader>()
            + usize::from(file.nt_headers().file_header().size_of_optional_header.get(LE));
        let end = |s: &ImageSectionHeader| s.virtual_address.get(LE).checked_add(s.virtual_size.get(LE));
        let ends = sections.iter().map(end).collect::<Option<Vec<u32>>>();
        let memory_end = ends
            .and_then(|ends| ends.into_iter().max())
            .and_then(|end| end.checked_next_multiple_of(PAGE))
            .ok_or_else(|| bad("it has no sections, or they lie beyond 4 GiB".into()))?;
        let first_data = sections
            .iter()
            .filter(|s| s.size_of_raw_data.get(LE) > 0)
            .map(|s| s.pointer_to_raw_data.get(LE) as usize)
            .min()
            .unwrap_or(0);
        let file_alignment = optional.file_alignment() as usize;
        if !file_alignment.is_power_of_two() || file_alignment > PAGE as usize {
            return Err(bad(format!("its file alignment is {file_alignment}")));
        }
        if file.data_directories().get(IMAGE_DIRECTORY_ENTRY_SECURITY).is_some_and(|d| d.size.get(LE) != 0) {
            return Err(bad("it is signed, and the signature would not fit what is added".into()));
        }
        Ok(Self {
            nt,
            table_end: table + sections.len() * size_of::<ImageSectionHeader>(),
            first_data,
            memory_end,
            file_alignment,
        })
    }

    /// Adjusts the counts and sizes of the headers; the checksum is left out, as EFI does not look at it.
    fn patch(
        &self,
        out: &mut [u8],
        image_end: u32,
        data_size: u32,
        sections: usize,
    ) -> Result<(), DiskError> {
        let (headers, _) = pod::from_bytes_mut::<ImageNtHeaders64>(&mut out[self.nt..])
            .map_err(|()| DiskError::Stub("its headers are cut off".into()))?;
        let count = headers.file_header.number_of_sections.get(LE);
        let count = u16::try_from(usize::from(count) + sections).unwrap_or(u16::MAX);
        headers.file_header.number_of_sections.set(LE, count);
        let optional = &mut headers.optional_header;
        optional.size_of_image.set(LE, image_end);
        let data = optional.size_of_initialized_data.get(LE).saturating_add(data_size);
        optional.size_of_initialized_data.set(LE, data);
        optional.check_sum.set(LE, 0);
        Ok(())
    }
}

fn padded(name: &[u8]) -> [u8; 8] {
    let mut out = [0; 8];
    out[..name.len()].copy_from_slice(name);
    out
}

fn fits(length: usize) -> Result<u32, DiskError> {
    u32::try_from(length).map_err(|_| DiskError::Stub("kernel and initrd are larger than 4 GiB".into()))
}

#[cfg(test)]
mod tests {
    use object::{Object as _, ObjectSection as _};

    use super::*;
    use crate::disk::example::stub;

    #[test]
    fn sections_read_back() {
        let kernel = Kernel { linux: &[7; 5000], initrd: &[8; 513], cmdline: "console=ttyS0 quiet" };
        let stub = stub();
        let image = uki(&stub, &kernel).expect("a good stub");
        assert_eq!(image, uki(&stub, &kernel).expect("a good stub"), "same input, same bytes");
        let file = object::read::pe::PeFile64::parse(&*image).expect("a PE file");
        let data =
            |name: &str| file.section_by_name(name).expect("it was added").data().expect("inside the file");
        assert_eq!(data(".linux"), kernel.linux);
        assert_eq!(data(".initrd"), kernel.initrd);
        assert_eq!(data(".cmdline"), kernel.cmdline.as_bytes());
        assert_eq!(data(".text"), b"code of the stub");
        let mut end = 0;
        for section in file.sections() {
            assert_eq!(section.address() % u64::from(PAGE), 0, "{:?}", section.name());
            assert!(section.address() >= end);
            end = section.address() + section.size();
        }
        let size = file.nt_headers().optional_header().size_of_image();
        assert!(u64::from(size) >= end && size % PAGE == 0);
    }

    #[test]
    fn what_is_no_stub_is_refused() {
        let kernel = Kernel { linux: &[], initrd: &[], cmdline: "" };
        for bad in [&b""[..], b"MZ", &[0; 4096], &stub()[..200]] {
            assert!(matches!(uki(bad, &kernel), Err(DiskError::Stub(_))));
        }
    }
}
