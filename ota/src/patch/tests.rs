//! Patches between payloads of every kind, wrong bases, and garbage.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::noise::noise;

/// The patch between payloads, root and kernel image.
fn made(old: [&[u8]; 2], new: [&[u8]; 2]) -> (Made, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str, bytes: &[u8]| {
        fs::write(folder.path().join(name), bytes).unwrap();
        folder.path().join(name)
    };
    let paths = [at("a", old[0]), at("b", old[1]), at("c", new[0]), at("d", new[1])];
    let mut patch = Vec::new();
    let made = make(&paths[0], &paths[1], &paths[2], &paths[3], 3, &mut patch).unwrap();
    (made, patch)
}

/// What a patch makes of old payloads.
fn applied(patch: &[u8], old: [&[u8]; 2]) -> Result<[Vec<u8>; 2], PatchError> {
    let mut applier = Applier::new(patch)?;
    let (mut new, mut out) = ([Vec::new(), Vec::new()], Vec::new());
    while let Some(segment) = applier.next_segment()? {
        assert_eq!(segment.offset, new[segment.part as usize].len() as u64);
        let mut base = |part: Part, offset: u64, piece: &mut [u8]| {
            assert!(piece.len() <= PIECE);
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let end = start.saturating_add(piece.len());
            piece.copy_from_slice(old[part as usize].get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        };
        applier.apply(&segment, &mut base, &mut out)?;
        new[segment.part as usize].extend(&out);
    }
    Ok(new)
}

#[test]
fn new_payloads_come_out_of_old_ones() {
    let old_root = [noise(1, 9 << 20), vec![0; 1 << 20], noise(2, 9 << 20)].concat();
    let mut new_root = [noise(2, 9 << 20), noise(3, 100_000), noise(1, 9 << 20)].concat();
    new_root[5_000_000] ^= 1;
    let (old_uki, new_uki) =
        (noise(4, 300_000), [noise(4, 200_000), noise(5, 5000), noise(4, 300_000)].concat());
    let (made, patch) = made([&old_root, &old_uki], [&new_root, &new_uki]);
    assert!(patch.len() < 150_000, "{}", patch.len());
    let largest = (MAX_PREFIX + 2 * MAX_SEGMENT) as u64 + OVERHEAD + u64::from(SLACK);
    assert!(made.memory <= largest && largest <= 96 << 20);
    assert_eq!(applied(&patch, [&old_root, &old_uki]).unwrap(), [new_root, new_uki]);
}

#[test]
fn payloads_without_anything_in_common_and_empty_ones_work_too() {
    let (a, b) = (noise(1, 50_000), noise(2, 70_000));
    for (old, new) in [(&a[..], &b[..]), (&[][..], &b[..]), (&a[..], &b[..1])] {
        let (_, patch) = made([old, old], [new, new]);
        assert_eq!(applied(&patch, [old, old]).unwrap(), [new, new]);
    }
}

#[test]
fn rejects_another_base() {
    let (old, new) = (noise(1, 200_000), [&noise(1, 200_000)[..], b"more"].concat());
    let (_, patch) = made([&old, b"uki"], [&new, b"uki"]);
    let mut other = old.clone();
    other[77_777] ^= 1;
    assert!(matches!(applied(&patch, [&other, b"uki"]), Err(PatchError::Mismatch { number: 0 })));
    assert!(matches!(applied(&patch, [&old[..100_000], b"uki"]), Err(PatchError::Base(_))));
}

#[test]
fn refuses_what_is_beyond_its_bounds() {
    let start = |root: u64| [&b"CAIRNPT1"[..], &root.to_le_bytes(), &0u64.to_le_bytes()].concat();
    let segment = |length: u32, frame: u32, count: u32| {
        [&length.to_le_bytes()[..], &frame.to_le_bytes(), &count.to_le_bytes(), &[0; 32]].concat()
    };
    let stretch = |part: u8, offset: u64, length: u32| {
        [&[part][..], &offset.to_le_bytes(), &length.to_le_bytes()].concat()
    };
    let huge = MAX_SEGMENT as u32 + 1;
    let bad = [
        (b"CAIRNPT2".repeat(3), "another word"),
        (start(1)[..20].to_vec(), "cut off"),
        (start(1), "cut off"),
        ([start(0), vec![0]].concat(), "follows its end"),
        ([start(9), segment(0, 0, 0)].concat(), "empty, or longer"),
        ([start(9), segment(10, 0, 0)].concat(), "empty, or longer"),
        ([start(u64::MAX), segment(huge, 0, 0)].concat(), "too long"),
        ([start(9), segment(9, 10 + SLACK, 0)].concat(), "frame is too long"),
        ([start(9), segment(9, 9, MAX_STRETCHES as u32 + 1)].concat(), "too many stretches"),
        ([start(9), segment(9, 9, 1), stretch(2, 0, 1)].concat(), "of no payload"),
        ([start(9), segment(9, 9, 1), stretch(0, 0, 0)].concat(), "a stretch is empty"),
        ([start(9), segment(9, 9, 1), stretch(1, u64::MAX, 1)].concat(), "beyond all bounds"),
        ([start(9), segment(9, 9, 1), stretch(0, 0, MAX_PREFIX as u32 + 1)].concat(), "refers to too much"),
        ([start(9), segment(9, 9, 2), stretch(0, 0, 1)].concat(), "cut off"),
    ];
    for (bytes, cause) in bad {
        let error = Applier::new(&bytes[..]).and_then(|mut applier| applier.next_segment()).unwrap_err();
        assert!(error.to_string().contains(cause), "{error} is not about {cause}");
    }
}

#[test]
fn segments_can_be_gone_past() {
    let new = noise(1, (20 << 20) + 5);
    let (_, patch) = made([&[], b"uki"], [&new, b"uki"]);
    let mut applier = Applier::new(&patch[..]).unwrap();
    let mut lengths = Vec::new();
    while let Some(segment) = applier.next_segment().unwrap() {
        applier.skip(&segment).unwrap();
        lengths.push(segment.length as usize);
    }
    assert_eq!(lengths.len(), 3);
    assert_eq!(lengths.iter().sum::<usize>(), new.len() + 3);
    let mut cut = Applier::new(&patch[..patch.len() / 4]).unwrap();
    let segment = cut.next_segment().unwrap().unwrap();
    assert!(matches!(cut.skip(&segment), Err(PatchError::Damaged("it is cut off"))));
}

proptest! {
    #[test]
    fn garbage_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 24..300), sound: bool) {
        bytes[..8].copy_from_slice(MAGIC);
        if sound {
            // Sizes and a length that could be: what follows is read further.
            bytes[10..24].fill(0);
            bytes.splice(24.., [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0].into_iter().chain(bytes[24..].to_vec()));
        }
        prop_assert!(applied(&bytes, [b"old root", b"old uki"]).is_err() || bytes[8..24] == [0; 16]);
    }

    #[test]
    fn a_flipped_bit_never_makes_other_payloads(at in 0usize..1_000_000, bit in 0u32..8) {
        let (old, new) = (noise(1, 20_000), [noise(1, 15_000), noise(2, 2000), vec![7; 900]].concat());
        let (_, mut patch) = made([&old, b"old uki"], [&new, b"new uki"]);
        let at = at % patch.len();
        patch[at] ^= 1 << bit;
        if let Ok(applied) = applied(&patch, [&old, b"old uki"]) {
            prop_assert_eq!(applied, [new, b"new uki".to_vec()]);
        }
    }
}
