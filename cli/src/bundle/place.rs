//! Where a stick is: a folder, a block device that is mounted somewhere, or one that is mounted for this command alone.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;

use super::{
    device::{Content, Device},
    mount::{Mount, Mounts},
};
use crate::{failure::Failure, render::text, screen};

/// Folders that belong to the system: whoever names one for an export has mistyped.
const SYSTEM: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/boot/efi",
    "/dev",
    "/efi",
    "/etc",
    "/home",
    "/lib",
    "/lib64",
    "/nix",
    "/nix/store",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
];

/// What a stick is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be read, by an import or a verification.
    Read,
    /// To be looked at before an export, which is to write to it later.
    Plan,
    /// To be written to.
    Write,
}

/// A stick's folder.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    /// Whether it is the root of a file system of its own.
    pub(crate) is_mount: bool,
    /// Where it was mounted for this command.
    pub(crate) mount: Option<Mount>,
}

impl Place {
    /// Unmounts what was mounted for this command, whose outcome is `done`, and says that it can be pulled. Nothing may
    /// hold a file of it open any more.
    pub(crate) fn release(self, done: Result<(), Failure>) -> Result<(), Failure> {
        let Some(mount) = self.mount else { return done };
        let device = mount.device().display().to_string();
        match (mount.release(), &done) {
            (Ok(()), _) => screen::note(&format!("{device} is unmounted: it can be pulled")),
            (Err(failure), Ok(())) => return Err(failure),
            // The first failure is the one to see to.
            (Err(failure), Err(_)) => screen::note(&text::clean(&failure.cause)),
        }
        done
    }
}

/// The folder that `given` is, or the one that it is mounted on. A device that is not mounted gets mounted, by root: call
/// this before any thread is started, since only those that start afterwards see it.
pub(crate) fn find(given: &Path, purpose: Purpose) -> Result<Place, Failure> {
    let shown = given.display();
    let metadata = fs::metadata(given).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Failure::usage(format!("there is no {shown}"))
            .cure("name the folder that the stick is mounted on, or its block device (lsblk shows it)"),
        _ => Failure::usage(format!("cannot look at {shown}: {error}")),
    })?;
    if metadata.is_dir() {
        let above = fs::metadata(given.join("..")).map(|above| above.dev()).unwrap_or(metadata.dev());
        let is_mount = above != metadata.dev();
        return require_not_system(Place { folder: given.to_owned(), is_mount, mount: None }, purpose);
    }
    if !metadata.file_type().is_block_device() {
        return Err(Failure::usage(format!("{shown} is neither a folder nor a block device"))
            .cure("name the folder that the stick is mounted on, or its block device (lsblk shows it)"));
    }
    of_device(Device::new(given.to_owned(), metadata.rdev()), purpose)
}

fn of_device(given: Device, purpose: Purpose) -> Result<Place, Failure> {
    let mounts = Mounts::read()?;
    let is_root = geteuid().is_root();
    let mut partitions = given.partitions();
    let device = match partitions.len() {
        0 => given,
        1 => partitions.remove(0),
        _ if !is_root => return Err(not_mounted(&given)),
        _ => choose(&given, partitions)?,
    };
    if let Some(folder) = mounts.folder_of(device.number) {
        return require_not_system(Place { folder, is_mount: true, mount: None }, purpose);
    }
    if !is_root {
        return Err(not_mounted(&device));
    }
    let shown = device.path.display();
    if purpose != Purpose::Read {
        let disks = device.disks();
        let system =
            SYSTEM.iter().find(|folder| mounts.disks_of(folder).iter().any(|disk| disks.contains(disk)));
        if let Some(folder) = system {
            return Err(Failure::refused(format!("{shown} is on the disk that this system has as {folder}"))
                .cure(
                    "name the stick: lsblk shows which device that is; to write there all the same, mount it and name \
                     the folder",
                ));
        }
    }
    match device.content()? {
        Content::FileSystem(_) => {}
        Content::Nothing => return Err(no_file_system(&device, "no file system is on it", purpose)),
        Content::Other(kind) => {
            let what = format!("no file system is on it, but {}", text::clean(&kind));
            return Err(no_file_system(&device, &what, purpose));
        }
    }
    let mount = Mount::new(&device, purpose == Purpose::Write)?;
    Ok(Place { folder: mount.folder().to_owned(), is_mount: true, mount: Some(mount) })
}

