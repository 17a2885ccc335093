//! A release as chunks: both payloads cut where their content says, each distinct chunk compressed by itself and stored
//! once in a pack, and an index that names them in order.
//!
//! The index is `CAIRNIX1`, the number of root chunks and of kernel image chunks, and then for each chunk in order either
//! `0`, its length, its packed length and its SHA-256, or the number (from 1) of an earlier distinct chunk that it equals.
//! Numbers are unsigned LEB128 in their shortest form. Offsets are not written: they are sums.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    thread,
};

use sha2::{Digest as _, Sha256};

mod cutter;
mod index;
#[cfg(test)]
mod tests;

pub(crate) use cutter::ZEROS;
pub use cutter::{AVERAGE, Cutter, MAX, MIN};
pub use index::{Index, IndexError, MAX_CHUNKS, MAX_INDEX_BYTES};

/// Level of zstd for releases: they are compressed once and fetched often.
pub const LEVEL: i32 = 19;

/// Chunks that are compressed at once; bounds the builder's memory.
const BATCH: usize = 256;

/// Which payload of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The root file system.
    Root,
    /// The unified kernel image.
    Uki,
}

impl Part {
    /// Cuts are made at multiples of this many bytes: what lies in a file system moves by whole blocks, and whole blocks
    /// are written to a disk without being read first.
    pub const fn alignment(self) -> usize {
        match self {
            Self::Root => 4096,
            Self::Uki => 1,
        }
    }

    /// Its name, for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root file system",
            Self::Uki => "kernel image",
        }
    }
}

/// One piece of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// SHA-256 of its bytes.
    pub digest: [u8; 32],
    /// Whose piece it is.
    pub part: Part,
    /// Where it begins in the payload.
    pub offset: u64,
    /// How many bytes it has, at most [`MAX`].
    pub length: u32,
    /// Where it begins in the pack.
    pub packed_offset: u64,
    /// How many bytes it takes there; as many as it has if it is stored as it is.
    pub packed_length: u32,
}

/// Why there is no pack.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A payload could not be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The pack could not be written.
    #[error("failed to write the pack of chunks")]
    Write(#[source] io::Error),
    /// The compressor gave up.
    #[error("failed to compress a chunk")]
    Compress(#[source] io::Error),
    /// More than an index may name.
    #[error("the payloads have over {MAX_CHUNKS} chunks; make the root file system smaller")]
    TooMany,
}

/// What a chunk's packed bytes are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes of a chunk are not those that its digest names")]
pub struct DamagedChunk;

/// Cuts a root file system and a kernel image, writes each distinct chunk to `out`, compressed at `level` of zstd
/// ([`LEVEL`] for releases), and says what stands where.
///
/// # Errors
/// If a payload cannot be read or the pack cannot be written.
pub fn pack(root: &Path, uki: &Path, level: i32, out: &mut dyn Write) -> Result<Index, PackError> {
    let mut packer = Packer {
        out,
        level,
        batch: Vec::new(),
        known: HashMap::new(),
        order: Vec::new(),
        packed: Vec::new(),
    };
    for (part, path) in [(Part::Root, root), (Part::Uki, uki)] {
        let read = |source| PackError::Read { path: path.to_owned(), source };
        let mut cutter = Cutter::new(File::open(path).map_err(read)?, part.alignment());
        while let Some((_, bytes)) = cutter.next_chunk().map_err(read)? {
            packer.add(part, bytes)?;
        }
    }
    packer.finish()
}

/// What is packed so far. Distinct chunks have numbers in the order in which they first occur.
struct Packer<'a> {
    out: &'a mut dyn Write,
    level: i32,
    batch: Vec<Vec<u8>>,
    known: HashMap<[u8; 32], (usize, u32)>,
    /// Number, length and digest of each chunk in turn.
    order: Vec<(Part, usize, u32, [u8; 32])>,
    /// Packed length of each distinct chunk.
    packed: Vec<u32>,
}

