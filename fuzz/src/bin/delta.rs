//! The way round: two releases that the input describes, packed as chunks and made a patch of; what comes out of both is
//! the new release. Each four bytes are a stretch of a payload: whose, what it is filled with, and how long it is.
#![no_main]

use std::{fs::File, os::fd::AsRawFd, path::PathBuf};

use cairn_fuzz::file;
use cairn_ota::{
    chunks::{Index, Opener, Part, pack},
    patch::{Applier, make},
};
use libfuzzer_sys::{Corpus, fuzz_target};

/// Longest payload.
const MAX: usize = 512 << 10;

/// Most stretches of payloads.
const MAX_STRETCHES: usize = 64;

fuzz_target!(|data: &[u8]| -> Corpus {
    if data.len() > 4 * MAX_STRETCHES {
        return Corpus::Reject;
    }
    let payloads = payloads(data);
    let files = payloads.each_ref().map(|bytes| file(bytes).expect("a file in memory"));
    let [old_root, old_uki, new_root, new_uki] = files.each_ref().map(path);
    let mut packed = Vec::new();
    let index = pack(&new_root, &new_uki, 1, &mut packed).expect("a pack is made");
    chunks(&index, &packed, &payloads);
    let mut patch = Vec::new();
    let made = make(&old_root, &old_uki, &new_root, &new_uki, 1, &mut patch).expect("a patch is made");
    assert!(made.memory <= 96 << 20);
    apply(&patch, &payloads);
    Corpus::Keep
});

/// Old root, old kernel image, new root, new kernel image.
fn payloads(data: &[u8]) -> [Vec<u8>; 4] {
    let mut payloads = [const { Vec::new() }; 4];
    for stretch in data.chunks_exact(4) {
        let payload = &mut payloads[usize::from(stretch[0] & 3)];
        let length = usize::from(u16::from_le_bytes([stretch[2], stretch[3]]));
        let length = length.min(MAX - payload.len());
        // The high bit of the first byte: incompressible. Else it repeats itself.
        let period = if stretch[0] & 0x80 == 0 { 64 } else { u64::MAX };
        let fill = u64::from(stretch[1]);
        payload.extend((0..length as u64).map(|at| mix(fill << 32 | at % period)));
    }
    for root in [0, 2] {
        let length = payloads[root].len().next_multiple_of(4096);
        payloads[root].resize(length, 0);
    }
    payloads
}

/// A byte that depends on all of `number` (the finaliser of SplitMix64).
fn mix(number: u64) -> u8 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ mixed >> 31) as u8
}

fn path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn chunks(index: &Index, packed: &[u8], payloads: &[Vec<u8>; 4]) {
    assert_eq!(Index::parse(&index.to_bytes()).as_ref(), Ok(index));
    assert_eq!(index.pack_size(), packed.len() as u64);
    let mut opener = Opener::new().expect("a decompressor");
    let mut made: [Vec<u8>; 2] = [Vec::new(), Vec::new()];
    let mut out = Vec::new();
    for chunk in index.chunks() {
        let begin = chunk.packed_offset as usize;
        let bytes = &packed[begin..begin + chunk.packed_length as usize];
        opener.open(chunk, bytes, &mut out).expect("a chunk opens");
        made[chunk.part as usize].extend(&out);
    }
    assert!(made[..] == payloads[2..], "chunks give another release");
}

fn apply(patch: &[u8], payloads: &[Vec<u8>; 4]) {
    let mut applier = Applier::new(patch).expect("a patch");
    let mut made: [Vec<u8>; 2] = [Vec::new(), Vec::new()];
    let mut out = Vec::new();
    let mut base = |part: Part, offset: u64, bytes: &mut [u8]| {
        let begin = offset as usize;
        bytes.copy_from_slice(&payloads[part as usize][begin..begin + bytes.len()]);
        Ok(())
    };
    while let Some(segment) = applier.next_segment().expect("a segment") {
        applier.apply(&segment, &mut base, &mut out).expect("a segment applies");
        made[segment.part as usize].extend(&out);
    }
    assert!(made[..] == payloads[2..], "the patch gives another release");
}
