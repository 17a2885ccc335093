//! Who mounts sticks, and for writing: units of systemd, which run outside of the daemon's walls. It is not their word
//! that counts but what the kernel says afterwards.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::Device;
use crate::act::{supervisor::SupervisorError, units::UnitJobs};

/// Where the kernel lists block devices.
const BLOCK: &str = "/sys/class/block";

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

/// Whether the file system, not only this view of it, takes no writes.
fn is_read_only(point: &Path) -> io::Result<bool> {
    Ok(statvfs(point)?.flags().contains(FsFlags::ST_RDONLY))
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
        must(is_read_only(&self.point(device)).is_ok_and(|read_only| !read_only), device, "writable", unit)
    }

    async fn read_only(&self, device: &Device) -> Result<(), MountError> {
        let unit = writing(device);
        self.units.stop(&unit, UNIT_DEADLINE).await?;
        must(is_read_only(&self.point(device)).unwrap_or(false), device, "read-only", unit)
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
