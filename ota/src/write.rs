//! Writes a release into the slot that does not run: by a patch on what runs, or by the chunks that neither slot has,
//! whichever is less to fetch. There is never a second copy on the disk; whatever of it stands in the slot already is
//! found again and kept, which is all that resuming takes. Nothing is written whose digest was not seen to be right
//! before, and the end is a look at what the devices really hold.
//!
//! Which root runs is read from the hash tree beside it (its top block has the root hash), so a patch is taken only on the
//! very bytes that it starts from.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use cairn_model::{
    release::{Patch, Release},
    report::{OsMethod, OsProgress},
};

use crate::{
    Carrier,
    chunks::{self, IndexError},
    patch::PatchError,
};

mod base;
mod behind;
mod chunked;
mod device;
mod fetch;
mod patched;
mod plan;
mod seeds;
mod verify;
mod watch;

use base::Running;
use chunked::Planned;
use device::Slot;
use watch::Watch;

/// How many times a source of chunks that turns out unreadable or changed is given up before all is.
const MAX_PLANS: usize = 4;

/// A patch that is smaller than the pack's size over this is taken without a look at both slots for chunks: that reads and
/// hashes all of them, and there is hardly a slot that has so much that a patch does not have.
const WORTH_A_LOOK: u64 = 16;

/// Where a release is written to, and what is there to start from.
#[derive(Debug)]
pub struct Target<'a> {
    /// The slot's root partition, open for reading and writing.
    pub root: &'a File,
    /// The slot's hash tree partition, open for reading and writing. Its last block is left alone.
    pub tree: &'a File,
    /// The kernel image's file, open for reading and writing; it may hold what an earlier try left.
    pub uki: &'a mut File,
    /// The root partition that runs; an empty file if none does.
    pub running_root: &'a File,
    /// The hash tree partition beside it; an empty file if there is none: then no patch applies.
    pub running_tree: &'a File,
    /// The kernel image that was booted, if its file is known.
    pub running_uki: Option<&'a Path>,
    /// A folder for the patch while it is fetched and for the index; made if it is not there.
    pub scratch: &'a Path,
}

