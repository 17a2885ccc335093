//! Makes patches: finds for each segment of the new payloads what the old ones have of it, and compresses it after that.

use std::{collections::HashMap, fs::File, io::Write, os::unix::fs::FileExt, path::Path};

use sha2::{Digest as _, Sha256};
use zstd::zstd_safe::{CCtx, CParameter, get_error_name};

use super::{MAGIC, MAX_PREFIX, MAX_SEGMENT, MAX_STRETCHES, Made, PatchError, SLACK, Segment, Stretch};
use crate::chunks::{Cutter, Part};

/// How far around what a segment has in common with the old payloads these are taken in: what surrounds equal bytes is
/// most like what surrounds them in the new ones. The farthest that stays within [`MAX_PREFIX`] is taken.
const REACHES: [u64; 13] = [
    32 << 20,
    24 << 20,
    16 << 20,
    12 << 20,
    8 << 20,
    6 << 20,
    4 << 20,
    2 << 20,
    1 << 20,
    256 << 10,
    64 << 10,
    16 << 10,
    0,
];

/// Level from which the encoder's tables hold every position of the window: a fifth smaller on two real roots, for some
/// 640 MiB of the builder's memory.
const THOROUGH: i32 = 16;

/// Makes the patch from the old root and kernel image to the new ones, at `level` of zstd
/// ([`crate::chunks::LEVEL`] for releases), and writes it to `out`.
///
/// # Errors
/// If a payload cannot be read or the patch cannot be written.
pub fn make(
    old_root: &Path,
    old_uki: &Path,
    new_root: &Path,
    new_uki: &Path,
    level: i32,
    out: &mut dyn Write,
) -> Result<Made, PatchError> {
    let old = Old::open([old_root, old_uki])?;
    let new = [Source::open(new_root)?, Source::open(new_uki)?];
    let mut head = MAGIC.to_vec();
    new.iter().for_each(|source| head.extend(source.size.to_le_bytes()));
    out.write_all(&head).map_err(PatchError::Write)?;
    let (mut number, mut memory) = (0, 0);
    for (part, source) in [Part::Root, Part::Uki].into_iter().zip(&new) {
        for (offset, length) in segments(source.size) {
            let bytes = source.read(offset, length)?;
            let stretches = old.like(part, offset, &bytes)?;
            let frame = compress(&old.read(&stretches)?, &bytes, level)?;
            let digest = Sha256::digest(&bytes).into();
            let frame_length = frame.len() as u32; // at most a segment and SLACK
            let length = bytes.len() as u32;
            let segment = Segment { number, part, offset, length, frame: frame_length, digest, stretches };
            out.write_all(&segment.to_bytes())
                .and_then(|()| out.write_all(&frame))
                .map_err(PatchError::Write)?;
            memory = memory.max(segment.memory());
            number += 1;
        }
    }
    Ok(Made { memory })
}

/// Cuts a payload into segments of about equal length.
fn segments(size: u64) -> impl Iterator<Item = (u64, usize)> {
    let count = size.div_ceil(MAX_SEGMENT as u64).max(1);
    let length = size.div_ceil(count).next_multiple_of(4096).clamp(1, MAX_SEGMENT as u64);
    (0..size.div_ceil(length)).map(move |n| (n * length, length.min(size - n * length) as usize))
}

/// A payload on the builder's disk.
struct Source {
    path: std::path::PathBuf,
    file: File,
    size: u64,
}

impl Source {
    fn open(path: &Path) -> Result<Self, PatchError> {
        let read = |source| PatchError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read)?;
        let size = file.metadata().map_err(read)?.len();
        Ok(Self { path: path.to_owned(), file, size })
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, PatchError> {
        let mut bytes = vec![0; length];
        let read = self.file.read_exact_at(&mut bytes, offset);
        read.map_err(|source| PatchError::Read { path: self.path.clone(), source })?;
        Ok(bytes)
    }
}

/// What the patch starts from: the payloads, and where each of their chunks stands first.
struct Old {
    sources: [Source; 2],
    chunks: HashMap<[u8; 32], Stretch>,
}

