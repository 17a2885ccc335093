//! The release document of an OS update: what is read keeps its bounds, and is the same when it is written and read.
#![no_main]

use cairn_fuzz::document;
use cairn_model::{Release, release::MAX_PATCHES};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(release) = document(data, Release::parse) else { return };
    assert!(release.patches.len() <= MAX_PATCHES);
    assert!(release.root.size > 0 && release.root.size.is_multiple_of(4096));
    assert!(release.data_layout.min >= 1 && release.data_layout.min <= release.data_layout.max);
    assert_eq!(hex::decode(&release.verity.root_hash).map(|hash| hash.len()), Ok(32));
    assert!(hex::decode(&release.verity.salt).is_ok_and(|salt| salt.len() <= 256));
    assert_eq!(hex::decode(&release.verity.uuid).map(|uuid| uuid.len()), Ok(16));
    assert!(release.health_command.iter().all(|argument| !argument.contains('\0')));
});
