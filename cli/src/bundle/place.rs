//! Where a stick is: a folder, or a block device that is mounted somewhere.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::sys::stat::{major, minor};

use crate::failure::Failure;

/// What is mounted here.
const MOUNTS: &str = "/proc/self/mountinfo";

/// A stick's folder.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    /// Whether it is the root of a file system of its own.
    pub(crate) is_mount: bool,
}

/// The folder that `given` is, or the one that it is mounted on.
pub(crate) fn find(given: &Path) -> Result<Place, Failure> {
    let shown = given.display();
    let metadata = fs::metadata(given).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Failure::usage(format!("there is no {shown}"))
            .cure("name the folder that the stick is mounted on"),
        _ => Failure::usage(format!("cannot look at {shown}: {error}")),
    })?;
    if metadata.is_dir() {
        let above = fs::metadata(given.join("..")).map(|above| above.dev()).unwrap_or(metadata.dev());
        return Ok(Place { folder: given.to_owned(), is_mount: above != metadata.dev() });
    }
    if !metadata.file_type().is_block_device() {
        return Err(Failure::usage(format!("{shown} is neither a folder nor a block device"))
            .cure("name the folder that the stick is mounted on"));
    }
    let device = format!("{}:{}", major(metadata.rdev()), minor(metadata.rdev()));
    let mounts = fs::read_to_string(MOUNTS)
        .map_err(|error| Failure::failed(format!("cannot read {MOUNTS}: {error}")))?;
    match mounted_on(&mounts, &device) {
        Some(folder) => Ok(Place { folder, is_mount: true }),
        // How to mount it (as whom, where) is the user's to say, and whoever mounts it is the one to unmount it.
        None => Err(Failure::usage(format!("{shown} is not mounted")).cure(format!(
            "mount it, then name the folder: udisksctl mount -b {shown}, or as root: mkdir -p /mnt/stick && mount -o \
             nosuid,nodev,noexec {shown} /mnt/stick; a whole disk has its file system in a partition (lsblk shows it)"
        ))),
    }
}

/// Where a device is mounted: its root, not a folder of it that is bound elsewhere.
fn mounted_on(mounts: &str, device: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let (found, root, folder) = (fields.next()?, fields.next()?, fields.next()?);
        (found == device && root == "/").then(|| unescape(folder).into())
    })
}

/// The kernel writes blanks as octal numbers.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;

    #[test]
    fn a_device_is_found_where_it_is_mounted() {
        let mounts = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 8:17 /sub /bound rw - vfat /dev/sdb1 rw
41 22 8:17 / /media/my\\040stick rw,nosuid - vfat /dev/sdb1 rw
";
        assert_eq!(mounted_on(mounts, "8:17"), Some("/media/my stick".into()));
        assert_eq!(mounted_on(mounts, "8:18"), None);
    }

    #[test]
    fn what_is_no_folder_is_refused_with_the_cure() {
        for (place, says) in [
            ("/no/such/place", "name the folder"),
            ("/dev/null", "name the folder"),
            ("/etc/passwd", "name the"),
        ] {
            let failure = find(Path::new(place)).unwrap_err();
            assert!(failure.kind == Kind::Usage && failure.cure.contains(says), "{failure:?}");
        }
    }
}
