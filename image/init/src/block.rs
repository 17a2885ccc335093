//! Block devices: looks for the disk that holds both partitions of the slot that the root hash names.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::gpt::Header;
use crate::verity::RootHash;

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Device files of a root and of its hash tree.
pub(crate) type Slot = (String, String);

/// Looks until one disk shows both partitions, or until patience is at its end.
pub(crate) fn find_slot(root_hash: &RootHash, patience: Duration) -> Option<Slot> {
    let (root, tree) = root_hash.partition_uuids();
    let deadline = Instant::now() + patience;
    loop {
        for disk in disks() {
            if let (Some(root), Some(tree)) = (partition(&disk, &root), partition(&disk, &tree)) {
                return Some((root, tree));
            }
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Names of whole disks.
fn disks() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/class/block") else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| !path.join("partition").exists())
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

/// Device file of the partition with this UUID on a disk.
fn partition(disk: &str, uuid: &[u8; 16]) -> Option<String> {
    let sys = |name: &str| {
        fs::read_to_string(format!("/sys/class/block/{disk}/{name}")).ok()?.trim().parse::<u64>().ok()
    };
    let sector_size = sys("queue/logical_block_size").filter(|size| (512..=65536).contains(size))?;
    // The kernel counts in units of 512 bytes, whatever the sector size.
    let sectors = sys("size")?.checked_mul(512)? / sector_size;
    let device = File::open(format!("/dev/{disk}")).ok()?;
    // The backup table lies at the end, for when the first one is damaged.
    let number = [1, sectors.checked_sub(1)?].into_iter().find_map(|sector| {
        let header = Header::parse(&read(&device, sector, sector_size, sector_size as usize)?, sector)?;
        header.find(&read(&device, header.table_sector, sector_size, header.table_size)?, uuid)
    })?;
    let path = format!("/dev/{}", partition_name(disk, number));
    Path::new(&path).exists().then_some(path)
}

fn read(device: &File, sector: u64, sector_size: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    device.read_exact_at(&mut bytes, sector.checked_mul(sector_size)?).ok()?;
    Some(bytes)
}

/// `sda` has `sda1`, `nvme0n1` has `nvme0n1p1`.
fn partition_name(disk: &str, number: usize) -> String {
    let separator = if disk.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
    format!("{disk}{separator}{number}")
}

#[cfg(test)]
mod tests {
    use super::partition_name;

    #[test]
    fn partitions_are_named_as_the_kernel_names_them() {
        for (disk, name) in
            [("sda", "sda2"), ("vdb", "vdb2"), ("nvme0n1", "nvme0n1p2"), ("mmcblk0", "mmcblk0p2")]
        {
            assert_eq!(partition_name(disk, 2), name);
        }
    }
}
