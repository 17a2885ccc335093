//! Reads GPT partition tables, only to look whether the partitions are what the layout says before one is written.
//! Sizes are bounded and both sums are checked before anything is believed. Nothing here writes: the table is never
//! changed after flashing, for a torn one is a brick.

use std::{fs::File, io, io::Seek, os::unix::fs::FileExt};

/// Largest table that is read; the usual one has 16 KiB.
const MAX_TABLE: usize = 64 * 1024;

/// Length of the header without the rest of its sector.
const HEADER: usize = 92;

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Number in the table, from 1.
    pub(crate) number: u32,
    /// Type, lower-case with dashes.
    pub(crate) kind: String,
    /// Bytes.
    pub(crate) size: u64,
}

/// The partitions of a disk, from its first table, or from the one at its end where the first is damaged. `None` if
/// neither is sound.
pub(crate) fn read(mut disk: &File, sector_size: u64) -> io::Result<Option<Vec<Entry>>> {
    if !(512..=65536).contains(&sector_size) {
        return Ok(None);
    }
    let last = disk.seek(io::SeekFrom::End(0))? / sector_size;
    for sector in [1, last.saturating_sub(1)] {
        let Some(content) = read_at(disk, sector, sector_size, sector_size as usize)? else { continue };
        let Some(header) = Header::parse(&content, sector) else { continue };
        let Some(table) = read_at(disk, header.table_sector, sector_size, header.table_size)? else {
            continue;
        };
        if let Some(entries) = header.entries(&table, sector_size) {
            return Ok(Some(entries));
        }
    }
    Ok(None)
}

fn read_at(disk: &File, sector: u64, sector_size: u64, length: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; length];
    let Some(at) = sector.checked_mul(sector_size).filter(|at| i64::try_from(*at).is_ok()) else {
        return Ok(None);
    };
    match disk.read_exact_at(&mut bytes, at) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// A header that has passed its checks.
#[derive(Debug)]
struct Header {
    table_sector: u64,
    table_size: usize,
    entry_size: usize,
    checksum: u32,
}

impl Header {
    fn parse(content: &[u8], sector: u64) -> Option<Self> {
        let size = number(content, 12)? as usize;
        if !content.starts_with(b"EFI PART")
            || !(HEADER..=content.len()).contains(&size)
            || long(content, 24)? != sector
        {
            return None;
        }
        let mut summed = content[..size].to_vec();
        summed[16..20].fill(0);
        if crc32fast::hash(&summed) != number(content, 16)? {
            return None;
        }
        let (count, entry_size) = (number(content, 80)? as usize, number(content, 84)? as usize);
        let table_size = count.checked_mul(entry_size)?;
        let sound = (128..=4096).contains(&entry_size)
            && entry_size % 8 == 0
            && (1..=MAX_TABLE).contains(&table_size);
        let (table_sector, checksum) = (long(content, 72)?, number(content, 88)?);
        sound.then_some(Self { table_sector, table_size, entry_size, checksum })
    }

    fn entries(&self, table: &[u8], sector_size: u64) -> Option<Vec<Entry>> {
        if table.len() != self.table_size || crc32fast::hash(table) != self.checksum {
            return None;
        }
        let numbered = (1..).zip(table.chunks_exact(self.entry_size));
        let used = numbered.filter(|(_, entry)| entry[..16] != [0; 16]);
        Some(
            used.filter_map(|(number, entry)| {
                let (first, last) = (long(entry, 32)?, long(entry, 40)?);
                let size = last.checked_sub(first)?.checked_add(1)?.checked_mul(sector_size)?;
                Some(Entry { number, kind: uuid(entry)?, size })
            })
            .collect(),
        )
    }
}

