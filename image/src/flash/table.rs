//! The partition table of an image, and what each region of it needs on a disk that held something else before.

use std::io::Cursor;
use std::ops::Range;

use cairn_ota::layout::{MIB, Role, SECTOR};
use gpt::disk::LogicalBlockSize;

/// Where the table's header lies.
const HEADER: usize = 512;

/// Where the entries must begin, and their size, as everybody writes them.
const ENTRIES: usize = 1024;
const ENTRY: usize = 128;

/// Most entries that are read.
const MAX_ENTRIES: u32 = 128;

/// Bytes at the beginning of an image that hold its table.
pub const HEAD: usize = ENTRIES + ENTRY * MAX_ENTRIES as usize;

/// Largest image that is believed: more is a damaged header.
const MAX_SIZE: u64 = 16 << 40;

/// Largest ESP: it is held in memory, as far as it is not zero.
const MAX_ESP: u64 = 1 << 30;

/// What the partitions of a disk with two slots are for, in their order.
const ROLES: [Role; 6] = [Role::Esp, Role::Root, Role::Verity, Role::Root, Role::Verity, Role::Data];

/// Why the beginning of a file is not that of a Cairn image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// It is something else.
    #[error("it is {0}; {1}")]
    Other(&'static str, &'static str),
    /// It is a disk image of something else.
    #[error(
        "it is no Cairn disk image: {0}; give the disk.raw or disk.raw.zst that `cairn-image build` wrote"
    )]
    Foreign(String),
    /// It is a damaged one.
    #[error("its partition table is damaged: {0}; copy the image again")]
    Damaged(&'static str),
}

/// Where everything is in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Bytes of the whole image.
    pub size: u64,
    /// ESP, root and hash tree of slot A, the same of slot B, data: in bytes.
    partitions: [Range<u64>; 6],
}

/// What a region of the image means for a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// It is what makes the disk bootable, and written last.
    Table,
    /// Every byte counts, zeroes too: what the disk held before must not shine through.
    Exact,
    /// Nobody reads it before it is written again: zeroes are left out.
    Free,
}

impl Table {
    /// Reads the first [`HEAD`] bytes of an image.
    pub fn read(head: &[u8]) -> Result<Self, TableError> {
        recognise(head)?;
        let number = |at: usize| -> Option<u32> {
            Some(u32::from_le_bytes(head.get(HEADER + at..HEADER + at + 4)?.try_into().ok()?))
        };
        // Checked before the library reads them: it takes the number of entries for granted.
        let (Some(count), Some(size)) = (number(80), number(84)) else {
            return Err(TableError::Damaged("it is cut short"));
        };
        if count > MAX_ENTRIES || size as usize != ENTRY {
            return Err(TableError::Damaged("it has entries of a kind that no image has"));
        }
        let open = gpt::GptConfig::new().logical_block_size(LogicalBlockSize::Lb512);
        let table = open
            .open_from_device(Cursor::new(head.to_vec()))
            .map_err(|_| TableError::Damaged("its header has another checksum than it says"))?;
        let Ok(header) = table.primary_header() else {
            return Err(TableError::Damaged("its header has another checksum than it says"));
        };
        if header.part_start * SECTOR != ENTRIES as u64 {
            return Err(TableError::Damaged("its entries are not behind its header"));
        }
        let entries = head.get(ENTRIES..ENTRIES + count as usize * ENTRY);
        let mut checksum = flate2::Crc::new();
        checksum.update(entries.ok_or(TableError::Damaged("it is cut short"))?);
        if number(88) != Some(checksum.sum()) {
            return Err(TableError::Damaged("its entries have another checksum than its header says"));
        }
        let size = header.backup_lba.checked_add(1).and_then(|sectors| sectors.checked_mul(SECTOR));
        let size = size.filter(|size| *size <= MAX_SIZE && size % 4096 == 0);
        let size = size.ok_or(TableError::Damaged("it names an impossible size"))?;
        let partitions = six_partitions(table.partitions())?;
        if partitions[5].end > size || partitions[0].end - partitions[0].start > MAX_ESP {
            return Err(TableError::Damaged("a partition is larger than the disk"));
        }
        Ok(Self { size, partitions })
    }

    /// Where the ESP is.
    pub fn esp(&self) -> Range<u64> {
        self.partitions[0].clone()
    }

    /// Where slot B's root is.
    pub(crate) fn second_root(&self) -> Range<u64> {
        self.partitions[3].clone()
    }

    /// Bytes before the first partition.
    pub(crate) fn head(&self) -> u64 {
        self.partitions[0].start
    }

    /// Every byte of the image, in order, with what it means. A slot B without content is not written, but for its
    /// beginning: whatever was there must not look like a slot. Its hash tree is exact, as the boot record lies there.
    pub(crate) fn regions(&self, second_slot_used: bool) -> Vec<(Range<u64>, Duty)> {
        let mut regions = vec![(0..self.head(), Duty::Table)];
        let mut at = self.head();
        for (index, partition) in self.partitions.iter().enumerate() {
            regions.push((at..partition.start, Duty::Free));
            if index == 3 && !second_slot_used {
                let begin = (partition.start + MIB).min(partition.end);
                regions.push((partition.start..begin, Duty::Exact));
                regions.push((begin..partition.end, Duty::Free));
            } else {
                regions.push((partition.clone(), Duty::Exact));
            }
            at = partition.end;
        }
        // The rest is the backup table, and the gap before it.
        regions.push((at..self.size, Duty::Exact));
        regions.retain(|(range, _)| !range.is_empty());
        regions
    }
}

/// The partitions, if they are those of a disk with two slots.
fn six_partitions(
    found: &std::collections::BTreeMap<u32, gpt::partition::Partition>,
) -> Result<[Range<u64>; 6], TableError> {
    if found.len() != ROLES.len() {
        return Err(TableError::Foreign(format!("it has {} partitions instead of 6", found.len())));
    }
    let mut partitions: [Range<u64>; 6] = Default::default();
    let mut end = SECTOR;
    for (index, ((number, partition), role)) in found.iter().zip(ROLES).enumerate() {
        let kind = partition.part_type_guid.guid.to_string().to_lowercase();
        if kind != role.type_uuid() {
            return Err(TableError::Foreign(format!("partition {number} is not a {role:?} partition")));
        }
        let start = partition.first_lba.checked_mul(SECTOR);
        let last = partition.last_lba.checked_add(1).and_then(|sectors| sectors.checked_mul(SECTOR));
        let (Some(start), Some(last)) = (start, last) else {
            return Err(TableError::Damaged("a partition is out of range"));
        };
        if start < end || last <= start || start < HEAD as u64 {
            return Err(TableError::Damaged("its partitions overlap"));
        }
        partitions[index] = start..last;
        end = last;
    }
    Ok(partitions)
}

/// Says what a file is that people give by mistake.
fn recognise(head: &[u8]) -> Result<(), TableError> {
    let other = |what, cure| Err(TableError::Other(what, cure));
    if head.get(HEADER..HEADER + 8) == Some(b"EFI PART") {
        return Ok(());
    }
    match head {
        [] => other("empty", "copy the image again"),
        [0x1f, 0x8b, ..] => other("compressed with gzip", "unpack it with gunzip first"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => other("compressed with xz", "unpack it with unxz first"),
        [b'P', b'K', 3, 4, ..] => other("a zip archive", "unpack it first"),
        [b'Q', b'F', b'I', 0xfb, ..] => {
            other("a qcow2 image", "make a raw one: qemu-img convert -O raw IMAGE disk.raw")
        }
        _ => Err(TableError::Foreign("it has no GPT".into())),
    }
}
