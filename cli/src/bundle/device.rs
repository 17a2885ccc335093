//! Block devices as the kernel tells them (sysfs), and what is on them as `blkid` tells it. Nothing is written here.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use nix::{
    libc::dev_t,
    sys::stat::{major, minor},
};

use crate::failure::Failure;

/// Where the kernel lists block devices by their numbers.
const SYSFS: &str = "/sys/dev/block";
/// Devices that lie on others (LUKS in LVM in RAID) are followed so far.
const MAX_DEPTH: usize = 8;
/// Where system programs are, for a root whose `PATH` does not have them.
const SYSTEM_PROGRAMS: &[&str] = &["/usr/sbin", "/sbin"];
/// `blkid` ends so where it recognises nothing.
const NOTHING_RECOGNISED: i32 = 2;

/// A block device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) path: PathBuf,
    pub(crate) number: dev_t,
}

/// What is on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Nothing,
    FileSystem(String),
    /// Neither: swap, a part of a RAID, what is encrypted, a partition table that the kernel does not read.
    Other(String),
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::FileSystem(kind) | Self::Other(kind) => f.write_str(kind),
        }
    }
}

impl Device {
    pub(crate) fn new(path: PathBuf, number: dev_t) -> Self {
        Self { path, number }
    }

    /// Its folder in sysfs, without links.
    fn folder(&self) -> Option<PathBuf> {
        folder(self.number)
    }

    pub(crate) fn is_partition(&self) -> bool {
        self.folder().is_some_and(|folder| folder.join("partition").exists())
    }

    pub(crate) fn is_write_protected(&self) -> bool {
        let read = self.folder().and_then(|folder| fs::read_to_string(folder.join("ro")).ok());
        read.is_some_and(|text| text.trim() == "1")
    }

    /// Those that the kernel knows, in the order of their numbers.
    pub(crate) fn partitions(&self) -> Vec<Self> {
        let Some(entries) = self.folder().and_then(|folder| fs::read_dir(folder).ok()) else {
            return Vec::new();
        };
        let mut found: Vec<(u32, Self)> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let read = |name: &str| fs::read_to_string(entry.path().join(name)).ok();
                let n = read("partition")?.trim().parse().ok()?;
                let number = parse_number(read("dev")?.trim())?;
                Some((n, Self::new(Path::new("/dev").join(entry.file_name()), number)))
            })
            .collect();
        found.sort_by_key(|(n, _)| *n);
        found.into_iter().map(|(_, device)| device).collect()
    }

    /// The whole disks that this is on.
    pub(crate) fn disks(&self) -> BTreeSet<PathBuf> {
        disks(self.number)
    }

    /// What is on it, by what it has at the places where file systems have their marks.
    pub(crate) fn content(&self) -> Result<Content, Failure> {
        let shown = self.path.display();
        File::open(&self.path).map_err(|error| {
            Failure::failed(format!("cannot read {shown}: {error}"))
                .cure("plug the stick in again; lsblk shows which device it is")
        })?;
        let output = program("blkid", &["-p", "-o", "export", "--"], &[&self.path])?;
        match output.status.code() {
            Some(0) => Ok(content(&String::from_utf8_lossy(&output.stdout))),
            Some(NOTHING_RECOGNISED) => Ok(Content::Nothing),
            _ => Err(Failure::refused(format!("cannot tell what is on {shown}: {}", said(&output))).cure(
                "mount it with the type that it has (mount -t), then name the folder; or make a new file system where \
                 nothing is lost by it",
            )),
        }
    }
}

/// The whole disks that a device is on; none where it is no block device.
pub(crate) fn disks(number: dev_t) -> BTreeSet<PathBuf> {
    let mut disks = BTreeSet::new();
    if let Some(folder) = folder(number) {
        add_disks(&folder, MAX_DEPTH, &mut disks);
    }
    disks
}

