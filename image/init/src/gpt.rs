//! Reads a GUID partition table, which any stick may carry: sizes are bounded and both checksums are checked before
//! anything is believed.

/// Largest table that is read; the usual one has 16 KiB.
const MAX_TABLE: usize = 64 * 1024;

/// Length of the header without the rest of its sector.
const HEADER: usize = 92;

/// Type of a partition as it lies on disk: a UUID whose first three fields have the lowest byte first.
pub(crate) type PartitionType = [u8; 16];

/// An entry that is not in use.
const UNUSED: PartitionType = [0; 16];

/// EFI system partition, c12a7328-f81f-11d2-ba4b-00a0c93ec93b.
const ESP: PartitionType =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];

/// Root for x86-64, 4f68bce3-e8cd-4db1-96e7-fbcaf984b709.
const ROOT: PartitionType =
    [0xe3, 0xbc, 0x68, 0x4f, 0xcd, 0xe8, 0xb1, 0x4d, 0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 0x09];

/// Hash tree of such a root, 2c7357ed-ebd2-46d9-aec1-23d437ec2bf5.
const VERITY: PartitionType =
    [0xed, 0x57, 0x73, 0x2c, 0xd2, 0xeb, 0xd9, 0x46, 0xae, 0xc1, 0x23, 0xd4, 0x37, 0xec, 0x2b, 0xf5];

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

    /// Numbers, from 1, and types of the partitions in use; `None` if the table is not the one of this header.
    pub(crate) fn partitions(&self, table: &[u8]) -> Option<Vec<(usize, PartitionType)>> {
        if table.len() != self.table_size || crc32(table) != self.checksum {
            return None;
        }
        let entries = (1..).zip(table.chunks_exact(self.entry_size));
        let kind = |entry: &[u8]| PartitionType::try_from(&entry[..16]).ok().filter(|kind| *kind != UNUSED);
        Some(entries.filter_map(|(number, entry)| Some((number, kind(entry)?))).collect())
    }
}

/// What a machine boots from, as far as types tell. Labels and UUIDs stay as they were flashed and tell nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Numbers of the EFI system partition.
    pub(crate) esp: Option<usize>,
    /// Numbers of each slot's root and hash tree, in the order of the table: slot a, slot b.
    pub(crate) slots: Vec<(usize, usize)>,
}

impl Layout {
    /// From numbers and types.
    pub(crate) fn of(partitions: &[(usize, PartitionType)]) -> Self {
        let of_type = |wanted: PartitionType| {
            partitions.iter().filter(move |(_, kind)| *kind == wanted).map(|(number, _)| *number)
        };
        Self { esp: of_type(ESP).next(), slots: of_type(ROOT).zip(of_type(VERITY)).collect() }
    }
}

/// CRC-32 as in IEEE 802.3; bit by bit, for tables are small.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Four entries, of which the second and the last are in use.
    fn table() -> Vec<u8> {
        let mut table = vec![0u8; 128 * 4];
        table[128..144].copy_from_slice(&ROOT);
        table[384..400].fill(9);
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
    fn finds_the_partitions_in_use() {
        let header = Header::parse(&header(), 1).unwrap();
        assert_eq!((header.table_sector, header.table_size), (2, 512));
        assert_eq!(header.partitions(&table()), Some(vec![(2, ROOT), (4, [9; 16])]));
    }

    #[test]
    fn slots_are_pairs_in_the_order_of_the_table() {
        let data = [7; 16];
        let disk = [(1, ESP), (2, ROOT), (3, VERITY), (4, ROOT), (5, VERITY), (6, data)];
        assert_eq!(Layout::of(&disk), Layout { esp: Some(1), slots: vec![(2, 3), (4, 5)] });
        assert_eq!(Layout::of(&disk[..4]), Layout { esp: Some(1), slots: vec![(2, 3)] }, "no second tree");
        assert_eq!(Layout::of(&[(1, data), (9, VERITY), (12, ESP), (13, ESP)]).slots, []);
        assert_eq!(Layout::of(&[]), Layout::default());
    }

    #[test]
    fn types_are_those_of_the_specification() {
        let text = |kind: PartitionType| {
            let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
            order.map(|at| format!("{:02x}", kind[at])).concat()
        };
        assert_eq!(text(ESP), "c12a7328f81f11d2ba4b00a0c93ec93b");
        assert_eq!(text(ROOT), "4f68bce3e8cd4db196e7fbcaf984b709");
        assert_eq!(text(VERITY), "2c7357edebd246d9aec123d437ec2bf5");
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
        assert_eq!(Header::parse(&header(), 1).unwrap().partitions(&changed), None, "checksum of the table");
        assert_eq!(Header::parse(&header(), 1).unwrap().partitions(&table()[..511]), None, "a short table");
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
                let _ = header.partitions(&vec![0; header.table_size]).map(|found| Layout::of(&found));
            }
        }
    }
}
