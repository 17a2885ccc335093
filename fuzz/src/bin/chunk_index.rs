//! The index of chunks: what is read writes the same bytes again, adds up, and takes memory in proportion to its bytes;
//! a chunk opens to what its digest names or not at all.
#![no_main]

use cairn_fuzz::{refusal, within};
use cairn_ota::chunks::{Index, MAX, Opener, Part};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest as _, Sha256};

fuzz_target!(|data: &[u8]| {
    // A byte can stand for a chunk, which is 64 bytes in memory; the table of distinct ones grows by doubling.
    let index = match within(96 * data.len() + 4096, || Index::parse(data)) {
        Ok(index) => index,
        Err(error) => return refusal(&error),
    };
    assert_eq!(index.to_bytes(), data);
    let mut ends = [0, 0];
    let mut opener = Opener::new().expect("a decompressor");
    let mut out = Vec::new();
    for chunk in index.chunks() {
        assert_eq!(chunk.offset, ends[chunk.part as usize]);
        ends[chunk.part as usize] += u64::from(chunk.length);
        assert!((1..=MAX as u32).contains(&chunk.length) && chunk.packed_length <= chunk.length);
        assert!(chunk.packed_length > 0);
        assert!(chunk.packed_offset + u64::from(chunk.packed_length) <= index.pack_size());
        if let Some(packed) = data.get(..chunk.packed_length as usize) {
            let opened = opener.open(chunk, packed, &mut out);
            assert_eq!(opened.is_ok(), Sha256::digest(&out)[..] == chunk.digest && !out.is_empty());
        }
    }
    assert_eq!(ends, [index.size(Part::Root), index.size(Part::Uki)]);
});