/// The only partition that has a file system.
fn choose(disk: &Device, partitions: Vec<Device>) -> Result<Device, Failure> {
    let shown = disk.path.display();
    let mut named = Vec::new();
    let mut usable = Vec::new();
    for partition in partitions {
        let content = partition.content()?;
        named.push(format!("{} ({})", partition.path.display(), text::clean(&content.to_string())));
        if matches!(content, Content::FileSystem(_)) {
            usable.push(partition);
        }
    }
    let named = named.join(", ");
    match usable.len() {
        1 => Ok(usable.remove(0)),
        0 => Err(Failure::refused(format!("no partition of {shown} has a file system: {named}"))
            .cure("make one where nothing is lost by it: mkfs.vfat -n CAIRN PARTITION")),
        _ => Err(Failure::usage(format!("{shown} has several partitions with a file system: {named}"))
            .cure("name the one that is meant")),
    }
}

fn no_file_system(device: &Device, what: &str, purpose: Purpose) -> Failure {
    let shown = device.path.display();
    let failure = Failure::refused(format!("{shown} cannot be mounted: {what}"));
    if purpose == Purpose::Read {
        return failure.cure("lsblk -f shows which device is the stick");
    }
    // mkfs.vfat refuses a whole disk without it.
    let whole = if device.is_partition() { "" } else { "-I " };
    failure.cure(format!(
        "if it is the stick (lsblk -f shows that) and nothing on it is needed any more, make one: mkfs.vfat {whole}-n \
         CAIRN {shown}"
    ))
}

/// Nobody but root can mount it without asking.
fn not_mounted(device: &Device) -> Failure {
    let shown = device.path.display();
    Failure::usage(format!("{shown} is not mounted")).cure(format!(
        "run this as root, which mounts it; or mount it, then name the folder: udisksctl mount -b {shown}, or as root: \
         mkdir -p /mnt/stick && mount -o nosuid,nodev,noexec {shown} /mnt/stick; a whole disk has its file system in a \
         partition (lsblk shows it)"
    ))
}

fn require_not_system(place: Place, purpose: Purpose) -> Result<Place, Failure> {
    let folder = fs::canonicalize(&place.folder).unwrap_or_else(|_| place.folder.clone());
    if purpose != Purpose::Read && SYSTEM.iter().any(|system| Path::new(system) == folder) {
        return Err(Failure::refused(format!("{} is the system's own, not a stick", folder.display()))
            .cure("name the folder that the stick is mounted on, or its block device (lsblk shows it)"));
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;

    #[test]
    fn what_is_no_folder_is_refused_with_the_cure() {
        for place in ["/no/such/place", "/dev/null", "/etc/passwd"] {
            let failure = find(Path::new(place), Purpose::Read).unwrap_err();
            assert!(failure.kind == Kind::Usage && failure.cure.contains("name the folder"), "{failure:?}");
        }
    }

    #[test]
    fn rejects_an_export_to_what_is_the_systems() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("stick");
        std::os::unix::fs::symlink("/usr", &link).unwrap();
        for place in [Path::new("/"), Path::new("/usr/../etc"), &link] {
            for purpose in [Purpose::Write, Purpose::Plan] {
                let failure = find(place, purpose).unwrap_err();
                assert!(
                    failure.kind == Kind::Refused && failure.cause.contains("not a stick"),
                    "{failure:?}"
                );
            }
            find(place, Purpose::Read).unwrap();
        }
        find(folder.path(), Purpose::Write).unwrap();
    }
}
