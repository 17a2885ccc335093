//! A patch makes both payloads of a release from those of an earlier one. The new payloads are cut into segments; each is
//! one zstd frame whose window begins with stretches of the old payloads that the encoder chose, so that memory is
//! bounded by the largest segment and never by the payload.
//!
//! A patch is `CAIRNPT1`, the sizes of the new root and kernel image (u64 LE), and then for each segment in order, the
//! root's first, without gaps: its length, the length of its frame and the number of its stretches (u32 LE), the SHA-256
//! of its output, for each stretch one byte (0 root, 1 kernel image), offset (u64 LE) and length (u32 LE), and the frame.

use std::{
    io::{self, Read},
    path::PathBuf,
};

use sha2::{Digest as _, Sha256};
use zstd::zstd_safe::DCtx;

use crate::chunks::Part;

mod make;
#[cfg(test)]
mod tests;

pub use make::make;

/// Largest segment in bytes.
pub const MAX_SEGMENT: usize = 16 << 20;

/// Most bytes of old payloads that one segment refers to.
pub const MAX_PREFIX: usize = 48 << 20;

/// Most stretches of old payloads that one segment refers to.
pub const MAX_STRETCHES: usize = 1024;

/// What applying takes beside segment, stretches and frame: the decompressor, the growing hash tree of a full slot and
/// what it becomes at the end, and buffers.
const OVERHEAD: u64 = 8 << 20;

/// By how much a frame may be longer than what it holds.
const SLACK: u32 = 128 << 10;

/// Old payloads are read in pieces of this many bytes, so that whoever reads them can stop.
const PIECE: usize = 1 << 20;

const MAGIC: &[u8; 8] = b"CAIRNPT1";

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Memory that applying takes, in bytes; at most 96 MiB.
    pub memory: u64,
}

