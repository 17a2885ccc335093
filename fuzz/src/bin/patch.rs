//! A patch that is garbage: its segments follow each other and keep their bounds, and applying one gives what its digest
//! names or an error, never more memory than allowed. The first byte says which segments are only gone past.
#![no_main]

use std::io;

use cairn_fuzz::{refusal, within};
use cairn_ota::{
    chunks::Part,
    patch::{Applier, MAX_PREFIX, MAX_SEGMENT, MAX_STRETCHES},
};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest as _, Sha256};

/// Bytes of what patches start from.
const BASE: u64 = 1 << 20;

/// Segment, stretches, frame and what the decompressor needs, as design and `Release` bound it.
const MEMORY: usize = 96 << 20;

fuzz_target!(|data: &[u8]| {
    let Some((choice, patch)) = data.split_first() else { return };
    within(MEMORY, || run(*choice, patch));
});

fn run(choice: u8, patch: &[u8]) {
    let mut applier = match Applier::new(patch) {
        Ok(applier) => applier,
        Err(error) => return refusal(&error),
    };
    let mut done = [0, 0];
    let mut out = Vec::new();
    for number in 0.. {
        let segment = match applier.next_segment() {
            Ok(Some(segment)) => segment,
            Ok(None) => break,
            Err(error) => return refusal(&error),
        };
        assert_eq!((segment.number, segment.offset), (number, done[segment.part as usize]));
        assert!(segment.part == Part::Root || done[0] == applier.size(Part::Root));
        assert!((1..=MAX_SEGMENT).contains(&(segment.length as usize)));
        assert!(segment.stretches.len() <= MAX_STRETCHES);
        assert!(segment.stretches.iter().map(|s| u64::from(s.length)).sum::<u64>() <= MAX_PREFIX as u64);
        done[segment.part as usize] += u64::from(segment.length);
        let result = if choice >> (number % 8) & 1 == 1 {
            applier.skip(&segment)
        } else {
            let applied = applier.apply(&segment, &mut base, &mut out);
            let whole = out.len() == segment.length as usize && Sha256::digest(&out)[..] == segment.digest;
            assert_eq!(applied.is_ok(), whole);
            applied
        };
        if let Err(error) = result {
            return refusal(&error);
        }
    }
    assert_eq!(done, [applier.size(Part::Root), applier.size(Part::Uki)]);
}

/// A mebibyte whose bytes say where they are.
fn base(part: Part, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
    if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > BASE) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    for (at, byte) in (offset..).zip(bytes) {
        *byte = (at ^ at >> 8 ^ part as u64) as u8;
    }
    Ok(())
}
