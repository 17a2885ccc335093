//! Who mounts sticks, and for writing: units of systemd, which run outside of the daemon's walls. It is not their word
//! that counts but what the kernel says afterwards.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use nix::sys::stat::{major, minor};

use super::Device;
use crate::act::{supervisor::SupervisorError, units::UnitJobs};

/// Where the kernel lists block devices.
const BLOCK: &str = "/sys/class/block";

/// Where the kernel says how everything is mounted, and as much of that as is read, in bytes.
const MOUNTS: &str = "/proc/self/mountinfo";
const MAX_MOUNTS: u64 = 1 << 20;

/// Longest that a unit may take: to remount a stick for reading is to wait until all of it is written.
const UNIT_DEADLINE: Duration = Duration::from_secs(120);

/// Why a stick is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The unit did not come up.
    #[error(transparent)]
    Unit(#[from] SupervisorError),
    /// The unit says that it is done, and it is not so.
    #[error("{device} is not {wanted}; see `journalctl -u {unit}`")]
    NotSo {
        /// Which stick.
        device: Device,
        /// How it should be.
        wanted: &'static str,
        /// Who says why.
        unit: String,
    },
}

/// Mounts and lets go.
#[async_trait]
pub trait Mounts: Send + Sync {
    /// Where a stick is mounted.
    fn point(&self, device: &Device) -> PathBuf;
    /// What is mounted.
    fn mounted(&self) -> Vec<Device>;
    /// Whether this one is mounted.
    fn is_mounted(&self, device: &Device) -> bool;
    /// Whether it is plugged in.
    fn is_plugged_in(&self, device: &Device) -> bool;
    /// Makes it writable.
    async fn writable(&self, device: &Device) -> Result<(), MountError>;
    /// Makes it read-only again: then all is on it that was written.
    async fn read_only(&self, device: &Device) -> Result<(), MountError>;
    /// Unmounts it.
    async fn release(&self, device: &Device) -> Result<(), MountError>;
}

/// Names of folders that can be devices. The folder is ours, and holds nothing but mount points.
fn devices(folder: &Path) -> Vec<Device> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut devices: Vec<Device> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    devices.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    devices
}

/// By the units `cairn-media@.service` and `cairn-media-write@.service`.
#[derive(Debug, Clone)]
pub struct UnitMounts {
    units: UnitJobs,
    folder: PathBuf,
}

impl UnitMounts {
    /// With mount points below `folder`.
    pub fn new(units: UnitJobs, folder: PathBuf) -> Self {
        Self { units, folder }
    }
}

fn reading(device: &Device) -> String {
    format!("cairn-media@{device}.service")
}

fn writing(device: &Device) -> String {
    format!("cairn-media-write@{device}.service")
}

fn must(holds: bool, device: &Device, wanted: &'static str, unit: String) -> Result<(), MountError> {
    if holds { Ok(()) } else { Err(MountError::NotSo { device: device.clone(), wanted, unit }) }
}

/// Whether the file system that is mounted here, not only this view of it, takes no writes. The stick itself is not asked:
/// for a `statvfs` a driver may count all of its free space, on the runtime's one thread.
fn is_read_only(point: &Path) -> Option<bool> {
    let number = fs::metadata(point).ok()?.dev();
    let mut mounts = Vec::new();
    File::open(MOUNTS).ok()?.take(MAX_MOUNTS).read_to_end(&mut mounts).ok()?;
    super_is_read_only(&String::from_utf8_lossy(&mounts), (major(number), minor(number)))
}