/// Why a patch cannot be made or is none.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// A payload could not be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The patch could not be written.
    #[error("failed to write the patch")]
    Write(#[source] io::Error),
    /// The patch could not be read.
    #[error("failed to read the patch")]
    Patch(#[source] io::Error),
    /// What the patch starts from could not be read.
    #[error("failed to read what the patch starts from")]
    Base(#[source] io::Error),
    /// The compressor gave up.
    #[error("failed to compress a segment: {0}")]
    Compress(&'static str),
    /// The bytes are no patch.
    #[error("the patch is damaged: {0}")]
    Damaged(&'static str),
    /// What came out is not what should.
    #[error("segment {number} of the patch came out wrong: it does not start from what runs here")]
    Mismatch {
        /// Which one, from 0.
        number: u64,
    },
}

/// A stretch of an old payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Whose.
    pub part: Part,
    /// Where it begins.
    pub offset: u64,
    /// How many bytes it has.
    pub length: u32,
}

/// What stands before the frame of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its number, from 0.
    pub number: u64,
    /// Whose piece it is.
    pub part: Part,
    /// Where it begins in the new payload.
    pub offset: u64,
    /// How many bytes it has.
    pub length: u32,
    /// How many bytes its frame has.
    pub frame: u32,
    /// SHA-256 of its bytes.
    pub digest: [u8; 32],
    /// Which stretches of the old payloads it refers to, in this order.
    pub stretches: Vec<Stretch>,
}

impl Segment {
    /// Bytes of old payloads that it refers to.
    fn prefix(&self) -> u64 {
        self.stretches.iter().map(|s| u64::from(s.length)).sum()
    }

    /// Memory that it takes to apply it.
    fn memory(&self) -> u64 {
        self.prefix() + u64::from(self.length) + u64::from(self.frame) + OVERHEAD
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [self.length, self.frame, self.stretches.len() as u32] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.digest);
        for stretch in &self.stretches {
            bytes.push(stretch.part as u8);
            bytes.extend(stretch.offset.to_le_bytes());
            bytes.extend(stretch.length.to_le_bytes());
        }
        bytes
    }
}

/// Fills a buffer, of a mebibyte at most, with the bytes of an old payload from an offset on.
pub type ReadBase<'b> = dyn FnMut(Part, u64, &mut [u8]) -> io::Result<()> + 'b;

/// Reads a patch from front to back: [`Applier::next_segment`], then [`Applier::apply`] or [`Applier::skip`], and again.
pub struct Applier<R> {
    patch: R,
    sizes: [u64; 2],
    done: [u64; 2],
    number: u64,
    prefix: Vec<u8>,
    frame: Vec<u8>,
}

impl<R: Read> Applier<R> {
    /// Begins with the patch's first bytes.
    ///
    /// # Errors
    /// If they cannot be read or are those of something else.
    pub fn new(mut patch: R) -> Result<Self, PatchError> {
        let head: [u8; 24] = read(&mut patch)?;
        if !head.starts_with(MAGIC) {
            return Err(PatchError::Damaged("it begins with another word"));
        }
        let sizes = [u64_of(&head[8..]), u64_of(&head[16..])];
        Ok(Self { patch, sizes, done: [0; 2], number: 0, prefix: Vec::new(), frame: Vec::new() })
    }

    /// Bytes of a payload that it makes.
    pub fn size(&self, part: Part) -> u64 {
        self.sizes[part as usize]
    }

    /// What the next segment is; `None` after the last, where the patch must end.
    ///
    /// # Errors
    /// If it cannot be read, is beyond a bound, or does not follow the one before.
    pub fn next_segment(&mut self) -> Result<Option<Segment>, PatchError> {
        let Some(part) = [Part::Root, Part::Uki].into_iter().find(|p| self.left(*p) > 0) else {
            return match self.patch.read(&mut [0]) {
                Ok(0) => Ok(None),
                Ok(_) => Err(PatchError::Damaged("something follows its end")),
                Err(error) => Err(PatchError::Patch(error)),
            };
        };
        let head: [u8; 44] = read(&mut self.patch)?;
        let [length, frame, count] = [0, 4, 8].map(|at| u32_of(&head[at..]));
        let ensure = |holds: bool, cause| if holds { Ok(()) } else { Err(PatchError::Damaged(cause)) };
        ensure(
            length > 0 && u64::from(length) <= self.left(part),
            "a segment is empty, or longer than the rest",
        )?;
        ensure(length as usize <= MAX_SEGMENT, "a segment is too long")?;
        ensure(frame <= length + SLACK, "a segment's frame is too long")?;
        ensure(count as usize <= MAX_STRETCHES, "a segment refers to too many stretches")?;
        let mut digest = [0; 32];
        digest.copy_from_slice(&head[12..]);
        let stretches = (0..count).map(|_| read_stretch(&mut self.patch)).collect::<Result<Vec<_>, _>>()?;
        let offset = self.done[part as usize];
        let segment = Segment { number: self.number, part, offset, length, frame, digest, stretches };
        ensure(segment.prefix() <= MAX_PREFIX as u64, "a segment refers to too much")?;
        self.done[part as usize] += u64::from(length);
        self.number += 1;
        Ok(Some(segment))
    }

    /// Makes the segment that [`Applier::next_segment`] has just given from what `base` reads, and puts it into `out`.
    ///
    /// # Errors
    /// If something cannot be read, or if what comes out is not what should.
    pub fn apply(
        &mut self,
        segment: &Segment,
        base: &mut ReadBase<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), PatchError> {
        self.open(segment, base, out)?;
        if Sha256::digest(&out)[..] == segment.digest {
            return Ok(());
        }
        out.clear();
        Err(PatchError::Mismatch { number: segment.number })
    }

    /// The same, but that the digest of what comes out is left to be compared.
    pub(crate) fn open(
        &mut self,
        segment: &Segment,
        base: &mut ReadBase<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), PatchError> {
        resize(&mut self.prefix, segment.prefix() as usize);
        let mut rest = &mut self.prefix[..];
        for stretch in &segment.stretches {
            let (bytes, after) = rest.split_at_mut(stretch.length as usize);
            let offsets = (stretch.offset..).step_by(PIECE);
            for (piece, offset) in bytes.chunks_mut(PIECE).zip(offsets) {
                base(stretch.part, offset, piece).map_err(PatchError::Base)?;
            }
            rest = after;
        }
        resize(&mut self.frame, segment.frame as usize);
        self.patch.read_exact(&mut self.frame).map_err(PatchError::Patch)?;
        out.clear();
        out.reserve_exact(segment.length as usize);
        let mismatch = PatchError::Mismatch { number: segment.number };
        let mut context = DCtx::try_create().ok_or(PatchError::Damaged("there is no memory to open it"))?;
        let opened = context.ref_prefix(&self.prefix).and_then(|_| context.decompress(out, &self.frame));
        if opened == Ok(segment.length as usize) {
            return Ok(());
        }
        out.clear();
        Err(mismatch)
    }

    /// Goes past the segment that [`Applier::next_segment`] has just given.
    ///
    /// # Errors
    /// If the patch cannot be read.
    pub fn skip(&mut self, segment: &Segment) -> Result<(), PatchError> {
        let skipped = io::copy(&mut (&mut self.patch).take(segment.frame.into()), &mut io::sink());
        match skipped.map_err(PatchError::Patch)? == u64::from(segment.frame) {
            true => Ok(()),
            false => Err(PatchError::Damaged("it is cut off")),
        }
    }

    fn left(&self, part: Part) -> u64 {
        self.sizes[part as usize] - self.done[part as usize]
    }
}

fn read_stretch(patch: &mut impl Read) -> Result<Stretch, PatchError> {
    let bytes: [u8; 13] = read(patch)?;
    let part = match bytes[0] {
        0 => Part::Root,
        1 => Part::Uki,
        _ => return Err(PatchError::Damaged("a stretch is of no payload")),
    };
    let (offset, length) = (u64_of(&bytes[1..]), u32_of(&bytes[9..]));
    if length == 0 || offset.checked_add(length.into()).is_none() {
        return Err(PatchError::Damaged("a stretch is empty, or beyond all bounds"));
    }
    Ok(Stretch { part, offset, length })
}

/// Gives `buffer` that many bytes without ever holding an old and a new buffer at once.
fn resize(buffer: &mut Vec<u8>, length: usize) {
    if buffer.capacity() < length {
        *buffer = Vec::new();
        buffer.reserve_exact(length);
    }
    buffer.resize(length, 0);
}

fn read<const N: usize>(patch: &mut impl Read) -> Result<[u8; N], PatchError> {
    let mut bytes = [0; N];
    match patch.read_exact(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(PatchError::Damaged("it is cut off"))
        }
        Err(error) => Err(PatchError::Patch(error)),
    }
}

fn u64_of(bytes: &[u8]) -> u64 {
    bytes[..8].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn u32_of(bytes: &[u8]) -> u32 {
    bytes[..4].iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}
