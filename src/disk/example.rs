//! A PE file that looks like systemd's stub, for tests.

use object::write::pe::{NtHeaders, Writer};

/// A stub of one section.
pub(crate) fn stub() -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(true, 4096, 512, &mut out);
    writer.reserve_dos_header_and_stub();
    writer.reserve_nt_headers(16);
    writer.reserve_section_headers(1);
    // The room that systemd leaves for what is added.
    writer.reserve_until(1024);
    let text = writer.reserve_text_section(16);
    writer.write_dos_header_and_stub().expect("writing to memory");
    writer.write_nt_headers(NtHeaders {
        machine: object::pe::IMAGE_FILE_MACHINE_AMD64,
        time_date_stamp: 0,
        characteristics: object::pe::IMAGE_FILE_EXECUTABLE_IMAGE,
        major_linker_version: 0,
        minor_linker_version: 0,
        address_of_entry_point: text.virtual_address,
        image_base: 0,
        major_operating_system_version: 0,
        minor_operating_system_version: 0,
        major_image_version: 0,
        minor_image_version: 0,
        major_subsystem_version: 0,
        minor_subsystem_version: 0,
        subsystem: object::pe::IMAGE_SUBSYSTEM_EFI_APPLICATION,
        dll_characteristics: object::pe::DllFlags(0),
        size_of_stack_reserve: 0,
        size_of_stack_commit: 0,
        size_of_heap_reserve: 0,
        size_of_heap_commit: 0,
    });
    writer.write_section_headers();
    writer.pad_until(1024);
    writer.write_section(text.file_offset, b"code of the stub");
    out
}
