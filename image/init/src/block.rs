//! Disks: their names, their partition tables, and the device files of their partitions.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

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

    /// Whether whoever stands before the machine can plug it in.
    pub(crate) fn is_pluggable(&self) -> bool {
        is_pluggable(Path::new("/sys"), &self.0)
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

/// On USB, a card, behind a port that leads outside, or a medium that can be taken out. So is what sysfs does not know.
fn is_pluggable(sys: &Path, name: &str) -> bool {
    let Ok(disk) = fs::canonicalize(sys.join("class/block").join(name)) else { return true };
    let says = |file: PathBuf, word: &str| fs::read_to_string(file).is_ok_and(|text| text.trim() == word);
    let is_usb = |part: &str| {
        part.strip_prefix("usb").is_some_and(|bus| !bus.is_empty() && bus.bytes().all(|c| c.is_ascii_digit()))
    };
    disk.iter().filter_map(|part| part.to_str()).any(is_usb)
        || says(disk.join("removable"), "1")
        || says(disk.join("device/type"), "SD")
        // The kernel knows it of ports that the firmware calls external, such as Thunderbolt's.
        || disk.ancestors().any(|device| says(device.join("removable"), "removable"))
}

fn read(device: &File, sector: u64, sector_size: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    device.read_exact_at(&mut bytes, sector.checked_mul(sector_size)?).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A disk in a sysfs with this device, and what its files say.
    fn check(device: &str, files: &[(&str, &str)], expected: bool) {
        let sys = tempfile::tempdir().unwrap();
        let folder = sys.path().join("devices").join(device);
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir_all(sys.path().join("class/block")).unwrap();
        for (file, text) in files {
            let file = sys.path().join("devices").join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, format!("{text}\n")).unwrap();
        }
        let name = device.rsplit('/').next().unwrap();
        symlink(format!("../../devices/{device}"), sys.path().join("class/block").join(name)).unwrap();
        assert_eq!(is_pluggable(sys.path(), name), expected, "{device} {files:?}");
    }

    #[test]
    fn a_disk_that_can_be_plugged_in_is_told_from_one_that_is_built_in() {
        check("pci0000:00/0000:00:04.0/virtio1/block/vda", &[], false);
        let sata = "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda";
        check(sata, &[(&format!("{sata}/removable"), "0")], false);
        check(sata, &[(&format!("{sata}/removable"), "1")], true);
        let nvme = "pci0000:00/0000:00:1d.0/0000:03:00.0/nvme/nvme0/nvme0n1";
        check(nvme, &[("pci0000:00/0000:00:1d.0/0000:03:00.0/removable", "fixed")], false);
        check(nvme, &[("pci0000:00/0000:00:1d.0/0000:03:00.0/removable", "unknown")], false);
        check(nvme, &[("pci0000:00/0000:00:1d.0/0000:03:00.0/removable", "removable")], true);
        let usb = "pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0/host2/target2:0:0/2:0:0:0/block/sdb";
        check(usb, &[], true);
        check(
            usb,
            &[(&format!("{usb}/removable"), "0"), ("pci0000:00/0000:00:14.0/usb1/removable", "fixed")],
            true,
        );
        let card = "pci0000:00/0000:00:1c.0/mmc_host/mmc0/mmc0:0001/block/mmcblk0";
        check(card, &[(&format!("{card}/removable"), "0"), (&format!("{card}/device/type"), "MMC")], false);
        check(card, &[(&format!("{card}/removable"), "0"), (&format!("{card}/device/type"), "SD")], true);
        check("platform/usbish/block/sdc", &[], false);
    }

    #[test]
    fn what_sysfs_does_not_know_is_not_trusted() {
        assert!(is_pluggable(tempfile::tempdir().unwrap().path(), "sda"));
    }

    #[test]
    fn partitions_are_named_as_the_kernel_names_them() {
        for (disk, name) in
            [("sda", "sda2"), ("vdb", "vdb2"), ("nvme0n1", "nvme0n1p2"), ("mmcblk0", "mmcblk0p2")]
        {
            assert_eq!(Disk(disk.into()).partition_name(2), name);
        }
    }
}
