//! Disks: their names, their partition tables, and the device files of their partitions.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::gpt::{Header, Layout};

/// A whole disk by its name in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Disk(String);

/// All that the kernel knows.
pub(crate) fn disks() -> Vec<Disk> {
    let Ok(entries) = fs::read_dir("/sys/class/block") else { return Vec::new() };
    let mut disks: Vec<Disk> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| !path.join("partition").exists())
        .filter_map(|path| Some(Disk(path.file_name()?.to_str()?.to_owned())))
        .collect();
    disks.sort();
    disks
}

impl Disk {
    #[cfg(test)]
    pub(crate) fn named(name: &str) -> Self {
        Self(name.into())
    }

    /// As the kernel names it, without `/dev`.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// What its partition table says; the backup at the end is read where the first one is damaged.
    pub(crate) fn layout(&self) -> Option<Layout> {
        let sys = |name: &str| {
            fs::read_to_string(format!("/sys/class/block/{}/{name}", self.0)).ok()?.trim().parse::<u64>().ok()
        };
        let sector_size = sys("queue/logical_block_size").filter(|size| (512..=65536).contains(size))?;
        // The kernel counts in units of 512 bytes, whatever the sector size.
        let sectors = sys("size")?.checked_mul(512)? / sector_size;
        let device = File::open(format!("/dev/{}", self.0)).ok()?;
        [1, sectors.checked_sub(1)?].into_iter().find_map(|sector| {
            let header = Header::parse(&read(&device, sector, sector_size, sector_size as usize)?, sector)?;
            let table = read(&device, header.table_sector, sector_size, header.table_size)?;
            header.partitions(&table).map(|partitions| Layout::of(&partitions))
        })
    }

    /// Device file of a partition, if the kernel has made one.
    pub(crate) fn partition(&self, number: usize) -> Option<String> {
        let path = format!("/dev/{}", self.partition_name(number));
        Path::new(&path).exists().then_some(path)
    }

    /// `sda` has `sda1`, `nvme0n1` has `nvme0n1p1`.
    fn partition_name(&self, number: usize) -> String {
        let separator = if self.0.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
        format!("{}{separator}{number}", self.0)
    }
}

fn read(device: &File, sector: u64, sector_size: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    device.read_exact_at(&mut bytes, sector.checked_mul(sector_size)?).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::Disk;

    #[test]
    fn partitions_are_named_as_the_kernel_names_them() {
        for (disk, name) in
            [("sda", "sda2"), ("vdb", "vdb2"), ("nvme0n1", "nvme0n1p2"), ("mmcblk0", "mmcblk0p2")]
        {
            assert_eq!(Disk(disk.into()).partition_name(2), name);
        }
    }
}
