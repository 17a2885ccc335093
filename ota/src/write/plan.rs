//! Decides, without touching anything, where each chunk of a release comes from.
//!
//! The slot is written in ascending order. A chunk that the slot held at offset `s` before can be copied to `p` only while
//! it is still there, that is if `s >= p`; whatever was written earlier can be copied from its new place.

use std::collections::HashMap;

use crate::chunks::{Index, Part};

#[cfg(test)]
mod tests;

/// Largest stretch of the pack that is fetched at once.
const MAX_RANGE: u64 = 8 << 20;

/// Bytes that are fetched and thrown away rather than asked for around.
const MAX_GAP: u64 = 16 << 10;

/// Where bytes can be copied from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    RunningRoot,
    RunningUki,
    SlotRoot,
    SlotUki,
}

impl Source {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::RunningRoot => "the root file system that runs",
            Self::RunningUki => "the kernel image that runs",
            Self::SlotRoot => "the slot's root file system",
            Self::SlotUki => "the kernel image on the ESP",
        }
    }
}

/// How one chunk gets where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It is there.
    Keep,
    /// It is somewhere on this machine.
    Copy { from: Source, offset: u64 },
    /// It is in the pack only.
    Fetch,
}

/// What was found of the chunks of an index.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// For each chunk whether it is in its place.
    pub(super) in_place: Vec<bool>,
    /// Chunks of what runs.
    pub(super) running: HashMap<[u8; 32], (Source, u64)>,
    /// Where in the slot's root a chunk stands last.
    pub(super) slot: HashMap<[u8; 32], u64>,
}

/// One step for each chunk, in the index's order.
pub(super) fn plan(index: &Index, found: &Found) -> Vec<Step> {
    let root_end = index.size(Part::Root);
    let mut written: HashMap<[u8; 32], (Source, u64)> = HashMap::new();
    let mut steps = Vec::with_capacity(index.chunks().len());
    for (chunk, in_place) in index.chunks().iter().zip(&found.in_place) {
        let (place, source) = match chunk.part {
            Part::Root => (chunk.offset, Source::SlotRoot),
            Part::Uki => (root_end, Source::SlotUki),
        };
        let still_there = found.slot.get(&chunk.digest).filter(|offset| **offset >= place);
        let copied = found.running.get(&chunk.digest).copied();
        let copied = copied.or(still_there.map(|offset| (Source::SlotRoot, *offset)));
        let copied = copied.or(written.get(&chunk.digest).copied());
        steps.push(match copied {
            _ if *in_place => Step::Keep,
            Some((from, offset)) => Step::Copy { from, offset },
            None => Step::Fetch,
        });
        written.entry(chunk.digest).or_insert((source, chunk.offset));
    }
    steps
}

/// A stretch of the pack that is fetched at once, for some of the chunks from `first` to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// What is to be fetched, in order. Chunks are packed in the order in which they first occur, so it ascends.
pub(super) fn ranges(index: &Index, steps: &[Step]) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for (number, (chunk, step)) in index.chunks().iter().zip(steps).enumerate() {
        if *step != Step::Fetch {
            continue;
        }
        let end = chunk.packed_offset + u64::from(chunk.packed_length);
        match ranges.last_mut() {
            Some(last)
                if chunk.packed_offset >= last.offset + last.length
                    && chunk.packed_offset - (last.offset + last.length) <= MAX_GAP
                    && end - last.offset <= MAX_RANGE =>
            {
                last.last = number;
                last.length = end - last.offset;
            }
            _ => ranges.push(Range {
                first: number,
                last: number,
                offset: chunk.packed_offset,
                length: u64::from(chunk.packed_length),
            }),
        }
    }
    ranges
}
