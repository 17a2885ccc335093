//! The index of chunks in memory and in bytes. Reading it is bounded, and whatever is read writes the same bytes again.

use std::collections::HashMap;

use super::{Chunk, MAX, Part, advance};

/// Most chunks that an index may name: 2 GiB of the average size.
pub const MAX_CHUNKS: usize = 1 << 17;

/// Largest index in bytes: that many chunks, each of its own.
pub const MAX_INDEX_BYTES: usize = MAX_CHUNKS * 40;

const MAGIC: &[u8; 8] = b"CAIRNIX1";

/// Why bytes are no index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the index of chunks is damaged: {0}")]
pub struct IndexError(&'static str);

/// All chunks of both payloads, the root's first, each payload's in order and without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    chunks: Vec<Chunk>,
}

impl Index {
    pub(crate) fn of(chunks: Vec<Chunk>) -> Self {
        Self { chunks }
    }

    /// The chunks, the root's first, each payload's in order.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Bytes of a payload: the sum of its chunks.
    pub fn size(&self, part: Part) -> u64 {
        self.chunks.iter().filter(|c| c.part == part).map(|c| u64::from(c.length)).sum()
    }

    /// Bytes of the pack: the sum of its distinct chunks.
    pub fn pack_size(&self) -> u64 {
        self.chunks.iter().map(|c| c.packed_offset + u64::from(c.packed_length)).max().unwrap_or(0)
    }

    /// As it travels.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for part in [Part::Root, Part::Uki] {
            put(&mut bytes, self.chunks.iter().filter(|c| c.part == part).count() as u64);
        }
        let mut known: HashMap<u64, u64> = HashMap::new();
        for chunk in &self.chunks {
            let next = known.len() as u64 + 1;
            let number = *known.entry(chunk.packed_offset).or_insert(next);
            if number < next {
                put(&mut bytes, number);
                continue;
            }
            put(&mut bytes, 0);
            put(&mut bytes, u64::from(chunk.length));
            put(&mut bytes, u64::from(chunk.packed_length));
            bytes.extend(chunk.digest);
        }
        bytes
    }

    /// Reads what [`Index::to_bytes`] wrote.
    ///
    /// # Errors
    /// If it is anything else: cut off, too long, beyond a bound, or not in its shortest form.
    pub fn parse(bytes: &[u8]) -> Result<Self, IndexError> {
        let ensure = |holds: bool, cause| if holds { Ok(()) } else { Err(IndexError(cause)) };
        ensure(bytes.len() <= MAX_INDEX_BYTES, "it is too large")?;
        let mut rest = bytes.strip_prefix(MAGIC).ok_or(IndexError("it begins with another word"))?;
        let count = |number: u64| usize::try_from(number).ok().filter(|n| *n <= MAX_CHUNKS);
        let too_many = IndexError("it names too many chunks");
        let root = count(take(&mut rest)?).ok_or(too_many)?;
        let uki = count(take(&mut rest)?).ok_or(too_many)?;
        // Each chunk takes a byte at least: a few bytes cannot claim memory.
        ensure(root + uki <= MAX_CHUNKS.min(rest.len()), "it names more chunks than it has")?;
        let mut chunks = Vec::with_capacity(root + uki);
        let (mut offsets, mut packed_end) = ([0, 0], 0);
        let mut distinct: Vec<usize> = Vec::new();
        for position in 0..root + uki {
            let part = if position < root { Part::Root } else { Part::Uki };
            let number = take(&mut rest)?;
            let mut chunk = if number == 0 {
                distinct.push(position);
                distinct_chunk(&mut rest, &mut packed_end)?
            } else {
                let earlier = usize::try_from(number - 1).ok().and_then(|n| distinct.get(n));
                let earlier = earlier.ok_or(IndexError("a chunk equals one that does not come before it"))?;
                chunks[*earlier]
            };
            chunk.part = part;
            chunk.offset = advance(&mut offsets[part as usize], chunk.length);
            chunks.push(chunk);
        }
        ensure(rest.is_empty(), "something follows its end")?;
        Ok(Self { chunks })
    }
}

/// A chunk that no earlier one equals.
fn distinct_chunk(rest: &mut &[u8], packed_end: &mut u64) -> Result<Chunk, IndexError> {
    let short = |number: u64| u32::try_from(number).ok().filter(|n| (1..=MAX as u32).contains(n));
    let length = short(take(rest)?).ok_or(IndexError("a chunk has no bytes, or too many"))?;
    let packed_length = short(take(rest)?).filter(|packed| *packed <= length);
    let packed_length = packed_length.ok_or(IndexError("a chunk is larger packed than unpacked"))?;
    let (digest, after) = rest.split_first_chunk().ok_or(IndexError("it is cut off"))?;
    *rest = after;
    let packed_offset = advance(packed_end, packed_length);
    Ok(Chunk { digest: *digest, part: Part::Root, offset: 0, length, packed_offset, packed_length })
}

/// Appends a number as LEB128.
fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Takes a number off the front. Only the shortest form counts, and none of our numbers needs over five bytes.
fn take(rest: &mut &[u8]) -> Result<u64, IndexError> {
    let mut number = 0;
    for shift in [0, 7, 14, 21, 28] {
        let (byte, after) = rest.split_first().ok_or(IndexError("it is cut off"))?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let shortest = *byte != 0 || shift == 0;
            return if shortest {
                Ok(number)
            } else {
                Err(IndexError("a number is not in its shortest form"))
            };
        }
    }
    Err(IndexError("a number is too large"))
}