impl Packer<'_> {
    fn add(&mut self, part: Part, bytes: &[u8]) -> Result<(), PackError> {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        let length = bytes.len() as u32; // a chunk has at most MAX bytes
        let next = self.known.len();
        let (number, _) = *self.known.entry(digest).or_insert((next, length));
        if self.order.len() >= MAX_CHUNKS {
            return Err(PackError::TooMany);
        }
        self.order.push((part, number, length, digest));
        if number == next {
            self.batch.push(bytes.to_vec());
            if self.batch.len() >= BATCH {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), PackError> {
        for bytes in compress_all(&self.batch, self.level)? {
            self.out.write_all(&bytes).map_err(PackError::Write)?;
            self.packed.push(bytes.len() as u32);
        }
        self.batch.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<Index, PackError> {
        self.flush()?;
        let starts: Vec<u64> =
            self.packed.iter().scan(0, |sum, length| Some(advance(sum, *length))).collect();
        let mut offsets = [0, 0];
        let chunks = self.order.iter().map(|&(part, number, length, digest)| Chunk {
            digest,
            part,
            offset: advance(&mut offsets[part as usize], length),
            length,
            packed_offset: starts[number],
            packed_length: self.packed[number],
        });
        Ok(Index::of(chunks.collect()))
    }
}

/// The old sum; the new one has `length` more.
fn advance(sum: &mut u64, length: u32) -> u64 {
    let before = *sum;
    *sum += u64::from(length);
    before
}

/// Compresses on all cores; what does not become smaller stays as it is.
fn compress_all(chunks: &[Vec<u8>], level: i32) -> Result<Vec<Vec<u8>>, PackError> {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let share = chunks.len().div_ceil(workers).max(1);
    let compressed: Vec<io::Result<Vec<Vec<u8>>>> = thread::scope(|scope| {
        let started: Vec<_> =
            chunks.chunks(share).map(|share| scope.spawn(move || compress(share, level))).collect();
        started
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut all = Vec::with_capacity(chunks.len());
    for share in compressed {
        all.extend(share.map_err(PackError::Compress)?);
    }
    Ok(all)
}

fn compress(chunks: &[Vec<u8>], level: i32) -> io::Result<Vec<Vec<u8>>> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    let one = |bytes: &Vec<u8>| -> io::Result<Vec<u8>> {
        let packed = compressor.compress(bytes)?;
        Ok(if packed.len() < bytes.len() { packed } else { bytes.clone() })
    };
    chunks.iter().map(one).collect()
}

/// Opens packed chunks.
pub struct Opener {
    decompressor: zstd::bulk::Decompressor<'static>,
}

impl Opener {
    /// Of any number of chunks.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn new() -> io::Result<Self> {
        Ok(Self { decompressor: zstd::bulk::Decompressor::new()? })
    }

    /// Puts the bytes of `chunk` into `out` if they are those that its digest names.
    ///
    /// # Errors
    /// If they are not; `out` then holds nothing.
    pub fn open(&mut self, chunk: &Chunk, packed: &[u8], out: &mut Vec<u8>) -> Result<(), DamagedChunk> {
        out.clear();
        out.resize(chunk.length as usize, 0);
        if self.unpack(chunk, packed, out).is_ok() && Sha256::digest(&out)[..] == chunk.digest {
            return Ok(());
        }
        out.clear();
        Err(DamagedChunk)
    }

    /// Fills `out`, which is as long as `chunk`, with what `packed` holds. Its digest is left to be compared.
    pub(crate) fn unpack(
        &mut self,
        chunk: &Chunk,
        packed: &[u8],
        out: &mut [u8],
    ) -> Result<(), DamagedChunk> {
        if packed.len() != chunk.packed_length as usize || out.len() != chunk.length as usize {
            return Err(DamagedChunk);
        }
        if chunk.packed_length == chunk.length {
            out.copy_from_slice(packed);
            return Ok(());
        }
        let unpacked = self.decompressor.decompress_to_buffer(packed, out);
        if unpacked.ok() == Some(chunk.length as usize) { Ok(()) } else { Err(DamagedChunk) }
    }
}
