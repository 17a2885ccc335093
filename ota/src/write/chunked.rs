//! Fills the slot with chunks as planned: from what is there, and from the pack.

use std::{os::unix::fs::FileExt, thread};

use super::{
    Work, WriteError,
    behind::{Fault, GATHER, Origin, Writer},
    fetch::Stream,
    plan::{self, Range, Source, Step},
    seeds,
};
use crate::{
    Carrier,
    chunks::{Index, MAX, Opener, Part},
};

const WHAT: &str = "the pack of chunks";

/// Fetched bytes that may be gathered and not written, as a share of all that is to be fetched, and the fewest and most of
/// them. Twice these are fetched again after a kill; smaller writes cost time.
const UNWRITTEN: u64 = 500;
const LEAST_UNWRITTEN: u64 = 8 << 10;
const MOST_UNWRITTEN: u64 = GATHER as u64;

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
        let files = [Part::Root, Part::Uki].map(|part| self.slot.file(part));
        let outcome = thread::scope(|scope| {
            let writer = Writer::start(scope, files);
            let unwritten = (plan.to_fetch() / UNWRITTEN).clamp(LEAST_UNWRITTEN, MOST_UNWRITTEN);
            let mut hand = Hand { writer, opener, packed: vec![0; MAX], fetched: 0, unwritten };
            let followed = self.steps(plan, carrier, &mut hand);
            // What the worker says comes first: it happened first.
            let written = hand.writer.end()?;
            followed?;
            Ok(self.watch.written(written)?)
        });
        match outcome {
            Ok(()) => Ok(None),
            Err(Fault::Seed(source)) => Ok(Some(source)),
            Err(Fault::Error(error)) => Err(error),
            // The worker never ends without an error, nor with this one.
            Err(Fault::Ended) => Err(WriteError::Stopped),
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
        let length = chunk.length as usize;
        if let Step::Copy { from, offset } = plan.steps[number] {
            match from {
                Source::RunningRoot | Source::RunningUki => {}
                Source::SlotRoot => hand.writer.settle_at(Part::Root, offset, chunk.length.into())?,
                Source::SlotUki => hand.writer.settle_at(Part::Uki, offset, chunk.length.into())?,
            }
            let file = seeds::file_of(from, &self.slot, &self.running).ok_or(Fault::Seed(from))?;
            let room = hand.writer.room(chunk.part, chunk.offset, length)?;
            file.read_exact_at(room, offset).map_err(|_| Fault::Seed(from))?;
            hand.writer.keep(length, chunk.digest, Origin::Copy(from));
        } else {
            self.watch.written(chunk.length.into())?;
        }
        Ok(self.watch.written(hand.writer.take_written())?)
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
            let room = hand.writer.room(chunk.part, chunk.offset, chunk.length as usize)?;
            hand.opener.unpack(chunk, &hand.packed, room).map_err(|_| WriteError::Wrong { what: WHAT })?;
            hand.writer.keep(chunk.length as usize, chunk.digest, Origin::Carrier(WHAT));
            hand.fetched += u64::from(chunk.packed_length);
            if hand.fetched >= hand.unwritten {
                hand.writer.flush()?;
                hand.fetched = 0;
            }
            self.watch.written(hand.writer.take_written())?;
        }
        Ok(())
    }
}

/// What following a plan needs beside the work.
struct Hand<'scope> {
    writer: Writer<'scope>,
    opener: Opener,
    packed: Vec<u8>,
    /// Bytes that were fetched and may not have been given to be written.
    fetched: u64,
    /// How many these may be.
    unwritten: u64,
}
