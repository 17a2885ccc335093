//! Slots: finds the one whose hash tree is the one that the kernel command line names. UUIDs and labels are those that
//! were flashed, whatever has been written to the slot since; only its content tells. A stick may have the same content,
//! and brings a data partition of its own: a disk that is built in goes first, and none is taken by chance.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::time::{Duration, Instant};

use crate::block::{self, Disk};
use crate::verity::{self, RootHash, Superblock};

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// A root and its hash tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Name of the disk.
    pub(crate) disk: Disk,
    /// Device file of the root.
    pub(crate) root: String,
    /// Device file of its hash tree.
    pub(crate) tree: String,
    /// What the tree says of itself.
    pub(crate) superblock: Superblock,
}

/// Which disks may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Among {
    /// Those that are built in: they may not all have shown up yet.
    BuiltIn,
    /// All, where none that is built in has the slot.
    All,
}

/// Looks until a disk shows the slot, or until patience is at its end.
///
/// # Errors
/// The disks, where several have it and nothing tells which is the machine's.
pub(crate) fn find(
    root_hash: &RootHash,
    among: Among,
    patience: Duration,
) -> Result<Option<Slot>, Vec<Disk>> {
    let deadline = Instant::now() + patience;
    loop {
        let found = block::disks().into_iter().filter_map(|disk| on_disk(disk, root_hash));
        match choose(found.map(|slot| (slot.disk.is_pluggable(), slot)).collect(), among) {
            Choice::One(slot) => return Ok(Some(slot)),
            Choice::Alike(slots) => return Err(slots.into_iter().map(|slot| slot.disk).collect()),
            Choice::None if Instant::now() >= deadline => return Ok(None),
            Choice::None => std::thread::sleep(PAUSE),
        }
    }
}

/// What one look comes to.
#[derive(Debug, PartialEq, Eq)]
enum Choice<T> {
    None,
    One(T),
    Alike(Vec<T>),
}

/// Of those found, each with whether it can be plugged in. The partition's UUID that the boot loader was loaded from tells
/// nothing: it is the same in every image, and in every copy of a disk.
fn choose<T>(found: Vec<(bool, T)>, among: Among) -> Choice<T> {
    let (plugged, built_in): (Vec<_>, Vec<_>) = found.into_iter().partition(|(pluggable, _)| *pluggable);
    let of = |disks: Vec<(bool, T)>| disks.into_iter().map(|(_, disk)| disk).collect::<Vec<T>>();
    let mut best = match among {
        Among::All if built_in.is_empty() => of(plugged),
        _ => of(built_in),
    };
    match best.len() {
        0 | 1 => best.pop().map_or(Choice::None, Choice::One),
        _ => Choice::Alike(best),
    }
}

/// The slot on one disk.
pub(crate) fn on_disk(disk: Disk, root_hash: &RootHash) -> Option<Slot> {
    let layout = disk.layout()?;
    layout.slots.iter().find_map(|(root, tree)| {
        let (root, tree) = (disk.partition(*root)?, disk.partition(*tree)?);
        let superblock = tree_of(&File::open(&root).ok()?, &File::open(&tree).ok()?, root_hash)?;
        Some(Slot { disk: disk.clone(), root, tree, superblock })
    })
}

/// The tree's superblock, if both are of this root hash and the kernel can take them. One that speaks of more than there
/// is would fail at every start alike: it is as good as no tree, so that the other system gets its turn.
fn tree_of(root: &File, tree: &File, root_hash: &RootHash) -> Option<Superblock> {
    let superblock = verity::tree_of(tree, root_hash)?;
    let (root, tree) = (size(root).ok()?, size(tree).ok()?);
    superblock.fits(root, tree).then_some(superblock)
}

/// Of a partition or a file.
fn size(mut device: &File) -> io::Result<u64> {
    device.seek(SeekFrom::End(0))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use sha2::{Digest, Sha256};

    use super::*;
    use crate::verity::BLOCK;
    use crate::verity::tests::sample;

    #[test]
    fn a_stick_with_the_same_system_is_never_taken_for_the_machines_disk() {
        let check = |disks: &[&'static str], early: Choice<&str>, late: Choice<&str>| {
            // Disks on USB are called u, the others have it.
            let found = || disks.iter().map(|disk| (disk.starts_with('u'), *disk)).collect();
            assert_eq!(choose(found(), Among::BuiltIn), early, "{disks:?}, others may still show up");
            assert_eq!(choose(found(), Among::All), late, "{disks:?}, all have shown up");
        };
        check(&[], Choice::None, Choice::None);
        check(&["sda"], Choice::One("sda"), Choice::One("sda"));
        check(&["usb1"], Choice::None, Choice::One("usb1"));
        check(&["usb1", "sda"], Choice::One("sda"), Choice::One("sda"));
        check(&["sda", "usb1", "usb2"], Choice::One("sda"), Choice::One("sda"));
        check(&["usb1", "usb2"], Choice::None, Choice::Alike(vec!["usb1", "usb2"]));
        let both = || Choice::Alike(vec!["nvme0n1", "sda"]);
        check(&["nvme0n1", "sda"], both(), both());
        check(&["nvme0n1", "usb1", "sda"], both(), both());
    }

    #[test]
    fn a_superblock_that_speaks_of_more_than_there_is_is_no_match() {
        let digest = Sha256::new().chain_update([0xab, 0x01]).chain_update([7; BLOCK]).finalize();
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let hash = RootHash::parse(&hex).unwrap();
        let (root, tree) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let found = |root_blocks: u64, tree_blocks: u64, claimed: u8| {
            let mut superblock = sample();
            superblock[72] = claimed;
            root.set_len(root_blocks * BLOCK as u64).unwrap();
            tree.set_len(tree_blocks * BLOCK as u64).unwrap();
            tree.write_all_at(&superblock, 0).unwrap();
            tree.write_all_at(&[7; BLOCK], BLOCK as u64).unwrap();
            tree_of(&root, &tree, &hash).map(|superblock| superblock.data_blocks)
        };
        assert_eq!(found(9, 3, 9), Some(9));
        assert_eq!(found(20, 8, 9), Some(9), "partitions are larger than what is in them");
        assert_eq!(found(20, 8, 21), None, "no hash covers the number of blocks");
        assert_eq!(found(8, 8, 9), None, "a root that was cut off");
        assert_eq!(found(200, 4, 200), None, "the boot record lies on the tree");
    }
}
