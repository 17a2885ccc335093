//! A unified kernel image: systemd's EFI stub with kernel, initrd, command line and os-release as further PE sections.

use anyhow::{Context, Result, ensure};

/// Section flags: initialised data, readable.
const DATA: u32 = 0x4000_0040;

/// Size of a section header.
const SECTION_HEADER: usize = 40;

/// A section to add.
#[derive(Debug, Clone, Copy)]
pub struct Section<'a> {
    /// Name, at most eight bytes.
    pub name: &'a str,
    /// Content.
    pub content: &'a [u8],
}

/// Where the headers of a PE file say that things are.
#[derive(Debug)]
struct Headers {
    coff: usize,
    optional: usize,
    table: usize,
    count: usize,
    section_alignment: u32,
    file_alignment: u32,
    headers_size: usize,
    end_address: u32,
    lowest_content: usize,
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    let slice = bytes.get(at..at + 2).context("the stub is cut short")?;
    Ok(u16::from_le_bytes([slice[0], slice[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let slice = bytes.get(at..at + 4).context("the stub is cut short")?;
    Ok(u32::from_le_bytes([slice[0], slice[1], slice[2], slice[3]]))
}

impl Headers {
    fn read(pe: &[u8]) -> Result<Self> {
        ensure!(pe.get(..2) == Some(b"MZ".as_slice()), "the stub is no PE file");
        let coff = u32_at(pe, 0x3c)? as usize;
        ensure!(
            coff < pe.len() && pe.get(coff..coff + 4) == Some(b"PE\0\0".as_slice()),
            "the stub is no PE file"
        );
        let count = usize::from(u16_at(pe, coff + 6)?);
        let optional = coff + 24;
        let table = optional + usize::from(u16_at(pe, coff + 20)?);
        ensure!(u16_at(pe, optional)? == 0x20b, "the stub is no 64-bit PE file");
        let (mut end_address, mut lowest_content) = (0u32, usize::MAX);
        for index in 0..count {
            let header = table + index * SECTION_HEADER;
            let size = u32_at(pe, header + 8)?;
            let address = u32_at(pe, header + 12)?;
            end_address =
                end_address.max(address.checked_add(size).context("a section of the stub is out of range")?);
            if u32_at(pe, header + 16)? > 0 {
                lowest_content = lowest_content.min(u32_at(pe, header + 20)? as usize);
            }
        }
        let headers = Self {
            coff,
            optional,
            table,
            count,
            section_alignment: u32_at(pe, optional + 32)?,
            file_alignment: u32_at(pe, optional + 36)?,
            headers_size: u32_at(pe, optional + 60)? as usize,
            end_address,
            lowest_content,
        };
        let sane = |alignment: u32| alignment.is_power_of_two() && alignment <= 0x10_0000;
        ensure!(
            sane(headers.section_alignment) && sane(headers.file_alignment),
            "the stub has odd alignments"
        );
        Ok(headers)
    }
}

/// The content of a section, without padding; `None` if there is none of this name.
pub fn section<'a>(pe: &'a [u8], name: &str) -> Result<Option<&'a [u8]>> {
    let headers = Headers::read(pe)?;
    for index in 0..headers.count {
        let at = headers.table + index * SECTION_HEADER;
        let own = pe.get(at..at + 8).context("the kernel image is cut short")?;
        let end = own.iter().position(|byte| *byte == 0).unwrap_or(own.len());
        if own[..end] == *name.as_bytes() {
            let size = u32_at(pe, at + 8)?.min(u32_at(pe, at + 16)?) as usize;
            let start = u32_at(pe, at + 20)? as usize;
            let content = start.checked_add(size).and_then(|end| pe.get(start..end));
            return content.context("the kernel image is cut short").map(Some);
        }
    }
    Ok(None)
}

/// The stub with all sections added, in order.
pub fn assemble(stub: &[u8], sections: &[Section<'_>]) -> Result<Vec<u8>> {
    let headers = Headers::read(stub)?;
    let table_end = headers.table + (headers.count + sections.len()) * SECTION_HEADER;
    let room = headers.headers_size.min(headers.lowest_content);
    ensure!(table_end <= room, "the stub has no room for {} more sections", sections.len());
    let mut pe = stub.to_vec();
    let mut address = align(headers.end_address, headers.section_alignment)?;
    for (index, section) in sections.iter().enumerate() {
        ensure!(section.name.len() <= 8, "section name {} is too long", section.name);
        pad(&mut pe, headers.file_alignment as usize);
        let offset = u32::try_from(pe.len()).context("the kernel image is over 4 GiB")?;
        let size = u32::try_from(section.content.len()).context("a section is over 4 GiB")?;
        pe.extend_from_slice(section.content);
        pad(&mut pe, headers.file_alignment as usize);
        let stored = u32::try_from(pe.len()).context("the kernel image is over 4 GiB")? - offset;
        let at = headers.table + (headers.count + index) * SECTION_HEADER;
        pe[at..at + SECTION_HEADER].fill(0);
        pe[at..at + section.name.len()].copy_from_slice(section.name.as_bytes());
        for (field, value) in [(8, size), (12, address), (16, stored), (20, offset), (36, DATA)] {
            put(&mut pe, at + field, value);
        }
        address = align(
            address.checked_add(size).context("the kernel image is over 4 GiB")?,
            headers.section_alignment,
        )?;
    }
    let count = u16::try_from(headers.count + sections.len()).context("too many sections")?;
    pe[headers.coff + 6..headers.coff + 8].copy_from_slice(&count.to_le_bytes());
    put(&mut pe, headers.optional + 56, address); // size of the image in memory
    put(&mut pe, headers.optional + 64, 0); // checksum: not used by UEFI
    Ok(pe)
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn pad(bytes: &mut Vec<u8>, alignment: usize) {
    bytes.resize(bytes.len().next_multiple_of(alignment), 0);
}

fn align(value: u32, alignment: u32) -> Result<u32> {
    value.checked_next_multiple_of(alignment).context("the kernel image is over 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PE file with one section and room for two more.
    fn stub() -> Vec<u8> {
        let mut pe = vec![0u8; 0x400];
        pe[..2].copy_from_slice(b"MZ");
        put(&mut pe, 0x3c, 0x80);
        pe[0x80..0x84].copy_from_slice(b"PE\0\0");
        pe[0x86] = 1;
        pe[0x94] = 0xf0;
        pe[0x98..0x9a].copy_from_slice(&0x20bu16.to_le_bytes());
        put(&mut pe, 0x98 + 32, 0x1000);
        put(&mut pe, 0x98 + 36, 0x200);
        put(&mut pe, 0x98 + 60, 0x200);
        let table = 0x98 + 0xf0;
        pe[table..table + 5].copy_from_slice(b".text");
        for (field, value) in [(8, 0x10u32), (12, 0x1000), (16, 0x200), (20, 0x200)] {
            put(&mut pe, table + field, value);
        }
        pe
    }

    #[test]
    fn sections_are_appended_aligned_in_file_and_memory() {
        // The table of the sample ends at 0x1b0; the headers at 0x200: room for two headers of 40 bytes.
        let pe = assemble(
            &stub(),
            &[
                Section { name: ".cmdline", content: b"ro" },
                Section { name: ".linux", content: &[7; 0x1001] },
            ],
        )
        .unwrap();
        let headers = Headers::read(&pe).unwrap();
        assert_eq!(headers.count, 3);
        let at =
            |index: usize, field: usize| u32_at(&pe, headers.table + index * SECTION_HEADER + field).unwrap();
        assert_eq!((at(1, 8), at(1, 12), at(1, 16), at(1, 20)), (2, 0x2000, 0x200, 0x400));
        assert_eq!((at(2, 8), at(2, 12), at(2, 16), at(2, 20)), (0x1001, 0x3000, 0x1200, 0x600));
        assert_eq!(u32_at(&pe, headers.optional + 56).unwrap(), 0x5000);
        assert_eq!(&pe[0x400..0x402], b"ro");
        assert_eq!(pe.len() % 0x200, 0);
        assert_eq!(section(&pe, ".cmdline").unwrap(), Some(b"ro".as_slice()));
        assert_eq!(section(&pe, ".linux").unwrap(), Some([7; 0x1001].as_slice()));
        assert_eq!(section(&pe, ".initrd").unwrap(), None);
        assert!(section(&pe[..0x500], ".linux").is_err());
    }

    #[test]
    fn broken_stubs_are_refused_and_never_panic() {
        let good = stub();
        let section = [Section { name: ".a", content: b"x" }];
        assert!(assemble(b"", &section).is_err());
        assert!(assemble(&good, &[section[0]; 3]).is_err(), "no room for three headers");
        assert!(assemble(&good, &[Section { name: ".way-too-long", content: b"" }]).is_err());
        for cut in 0..good.len() {
            let _ = assemble(&good[..cut], &section);
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] = 0xff;
            let _ = assemble(&bad, &section);
        }
    }
}
