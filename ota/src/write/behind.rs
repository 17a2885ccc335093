//! The half of writing that goes on behind the fetching, on threads of its own: what was put together is compared with its
//! digests, written, and made durable, while the next is fetched and opened.
//!
//! ```text
//! Writer (fetches, opens) ─ Batch ─▶ worker (compares, writes) ─ Part ─▶ one syncer a file
//!            ◀── the buffer ──────────┘
//! ```
//! Nothing waits between two threads but what the one that takes has not taken yet: whoever gives waits. So there are two
//! buffers in all, and no more than [`DURABLE`] twice is written and not durable.

use std::{
    fs::File,
    ops::Range,
    panic::resume_unwind,
    sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    thread::{Scope, ScopedJoinHandle},
};

use sha2::{Digest as _, Sha256};

use super::{
    WriteError,
    device::{Place, put, sync},
    plan::Source,
};
use crate::{chunks::Part, patch::PatchError};

/// Bytes that are gathered before they are written.
pub(super) const GATHER: usize = 256 << 10;

/// Bytes that are written at once, and counted as one.
const PIECE: usize = 1 << 20;

/// Bytes after which what was written is made durable, so that a power cut costs no more than twice these.
const DURABLE: u64 = 8 << 20;

/// Where bytes come from that turn out to be others than they should be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// The carrier, as a piece of this.
    Carrier(&'static str),
    /// This machine.
    Copy(Source),
    /// This segment of the patch.
    Segment(u64),
}

/// Why not all was written.
#[derive(Debug)]
pub(super) enum Fault {
    /// A source does not have what was found there.
    Seed(Source),
    Error(WriteError),
    /// The worker has ended; [`Writer::end`] knows why.
    Ended,
}

impl From<WriteError> for Fault {
    fn from(error: WriteError) -> Self {
        Self::Error(error)
    }
}

impl From<Origin> for Fault {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Carrier(what) => Self::Error(WriteError::Wrong { what }),
            Origin::Copy(source) => Self::Seed(source),
            Origin::Segment(number) => Self::Error(WriteError::Patch(PatchError::Mismatch { number })),
        }
    }
}

/// Bytes that belong one after the other.
struct Batch {
    part: Part,
    offset: u64,
    /// At its beginning what was gathered; beyond `length` it is waste.
    buffer: Vec<u8>,
    length: usize,
    /// Where each piece ends, and what it must be.
    pieces: Vec<(usize, [u8; 32], Origin)>,
}

impl Batch {
    fn new(buffer: Vec<u8>) -> Self {
        Self { part: Part::Root, offset: 0, buffer, length: 0, pieces: Vec::new() }
    }

    fn end(&self) -> u64 {
        self.offset + self.length as u64
    }
}

/// The front: puts batches together, and gives them to the worker.
pub(super) struct Writer<'scope> {
    batches: SyncSender<Batch>,
    buffers: Receiver<Vec<u8>>,
    worker: ScopedJoinHandle<'scope, Result<(), Fault>>,
    batch: Batch,
    /// What the worker has, and may not have written yet.
    given: (Part, Range<u64>),
    /// Bytes that stand where they should, and were not told of yet.
    written: u64,
}

impl<'scope> Writer<'scope> {
    /// Starts the threads. `files` are those of root and kernel image.
    pub(super) fn start(scope: &'scope Scope<'scope, '_>, files: [&'scope File; 2]) -> Self {
        let (batches, taken) = sync_channel(0);
        let (spare, buffers) = channel();
        let worker = scope.spawn(move || work(scope, files, taken, &spare));
        let batch = Batch::new(Vec::new());
        Self { batches, buffers, worker, batch, given: (Part::Root, 0..0), written: 0 }
    }

    /// Room for a piece of the payload, `length` bytes at `offset`; then [`Writer::keep`] says what must be there.
    pub(super) fn room(&mut self, part: Part, offset: u64, length: usize) -> Result<&mut [u8], Fault> {
        let batch = &self.batch;
        let follows = (batch.part, batch.end()) == (part, offset) && batch.length + length <= GATHER;
        if !follows {
            self.flush()?;
            (self.batch.part, self.batch.offset) = (part, offset);
        }
        if self.batch.buffer.len() < GATHER {
            self.batch.buffer.resize(GATHER, 0);
        }
        let start = self.batch.length;
        Ok(&mut self.batch.buffer[start..start + length])
    }

    /// What was put into the room, `length` bytes, must have this digest.
    pub(super) fn keep(&mut self, length: usize, digest: [u8; 32], origin: Origin) {
        self.batch.length += length;
        self.batch.pieces.push((self.batch.length, digest, origin));
    }

    /// Gives a large piece, with its buffer.
    pub(super) fn give(
        &mut self,
        part: Part,
        offset: u64,
        bytes: Vec<u8>,
        digest: [u8; 32],
        origin: Origin,
    ) -> Result<(), Fault> {
        let length = bytes.len();
        self.batch = Batch { part, offset, buffer: bytes, length, pieces: vec![(length, digest, origin)] };
        self.flush()
    }

    /// A buffer that is not used any more.
    pub(super) fn spare(&mut self) -> Vec<u8> {
        let spare = std::mem::take(&mut self.batch.buffer);
        if spare.capacity() > 0 { spare } else { self.buffers.try_recv().unwrap_or_default() }
    }

    /// Gives what is gathered to the worker; waits until that has written what it had before.
    pub(super) fn flush(&mut self) -> Result<(), Fault> {
        if self.batch.length > 0 { self.send() } else { Ok(()) }
    }

    /// Waits until all is written.
    pub(super) fn settle(&mut self) -> Result<(), Fault> {
        self.flush()?;
        // Taken only after what was given before is written.
        if self.given.1.is_empty() { Ok(()) } else { self.send() }
    }

    /// The same, if what stands between `offset` and `offset + length` may not be written yet.
    pub(super) fn settle_at(&mut self, part: Part, offset: u64, length: u64) -> Result<(), Fault> {
        let overlaps =
            |of: Part, range: &Range<u64>| of == part && offset < range.end && offset + length > range.start;
        let gathered = self.batch.offset..self.batch.end();
        if overlaps(self.batch.part, &gathered) || overlaps(self.given.0, &self.given.1) {
            return self.settle();
        }
        Ok(())
    }

    /// Bytes that were written since this was asked the last time.
    pub(super) fn take_written(&mut self) -> u64 {
        std::mem::take(&mut self.written)
    }

    /// Has all written that was kept, and gives how much that was beyond what was told of.
    pub(super) fn end(mut self) -> Result<u64, Fault> {
        let flushed = self.settle();
        let Self { batches, worker, written, .. } = self;
        drop(batches);
        worker.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        flushed.map(|()| written)
    }

    fn send(&mut self) -> Result<(), Fault> {
        let batch = std::mem::replace(&mut self.batch, Batch::new(Vec::new()));
        let given = (batch.part, batch.offset..batch.end());
        self.batches.send(batch).map_err(|_| Fault::Ended)?;
        let before = std::mem::replace(&mut self.given, given);
        self.written += before.1.end - before.1.start;
        self.batch.buffer = self.buffers.try_recv().unwrap_or_default();
        Ok(())
    }
}

