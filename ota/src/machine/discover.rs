//! Looks at `/proc` and `/sys`: the root's mapped device, the partitions below it, their disk, and the disk's others.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use cairn_model::report::Slot;

use super::{ESP, Identity, Machine, MachineError, SlotDevices};
use crate::{boot::uki, gpt, layout, verity};

/// Largest file of the kernel's, or os-release, that is read.
const MAX_TEXT: u64 = 1 << 20;

/// A partition as the kernel has it.
#[derive(Debug)]
struct Partition {
    device: PathBuf,
    numbers: String,
    size: u64,
}

pub(super) fn discover(root: &Path) -> Result<Machine, MachineError> {
    let missing = |why| MachineError::NotAnAppliance { why };
    let (compatible, version) = os_release(root)?;
    let compatible = compatible.ok_or_else(|| missing("os-release has no CAIRN_COMPATIBLE"))?;
    let version = version.unwrap_or_default().parse().map_err(MachineError::Version)?;
    let command_line = text(&root.join("proc/cmdline"))?;
    let root_hash = uki::root_hash_of(&command_line)
        .ok_or_else(|| missing("the kernel's command line names no root hash"))?;
    let boot_id = text(&root.join("proc/sys/kernel/random/boot_id"))?.trim().to_owned();
    // An automount shows what it mounts only once somebody has looked.
    let _ = fs::read_dir(root.join(ESP).join(layout::ENTRY_FOLDER));
    let mounts = text(&root.join("proc/self/mountinfo"))?;
    let mapped = mount(&mounts, "/").ok_or_else(|| missing("nothing is mounted on /"))?.0;
    let below = slaves(root, mapped)?;
    let first = below.first().ok_or_else(|| missing("the root is no mapped device"))?;
    let verified = device_of(root, mapped)?;
    let (disk, partitions) = disk_of(first)?;
    let numbers: BTreeSet<u32> = partitions
        .iter()
        .filter(|(_, partition)| below.iter().any(|path| path.ends_with(name(&partition.device))))
        .map(|(number, _)| *number)
        .collect();
    let running = match numbers.iter().copied().collect::<Vec<_>>()[..] {
        [2, 3] if below.len() == 2 => Slot::A,
        [4, 5] if below.len() == 2 => Slot::B,
        _ => return Err(missing("the root is not on partitions 2 and 3, or 4 and 5, of a disk")),
    };
    check_layout(root, &disk, &partitions)?;
    check_esp(&mounts, &partitions)?;
    let device =
        |number: u32| partitions.get(&number).map(|partition| root.join("dev").join(&partition.device));
    let slot = |first| device(first).zip(device(first + 1)).map(|(root, tree)| SlotDevices { root, tree });
    let (Some(a), Some(b)) = (slot(2), slot(4)) else { return Err(missing("its disk has not both slots")) };
    let arch = arch().to_owned();
    Ok(Machine {
        running,
        identity: Identity { version, compatible, arch, root_hash },
        boot_id,
        esp: root.join(ESP),
        slots: [a, b],
        verified: Some(verified),
    })
}

fn text(path: &Path) -> Result<String, MachineError> {
    let failed = |source| MachineError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(MAX_TEXT).read_to_end(&mut bytes).map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `CAIRN_COMPATIBLE` and `IMAGE_VERSION`.
fn os_release(root: &Path) -> Result<(Option<String>, Option<String>), MachineError> {
    let text =
        ["etc/os-release", "usr/lib/os-release"].into_iter().find_map(|path| text(&root.join(path)).ok());
    let text = text.ok_or(MachineError::NotAnAppliance { why: "it has no os-release" })?;
    let value = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(value.trim().trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
    };
    Ok((value("CAIRN_COMPATIBLE"), value("IMAGE_VERSION")))
}

/// This program's architecture in Go's names, as releases have them.
pub(super) fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Device numbers and file system type of what is mounted at a place; the last one hides those before.
fn mount<'a>(mounts: &'a str, place: &str) -> Option<(&'a str, &'a str)> {
    let mut found = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(2);
        let numbers = fields.next()?;
        (fields.nth(1)? == place).then_some((numbers, after.split(' ').next()?))
    });
    found.next_back()
}

/// What a mapped device lies on, as folders of sysfs.
fn slaves(root: &Path, numbers: &str) -> Result<Vec<PathBuf>, MachineError> {
    let sound = numbers.split(':').count() == 2 && numbers.bytes().all(|c| c.is_ascii_digit() || c == b':');
    let folder = root.join("sys/dev/block").join(numbers).join("slaves");
    if !sound || !folder.is_dir() {
        return Err(MachineError::NotAnAppliance { why: "the root is no mapped device" });
    }
    let mut found: Vec<PathBuf> = read_folder(&folder)?
        .iter()
        .map(|path| path.canonicalize().map_err(|source| MachineError::Read { path: path.clone(), source }))
        .collect::<Result<_, _>>()?;
    found.sort();
    Ok(found)
}