/// Why a release is not in the slot.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It was told to stop; the next try goes on from here.
    #[error("stopped before the release was written; the next try goes on from there")]
    Stopped,
    /// The release contradicts itself.
    #[error("the release is unsound: {0}; build it again")]
    Release(&'static str),
    /// The slot is too small. Nothing was written.
    #[error(
        "the release's {what} of {size} bytes does not fit the slot's {room}; flash the disk with a larger layout"
    )]
    TooLarge {
        /// What does not fit.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// The room in bytes.
        room: u64,
    },
    /// The carrier failed.
    #[error("failed to fetch {what}")]
    Carrier {
        /// What was being fetched.
        what: &'static str,
        /// What the carrier said.
        #[source]
        source: io::Error,
    },
    /// The carrier broke off.
    #[error("{what} broke off after {got} of {wanted} bytes; the next try goes on from there")]
    Short {
        /// What was being fetched.
        what: &'static str,
        /// Bytes that came.
        got: u64,
        /// Bytes that were asked for.
        wanted: u64,
    },
    /// The carrier gave other bytes.
    #[error("{what} came with other bytes than the release names; they were thrown away")]
    Wrong {
        /// What was being fetched.
        what: &'static str,
    },
    /// The index has the right digest and is none.
    #[error("the release is unsound")]
    Index(#[source] IndexError),
    /// Something on this machine could not be read.
    #[error("failed to read {what}")]
    Read {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something on this machine could not be written.
    #[error("failed to write {what}")]
    Write {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The scratch folder could not be used.
    #[error("failed to keep a file at {}", path.display())]
    Scratch {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The patch cannot be applied.
    #[error("failed to apply the patch")]
    Patch(#[source] PatchError),
    /// A source of chunks cannot be read or has changed, again and again.
    #[error("what is copied from {what} changes while it is read; check the disk")]
    Seed {
        /// Which source.
        what: &'static str,
    },
    /// The devices do not hold what was written to them.
    #[error("the {what} was written, but reads back as something else; check the disk")]
    Verify {
        /// What.
        what: &'static str,
    },
}

impl WriteError {
    /// Whether the kernel image on the ESP could not be read or written: what it has by now is not to be gone on with.
    pub fn is_of_kernel_image(&self) -> bool {
        match self {
            Self::Read { what, .. } | Self::Write { what, .. } => *what == device::Place::Uki.as_str(),
            Self::Verify { what } => *what == chunks::Part::Uki.as_str(),
            Self::Seed { what } => *what == plan::Source::SlotUki.as_str(),
            _ => false,
        }
    }
}

/// Puts a release into the slot, in whole and verified. Tells `observe` how far it is after each 256 KiB of work or so,
/// and asks `stop` as often. A patch that would take more than `memory_limit` bytes to apply is not taken.
///
/// # Errors
/// If it is stopped, if the carrier or a device fails, if the release does not fit or is unsound. The next call goes on
/// with what the slot holds by then.
pub fn write(
    release: &Release,
    target: &mut Target<'_>,
    carrier: &mut dyn Carrier,
    memory_limit: u64,
    observe: &mut dyn FnMut(OsProgress),
    stop: &dyn Fn() -> bool,
) -> Result<OsProgress, WriteError> {
    let slot = Slot::new(release, target.root, target.tree, target.uki)?;
    let running = Running::look(target);
    let mut work =
        Work { release, slot, running, scratch: target.scratch, watch: Watch::new(release, observe, stop) };
    fetch::tidy(target.scratch, release);
    work.fill(memory_limit, carrier)?;
    work.watch.all_is_written();
    work.verify()?;
    fetch::clear(target.scratch, release);
    Ok(work.watch.end())
}

/// Everything that the writing of one release needs.
struct Work<'a> {
    release: &'a Release,
    slot: Slot<'a>,
    running: Running<'a>,
    scratch: &'a Path,
    watch: Watch<'a>,
}

impl<'a> Work<'a> {
    /// Gets root and kernel image into the slot by the cheaper way.
    fn fill(&mut self, memory_limit: u64, carrier: &mut dyn Carrier) -> Result<(), WriteError> {
        let Some(patch) = self.applicable(memory_limit)? else { return self.fill_by_chunks(None, carrier) };
        let to_fetch = patch.blob.size - fetch::fetched(self.scratch, patch);
        let mut planned = None;
        let chunks = &self.release.chunks;
        if to_fetch > chunks.index.size.saturating_add(chunks.pack.size / WORTH_A_LOOK) {
            let plan = self.plan(&[], carrier)?;
            if plan.to_fetch() < to_fetch {
                return self.fill_by_chunks(Some(plan), carrier);
            }
            planned = Some(plan);
        }
        drop(planned); // a patch takes the memory
        self.watch.begin(OsMethod::Patch, to_fetch);
        match self.fill_by_patch(patch, memory_limit, carrier) {
            // What the patch starts from is not what its tree says. Chunks need nothing; and the patch stays until the
            // end, so that another try finds that out without fetching it again.
            Err(WriteError::Patch(_)) => self.fill_by_chunks(None, carrier),
            Err(WriteError::Scratch { .. }) => {
                fetch::forget(self.scratch, patch);
                self.fill_by_chunks(None, carrier)
            }
            other => other,
        }
    }

    /// The smallest patch that starts from what runs and that there is memory and room for.
    fn applicable(&mut self, memory_limit: u64) -> Result<Option<&'a Patch>, WriteError> {
        let Some(root_hash) = self.running.root_hash.clone() else { return Ok(None) };
        let room = fetch::room(self.scratch);
        let fits = |patch: &&Patch| {
            let to_keep = patch.blob.size.saturating_sub(fetch::fetched(self.scratch, patch));
            patch.from_root_hash == root_hash && patch.memory <= memory_limit && to_keep <= room
        };
        let mut patches: Vec<&Patch> = self.release.patches.iter().filter(fits).collect();
        if patches.is_empty() {
            return Ok(None);
        }
        let uki = self.running.uki_digest(&mut self.watch)?;
        patches.retain(|patch| Some(&patch.from_uki) == uki.as_ref());
        Ok(patches.into_iter().min_by_key(|patch| patch.blob.size))
    }

    /// Follows a plan; one that a source of chunks does not keep to is made anew without that source.
    fn fill_by_chunks(
        &mut self,
        first: Option<Planned>,
        carrier: &mut dyn Carrier,
    ) -> Result<(), WriteError> {
        let mut planned = first;
        let mut bad = Vec::new();
        loop {
            let plan = match planned.take() {
                Some(plan) => plan,
                None => self.plan(&bad, carrier)?,
            };
            self.watch.begin(OsMethod::Chunks, plan.to_fetch());
            match self.follow(&plan, carrier)? {
                None => return Ok(()),
                Some(source) if bad.len() < MAX_PLANS => bad.push(source),
                Some(source) => return Err(WriteError::Seed { what: source.as_str() }),
            }
        }
    }
}
