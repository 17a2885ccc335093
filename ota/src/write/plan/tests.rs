//! Any plan, followed step by step on bytes, ends in the release; what is fetched is in order and no more than needed.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::chunks::Chunk;

/// Every chunk has this many bytes, all alike: a byte stands for a chunk.
const LENGTH: u32 = 10;

/// The index of a release whose chunks are these letters; distinct ones are packed in order.
fn index(root: &[u8], uki: &[u8]) -> Index {
    let mut packed: Vec<u8> = Vec::new();
    let mut chunks = Vec::new();
    for (part, letters) in [(Part::Root, root), (Part::Uki, uki)] {
        for (position, letter) in letters.iter().enumerate() {
            if !packed.contains(letter) {
                packed.push(*letter);
            }
            let place = packed.iter().position(|known| known == letter).unwrap();
            chunks.push(Chunk {
                digest: [*letter; 32],
                part,
                offset: position as u64 * u64::from(LENGTH),
                length: LENGTH,
                packed_offset: place as u64 * u64::from(LENGTH),
                packed_length: LENGTH,
            });
        }
    }
    Index::of(chunks)
}

/// What a look finds: letters of what runs, and of the slot, which is longer or shorter than the release.
fn found(index: &Index, running: &[u8], slot: &[u8], slot_uki: &[u8]) -> Found {
    let offset = |position: usize| position as u64 * u64::from(LENGTH);
    let mut found = Found::default();
    for (position, letter) in running.iter().enumerate() {
        found.running.entry([*letter; 32]).or_insert((Source::RunningRoot, offset(position)));
    }
    for (position, letter) in slot.iter().enumerate() {
        found.slot.insert([*letter; 32], offset(position));
    }
    let stands = |chunk: &Chunk| {
        let held = if chunk.part == Part::Root { slot } else { slot_uki };
        held.get((chunk.offset / u64::from(LENGTH)) as usize)
            .is_some_and(|letter| chunk.digest == [*letter; 32])
    };
    found.in_place = index.chunks().iter().map(stands).collect();
    found
}

/// Follows a plan to its end and gives root and kernel image as letters.
fn follow(index: &Index, steps: &[Step], running: &[u8], slot: &[u8], slot_uki: &[u8]) -> [Vec<u8>; 2] {
    let sizes = [Part::Root, Part::Uki].map(|part| (index.size(part) / u64::from(LENGTH)) as usize);
    let mut held = [slot.to_vec(), slot_uki.to_vec()];
    held.iter_mut().zip(sizes).for_each(|(bytes, size)| bytes.resize(size.max(bytes.len()), b'-'));
    for (chunk, step) in index.chunks().iter().zip(steps) {
        let at = |offset: u64| (offset / u64::from(LENGTH)) as usize;
        let letter = match *step {
            Step::Keep => continue,
            Step::Copy { from: Source::RunningRoot, offset } => running[at(offset)],
            Step::Copy { from: Source::SlotRoot, offset } => held[0][at(offset)],
            Step::Copy { from: Source::SlotUki, offset } => held[1][at(offset)],
            Step::Copy { from: Source::RunningUki, .. } => unreachable!(),
            Step::Fetch => chunk.digest[0],
        };
        held[chunk.part as usize][at(chunk.offset)] = letter;
    }
    held.iter_mut().zip(sizes).for_each(|(bytes, size)| bytes.truncate(size));
    held
}

#[test]
fn a_chunk_is_copied_from_the_slot_only_before_it_is_overwritten() {
    let index = index(b"abcd", b"");
    let steps = |slot: &[u8]| plan(&index, &found(&index, b"", slot, b""));
    let from_slot = |offset| Step::Copy { from: Source::SlotRoot, offset };
    assert_eq!(steps(b"abcd"), [Step::Keep; 4]);
    assert_eq!(steps(b"xabcd"), [10, 20, 30, 40].map(from_slot));
    assert_eq!(steps(b"bcd"), [Step::Fetch, Step::Fetch, Step::Fetch, Step::Fetch]);
    assert_eq!(steps(b"dxxxa"), [from_slot(40), Step::Fetch, Step::Fetch, Step::Fetch]);
}

