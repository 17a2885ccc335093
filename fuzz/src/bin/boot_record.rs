//! The boot record of a slot, which daemon and initrd read and write with code of their own: both understand the same
//! of any block. The first byte says whether word and sum are made right first.
#![no_main]

use cairn_ota::record::{BootRecord, SIZE};
use libfuzzer_sys::fuzz_target;
use verity::RootHash;

#[expect(dead_code, reason = "the initrd uses more of it")]
#[path = "../../../image/init/src/gpt.rs"]
mod gpt;
#[expect(dead_code, reason = "the initrd uses more of it")]
#[path = "../../../image/init/src/record.rs"]
mod record;
#[expect(dead_code, reason = "the initrd uses more of it")]
#[path = "../../../image/init/src/verity.rs"]
mod verity;

fuzz_target!(|data: &[u8]| {
    let Some((choice, content)) = data.split_first() else { return };
    let mut block = content.to_vec();
    block.resize(SIZE, 0);
    if choice & 1 == 1 {
        block[..8].copy_from_slice(b"CAIRNBR1");
        let sum = crc32fast::hash(&block[..60]);
        block[60..64].copy_from_slice(&sum.to_le_bytes());
    }
    let hash = hex::encode(&block[8..40]);
    let root_hash = RootHash::parse(&hash).expect("32 bytes");
    let initrd = record::BootRecord::parse(&block, &root_hash);
    let Some(daemon) = BootRecord::parse(&block) else {
        assert_eq!(initrd, record::BootRecord::default());
        return;
    };
    assert_eq!((daemon.starts, daemon.corrupt), (initrd.starts, initrd.is_corrupt()));
    assert_eq!(daemon.root_hash, hash);
    let written = daemon.to_block().expect("the hash is one");
    assert_eq!(BootRecord::parse(&written), Some(daemon));
    let by_initrd = initrd.to_block(&root_hash);
    // All but the flags that are not known, and the sum over them.
    assert_eq!((&written[..44], &written[48..60]), (&by_initrd[..44], &by_initrd[48..60]));
    assert_eq!(record::BootRecord::parse(&by_initrd, &root_hash), initrd);
    assert_eq!(
        record::BootRecord::parse(&block, &RootHash::parse(&"5a".repeat(32)).expect("a hash")).starts,
        { if hash == "5a".repeat(32) { initrd.starts } else { 0 } }
    );
});