/// Compares and writes batch after batch. What comes before a piece that is not as it should be is written all the same.
fn work<'scope>(
    scope: &'scope Scope<'scope, '_>,
    files: [&'scope File; 2],
    batches: Receiver<Batch>,
    buffers: &Sender<Vec<u8>>,
) -> Result<(), Fault> {
    let mut syncers =
        [Part::Root, Part::Uki].map(|part| Syncer::start(scope, Place::of(part), files[part as usize]));
    let mut outcome = Ok(());
    for batch in batches {
        outcome = one(&batch, files[batch.part as usize], &mut syncers[batch.part as usize]);
        if outcome.is_err() {
            break;
        }
        if batch.buffer.capacity() > 0 {
            // Nobody takes the last ones.
            let _ = buffers.send(batch.buffer);
        }
    }
    let [root, uki] = syncers.map(Syncer::end);
    outcome?;
    root?;
    Ok(uki?)
}

fn one(batch: &Batch, file: &File, syncer: &mut Syncer<'_>) -> Result<(), Fault> {
    let mut good = 0;
    let mut bad = None;
    for (end, digest, origin) in &batch.pieces {
        if Sha256::digest(&batch.buffer[good..*end])[..] != *digest {
            bad = Some(*origin);
            break;
        }
        good = *end;
    }
    for (piece, offset) in batch.buffer[..good].chunks(PIECE).zip((batch.offset..).step_by(PIECE)) {
        put(syncer.place, file, offset, piece).map_err(failed(syncer.place))?;
        syncer.wrote(piece.len() as u64)?;
    }
    bad.map_or(Ok(()), |origin| Err(origin.into()))
}

/// Makes one file durable again and again, behind the worker.
struct Syncer<'scope> {
    place: Place,
    volatile: u64,
    thread: Option<SyncThread<'scope>>,
}

struct SyncThread<'scope> {
    asked: SyncSender<()>,
    handle: ScopedJoinHandle<'scope, Result<(), WriteError>>,
}

impl<'scope> Syncer<'scope> {
    fn start(scope: &'scope Scope<'scope, '_>, place: Place, file: &'scope File) -> Self {
        let (asked, wishes) = sync_channel(0);
        let handle = scope
            .spawn(move || wishes.into_iter().try_for_each(|()| sync(place, file)).map_err(failed(place)));
        Self { place, volatile: 0, thread: Some(SyncThread { asked, handle }) }
    }

    /// So much was written; waits if too much of what was written before is not durable yet.
    fn wrote(&mut self, bytes: u64) -> Result<(), WriteError> {
        self.volatile += bytes;
        if self.volatile < DURABLE {
            return Ok(());
        }
        self.volatile = 0;
        match &self.thread {
            Some(thread) if thread.asked.send(()).is_ok() => Ok(()),
            _ => self.join(),
        }
    }

    fn end(mut self) -> Result<(), WriteError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), WriteError> {
        let Some(SyncThread { asked, handle }) = self.thread.take() else { return Ok(()) };
        drop(asked);
        handle.join().unwrap_or_else(|panic| resume_unwind(panic))
    }
}

fn failed(place: Place) -> impl Fn(std::io::Error) -> WriteError {
    move |source| WriteError::Write { what: place.as_str(), source }
}