/// The first three fields of a GUID are little endian.
fn uuid(bytes: &[u8]) -> Option<String> {
    let (first, second, third) = (number(bytes, 0)?, bytes.get(4..6)?, bytes.get(6..8)?);
    let half = |part: &[u8]| format!("{:02x}{:02x}", part[1], part[0]);
    let rest = (hex::encode(bytes.get(8..10)?), hex::encode(bytes.get(10..16)?));
    Some(format!("{first:08x}-{}-{}-{}-{}", half(second), half(third), rest.0, rest.1))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::layout;

    /// A disk of 4 MiB whose table names these types and sizes in sectors of 512 bytes.
    pub(crate) fn disk(partitions: &[(&str, u64)]) -> Vec<u8> {
        let mut table = vec![0u8; 128 * 128];
        for (entry, (kind, sectors)) in table.chunks_mut(128).zip(partitions) {
            let raw = hex::decode(kind.replace('-', "")).unwrap();
            for (to, from) in [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].into_iter().enumerate() {
                entry[to] = raw[from];
            }
            entry[32..40].copy_from_slice(&2048u64.to_le_bytes());
            entry[40..48].copy_from_slice(&(2048 + sectors - 1).to_le_bytes());
        }
        let mut disk = vec![0u8; 4 << 20];
        let sectors = disk.len() as u64 / 512;
        for (at, table_at) in [(1, 2), (sectors - 1, sectors - 33)] {
            let header = header(at, table_at, 128, crc32fast::hash(&table));
            disk[at as usize * 512..][..512].copy_from_slice(&header);
            disk[table_at as usize * 512..][..table.len()].copy_from_slice(&table);
        }
        disk
    }

    fn header(at: u64, table_at: u64, entry_size: u32, checksum: u32) -> Vec<u8> {
        let mut bytes = vec![0u8; 512];
        bytes[..8].copy_from_slice(b"EFI PART");
        bytes[24..32].copy_from_slice(&at.to_le_bytes());
        bytes[72..80].copy_from_slice(&table_at.to_le_bytes());
        for (at, value) in [(12, HEADER as u32), (80, 128), (84, entry_size), (88, checksum)] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let sum = crc32fast::hash(&bytes[..HEADER]);
        bytes[16..20].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn file(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    #[test]
    fn types_and_sizes_are_read_and_the_backup_stands_in() {
        let (esp, root) = (layout::Role::Esp.type_uuid(), layout::Role::Root.type_uuid());
        let mut disk = disk(&[(esp, 8), (root, 16)]);
        let expected = vec![
            Entry { number: 1, kind: esp.into(), size: 4096 },
            Entry { number: 2, kind: root.into(), size: 8192 },
        ];
        assert_eq!(read(&file(&disk), 512).unwrap(), Some(expected.clone()));
        disk[512 + 30] ^= 1;
        assert_eq!(read(&file(&disk), 512).unwrap(), Some(expected), "the first header is damaged");
        let last = disk.len() - 512;
        disk[last] ^= 1;
        assert_eq!(read(&file(&disk), 512).unwrap(), None, "both are");
    }

    #[test]
    fn refuses_damaged_and_outsized_tables() {
        let mut damaged = disk(&[(layout::Role::Esp.type_uuid(), 8)]);
        damaged.truncate(1 << 20);
        damaged[1024] ^= 1;
        assert_eq!(read(&file(&damaged), 512).unwrap(), None, "sum of the table");
        for entry_size in [0, 127, 129, 8192, u32::MAX] {
            let mut disk = vec![0; 512];
            disk.extend(header(1, 2, entry_size, 0));
            assert_eq!(read(&file(&disk), 512).unwrap(), None, "entries of {entry_size}");
        }
        for size in [0, 1, 511, 1 << 40] {
            assert_eq!(read(&file(&[0; 2048]), size).unwrap(), None);
        }
        assert_eq!(read(&file(&[]), 512).unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..2048), table_at: u64, sealed: bool,
        ) {
            if sealed && bytes.len() >= 1024 {
                let made = header(1, table_at, 128, 0);
                bytes[512..1024].copy_from_slice(&made);
            }
            let _ = read(&file(&bytes), 512).unwrap();
        }
    }
}
