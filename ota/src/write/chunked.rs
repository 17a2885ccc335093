//! Fills the slot with chunks as planned: from what is there, and from the pack.

use std::os::unix::fs::FileExt;

use sha2::{Digest as _, Sha256};

use super::{
    Work, WriteError,
    device::Sink,
    fetch::Stream,
    plan::{self, Range, Source, Step},
    seeds,
};
use crate::{
    Carrier,
    chunks::{Chunk, Index, MAX, Opener, Part},
};

const WHAT: &str = "the pack of chunks";

/// What is to be done.
pub(super) struct Planned {
    index: Index,
    steps: Vec<Step>,
    ranges: Vec<Range>,
}

impl Planned {
    /// Bytes of the pack that are asked for.
    pub(super) fn to_fetch(&self) -> u64 {
        self.ranges.iter().map(|range| range.length).sum()
    }
}

/// Why a plan was not followed to its end.
enum Fault {
    /// A source does not have what was found there.
    Seed(Source),
    Error(WriteError),
}

impl From<WriteError> for Fault {
    fn from(error: WriteError) -> Self {
        Self::Error(error)
    }
}

impl Work<'_> {
    /// Looks at what there is and decides.
    pub(super) fn plan(&mut self, bad: &[Source], carrier: &mut dyn Carrier) -> Result<Planned, WriteError> {
        let index = self.index(carrier)?;
        let found = self.look(&index, bad)?;
        let steps = plan::plan(&index, &found);
        let ranges = plan::ranges(&index, &steps);
        Ok(Planned { index, steps, ranges })
    }

    /// Does what was planned. Gives the source that does not have what was found there, if one has not. Whatever was
    /// fetched is in the slot, however this ends.
    pub(super) fn follow(
        &mut self,
        plan: &Planned,
        carrier: &mut dyn Carrier,
    ) -> Result<Option<Source>, WriteError> {
        let opener =
            Opener::new().map_err(|_| WriteError::Release("there is no memory to open its chunks"))?;
        let sinks = [Part::Root, Part::Uki].map(|part| Sink::new(part, self.slot.file(part)));
        let mut hand = Hand { sinks, opener, packed: vec![0; MAX], bytes: Vec::with_capacity(MAX) };
        let outcome = self.steps(plan, carrier, &mut hand);
        for sink in &mut hand.sinks {
            sink.flush()?;
        }
        match outcome {
            Ok(()) => Ok(None),
            Err(Fault::Seed(source)) => Ok(Some(source)),
            Err(Fault::Error(error)) => Err(error),
        }
    }

    fn steps(&mut self, plan: &Planned, carrier: &mut dyn Carrier, hand: &mut Hand<'_>) -> Result<(), Fault> {
        let mut next = 0;
        for range in &plan.ranges {
            for number in next..range.first {
                self.local(plan, number, hand)?;
            }
            self.fetch_range(plan, range, carrier, hand)?;
            next = range.last + 1;
        }
        (next..plan.steps.len()).try_for_each(|number| self.local(plan, number, hand))
    }

    /// A chunk that is on this machine.
    fn local(&mut self, plan: &Planned, number: usize, hand: &mut Hand<'_>) -> Result<(), Fault> {
        let chunk = &plan.index.chunks()[number];
        if let Step::Copy { from, offset } = plan.steps[number] {
            hand.before_reading(from, offset, chunk.length.into())?;
            hand.bytes.resize(chunk.length as usize, 0);
            let file = seeds::file_of(from, &self.slot, &self.running).ok_or(Fault::Seed(from))?;
            let read = file.read_exact_at(&mut hand.bytes, offset);
            if read.is_err() || Sha256::digest(&hand.bytes)[..] != chunk.digest {
                return Err(Fault::Seed(from));
            }
            hand.put(chunk)?;
        }
        Ok(self.watch.written(chunk.length.into())?)
    }

    /// The chunks of one range of the pack, and those between them that are on this machine.
    fn fetch_range(
        &mut self,
        plan: &Planned,
        range: &Range,
        carrier: &mut dyn Carrier,
        hand: &mut Hand<'_>,
    ) -> Result<(), Fault> {
        let pack = &self.release.chunks.pack;
        let reader = carrier.read(pack, range.offset, range.length);
        let reader = reader.map_err(|source| WriteError::Carrier { what: WHAT, source })?;
        let mut stream = Stream::new(reader, WHAT, range.length);
        for number in range.first..=range.last {
            if plan.steps[number] != Step::Fetch {
                self.local(plan, number, hand)?;
                continue;
            }
            let chunk = &plan.index.chunks()[number];
            let gap = chunk.packed_offset - range.offset - stream.position();
            hand.packed.resize(gap as usize, 0);
            stream.fill(&mut hand.packed, &mut self.watch)?;
            hand.packed.resize(chunk.packed_length as usize, 0);
            stream.fill(&mut hand.packed, &mut self.watch)?;
            let opened = hand.opener.open(chunk, &hand.packed, &mut hand.bytes);
            opened.map_err(|_| WriteError::Wrong { what: WHAT })?;
            hand.put(chunk)?;
            self.watch.written(chunk.length.into())?;
        }
        Ok(())
    }
}

/// What following a plan needs beside the work: outputs and buffers.
struct Hand<'a> {
    sinks: [Sink<'a>; 2],
    opener: Opener,
    packed: Vec<u8>,
    bytes: Vec<u8>,
}

impl Hand<'_> {
    /// Writes what the source is about to be asked for, if it is only gathered yet.
    fn before_reading(&mut self, from: Source, offset: u64, length: u64) -> Result<(), WriteError> {
        match from {
            Source::RunningRoot | Source::RunningUki => Ok(()),
            Source::SlotRoot => self.sinks[Part::Root as usize].flush_at(offset, length),
            Source::SlotUki => self.sinks[Part::Uki as usize].flush_at(offset, length),
        }
    }

    fn put(&mut self, chunk: &Chunk) -> Result<(), WriteError> {
        self.sinks[chunk.part as usize].put(chunk.offset, &self.bytes)
    }
}
