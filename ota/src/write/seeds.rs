//! Looks for the chunks of a release in what this machine has: the slot that runs, its kernel image, and the slot that
//! is to be written.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
};

use sha2::{Digest as _, Sha256};

use super::{
    Work, WriteError,
    base::Running,
    device::{Slot, Span, size_of},
    plan::{Found, Source},
};
use crate::chunks::{Cutter, Index, Part};

impl Work<'_> {
    /// Finds chunks everywhere but in the sources that turned out bad.
    pub(super) fn look(&mut self, index: &Index, bad: &[Source]) -> Result<Found, WriteError> {
        let needed: HashSet<[u8; 32]> = index.chunks().iter().map(|chunk| chunk.digest).collect();
        let places = Places::of(index);
        let mut found = Found { in_place: vec![false; index.chunks().len()], ..Found::default() };
        let (root_size, uki_size) = (index.size(Part::Root), index.size(Part::Uki));
        let held_uki = size_of(self.slot.uki).unwrap_or(0).min(uki_size);
        // What the slot holds beyond the new root's end is cut apart from the rest: so the last chunk of a root that
        // is there already is found.
        let mut spans = vec![
            (Source::RunningRoot, Part::Root, 0, self.running.size),
            (Source::RunningUki, Part::Uki, 0, self.running.uki.as_ref().map_or(0, |(_, size)| *size)),
            (Source::SlotRoot, Part::Root, 0, root_size),
            (Source::SlotRoot, Part::Root, root_size, self.slot.used),
            (Source::SlotUki, Part::Uki, 0, held_uki),
        ];
        spans.retain(|(source, ..)| !bad.contains(source));
        for (source, part, start, end) in spans {
            let Self { slot, running, watch, .. } = self;
            let Some(file) = file_of(source, slot, running) else { continue };
            let mut cutter = Cutter::new(Span { file, offset: start, end }, part.alignment());
            // A source that cannot be read from some point on is one that has nothing there.
            while let Ok(Some((offset, bytes))) = cutter.next_chunk() {
                let digest: [u8; 32] = Sha256::digest(bytes).into();
                let (length, offset) = (bytes.len() as u64, offset + start);
                watch.worked(length)?;
                if !needed.contains(&digest) {
                    continue;
                }
                match source {
                    Source::RunningRoot | Source::RunningUki => {
                        found.running.entry(digest).or_insert((source, offset));
                    }
                    Source::SlotRoot | Source::SlotUki => {
                        if let Some(number) = places.at(index, part, offset, &digest) {
                            found.in_place[number] = true;
                        }
                    }
                }
                if source == Source::SlotRoot {
                    found.slot.insert(digest, offset);
                }
            }
        }
        Ok(found)
    }
}

/// The file behind a source.
pub(super) fn file_of<'w>(source: Source, slot: &'w Slot<'_>, running: &'w Running<'_>) -> Option<&'w File> {
    match source {
        Source::RunningRoot => Some(running.root),
        Source::RunningUki => running.uki.as_ref().map(|(file, _)| file),
        Source::SlotRoot => Some(slot.root),
        Source::SlotUki => Some(slot.uki),
    }
}

/// Which chunk belongs at an offset.
struct Places(HashMap<(Part, u64), usize>);

impl Places {
    fn of(index: &Index) -> Self {
        Self(
            index
                .chunks()
                .iter()
                .enumerate()
                .map(|(number, chunk)| ((chunk.part, chunk.offset), number))
                .collect(),
        )
    }

    fn at(&self, index: &Index, part: Part, offset: u64, digest: &[u8; 32]) -> Option<usize> {
        let number = *self.0.get(&(part, offset))?;
        (index.chunks()[number].digest == *digest).then_some(number)
    }
}