/// The device file of what has these numbers, by the name that the kernel gave it.
fn device_of(root: &Path, numbers: &str) -> Result<PathBuf, MachineError> {
    let path = root.join("sys/dev/block").join(numbers);
    let folder = path.canonicalize().map_err(|source| MachineError::Read { path, source })?;
    Ok(root.join("dev").join(name(&folder)))
}

fn read_folder(folder: &Path) -> Result<Vec<PathBuf>, MachineError> {
    let failed = |source| MachineError::Read { path: folder.to_owned(), source };
    fs::read_dir(folder)
        .map_err(failed)?
        .map(|found| found.map(|found| found.path()).map_err(failed))
        .collect()
}

fn name(path: &Path) -> &Path {
    path.file_name().map_or(path, Path::new)
}

/// The disk that a partition lies on, and all its partitions by number.
fn disk_of(partition: &Path) -> Result<(PathBuf, BTreeMap<u32, Partition>), MachineError> {
    let missing = MachineError::NotAnAppliance { why: "the root is on no partition" };
    let Some(disk) = partition.parent().filter(|_| partition.join("partition").is_file()) else {
        return Err(missing);
    };
    let mut partitions = BTreeMap::new();
    for folder in read_folder(disk)? {
        if !folder.join("partition").is_file() {
            continue;
        }
        let number = text(&folder.join("partition"))?.trim().parse().unwrap_or(0);
        // The kernel counts in units of 512 bytes, whatever the sector size.
        let size = text(&folder.join("size"))?.trim().parse::<u64>().unwrap_or(0).saturating_mul(512);
        let numbers = text(&folder.join("dev"))?.trim().to_owned();
        partitions.insert(number, Partition { device: name(&folder).to_owned(), numbers, size });
    }
    Ok((disk.to_owned(), partitions))
}

/// Nothing is written to a disk whose table does not say that the slots are slots.
fn check_layout(root: &Path, disk: &Path, partitions: &BTreeMap<u32, Partition>) -> Result<(), MachineError> {
    let wrong = |why: String| MachineError::Layout { disk: name(disk).display().to_string(), why };
    let sector_size = text(&disk.join("queue/logical_block_size"))?.trim().parse().unwrap_or(layout::SECTOR);
    let path = root.join("dev").join(name(disk));
    let failed = |source| MachineError::Read { path: path.clone(), source };
    let table = gpt::read(&File::open(&path).map_err(failed)?, sector_size).map_err(failed)?;
    let table = table.ok_or_else(|| wrong("it has no sound partition table".into()))?;
    for expected in layout::partitions() {
        let number = expected.number;
        let found = table.iter().find(|entry| entry.number == number);
        let found = found.ok_or_else(|| wrong(format!("it has no partition {number}")))?;
        if found.kind != expected.role.type_uuid() {
            return Err(wrong(format!("partition {number} has type {}", found.kind)));
        }
        let size = partitions.get(&number).map_or(0, |partition| partition.size);
        // The data partition grows, which the kernel may know before the table on the disk does.
        if expected.role != layout::Role::Data && found.size != size {
            return Err(wrong(format!(
                "partition {number} has {size} bytes, and {} by the table",
                found.size
            )));
        }
    }
    let size = |number: u32| partitions.get(&number).map_or(0, |partition| partition.size);
    for (first, tree) in [(2, 3), (4, 5)] {
        let needed = verity::tree_size(size(first)) + crate::record::SIZE as u64;
        if size(tree) < needed {
            return Err(wrong(format!("partition {tree} has {} bytes, its slot needs {needed}", size(tree))));
        }
    }
    Ok(())
}

fn check_esp(mounts: &str, partitions: &BTreeMap<u32, Partition>) -> Result<(), MachineError> {
    let wrong = |why| Err(MachineError::Esp { why });
    match mount(mounts, &format!("/{ESP}")) {
        None => wrong("nothing is"),
        Some((_, "autofs")) => wrong("the automount has mounted nothing"),
        Some((numbers, "vfat")) if partitions.get(&1).is_some_and(|esp| esp.numbers == numbers) => Ok(()),
        Some((_, "vfat")) => wrong("it is of another disk"),
        Some(_) => wrong("what is mounted is no FAT file system"),
    }
}
