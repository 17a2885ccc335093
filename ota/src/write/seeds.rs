//! Looks for the chunks of a release in what this machine has: the slot that runs and its kernel image, and, by a thread of
//! its own meanwhile, the slot that is to be written.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    sync::mpsc::{Receiver, sync_channel},
    thread,
};

use sha2::{Digest as _, Sha256};

use super::{
    Work, WriteError,
    base::Running,
    device::{Slot, Span, size_of},
    plan::{Found, Source},
};
use crate::chunks::{Cutter, Index, Part, ZEROS};

/// Chunks of the slot that were seen and not taken account of yet.
const SEEN: usize = 1024;

/// What is looked at in one go.
struct Place<'f> {
    source: Source,
    part: Part,
    file: &'f File,
    start: u64,
    end: u64,
}

/// A chunk that was seen; its digest if the release has it too.
struct Seen {
    source: Source,
    part: Part,
    offset: u64,
    length: u64,
    digest: Option<[u8; 32]>,
}

impl Work<'_> {
    /// Finds chunks everywhere but in the sources that turned out bad.
    pub(super) fn look(&mut self, index: &Index, bad: &[Source]) -> Result<Found, WriteError> {
        let needed: &HashSet<[u8; 32]> = &index.chunks().iter().map(|chunk| chunk.digest).collect();
        let Self { slot, running, watch, .. } = self;
        let (slot, running) = (&*slot, &*running);
        let found = Found { in_place: vec![false; index.chunks().len()], ..Found::default() };
        let mut noted = Noted { places: Places::of(index), index, found };
        thread::scope(|scope| {
            let (seen, coming) = sync_channel(SEEN);
            let of_slot = slot_places(index, slot, bad);
            // It ends as soon as nobody listens.
            scope.spawn(move || look_at(&of_slot, needed, &mut |chunk| seen.send(chunk).is_ok()));
            // Taken by value: whoever leaves here early does not listen any more.
            let coming: Receiver<Seen> = coming;
            let mut outcome = Ok(());
            look_at(&running_places(running, bad), needed, &mut |chunk| {
                outcome = std::iter::once(chunk).chain(coming.try_iter()).try_for_each(|chunk| {
                    watch.worked(chunk.length)?;
                    noted.note(&chunk);
                    Ok(())
                });
                outcome.is_ok()
            });
            outcome?;
            coming.iter().try_for_each(|chunk| {
                watch.worked(chunk.length)?;
                noted.note(&chunk);
                Ok(())
            })
        })?;
        Ok(noted.found)
    }
}

fn running_places<'w>(running: &'w Running<'_>, bad: &[Source]) -> Vec<Place<'w>> {
    let root = Place {
        source: Source::RunningRoot,
        part: Part::Root,
        file: running.root,
        start: 0,
        end: running.size,
    };
    let kernel = running.uki.as_ref().map(|(file, size)| Place {
        source: Source::RunningUki,
        part: Part::Uki,
        file,
        start: 0,
        end: *size,
    });
    let mut places: Vec<Place<'_>> = std::iter::once(root).chain(kernel).collect();
    places.retain(|place| !bad.contains(&place.source));
    places
}

/// What the slot holds beyond the new root's end is cut apart from the rest: so the last chunk of a root that is there
/// already is found.
fn slot_places<'w>(index: &Index, slot: &'w Slot<'_>, bad: &[Source]) -> Vec<Place<'w>> {
    let (root_size, uki_size) = (index.size(Part::Root), index.size(Part::Uki));
    let held_uki = size_of(slot.uki).unwrap_or(0).min(uki_size);
    let of = |source, part, file, start, end| Place { source, part, file, start, end };
    let mut places = vec![
        of(Source::SlotRoot, Part::Root, slot.root, 0, root_size),
        of(Source::SlotRoot, Part::Root, slot.root, root_size, slot.used),
        of(Source::SlotUki, Part::Uki, slot.uki, 0, held_uki),
    ];
    places.retain(|place| !bad.contains(&place.source));
    places
}

/// Cuts and hashes what there is, until nobody wants more.
fn look_at(places: &[Place<'_>], needed: &HashSet<[u8; 32]>, each: &mut dyn FnMut(Seen) -> bool) {
    let zeros: [u8; 32] = Sha256::digest(ZEROS).into();
    for Place { source, part, file, start, end } in places {
        let mut cutter = Cutter::new(Span { file, offset: *start, end: *end }, part.alignment());
        // A source that cannot be read from some point on is one that has nothing there.
        while let Ok(Some((offset, bytes))) = cutter.next_chunk() {
            let digest = if *bytes == ZEROS { zeros } else { Sha256::digest(bytes).into() };
            let seen = Seen {
                source: *source,
                part: *part,
                offset: start + offset,
                length: bytes.len() as u64,
                digest: Some(digest).filter(|digest| needed.contains(digest)),
            };
            if !each(seen) {
                return;
            }
        }
    }
}

/// What was found so far.
struct Noted<'i> {
    places: Places,
    index: &'i Index,
    found: Found,
}

impl Noted<'_> {
    fn note(&mut self, seen: &Seen) {
        let Some(digest) = seen.digest else { return };
        match seen.source {
            Source::RunningRoot | Source::RunningUki => {
                self.found.running.entry(digest).or_insert((seen.source, seen.offset));
            }
            Source::SlotRoot | Source::SlotUki => {
                if let Some(number) = self.places.at(self.index, seen.part, seen.offset, &digest) {
                    self.found.in_place[number] = true;
                }
            }
        }
        if seen.source == Source::SlotRoot {
            self.found.slot.insert(digest, seen.offset);
        }
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
