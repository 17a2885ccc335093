//! Reads a GUID partition table, which any stick may carry: sizes are bounded and both checksums are checked before
//! anything is believed.

/// Largest table that is read; the usual one has 16 KiB.
const MAX_TABLE: usize = 64 * 1024;

/// Length of the header without the rest of its sector.
const HEADER: usize = 92;

/// A header that has passed its checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Sector at which the table begins.
    pub(crate) table_sector: u64,
    /// Bytes in the table.
    pub(crate) table_size: usize,
    entry_size: usize,
    checksum: u32,
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let part = bytes.get(at..at + 4).unwrap_or(&[0; 4]);
    u32::from_le_bytes([part[0], part[1], part[2], part[3]])
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(number(bytes, at)) | u64::from(number(bytes, at + 4)) << 32
}

impl Header {
    /// From the content of `sector`; `None` if that is no header of that place, or a damaged one.
    pub(crate) fn parse(content: &[u8], sector: u64) -> Option<Self> {
        if content.len() < HEADER || !content.starts_with(b"EFI PART") {
            return None;
        }
        let size = number(content, 12) as usize;
        if !(HEADER..=content.len()).contains(&size) || long(content, 24) != sector {
            return None;
        }
        let mut checked = content[..size].to_vec();
        checked[16..20].fill(0);
        if crc32(&checked) != number(content, 16) {
            return None;
        }
        let (count, entry_size) = (number(content, 80) as usize, number(content, 84) as usize);
        let table_size = count.checked_mul(entry_size)?;
        if !(128..=4096).contains(&entry_size)
            || entry_size % 8 != 0
            || !(1..=MAX_TABLE).contains(&table_size)
        {
            return None;
        }
        Some(Self { table_sector: long(content, 72), table_size, entry_size, checksum: number(content, 88) })
    }

    /// Number, from 1, of the partition with this UUID.
    pub(crate) fn find(&self, table: &[u8], uuid: &[u8; 16]) -> Option<usize> {
        if table.len() != self.table_size || crc32(table) != self.checksum {
            return None;
        }
        let used = |entry: &[u8]| entry[..16] != [0; 16];
        table
            .chunks_exact(self.entry_size)
            .position(|entry| used(entry) && entry[16..32] == *uuid)
            .map(|index| index + 1)
    }
}

/// CRC-32 as in IEEE 802.3; bit by bit, for tables are small.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UUID: [u8; 16] = *b"0123456789abcdef";

    fn table() -> Vec<u8> {
        let mut table = vec![0u8; 128 * 4];
        table[128..144].fill(1);
        table[144..160].copy_from_slice(&UUID);
        table
    }

    fn seal(header: &mut [u8]) {
        header[16..20].fill(0);
        let sum = crc32(&header[..HEADER]);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
    }

    fn header() -> Vec<u8> {
        let mut bytes = vec![0u8; 512];
        bytes[..8].copy_from_slice(b"EFI PART");
        let fields = [(12, HEADER as u32), (24, 1), (72, 2), (80, 4), (84, 128), (88, crc32(&table()))];
        for (at, value) in fields {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        seal(&mut bytes);
        bytes
    }

    #[test]
    fn crc32_has_the_check_value_of_its_definition() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn finds_the_partition_by_uuid() {
        let header = Header::parse(&header(), 1).unwrap();
        assert_eq!((header.table_sector, header.table_size), (2, 512));
        assert_eq!(header.find(&table(), &UUID), Some(2));
        assert_eq!(header.find(&table(), &[9; 16]), None);
        assert_eq!(header.find(&table(), &[0; 16]), None, "unused entries have no UUID");
    }

    #[test]
    fn refuses_damaged_and_outsized_tables() {
        assert_eq!(Header::parse(&header(), 2), None, "a header of another sector");
        let mut damaged = header();
        damaged[40] ^= 1;
        assert_eq!(Header::parse(&damaged, 1), None, "checksum of the header");
        for (at, value) in
            [(12, 91u32), (12, 513), (80, 0), (80, u32::MAX), (84, 127), (84, 129), (84, u32::MAX)]
        {
            let mut bytes = header();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            seal(&mut bytes);
            assert_eq!(Header::parse(&bytes, 1), None, "{value} at {at}");
        }
        let mut changed = table();
        changed[0] = 1;
        assert_eq!(Header::parse(&header(), 1).unwrap().find(&changed, &UUID), None, "checksum of the table");
        assert_eq!(Header::parse(&header(), 1).unwrap().find(&table()[..511], &UUID), None, "a short table");
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..600), sealed in any::<bool>()) {
            if sealed && bytes.len() >= HEADER {
                bytes[..8].copy_from_slice(b"EFI PART");
                bytes[12..16].copy_from_slice(&(HEADER as u32).to_le_bytes());
                bytes[24..32].copy_from_slice(&1u64.to_le_bytes());
                seal(&mut bytes);
            }
            if let Some(header) = Header::parse(&bytes, 1) {
                prop_assert!(header.table_size <= MAX_TABLE);
                let _ = header.find(&vec![0; header.table_size], &UUID);
            }
        }
    }
}
