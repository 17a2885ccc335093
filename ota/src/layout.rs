//! Where everything lies on a Cairn disk: two slots of root and hash tree between the ESP and the data partition.
//! Types follow the Discoverable Partitions Specification. Labels and UUIDs say what a slot held when the disk was flashed:
//! the table is never written again, for a torn one is a brick. What a slot holds now is found by its hash tree.

use crate::OsVersion;

/// One mebibyte in bytes.
pub const MIB: u64 = 1024 * 1024;

/// Sector size that the partition table is written for.
pub const SECTOR: u64 = 512;

/// First byte of the first partition, and the alignment of all of them.
pub const ALIGNMENT: u64 = MIB;

/// Label of a slot that holds nothing yet (as systemd-sysupdate writes it).
pub const EMPTY_LABEL: &str = "_empty";

/// Label of the partition that is mounted on /var.
pub const DATA_LABEL: &str = "cairn-data";

/// Label of the EFI system partition.
pub const ESP_LABEL: &str = "ESP";

/// Folder on the ESP in which the boot loader looks for unified kernel images.
pub const ENTRY_FOLDER: &str = "EFI/Linux";

/// Size of the ESP: the boot loader and three kernel images (running, new, one being written).
pub const ESP_SIZE: u64 = 160 * MIB;

/// Size of one root slot: twice what an image takes today.
pub const ROOT_SIZE: u64 = 256 * MIB;

/// Size of one slot's hash tree: SHA-256 over 4 KiB blocks is under 1/127 of the data.
pub const VERITY_SIZE: u64 = 8 * MIB;

/// Size of the data partition as it is flashed; it grows to the end of the disk on first boot.
pub const DATA_SIZE: u64 = 256 * MIB;

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// EFI system partition.
    Esp,
    /// A slot's read-only root file system.
    Root,
    /// A slot's dm-verity hash tree.
    Verity,
    /// Machine state, mounted on /var.
    Data,
}

impl Role {
    /// GPT type of the partition (x86-64).
    pub const fn type_uuid(self) -> &'static str {
        match self {
            Self::Esp => "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
            Self::Root => "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
            Self::Verity => "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5",
            Self::Data => "4d21b016-b534-45c2-a9fb-5c16e091fd2d",
        }
    }

    /// GPT label, for slots that of the version they are flashed with.
    pub fn label(self, version: Option<&OsVersion>) -> String {
        match (self, version) {
            (Self::Esp, _) => ESP_LABEL.into(),
            (Self::Data, _) => DATA_LABEL.into(),
            (Self::Root | Self::Verity, None) => EMPTY_LABEL.into(),
            (Self::Root, Some(version)) => format!("cairn_{version}"),
            (Self::Verity, Some(version)) => format!("cairn_{version}_verity"),
        }
    }
}

/// The version that a slot's label names, if it is one of ours.
pub fn version_of_label(label: &str) -> Option<OsVersion> {
    let rest = label.strip_prefix("cairn_")?;
    rest.strip_suffix("_verity").unwrap_or(rest).parse().ok()
}

/// One partition of the fixed layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Number in the table, from 1.
    pub number: u32,
    /// What it is for.
    pub role: Role,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
}

/// The six partitions, in the order in which they lie on the disk. Data is last, so that it can grow.
pub fn partitions() -> [Partition; 6] {
    let plan = [
        (Role::Esp, ESP_SIZE),
        (Role::Root, ROOT_SIZE),
        (Role::Verity, VERITY_SIZE),
        (Role::Root, ROOT_SIZE),
        (Role::Verity, VERITY_SIZE),
        (Role::Data, DATA_SIZE),
    ];
    let mut start = ALIGNMENT;
    let mut number = 0;
    plan.map(|(role, size)| {
        number += 1;
        let partition = Partition { number, role, start, size };
        start += size;
        partition
    })
}

/// Smallest disk: all partitions and room for the backup table.
pub fn disk_size() -> u64 {
    partitions().iter().map(|p| p.size).sum::<u64>() + 2 * ALIGNMENT
}

/// UUIDs that root and verity partition are flashed with: the halves of the root hash.
/// `None` if the text is not a SHA-256 in lower-case hex.
pub fn partition_uuids(root_hash: &str) -> Option<(String, String)> {
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    if root_hash.len() != 64 || !root_hash.chars().all(hex) {
        return None;
    }
    let dashed = |half: &str| [&half[..8], &half[8..12], &half[12..16], &half[16..20], &half[20..]].join("-");
    Some((dashed(&root_hash[..32]), dashed(&root_hash[32..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_aligned_and_do_not_overlap() {
        let all = partitions();
        for pair in all.windows(2) {
            assert!(pair[0].start + pair[0].size <= pair[1].start);
            assert_eq!(pair[0].number + 1, pair[1].number);
        }
        assert!(all.iter().all(|p| p.start % ALIGNMENT == 0 && p.size % ALIGNMENT == 0));
        assert!(all[5].start + all[5].size + ALIGNMENT <= disk_size());
    }

    #[test]
    fn a_full_root_slot_has_room_for_its_hash_tree() {
        let blocks = ROOT_SIZE / 4096;
        let tree: u64 = [128, 128 * 128, 128 * 128 * 128].iter().map(|per| blocks.div_ceil(*per)).sum();
        assert!((tree + 1) * 4096 <= VERITY_SIZE);
    }

    #[test]
    fn labels_carry_the_version_and_give_it_back() {
        let version: OsVersion = "12345678901234567890123".parse().unwrap();
        for role in [Role::Root, Role::Verity] {
            let label = role.label(Some(&version));
            assert!(label.len() <= 36, "{label}");
            assert_eq!(version_of_label(&label), Some(version.clone()));
            assert_eq!(version_of_label(&role.label(None)), None);
        }
        assert_eq!(version_of_label(DATA_LABEL), None);
    }

    #[test]
    fn partition_uuids_are_the_halves_of_the_hash() {
        let hash = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef";
        let (root, verity) = partition_uuids(hash).unwrap();
        assert_eq!(root, "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(verity, "01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!(partition_uuids("00"), None);
        assert_eq!(partition_uuids(&"é".repeat(32)), None);
        assert_eq!(partition_uuids(&hash.to_uppercase()), None);
    }
}
