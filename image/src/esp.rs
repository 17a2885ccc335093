//! The EFI system partition: FAT32 with the boot loader and one kernel image, with fixed times and serial number.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use cairn_ota::{BootEntry, layout};
use fatfs::{Date, DateTime, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};

pub(crate) mod dots;

/// Serial number of the volume: equal on all machines, as the image is.
const VOLUME_ID: u32 = 0xca1e_2026;

/// No menu, no wait, and nobody at the keyboard may edit the command line.
const LOADER_CONFIG: &str =
    "timeout 0\neditor no\nauto-entries no\nauto-firmware no\nsecure-boot-enroll off\n";

/// One time for all files: FAT cannot hold earlier ones.
#[derive(Debug)]
pub(crate) struct FixedTime;

impl TimeProvider for FixedTime {
    fn get_current_date(&self) -> Date {
        Date { year: 2025, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

pub(crate) static FIXED_TIME: FixedTime = FixedTime;

/// Writes the file system to `output`. The first kernel image needs no boot counter: there is nothing to fall back to.
pub fn write(output: &Path, entry: &BootEntry, kernel_image: &[u8], loader: &[u8]) -> Result<()> {
    let failed = || format!("failed to write {}", output.display());
    let mut file = create_sparse(output, layout::ESP_SIZE)?;
    let options = FormatVolumeOptions::new()
        .fat_type(fatfs::FatType::Fat32)
        .bytes_per_cluster(1024)
        .volume_id(VOLUME_ID)
        .volume_label(*b"CAIRN ESP  ");
    fatfs::format_volume(&mut file, options).with_context(failed)?;
    let volume = FileSystem::new(file, FsOptions::new().time_provider(&FIXED_TIME)).with_context(failed)?;
    {
        let root = volume.root_dir();
        let files: [(&str, &[u8]); 4] = [
            ("EFI/BOOT/BOOTX64.EFI", loader),
            ("EFI/systemd/systemd-bootx64.efi", loader),
            ("loader/loader.conf", LOADER_CONFIG.as_bytes()),
            ("loader/entries.srel", b"type1\n"),
        ];
        for folder in ["EFI", "EFI/BOOT", "EFI/systemd", layout::ENTRY_FOLDER, "loader"] {
            root.create_dir(folder).with_context(failed)?;
        }
        for (path, content) in files {
            root.create_file(path).with_context(failed)?.write_all(content).with_context(failed)?;
        }
        let path = format!("{}/{entry}", layout::ENTRY_FOLDER);
        root.create_file(&path).with_context(failed)?.write_all(kernel_image).with_context(failed)?;
    }
    volume.unmount().with_context(failed)?;
    let mut file = OpenOptions::new().read(true).write(true).open(output).with_context(failed)?;
    dots::straighten(&mut file).with_context(failed)
}

/// A new file of `size` bytes, all of them holes.
pub fn create_sparse(path: &Path, size: u64) -> Result<File> {
    let failed = || format!("failed to create {}", path.display());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .with_context(failed)?;
    file.set_len(size).with_context(failed)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_esp_holds_loader_and_entry_and_is_the_same_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let entry = BootEntry::good("1.2".parse().unwrap());
        let paths = ["a", "b"].map(|name| folder.path().join(name));
        for path in &paths {
            write(path, &entry, &vec![5u8; 300_000], b"loader").unwrap();
        }
        let images = paths.clone().map(|path| std::fs::read(path).unwrap());
        assert!(images[0] == images[1]);
        let checked = std::process::Command::new("fsck.vfat").arg("-n").arg(&paths[0]).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
        let mut again = File::options().read(true).write(true).open(&paths[1]).unwrap();
        dots::straighten(&mut again).unwrap();
        assert!(images[0] == std::fs::read(&paths[1]).unwrap(), "what is straight stays as it is");
        let volume = FileSystem::new(
            File::options().read(true).write(true).open(&paths[0]).unwrap(),
            FsOptions::new(),
        )
        .unwrap();
        let mut content = Vec::new();
        volume.root_dir().open_file("EFI/Linux/cairn_1.2.efi").unwrap().read_to_end(&mut content).unwrap();
        assert_eq!(content, vec![5u8; 300_000]);
        assert_eq!(volume.fat_type(), fatfs::FatType::Fat32);
    }
}
