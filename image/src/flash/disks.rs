//! The disks of this machine, from sysfs and procfs: what they are, and what uses them. No tool is asked.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cairn_ota::layout::SECTOR;

/// Kernel names of block devices that are no disks to install on.
const NO_DISKS: [&str; 8] = ["loop", "ram", "zram", "sr", "fd", "dm-", "md", "mtdblock"];

/// A disk with one of these mounted is the one that this system runs from.
const SYSTEM_FOLDERS: [&str; 8] = ["/", "/usr", "/var", "/boot", "/boot/efi", "/efi", "/home", "/nix"];

/// How deep devices are stacked upon each other: encryption on LVM on RAID on a partition is four.
const MAX_DEPTH: usize = 8;

/// Why a disk is not written to. Each variant is a cause with its cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is a part.
    #[error("{partition} is a partition; name the disk that it is on: /dev/{disk}")]
    Partition {
        /// What was named.
        partition: String,
        /// What should have been.
        disk: String,
    },
    /// It is stacked on others.
    #[error(
        "{0} is made of other devices (LVM, RAID or encryption); name a disk, see `cairn-image flash --list`"
    )]
    Mapped(String),
    /// It is none that the kernel lists.
    #[error("{0} is no disk of this machine; see `cairn-image flash --list`")]
    Unknown(String),
    /// This system needs it.
    #[error(
        "{disk} is the disk that this system runs from ({uses}); start from another medium, or choose another disk"
    )]
    System {
        /// Which.
        disk: String,
        /// What shows it.
        uses: String,
    },
    /// Something uses it.
    #[error("{disk} is in use ({uses}); unmount or stop that first")]
    Used {
        /// Which.
        disk: String,
        /// By what.
        uses: String,
    },
    /// It is too small.
    #[error("{disk} is too small: it has {size}, and the image needs {needed}; choose a larger disk")]
    TooSmall {
        /// Which.
        disk: String,
        /// Its size.
        size: String,
        /// The image's.
        needed: String,
    },
    /// It cannot be written to.
    #[error("{0} is read-only; release its write protection, or choose another disk")]
    ReadOnly(String),
    /// There is nothing in the reader.
    #[error("{0} holds no medium; put one in")]
    Empty(String),
    /// The table would be read with the wrong unit.
    #[error("{disk} has sectors of {sector} bytes, and the image is laid out for 512; choose another disk")]
    Sectors {
        /// Which.
        disk: String,
        /// Its unit.
        sector: u64,
    },
}

/// Why the disks cannot be listed.
#[derive(Debug, thiserror::Error)]
#[error("failed to read {path}; are /sys and /proc mounted?")]
pub struct DiskError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// One use of a disk or of a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// Mounted there.
    Mounted(String, String),
    /// Swap.
    Swap(String),
    /// Part of another device.
    Held(String, String),
}

impl std::fmt::Display for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mounted(device, folder) => write!(f, "{device} is mounted on {folder}"),
            Self::Swap(device) => write!(f, "{device} is swap"),
            Self::Held(device, by) => write!(f, "{device} is part of {by}"),
        }
    }
}

/// A disk as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Kernel name, such as `sda`.
    pub name: String,
    /// Vendor and model.
    pub model: String,
    /// Bytes.
    pub size: u64,
    /// Bytes of a logical sector.
    pub sector: u64,
    /// Whether it says that it can be taken out.
    pub removable: bool,
    /// Whether it cannot be written to.
    pub read_only: bool,
    /// What uses it now.
    pub uses: Vec<Use>,
}

impl Disk {
    /// Whether the system that runs this program runs from it.
    pub fn is_system(&self) -> bool {
        self.uses
            .iter()
            .any(|used| matches!(used, Use::Mounted(_, folder) if SYSTEM_FOLDERS.contains(&folder.as_str())))
    }