/// By the superblock's options in mountinfo, which are the last field of
/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`. `None` where it isn't mounted.
fn super_is_read_only(mounts: &str, (major, minor): (u64, u64)) -> Option<bool> {
    let number = format!("{major}:{minor}");
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let options = kind.split(' ').nth(2).filter(|_| place.split(' ').nth(2) == Some(&number))?;
        // The kernel writes this one first.
        match options.split(',').next()? {
            "ro" => Some(true),
            "rw" => Some(false),
            _ => None,
        }
    })
}

#[async_trait]
impl Mounts for UnitMounts {
    fn point(&self, device: &Device) -> PathBuf {
        self.folder.join(device.as_str())
    }

    fn mounted(&self) -> Vec<Device> {
        devices(&self.folder).into_iter().filter(|device| self.is_mounted(device)).collect()
    }

    fn is_mounted(&self, device: &Device) -> bool {
        let number = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
        let here = number(&self.point(device));
        here.is_some() && here != number(&self.folder)
    }

    fn is_plugged_in(&self, device: &Device) -> bool {
        Path::new(BLOCK).join(device.as_str()).exists()
    }

    async fn writable(&self, device: &Device) -> Result<(), MountError> {
        let unit = writing(device);
        self.units.start(&unit, UNIT_DEADLINE).await?;
        must(is_read_only(&self.point(device)) == Some(false), device, "writable", unit)
    }

    async fn read_only(&self, device: &Device) -> Result<(), MountError> {
        let unit = writing(device);
        self.units.stop(&unit, UNIT_DEADLINE).await?;
        must(is_read_only(&self.point(device)) == Some(true), device, "read-only", unit)
    }

    async fn release(&self, device: &Device) -> Result<(), MountError> {
        let unit = reading(device);
        self.units.stop(&unit, UNIT_DEADLINE).await?;
        must(!self.is_mounted(device), device, "unmounted", unit)
    }
}

/// Plain folders in the place of mounts, for developers' machines: what is filled by hand is never unmounted.
#[derive(Debug, Clone)]
pub struct PlainFolders {
    folder: PathBuf,
}

impl PlainFolders {
    /// With folders below `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }
}

#[async_trait]
impl Mounts for PlainFolders {
    fn point(&self, device: &Device) -> PathBuf {
        self.folder.join(device.as_str())
    }

    fn mounted(&self) -> Vec<Device> {
        devices(&self.folder).into_iter().filter(|device| self.is_mounted(device)).collect()
    }

    fn is_mounted(&self, device: &Device) -> bool {
        self.point(device).is_dir()
    }

    fn is_plugged_in(&self, device: &Device) -> bool {
        self.is_mounted(device)
    }

    async fn writable(&self, device: &Device) -> Result<(), MountError> {
        must(self.is_mounted(device), device, "there", "none".to_owned())
    }

    async fn read_only(&self, device: &Device) -> Result<(), MountError> {
        must(self.is_mounted(device), device, "there", "none".to_owned())
    }

    async fn release(&self, _device: &Device) -> Result<(), MountError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_superblock_says_whether_a_stick_can_be_written_to() {
        let stick = (8, 17);
        for (mounts, read_only) in [
            ("36 35 8:17 / /run/cairn/media/sdb1 rw,nosuid,nodev - vfat /dev/sdb1 ro,fmask=0022", Some(true)),
            ("36 35 8:17 / /run/cairn/media/sdb1 rw shared:1 - vfat /dev/sdb1 rw,fmask=0022", Some(false)),
            // This view only.
            ("36 35 8:17 / /run/cairn/media/sdb1 ro shared:1 master:2 - exfat /dev/sdb1 rw", Some(false)),
            ("36 35 8:17 / /a\\040-\\040b rw - ext4 /dev/sdb1 ro", Some(true)),
            ("1 1 8:1 / / rw - ext4 /dev/sda1 rw\n36 35 8:17 / /x rw - vfat /dev/sdb1 ro", Some(true)),
            ("1 1 8:1 / / rw - ext4 /dev/sda1 ro\n1 1 8:170 / /x rw - vfat /dev/sdk10 ro", None),
            ("1 8:17 8:1 / / rw 8:17 - ext4 8:17 ro", None),
            ("36 35 8:17 / /run/cairn/media/sdb1 rw shared:1 -", None),
            ("36 35 8:17 / /run/cairn/media/sdb1 rw - vfat /dev/sdb1 r", None),
            ("36 35 8:17 / /run/cairn/media/sdb1 rw - vfat /dev/sdb1 uid=1,ro", None),
            ("36 35 8:17", None),
            (" - ", None),
            ("", None),
        ] {
            assert_eq!(super_is_read_only(mounts, stick), read_only, "{mounts}");
        }
    }

    #[test]
    fn the_kernel_writes_it_so() {
        // Asked in no way but this: /proc is mounted wherever a test runs.
        assert!(is_read_only(Path::new("/proc/self")).is_some());
        assert_eq!(is_read_only(Path::new("/there-is-no-such-folder")), None);
    }
}
