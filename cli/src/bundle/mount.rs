//! Mounting a stick for one command alone, in a mount namespace of this process: nobody else sees it, and the kernel
//! unmounts it when the process ends, however that happens. `mount(8)` does it, which knows every file system's ways.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, DirBuilder, File},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    libc::dev_t,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    unistd::syncfs,
};

use super::device::{self, Device};
use crate::failure::Failure;

/// What is mounted here.
const MOUNTS: &str = "/proc/self/mountinfo";
/// Where a stick is mounted. Each command has a namespace, so that two of them don't meet here.
const FOLDER: &str = "/run/cairn-usb";
const FOLDER_MODE: u32 = 0o700;

/// The mounts of this process.
#[derive(Debug)]
pub(crate) struct Mounts(String);

impl Mounts {
    pub(crate) fn read() -> Result<Self, Failure> {
        let text = fs::read_to_string(MOUNTS);
        text.map(Self).map_err(|error| Failure::failed(format!("cannot read {MOUNTS}: {error}")))
    }

    /// Where a device is mounted: its root, not a folder of it that is bound elsewhere.
    pub(crate) fn folder_of(&self, device: dev_t) -> Option<PathBuf> {
        let found = |mount: &Mounted<'_>| mount.device == Some(device) && mount.root == "/";
        self.iter().find(found).map(|mount| mount.folder)
    }

    /// The whole disks that have what is mounted on `folder`; none where nothing is.
    pub(crate) fn disks_of(&self, folder: &str) -> BTreeSet<PathBuf> {
        let on_it = self.iter().filter(|mount| mount.folder == Path::new(folder));
        on_it
            .flat_map(|mount| {
                // btrfs has numbers of its own, which belong to no device.
                let source = fs::metadata(&mount.source).map(|metadata| metadata.rdev()).ok();
                mount.device.into_iter().chain(source).flat_map(device::disks)
            })
            .collect()
    }

    fn iter(&self) -> impl Iterator<Item = Mounted<'_>> {
        self.0.lines().filter_map(|line| {
            let (mount, system) = line.split_once(" - ")?;
            let mut fields = mount.split(' ').skip(2);
            let (number, root, folder) = (fields.next()?, fields.next()?, fields.next()?);
            Some(Mounted {
                device: device::parse_number(number),
                root,
                folder: unescape(folder).into(),
                source: unescape(system.split(' ').nth(1)?).into(),
            })
        })
    }
}

struct Mounted<'a> {
    device: Option<dev_t>,
    root: &'a str,
    folder: PathBuf,
    source: PathBuf,
}

/// The kernel writes blanks as octal numbers.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

/// A stick that this process has mounted.
#[derive(Debug)]
pub(crate) struct Mount {
    device: PathBuf,
}

impl Mount {
    /// Mounts `device` where this thread, and those that it starts from now on, see it.
    pub(crate) fn new(device: &Device, writable: bool) -> Result<Self, Failure> {
        let shown = device.path.display();
        if writable && device.is_write_protected() {
            return Err(Failure::failed(format!("{shown} is write-protected"))
                .cure("move the switch of the stick, or take another one"));
        }
        own_namespace().map_err(|error| {
            Failure::failed(format!("cannot mount {shown} for this command alone: {error}"))
                .cure("mount it yourself, then name the folder: mount -o nosuid,nodev,noexec DEVICE FOLDER")
        })?;
        let made = DirBuilder::new().mode(FOLDER_MODE).create(FOLDER);
        if let Err(error) = made
            && error.kind() != ErrorKind::AlreadyExists
        {
            return Err(Failure::failed(format!("cannot make {FOLDER}: {error}")));
        }
        // Said in full: without `rw`, what can't be written to is mounted all the same.
        let options = if writable { "rw,nosuid,nodev,noexec" } else { "ro,nosuid,nodev,noexec" };
        let output = device::program("mount", &["-o", options, "--"], &[&device.path, Path::new(FOLDER)])?;
        if !output.status.success() {
            return Err(Failure::failed(format!("cannot mount {shown}: {}", device::said(&output))).cure(
                "if this kernel does not know the file system, use another machine or one that it knows (vfat, exFAT, \
                 ext4); if it is damaged, fsck mends it; if something holds the device, lsblk shows what",
            ));
        }
        Ok(Self { device: device.path.clone() })
    }

    pub(crate) fn device(&self) -> &Path {
        &self.device
    }

    pub(crate) fn folder(&self) -> &Path {
        Path::new(FOLDER)
    }

    /// Brings everything to the stick and unmounts it.
    pub(crate) fn release(self) -> Result<(), Failure> {
        let shown = self.device.display();
        let synced = File::open(FOLDER).and_then(|folder| Ok(syncfs(&folder)?));
        let unmounted = umount2(FOLDER, MntFlags::UMOUNT_NOFOLLOW);
        synced.and(unmounted.map_err(Into::into)).map_err(|error| {
            Failure::failed(format!("cannot bring everything to {shown} and unmount it: {error}"))
                .cure("look at the stick with `cairn usb verify` before it is used; if it fails too, take another one")
        })
    }
}

/// Leaves the mounts that everybody sees, and sends nothing back to them.
fn own_namespace() -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&OsStr> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> dev_t {
        device::parse_number(text).unwrap()
    }

    #[test]
    fn a_device_is_found_where_it_is_mounted() {
        let mounts = Mounts(
            "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 8:17 /sub /bound rw - vfat /dev/sdb1 rw
41 22 8:17 / /media/my\\040stick rw,nosuid - vfat /dev/sdb1 rw
"
            .into(),
        );
        assert_eq!(mounts.folder_of(number("8:17")), Some("/media/my stick".into()));
        assert_eq!(mounts.folder_of(number("8:18")), None);
    }

    #[test]
    fn the_disk_of_a_folder_on_which_nothing_is_mounted_is_none() {
        let mounts = Mounts("22 1 0:21 / /proc rw - proc proc rw\nnonsense\n".into());
        assert!(mounts.disks_of("/proc").is_empty() && mounts.disks_of("/boot").is_empty());
    }
}
