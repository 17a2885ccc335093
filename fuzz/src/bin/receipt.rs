//! The receipt on a stick, which anybody may have changed: what is read is the same when it is written and read.
#![no_main]

use cairn_fuzz::document;
use cairn_model::media::Receipt;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(receipt) = document(data, Receipt::parse) else { return };
    // What is looked up for it lies on the stick, whatever it says.
    for blob in &receipt.blobs {
        assert!(!cairn_model::media::blob_path(&blob.digest).contains(".."));
    }
    for node in &receipt.nodes {
        assert!(!cairn_model::media::grant_path(&node.node).contains(".."));
    }
});
