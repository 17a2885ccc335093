//! Finds a section of a PE file, such as the command line of a unified kernel image. Whoever can write to the ESP chooses
//! these bytes: every length is bounded, and what does not add up is no section.

use std::io::{Read, Seek, SeekFrom};

/// Largest section that is read; a command line has some hundred bytes.
const MAX_SECTION: u64 = 64 * 1024;

/// Most sections that are looked at; a PE file for EFI has at most 96.
const MAX_SECTIONS: u16 = 96;

/// Farthest place at which the PE header is believed.
const MAX_OFFSET: u64 = 1024 * 1024;

/// Length of a section header.
const HEADER: usize = 40;

/// Content of the first section with this name, without the padding behind it.
pub(crate) fn section(file: &mut (impl Read + Seek), name: &str) -> Option<Vec<u8>> {
    let start: [u8; 64] = read(file, 0, 64)?.try_into().ok()?;
    let coff = u64::from(u32_at(&start, 0x3c));
    if !start.starts_with(b"MZ") || coff > MAX_OFFSET {
        return None;
    }
    let header = read(file, coff, 24)?;
    let (count, optional) = (u16_at(&header, 6), u16_at(&header, 20));
    if !header.starts_with(b"PE\0\0") || count > MAX_SECTIONS {
        return None;
    }
    let table = read(file, coff + 24 + u64::from(optional), HEADER * usize::from(count))?;
    let mut padded = [0; 8];
    padded.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
    let found = table.chunks_exact(HEADER).find(|header| header.starts_with(&padded))?;
    let (virtual_size, stored) = (u64::from(u32_at(found, 8)), u64::from(u32_at(found, 16)));
    let length = if virtual_size == 0 { stored } else { virtual_size.min(stored) };
    let length = usize::try_from(length).ok().filter(|_| length <= MAX_SECTION)?;
    read(file, u64::from(u32_at(found, 20)), length)
}

fn read(file: &mut (impl Read + Seek), at: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.seek(SeekFrom::Start(at)).ok()?;
    file.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

/// 0 behind the end; callers have read enough.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |part| u16::from_le_bytes([part[0], part[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    /// A PE file with two sections; the second has this name and content.
    pub(crate) fn sample(name: &str, content: &[u8]) -> Vec<u8> {
        let mut pe = vec![0u8; 0x400];
        pe[..2].copy_from_slice(b"MZ");
        pe[0x3c] = 0x80;
        pe[0x80..0x84].copy_from_slice(b"PE\0\0");
        (pe[0x86], pe[0x94]) = (2, 0x10);
        let table = 0x80 + 24 + 0x10;
        pe[table..table + 5].copy_from_slice(b".text");
        let second = table + HEADER;
        pe[second..second + name.len()].copy_from_slice(name.as_bytes());
        for (field, value) in [(8, content.len() as u32), (16, 0x200), (20, 0x200)] {
            pe[second + field..second + field + 4].copy_from_slice(&value.to_le_bytes());
        }
        pe[0x200..0x200 + content.len()].copy_from_slice(content);
        pe
    }

    fn find(pe: &[u8], name: &str) -> Option<Vec<u8>> {
        section(&mut Cursor::new(pe), name)
    }

    #[test]
    fn a_section_is_found_without_its_padding() {
        let pe = sample(".cmdline", b"ro quiet\0");
        assert_eq!(find(&pe, ".cmdline").as_deref(), Some(b"ro quiet\0".as_slice()));
        assert_eq!(find(&pe, ".text"), Some(Vec::new()));
        assert_eq!(find(&pe, ".linux"), None);
        assert_eq!(find(&pe, ".tex"), None, "names are compared whole");
        assert_eq!(find(&pe, ".too-long-a-name"), None);
    }

    #[test]
    fn broken_files_have_no_sections() {
        let pe = sample(".cmdline", b"x");
        let second = 0x80 + 24 + 0x10 + HEADER;
        for (at, value) in
            [(0, b'm'), (0x3f, 0xff), (0x81, 0), (0x86, 200), (second + 23, 0xff), (0x95, 0xff)]
        {
            let mut bad = pe.clone();
            bad[at] = value;
            assert_eq!(find(&bad, ".cmdline"), None, "byte {at:#x}");
        }
        let mut huge = pe.clone();
        (huge[second + 11], huge[second + 19]) = (1, 1);
        assert_eq!(find(&huge, ".cmdline"), None, "a section of 16 MiB");
        for cut in 0..0x201 {
            assert_eq!(find(&pe[..cut], ".cmdline"), None, "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn random_files_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..700),
            changes in prop::collection::vec((0..0x400usize, any::<u8>()), 0..20),
        ) {
            let _ = find(&bytes, ".cmdline");
            let mut pe = sample(".cmdline", b"x");
            for (at, byte) in changes {
                pe[at] = byte;
            }
            let _ = find(&pe, ".cmdline");
        }
    }
}
