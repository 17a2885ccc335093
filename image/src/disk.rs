//! The whole disk: partition table and the content of slot A, ESP and data; slot B is empty.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cairn_ota::OsVersion;
use cairn_ota::layout::{self, Role};
use gpt::partition::Partition;
use gpt::partition_types::Type;

use crate::esp::create_sparse;
use crate::root::fixed_uuid;

/// Attribute bit of the Discoverable Partitions Specification: do not write.
const READ_ONLY: u64 = 1 << 60;

/// Attribute bit: grow the file system to the partition's size.
const GROW: u64 = 1 << 59;

/// Attribute bit: do not mount automatically; /etc/fstab does.
const NO_AUTO: u64 = 1 << 63;

/// Piece in which zeroes are looked for.
const CHUNK: usize = 64 * 1024;

/// What goes onto the disk.
#[derive(Debug)]
pub struct Content<'a> {
    /// File with the EFI system partition.
    pub esp: PathBuf,
    /// File with the root.
    pub root: PathBuf,
    /// File with the hash tree.
    pub verity: PathBuf,
    /// File with the data partition.
    pub data: PathBuf,
    /// Root hash, which names slot A's partitions.
    pub root_hash: &'a str,
    /// Version, for the labels.
    pub version: &'a OsVersion,
}

/// Writes the disk image, sparse.
pub fn write(output: &Path, content: &Content<'_>) -> Result<()> {
    let disk = create_sparse(output, layout::disk_size())?;
    let mut disk =
        write_table(disk, content).with_context(|| format!("failed to partition {}", output.display()))?;
    let sources =
        [Some(&content.esp), Some(&content.root), Some(&content.verity), None, None, Some(&content.data)];
    for (partition, source) in layout::partitions().iter().zip(sources) {
        let Some(source) = source else { continue };
        copy_sparse(source, &mut disk, partition.start, partition.size)
            .with_context(|| format!("failed to put {} on the disk", source.display()))?;
    }
    disk.sync_all().with_context(|| format!("failed to write {}", output.display()))
}

fn write_table(mut disk: File, content: &Content<'_>) -> Result<File> {
    let sectors = u32::try_from(layout::disk_size() / layout::SECTOR - 1).unwrap_or(u32::MAX);
    gpt::mbr::ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(&mut disk)?;
    let guid = fixed_uuid("disk").parse().context("the disk's UUID")?;
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(gpt::disk::LogicalBlockSize::Lb512)
        .create_from_device(disk, Some(guid))?;
    table.update_partitions(entries(content)?)?;
    Ok(table.write()?)
}

/// The six entries. Slot A's UUIDs come from the root hash; the empty slot's and the others' are fixed.
fn entries(content: &Content<'_>) -> Result<BTreeMap<u32, Partition>> {
    let (root, verity) = layout::partition_uuids(content.root_hash).context("the root hash is no SHA-256")?;
    let mut entries = BTreeMap::new();
    for partition in layout::partitions() {
        let first_slot = partition.number <= 3;
        let version = (first_slot).then_some(content.version);
        let uuid = match (partition.role, first_slot) {
            (Role::Root, true) => root.clone(),
            (Role::Verity, true) => verity.clone(),
            _ => fixed_uuid(&format!("partition {}", partition.number)),
        };
        let flags = match partition.role {
            Role::Root | Role::Verity => READ_ONLY | NO_AUTO,
            Role::Data => GROW | NO_AUTO,
            Role::Esp => 0,
        };
        let part_type_guid: Type = Type {
            guid: partition.role.type_uuid().parse().context("a partition type")?,
            os: gpt::partition_types::OperatingSystem::None,
        };
        entries.insert(
            partition.number,
            Partition {
                part_type_guid,
                part_guid: uuid.parse().context("a partition's UUID")?,
                first_lba: partition.start / layout::SECTOR,
                last_lba: (partition.start + partition.size) / layout::SECTOR - 1,
                flags,
                name: partition.role.label(version),
            },
        );
    }
    Ok(entries)
}

/// Copies a file into its place; pieces of zeroes stay holes.
fn copy_sparse(source: &Path, disk: &mut File, start: u64, room: u64) -> Result<()> {
    let mut file = File::open(source)?;
    let size = file.metadata()?.len();
    ensure!(
        size <= room,
        "it has {size} bytes and its partition {room}; drop packages or enlarge the layout"
    );
    let mut chunk = vec![0u8; CHUNK];
    let mut at = start;
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            return Ok(());
        }
        if chunk[..count].iter().any(|byte| *byte != 0) {
            disk.seek(SeekFrom::Start(at))?;
            disk.write_all(&chunk[..count])?;
        }
        at += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_readable_and_names_both_slots() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, content) in [("esp", "E"), ("root", "R"), ("verity", "V"), ("data", "D")] {
            std::fs::write(at(name), content).unwrap();
        }
        let hash = "0011223344556677".repeat(4);
        let version = "1.0".parse().unwrap();
        let content = Content {
            esp: at("esp"),
            root: at("root"),
            verity: at("verity"),
            data: at("data"),
            root_hash: &hash,
            version: &version,
        };
        write(&at("disk"), &content).unwrap();
        let table = gpt::GptConfig::new().only_valid_headers(true).open(at("disk")).unwrap();
        let names: Vec<&str> = table.partitions().values().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["ESP", "cairn_1.0", "cairn_1.0_verity", "_empty", "_empty", "cairn-data"]);
        assert_eq!(table.partitions()[&2].part_guid.to_string(), "00112233-4455-6677-0011-223344556677");
        let mut disk = File::open(at("disk")).unwrap();
        disk.seek(SeekFrom::Start(layout::partitions()[1].start)).unwrap();
        let mut byte = [0];
        disk.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"R");
    }

    #[test]
    fn content_larger_than_its_partition_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("big");
        create_sparse(&source, 2048).unwrap();
        let mut disk = create_sparse(&folder.path().join("disk"), 4096).unwrap();
        let error = copy_sparse(&source, &mut disk, 0, 1024).unwrap_err().to_string();
        assert!(error.contains("2048") && error.contains("1024"), "{error}");
    }
}