#[test]
fn what_was_written_can_be_copied_again() {
    let index = index(b"aab", b"b");
    let steps = plan(&index, &found(&index, b"", b"", b""));
    let copy = |offset| Step::Copy { from: Source::SlotRoot, offset };
    assert_eq!(steps, [Step::Fetch, copy(0), Step::Fetch, copy(20)]);
}

#[test]
fn near_chunks_are_fetched_at_once_and_far_ones_are_not() {
    let chunk = |n: u64, packed_offset: u64, packed_length: u32| Chunk {
        digest: [n as u8; 32],
        part: Part::Root,
        offset: n * 65_536,
        length: 65_536,
        packed_offset,
        packed_length,
    };
    let index = Index::of(vec![
        chunk(0, 0, 1000),
        chunk(1, 1000, MAX_GAP as u32),
        chunk(2, 1000 + MAX_GAP, 500),
        chunk(3, 1500 + MAX_GAP, MAX_GAP as u32 + 1),
        chunk(4, 1501 + 2 * MAX_GAP, 500),
    ]);
    let steps = [Step::Fetch, Step::Keep, Step::Fetch, Step::Keep, Step::Fetch];
    let expected = [
        Range { first: 0, last: 2, offset: 0, length: 1500 + MAX_GAP },
        Range { first: 4, last: 4, offset: 1501 + 2 * MAX_GAP, length: 500 },
    ];
    assert_eq!(ranges(&index, &steps), expected);
    let many: Vec<_> = (0..200).map(|n| chunk(n, n * 65_536, 65_536)).collect();
    let ranges = ranges(&Index::of(many), &[Step::Fetch; 200]);
    assert_eq!(ranges.iter().map(|range| range.length).collect::<Vec<_>>(), [MAX_RANGE, 72 * 65_536]);
}

fn letters() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(b'a'..b'j', 0..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_plan_ends_in_the_release(
        root in letters(), uki in letters(), running in letters(), slot in letters(), slot_uki in letters(),
    ) {
        let index = index(&root, &uki);
        let steps = plan(&index, &found(&index, &running, &slot, &slot_uki));
        let [made_root, made_uki] = follow(&index, &steps, &running, &slot, &slot_uki);
        prop_assert_eq!(made_root, root);
        prop_assert_eq!(made_uki, uki);
        let fetched: Vec<_> = index.chunks().iter().zip(&steps).filter(|(_, s)| **s == Step::Fetch).collect();
        let distinct: HashSet<_> = fetched.iter().map(|(chunk, _)| chunk.digest).collect();
        prop_assert_eq!(distinct.len(), fetched.len());
        prop_assert!(fetched.iter().all(|(chunk, _)| !running.contains(&chunk.digest[0])));
        prop_assert!(fetched.windows(2).all(|two| two[0].0.packed_offset < two[1].0.packed_offset));
    }

    /// Cut off anywhere: what the slot holds then is enough for the rest of the same chunks.
    #[test]
    fn a_plan_that_is_cut_off_costs_no_chunk_twice(
        root in letters(), running in letters(), slot in letters(), cut in 0usize..14,
    ) {
        let index = index(&root, b"");
        let steps = plan(&index, &found(&index, &running, &slot, b""));
        let cut = cut.min(steps.len());
        let mut half = slot.clone();
        half.resize(half.len().max(root.len()), b'-');
        for (position, (chunk, step)) in index.chunks().iter().zip(&steps).enumerate().take(cut) {
            if *step != Step::Keep {
                half[position] = chunk.digest[0];
            }
        }
        let again = plan(&index, &found(&index, &running, &half, b""));
        let count = |steps: &[Step]| steps.iter().filter(|step| **step == Step::Fetch).count();
        prop_assert!(count(&again) <= count(&steps[cut..]));
    }
}
