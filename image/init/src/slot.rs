//! Slots: finds the one whose hash tree is the one that the kernel command line names. UUIDs and labels are those that
//! were flashed, whatever has been written to the slot since; only its content tells.

use std::fs::File;
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

/// Looks until one disk shows the slot, or until patience is at its end.
pub(crate) fn find(root_hash: &RootHash, patience: Duration) -> Option<Slot> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(slot) = block::disks().into_iter().find_map(|disk| on_disk(disk, root_hash)) {
            return Some(slot);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}

fn on_disk(disk: Disk, root_hash: &RootHash) -> Option<Slot> {
    let layout = disk.layout()?;
    layout.slots.iter().find_map(|(root, tree)| {
        let (root, tree) = (disk.partition(*root)?, disk.partition(*tree)?);
        let superblock = verity::tree_of(&File::open(&tree).ok()?, root_hash)?;
        Some(Slot { disk: disk.clone(), root, tree, superblock })
    })
}
