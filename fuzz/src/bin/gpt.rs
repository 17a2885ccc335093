//! A disk's partition table, which daemon and initrd read with a reader each: both find the same partitions. The first
//! byte says whether the sums are made right, so that more than a sum is looked at, and how large sectors are.
#![no_main]

use cairn_fuzz::{file, within};
use libfuzzer_sys::fuzz_target;

#[path = "../../../image/init/src/gpt.rs"]
mod initrd;
#[path = "../../../ota/src/gpt.rs"]
mod ota;

/// Largest table that is read, its entries, and a sector.
const MEMORY: usize = 512 << 10;

fuzz_target!(|data: &[u8]| {
    let Some((choice, content)) = data.split_first() else { return };
    let sector_size = [512, 4096][usize::from(choice >> 1 & 1)];
    let mut disk = content.to_vec();
    disk.resize(content.len().next_multiple_of(sector_size), 0);
    if choice & 1 == 1 {
        seal(&mut disk, sector_size);
    }
    let device = file(&disk).expect("a file in memory");
    let found = within(MEMORY, || ota::read(&device, sector_size as u64)).expect("a file can be read");
    let Some(found) = found else { return };
    assert!(found.iter().map(|entry| entry.number).is_sorted_by(|a, b| a < b));
    // At the disk's end there may be a second table; the initrd looks at the first one only.
    let Some(seen) = initrd_reads(&disk, sector_size) else { return };
    for entry in found {
        let kind = seen.iter().find(|(number, _)| *number == entry.number as usize).map(|(_, kind)| *kind);
        assert_eq!(kind.map(text), Some(entry.kind));
    }
});

fn initrd_reads(disk: &[u8], sector_size: usize) -> Option<Vec<(usize, initrd::PartitionType)>> {
    let header = initrd::Header::parse(disk.get(sector_size..2 * sector_size)?, 1)?;
    let begin = usize::try_from(header.table_sector).ok()?.checked_mul(sector_size)?;
    let partitions = header.partitions(disk.get(begin..begin.checked_add(header.table_size)?)?)?;
    let layout = initrd::Layout::of(&partitions);
    assert!(layout.slots.iter().all(|(root, tree)| root != tree));
    Some(partitions)
}

/// Makes the sums of the first header and of its table right.
fn seal(disk: &mut [u8], sector_size: usize) {
    let number =
        |disk: &[u8], at: usize| Some(u32::from_le_bytes(disk.get(at..at + 4)?.try_into().ok()?) as usize);
    let mut table = || {
        let length = number(disk, sector_size + 80)?.checked_mul(number(disk, sector_size + 84)?)?;
        let begin = number(disk, sector_size + 72)?.checked_mul(sector_size)?;
        let sum = crc32fast::hash(disk.get(begin..begin.checked_add(length)?)?);
        disk.get_mut(sector_size + 88..sector_size + 92)?.copy_from_slice(&sum.to_le_bytes());
        Some(())
    };
    let _ = table();
    let Some(size) = number(disk, sector_size + 12).filter(|size| (92..=sector_size).contains(size)) else {
        return;
    };
    let header = &mut disk[sector_size..sector_size + size];
    header[16..20].fill(0);
    let sum = crc32fast::hash(header);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
}

/// As people write it.
fn text(kind: initrd::PartitionType) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let digits = order.map(|at| format!("{:02x}", kind[at])).concat();
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}
