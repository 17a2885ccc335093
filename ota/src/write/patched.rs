//! Fills the slot by a patch on what runs, segment by segment.

use std::{io, mem, os::unix::fs::FileExt, thread};

use cairn_model::release::Patch;
use sha2::{Digest as _, Sha256};

use super::{
    Work, WriteError,
    behind::{Fault, Origin, Writer},
};
use crate::{
    Carrier,
    chunks::Part,
    patch::{Applier, MAX_SEGMENT, PatchError, Segment},
};

/// Most memory that a patch takes, in bytes.
const MAX_MEMORY: u64 = 96 << 20;

impl Work<'_> {
    /// Fetches the patch in whole, verifies it, and applies it.
    pub(super) fn fill_by_patch(
        &mut self,
        patch: &Patch,
        memory_limit: u64,
        carrier: &mut dyn Carrier,
    ) -> Result<(), WriteError> {
        let file = self.fetch_patch(patch, carrier)?;
        let mut applier = Applier::new(io::BufReader::new(file)).map_err(WriteError::Patch)?;
        let (root, uki) = (applier.size(Part::Root), applier.size(Part::Uki));
        if (root, uki) != (self.release.root.size, self.release.uki.size) {
            return Err(WriteError::Release("a patch of it makes other payloads"));
        }
        // One segment is compared and written while the next is made, if there is memory for both.
        let both = patch.memory.saturating_add(MAX_SEGMENT as u64) <= memory_limit.min(MAX_MEMORY);
        let files = [Part::Root, Part::Uki].map(|part| self.slot.file(part));
        let outcome = thread::scope(|scope| {
            let mut writer = Writer::start(scope, files);
            let made = self.segments(&mut applier, &mut writer, both);
            // What the worker says comes first: it happened first.
            let written = writer.end()?;
            made?;
            Ok(self.watch.written(written)?)
        });
        match outcome {
            Ok(()) => Ok(()),
            Err(Fault::Error(error)) => Err(error),
            // Nothing is copied here, and the worker never ends without an error, nor with this one.
            Err(Fault::Seed(_) | Fault::Ended) => Err(WriteError::Stopped),
        }
    }

    fn segments<R: io::Read>(
        &mut self,
        applier: &mut Applier<R>,
        writer: &mut Writer<'_>,
        both: bool,
    ) -> Result<(), Fault> {
        // Segments are written in order: those that an earlier try wrote are the first ones.
        let mut resuming = true;
        let mut bytes = Vec::new();
        while let Some(segment) = applier.next_segment().map_err(WriteError::Patch)? {
            resuming = resuming && self.stands(&segment, &mut bytes)?;
            if resuming {
                applier.skip(&segment).map_err(WriteError::Patch)?;
                self.watch.written(segment.length.into())?;
                continue;
            }
            if !both {
                writer.settle()?;
            }
            if bytes.capacity() == 0 {
                bytes = writer.spare();
            }
            self.make(applier, &segment, &mut bytes)?;
            let origin = Origin::Segment(segment.number);
            writer.give(segment.part, segment.offset, mem::take(&mut bytes), segment.digest, origin)?;
            self.watch.written(writer.take_written())?;
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
        let made: Result<(), PatchError> = applier.open(segment, &mut base, out);
        match (made, stopped) {
            (_, Some(stopped)) => Err(stopped),
            (made, None) => made.map_err(WriteError::Patch),
        }
    }
}
