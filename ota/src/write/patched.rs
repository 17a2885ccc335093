//! Fills the slot by a patch on what runs, segment by segment.

use std::{io, os::unix::fs::FileExt};

use cairn_model::release::Patch;
use sha2::{Digest as _, Sha256};

use super::{
    Work, WriteError,
    device::{Place, Sink},
};
use crate::{
    Carrier,
    chunks::Part,
    patch::{Applier, PatchError, Segment},
};

impl Work<'_> {
    /// Fetches the patch in whole, verifies it, and applies it.
    pub(super) fn fill_by_patch(
        &mut self,
        patch: &Patch,
        carrier: &mut dyn Carrier,
    ) -> Result<(), WriteError> {
        let file = self.fetch_patch(patch, carrier)?;
        let mut applier = Applier::new(io::BufReader::new(file)).map_err(WriteError::Patch)?;
        let (root, uki) = (applier.size(Part::Root), applier.size(Part::Uki));
        if (root, uki) != (self.release.root.size, self.release.uki.size) {
            return Err(WriteError::Release("a patch of it makes other payloads"));
        }
        // Segments are written in order: those that an earlier try wrote are the first ones.
        let mut resuming = true;
        let mut bytes = Vec::new();
        while let Some(segment) = applier.next_segment().map_err(WriteError::Patch)? {
            resuming = resuming && self.stands(&segment, &mut bytes)?;
            if resuming {
                applier.skip(&segment).map_err(WriteError::Patch)?;
                self.watch.written(segment.length.into())?;
            } else {
                self.make(&mut applier, &segment, &mut bytes)?;
                self.put(&segment, &bytes)?;
            }
        }
        Ok(())
    }

    /// Whether the slot holds a segment already.
    fn stands(&mut self, segment: &Segment, bytes: &mut Vec<u8>) -> Result<bool, WriteError> {
        let file = self.slot.file(segment.part);
        let mut hasher = Sha256::new();
        bytes.resize(1 << 20, 0);
        let end = segment.offset + u64::from(segment.length);
        let mut offset = segment.offset;
        while offset < end {
            let length = usize::try_from(end - offset).map_or(bytes.len(), |left| left.min(bytes.len()));
            // What cannot be read does not stand there.
            if file.read_exact_at(&mut bytes[..length], offset).is_err() {
                return Ok(false);
            }
            hasher.update(&bytes[..length]);
            offset += length as u64;
            self.watch.worked(length as u64)?;
        }
        Ok(hasher.finalize()[..] == segment.digest)
    }

    /// Makes a segment from what runs.
    fn make<R: io::Read>(
        &mut self,
        applier: &mut Applier<R>,
        segment: &Segment,
        out: &mut Vec<u8>,
    ) -> Result<(), WriteError> {
        let Self { running, watch, .. } = self;
        let mut stopped = None;
        let mut base = |part: Part, offset: u64, piece: &mut [u8]| -> io::Result<()> {
            if let Err(error) = watch.worked(piece.len() as u64) {
                stopped = Some(error);
                return Err(io::ErrorKind::Other.into());
            }
            match (part, &running.uki) {
                (Part::Root, _) => running.root.read_exact_at(piece, offset),
                (Part::Uki, Some((file, _))) => file.read_exact_at(piece, offset),
                (Part::Uki, None) => Err(io::ErrorKind::NotFound.into()),
            }
        };
        let made: Result<(), PatchError> = applier.apply(segment, &mut base, out);
        match (made, stopped) {
            (_, Some(stopped)) => Err(stopped),
            (made, None) => made.map_err(WriteError::Patch),
        }
    }

    fn put(&mut self, segment: &Segment, bytes: &[u8]) -> Result<(), WriteError> {
        let mut sink = Sink::new(segment.part, self.slot.file(segment.part));
        for (piece, offset) in bytes.chunks(1 << 20).zip((segment.offset..).step_by(1 << 20)) {
            sink.put(offset, piece)?;
            self.watch.written(piece.len() as u64)?;
        }
        sink.flush()?;
        // A segment is the unit of resuming: it is made durable as one.
        let place = Place::of(segment.part);
        super::device::sync(place, self.slot.file(segment.part))
            .map_err(|source| WriteError::Write { what: place.as_str(), source })
    }
}