impl Old {
    fn open(paths: [&Path; 2]) -> Result<Self, PatchError> {
        let sources = [Source::open(paths[0])?, Source::open(paths[1])?];
        let mut chunks = HashMap::new();
        for (part, source) in [Part::Root, Part::Uki].into_iter().zip(&sources) {
            let read = |error| PatchError::Read { path: source.path.clone(), source: error };
            let mut cutter = Cutter::new(&source.file, part.alignment());
            while let Some((offset, bytes)) = cutter.next_chunk().map_err(read)? {
                let stretch = Stretch { part, offset, length: bytes.len() as u32 };
                chunks.entry(Sha256::digest(bytes).into()).or_insert(stretch);
            }
        }
        Ok(Self { sources, chunks })
    }

    /// The stretches of the old payloads that are most like `bytes`, which stand at `offset` of the new one.
    fn like(&self, part: Part, offset: u64, bytes: &[u8]) -> Result<Vec<Stretch>, PatchError> {
        let mut common = Vec::new();
        let mut cutter = Cutter::new(bytes, part.alignment());
        while let Some((_, chunk)) = cutter.next_chunk().map_err(PatchError::Base)? {
            let digest: [u8; 32] = Sha256::digest(chunk).into();
            common.extend(self.chunks.get(&digest));
        }
        // What stood in the same place, for payloads that have not a chunk in common.
        let size = self.sources[part as usize].size;
        let length = size.saturating_sub(offset).min(bytes.len() as u64) as u32;
        if length > 0 {
            common.push(Stretch { part, offset, length });
        }
        let sizes = [0, 1].map(|n: usize| self.sources[n].size);
        let fits = |stretches: &Vec<Stretch>| {
            let total: u64 = stretches.iter().map(|s| u64::from(s.length)).sum();
            total <= MAX_PREFIX as u64 && stretches.len() <= MAX_STRETCHES
        };
        let widened = REACHES.into_iter().map(|reach| widened(&common, reach, sizes)).find(fits);
        Ok(widened.unwrap_or_else(|| common.split_off(common.len() - 1)))
    }

    fn read(&self, stretches: &[Stretch]) -> Result<Vec<u8>, PatchError> {
        let mut prefix = Vec::new();
        for stretch in stretches {
            prefix.extend(self.sources[stretch.part as usize].read(stretch.offset, stretch.length as usize)?);
        }
        Ok(prefix)
    }
}

/// The stretches with `reach` bytes more on both sides, in order and joined where they meet.
fn widened(stretches: &[Stretch], reach: u64, sizes: [u64; 2]) -> Vec<Stretch> {
    let mut ranges: Vec<(Part, u64, u64)> = stretches
        .iter()
        .map(|s| {
            let end = (s.offset + u64::from(s.length)).saturating_add(reach).min(sizes[s.part as usize]);
            (s.part, s.offset.saturating_sub(reach), end)
        })
        .collect();
    ranges.sort_unstable();
    let mut joined: Vec<(Part, u64, u64)> = Vec::new();
    for (part, start, end) in ranges {
        match joined.last_mut() {
            Some(last) if last.0 == part && start <= last.2 => last.2 = last.2.max(end),
            _ => joined.push((part, start, end)),
        }
    }
    // One that is longer than a length can say is beyond MAX_PREFIX too.
    let length = |start, end| u32::try_from(end - start).unwrap_or(u32::MAX);
    joined
        .into_iter()
        .map(|(part, start, end)| Stretch { part, offset: start, length: length(start, end) })
        .collect()
}

/// One frame with `bytes`, whose window begins with `prefix`.
fn compress(prefix: &[u8], bytes: &[u8], level: i32) -> Result<Vec<u8>, PatchError> {
    let failed = |code| PatchError::Compress(get_error_name(code));
    let window = (prefix.len() + bytes.len()).max(1 << 20).next_power_of_two().trailing_zeros();
    let mut context = CCtx::try_create().ok_or(PatchError::Compress("there is no memory"))?;
    let mut parameters = vec![
        CParameter::CompressionLevel(level),
        CParameter::WindowLog(window),
        CParameter::EnableLongDistanceMatching(true),
    ];
    if level >= THOROUGH {
        parameters.extend([CParameter::ChainLog(window + 1), CParameter::HashLog(window - 1)]);
    }
    for parameter in parameters {
        context.set_parameter(parameter).map_err(failed)?;
    }
    context.ref_prefix(prefix).map_err(failed)?;
    let mut frame = Vec::with_capacity(bytes.len() + SLACK as usize);
    context.compress2(&mut frame, bytes).map_err(failed)?;
    Ok(frame)
}