fn add_disks(folder: &Path, depth: usize, disks: &mut BTreeSet<PathBuf>) {
    let disk = match folder.parent() {
        Some(above) if folder.join("partition").exists() => above,
        _ => folder,
    };
    let below: Vec<PathBuf> = fs::read_dir(disk.join("slaves"))
        .into_iter()
        .flatten()
        .filter_map(|entry| fs::canonicalize(entry.ok()?.path()).ok())
        .collect();
    if below.is_empty() || depth == 0 {
        disks.insert(disk.to_owned());
        return;
    }
    for folder in below {
        add_disks(&folder, depth - 1, disks);
    }
}

fn folder(number: dev_t) -> Option<PathBuf> {
    fs::canonicalize(format!("{SYSFS}/{}:{}", major(number), minor(number))).ok()
}

/// `8:17`, as the kernel writes it.
pub(crate) fn parse_number(text: &str) -> Option<dev_t> {
    let (major, minor) = text.split_once(':')?;
    Some(nix::sys::stat::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// What `blkid -p -o export` says.
fn content(text: &str) -> Content {
    let value = |key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned)
    };
    match (value("TYPE"), value("USAGE"), value("PTTYPE")) {
        (Some(kind), Some(usage), _) if usage == "filesystem" => Content::FileSystem(kind),
        (Some(kind), ..) => Content::Other(kind),
        (None, _, Some(table)) => {
            Content::Other(format!("a partition table ({table}) in which the kernel finds no partition"))
        }
        (None, ..) => Content::Nothing,
    }
}

/// Runs a program of the system.
pub(crate) fn program(name: &str, options: &[&str], paths: &[&Path]) -> Result<Output, Failure> {
    let candidates = [PathBuf::from(name)]
        .into_iter()
        .chain(SYSTEM_PROGRAMS.iter().map(|folder| Path::new(folder).join(name)));
    for candidate in candidates {
        match Command::new(&candidate).args(options).args(paths).output() {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::failed(format!("cannot start {name}: {error}"))),
            Ok(output) => return Ok(output),
        }
    }
    Err(Failure::failed(format!("there is no program {name} on this machine"))
        .cure("install util-linux, or mount the stick yourself and name the folder"))
}

/// What a program that failed has said, in one line.
pub(crate) fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { format!("it ended with {}", output.status) } else { lines.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_blkid_says_is_understood() {
        for (text, expected) in [
            ("DEVNAME=/dev/x\nUUID=1\nTYPE=vfat\nUSAGE=filesystem\n", Content::FileSystem("vfat".into())),
            ("TYPE=ext4\nUSAGE=filesystem\nPTTYPE=dos\n", Content::FileSystem("ext4".into())),
            ("TYPE=crypto_LUKS\nUSAGE=crypto\n", Content::Other("crypto_LUKS".into())),
            ("TYPE=swap\nUSAGE=other\n", Content::Other("swap".into())),
            ("PART_ENTRY_TYPE=0x83\n", Content::Nothing),
            ("", Content::Nothing),
        ] {
            assert_eq!(content(text), expected, "{text}");
        }
        assert!(matches!(content("PTTYPE=gpt\n"), Content::Other(table) if table.contains("gpt")));
    }

    #[test]
    fn what_is_no_block_device_is_on_no_disk() {
        assert!(disks(0).is_empty());
        assert_eq!(parse_number("8:17"), Some(nix::sys::stat::makedev(8, 17)));
        assert_eq!(parse_number("8"), None);
        assert!(Device::new("/dev/null".into(), parse_number("1:3").unwrap()).partitions().is_empty());
    }

    #[test]
    fn a_program_that_is_missing_is_named_with_the_cure() {
        let failure = program("no-such-program-of-any-system", &[], &[]).unwrap_err();
        assert!(
            failure.cause.contains("no-such-program") && failure.cure.contains("util-linux"),
            "{failure:?}"
        );
    }
}