    /// All that uses it, in words.
    pub fn uses(&self) -> String {
        self.uses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// Refuses a disk that an image of `needed` bytes must not be written to.
    ///
    /// # Errors
    /// The first reason.
    pub fn check(&self, needed: u64) -> Result<(), Refusal> {
        let disk = || format!("/dev/{}", self.name);
        if self.is_system() {
            return Err(Refusal::System { disk: disk(), uses: self.uses() });
        }
        if !self.uses.is_empty() {
            return Err(Refusal::Used { disk: disk(), uses: self.uses() });
        }
        if self.size == 0 {
            return Err(Refusal::Empty(disk()));
        }
        if self.read_only {
            return Err(Refusal::ReadOnly(disk()));
        }
        if self.sector != SECTOR {
            return Err(Refusal::Sectors { disk: disk(), sector: self.sector });
        }
        check_size(&disk(), self.size, needed)
    }
}

/// Refuses what is smaller than the image.
///
/// # Errors
/// With both sizes.
pub fn check_size(name: &str, size: u64, needed: u64) -> Result<(), Refusal> {
    if size < needed {
        let (disk, size, needed) = (name.into(), decimal(size), decimal(needed));
        return Err(Refusal::TooSmall { disk, size, needed });
    }
    Ok(())
}

/// A size as it is printed on disks: powers of ten.
pub fn decimal(bytes: u64) -> String {
    let units = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

/// A mount or a swap: its device number, its device's name as it was given, and where.
#[derive(Debug)]
struct Mount {
    number: String,
    source: String,
    folder: String,
}

/// Where the kernel tells of disks.
#[derive(Debug)]
pub struct Host {
    sys: PathBuf,
    mounts: Vec<Mount>,
    swaps: Vec<String>,
}

impl Host {
    /// Reads mounts and swaps below `root`, which is `/` but in tests.
    ///
    /// # Errors
    /// If one of them cannot be read: then nothing can be said to be free.
    pub fn read(root: &Path) -> Result<Self, DiskError> {
        let read = |path: &str| {
            let path = root.join(path);
            fs::read_to_string(&path).map_err(|source| DiskError { path, source })
        };
        let mounts = read("proc/self/mountinfo")?.lines().filter_map(parse_mount).collect();
        // A kernel without swap has no such file.
        let swaps = match read("proc/swaps") {
            Ok(text) => text
                .lines()
                .skip(1)
                .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
                .collect(),
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { sys: root.join("sys"), mounts, swaps })
    }

    /// All disks with a medium, by name.
    ///
    /// # Errors
    /// If sysfs cannot be read.
    pub fn disks(&self) -> Result<Vec<Disk>, DiskError> {
        let mut names = self.names(&self.sys.join("block"))?;
        names.retain(|name| !NO_DISKS.iter().any(|prefix| name.starts_with(prefix)));
        // eMMC has boot areas and a replay-protected block, which are no disks either.
        names.retain(|name| !name.contains("boot") && !name.ends_with("rpmb"));
        let disks = names.iter().map(|name| self.disk(name));
        Ok(disks.filter(|disk| disk.size > 0).collect())
    }

    /// The disk with this device number.
    ///
    /// # Errors
    /// If it is no disk, or only a part of one; the refusal names the right one.
    pub fn find(&self, path: &Path, major: u64, minor: u64) -> Result<Disk, Refusal> {
        let (number, shown) = (format!("{major}:{minor}"), path.display().to_string());
        let names = self.names(&self.sys.join("block")).unwrap_or_default();
        for name in &names {
            let folder = self.sys.join("block").join(name);
            if text(&folder.join("dev")) == number {
                let mapped = name.starts_with("dm-") || name.starts_with("md");
                return if mapped { Err(Refusal::Mapped(shown)) } else { Ok(self.disk(name)) };
            }
            if self.partitions(name).iter().any(|part| text(&folder.join(part).join("dev")) == number) {
                return Err(Refusal::Partition { partition: shown, disk: name.clone() });
            }
        }
        Err(Refusal::Unknown(shown))
    }

    fn disk(&self, name: &str) -> Disk {
        let folder = self.sys.join("block").join(name);
        let number = |path: &str| text(&folder.join(path)).parse().unwrap_or(0u64);
        let (vendor, model) = (text(&folder.join("device/vendor")), text(&folder.join("device/model")));
        // virtio's vendor is a number.
        let vendor = if vendor.starts_with("0x") { String::new() } else { vendor };
        // SD cards and eMMC have a name instead of a model.
        let model = if model.is_empty() { text(&folder.join("device/name")) } else { model };
        let mut uses = Vec::new();
        let mut seen = BTreeSet::new();
        self.collect(name, &folder, &mut uses, &mut seen, 0);
        for part in self.partitions(name) {
            self.collect(&part, &folder.join(&part), &mut uses, &mut seen, 0);
        }
        Disk {
            name: name.into(),
            model: format!("{vendor} {model}").trim().into(),
            // sysfs counts in 512 bytes whatever the sectors are.
            size: number("size").saturating_mul(512),
            sector: number("queue/logical_block_size"),
            removable: number("removable") == 1,
            read_only: number("ro") == 1,
            uses,
        }
    }

    /// What uses a device: mounts, swap, and what is made of it, with all that uses that.
    fn collect(
        &self,
        name: &str,
        folder: &Path,
        uses: &mut Vec<Use>,
        seen: &mut BTreeSet<String>,
        depth: usize,
    ) {
        if depth > MAX_DEPTH || !seen.insert(name.to_owned()) {
            return;
        }
        let (number, node) = (text(&folder.join("dev")), format!("/dev/{name}"));
        let mapper = text(&folder.join("dm/name"));
        let mapped = format!("/dev/mapper/{mapper}");
        // btrfs and the like show a number of their own: their source still names the device.
        let is_it = |source: &str| source == node || (!mapper.is_empty() && source == mapped);
        for mount in &self.mounts {
            if (!number.is_empty() && mount.number == number) || is_it(&mount.source) {
                uses.push(Use::Mounted(name.into(), mount.folder.clone()));
            }
        }
        if self.swaps.iter().any(|swap| is_it(swap)) {
            uses.push(Use::Swap(name.into()));
        }
        for holder in self.names(&folder.join("holders")).unwrap_or_default() {
            uses.push(Use::Held(name.into(), holder.clone()));
            self.collect(&holder, &self.sys.join("block").join(&holder), uses, seen, depth + 1);
        }
    }

    fn partitions(&self, disk: &str) -> Vec<String> {
        let folder = self.sys.join("block").join(disk);
        let names = self.names(&folder).unwrap_or_default();
        names.into_iter().filter(|name| folder.join(name).join("partition").exists()).collect()
    }

    fn names(&self, folder: &Path) -> Result<Vec<String>, DiskError> {
        let failed = |source| DiskError { path: folder.into(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }
}

/// The content of an attribute, empty if there is none.
fn text(path: &Path) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// A line of mountinfo: `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`.
fn parse_mount(line: &str) -> Option<Mount> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ');
    let number = place.nth(2)?.to_owned();
    let folder = unescape(place.nth(1)?);
    Some(Mount { number, source: unescape(kind.split(' ').nth(1)?), folder })
}

/// The kernel writes space, tab, newline and backslash as octal numbers.
fn unescape(text: &str) -> String {
    let table = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    table.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests;
