//! The head of a hash tree's partition, by which daemon and initrd find the slot of a root hash: what the daemon takes
//! for the tree of a root, the initrd takes for the same.
#![no_main]

use cairn_fuzz::file;
use cairn_ota::verity::identify;
use libfuzzer_sys::fuzz_target;
use verity::RootHash;

#[expect(dead_code, reason = "the initrd uses more of it")]
#[path = "../../../image/init/src/verity.rs"]
mod verity;

/// Largest root that the initrd believes, in blocks.
const MAX_BLOCKS: u64 = 1 << 24;

fuzz_target!(|data: &[u8]| {
    let mut head = data.to_vec();
    head.resize(2 * verity::BLOCK, 0);
    let device = file(&head).expect("a file in memory");
    let Some((superblock, hash)) = identify(&device).expect("a file can be read") else { return };
    assert_eq!(superblock.to_block(), &head[..verity::BLOCK]);
    assert!(superblock.tree_size() >= 2 * verity::BLOCK as u64);
    let root_hash = RootHash::parse(&hash).expect("a hash");
    let Some(initrd) = verity::tree_of(&device, &root_hash) else {
        assert!(superblock.data_blocks > MAX_BLOCKS);
        return;
    };
    assert_eq!((initrd.data_blocks, &initrd.salt), (superblock.data_blocks, &superblock.salt));
    assert!(verity::tree_of(&device, &RootHash::parse(&"5a".repeat(32)).expect("a hash")).is_none());
});
