//! Fetches blobs: the index into memory, the patch into a file that a later try goes on with. Nothing that a carrier gives
//! is used before its digest is known to be right.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    path::{Path, PathBuf},
};

use cairn_model::{
    Digest,
    release::{Patch, Payload, Release},
};
use nix::sys::statvfs::statvfs;
use sha2::{Digest as _, Sha256};

use super::{
    Work, WriteError,
    device::{self, Place, Span},
    watch::Watch,
};
use crate::{
    Carrier,
    chunks::{Index, MAX_INDEX_BYTES, Part},
};

/// Bytes that are read from a carrier at once.
const PIECE: usize = 64 << 10;

/// What the files in the scratch folder are called, before the digest.
const PREFIXES: [&str; 2] = ["patch-", "index-"];

/// What a carrier gives for one request. Never more of it is read than was asked for.
pub(super) struct Stream<'c> {
    reader: Box<dyn Read + Send + 'c>,
    what: &'static str,
    got: u64,
    wanted: u64,
}

impl<'c> Stream<'c> {
    pub(super) fn new(reader: Box<dyn Read + Send + 'c>, what: &'static str, wanted: u64) -> Self {
        Self { reader, what, got: 0, wanted }
    }

    /// Reads some of what is left, one byte at least.
    fn some(&mut self, buffer: &mut [u8]) -> Result<usize, WriteError> {
        loop {
            match self.reader.read(buffer) {
                Ok(0) => {
                    return Err(WriteError::Short { what: self.what, got: self.got, wanted: self.wanted });
                }
                Ok(count) => {
                    self.got += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(WriteError::Carrier { what: self.what, source }),
            }
        }
    }

    /// Fills the buffer.
    pub(super) fn fill(&mut self, mut buffer: &mut [u8], watch: &mut Watch<'_>) -> Result<(), WriteError> {
        while !buffer.is_empty() {
            let length = buffer.len().min(PIECE);
            let count = self.some(&mut buffer[..length])?;
            watch.fetched(count as u64)?;
            buffer = &mut buffer[count..];
        }
        Ok(())
    }

    /// How much was read.
    pub(super) fn position(&self) -> u64 {
        self.got
    }
}

/// Bytes that the scratch folder has room for.
pub(super) fn room(scratch: &Path) -> u64 {
    let existing = scratch.ancestors().find(|folder| folder.is_dir());
    let room = existing.and_then(|folder| statvfs(folder).ok());
    room.map_or(0, |room| room.blocks_available().saturating_mul(room.fragment_size()))
}

/// Bytes of a patch that are there already.
pub(super) fn fetched(scratch: &Path, patch: &Patch) -> u64 {
    let length = fs::metadata(patch_file(scratch, patch)).map_or(0, |file| file.len());
    if length > patch.blob.size { 0 } else { length }
}

/// Throws away what there is of a patch.
pub(super) fn forget(scratch: &Path, patch: &Patch) {
    remove(&patch_file(scratch, patch));
}

/// Removes what other releases left in the scratch folder.
pub(super) fn tidy(scratch: &Path, release: &Release) {
    let mut ours: Vec<PathBuf> = release.patches.iter().map(|patch| patch_file(scratch, patch)).collect();
    ours.push(index_file(scratch, release));
    for entry in fs::read_dir(scratch).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let foreign = !PREFIXES.iter().any(|prefix| name.to_string_lossy().starts_with(prefix));
        if !foreign && !ours.contains(&entry.path()) {
            remove(&entry.path());
        }
    }
}

/// Removes what this release left there.
pub(super) fn clear(scratch: &Path, release: &Release) {
    release.patches.iter().for_each(|patch| forget(scratch, patch));
    remove(&index_file(scratch, release));
}

/// What cannot be removed costs room, and nothing else.
fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}

fn patch_file(scratch: &Path, patch: &Patch) -> PathBuf {
    scratch.join(format!("patch-{}.part", patch.blob.digest.hex()))
}

fn index_file(scratch: &Path, release: &Release) -> PathBuf {
    scratch.join(format!("index-{}", release.chunks.index.digest.hex()))
}

impl Work<'_> {
    /// The index, from the scratch folder or from the carrier.
    pub(super) fn index(&mut self, carrier: &mut dyn Carrier) -> Result<Index, WriteError> {
        const WHAT: &str = "the index of chunks";
        let Payload { digest, size } = &self.release.chunks.index;
        let size = usize::try_from(*size).ok().filter(|size| *size <= MAX_INDEX_BYTES);
        let size = size.ok_or(WriteError::Release("its index of chunks is too large"))?;
        let path = index_file(self.scratch, self.release);
        let kept = fs::metadata(&path).ok().filter(|file| file.len() == size as u64);
        let kept = kept.and_then(|_| fs::read(&path).ok()).filter(|bytes| Digest::of(bytes) == *digest);
        let bytes = match kept {
            Some(bytes) => bytes,
            None => {
                let mut bytes = vec![0; size];
                let blob = &self.release.chunks.index;
                let reader = carrier.read(blob, 0, blob.size);
                let reader = reader.map_err(|source| WriteError::Carrier { what: WHAT, source })?;
                Stream::new(reader, WHAT, blob.size).fill(&mut bytes, &mut self.watch)?;
                if Digest::of(&bytes) != *digest {
                    return Err(WriteError::Wrong { what: WHAT });
                }
                // Kept for the next try only: without room for it, that fetches it again.
                let _ = fs::create_dir_all(self.scratch).and_then(|()| fs::write(&path, &bytes));
                bytes
            }
        };
        let index = Index::parse(&bytes).map_err(WriteError::Index)?;
        let Release { root, uki, chunks, .. } = self.release;
        let sizes = [index.size(Part::Root), index.size(Part::Uki), index.pack_size()];
        if sizes != [root.size, uki.size, chunks.pack.size] {
            return Err(WriteError::Release("its index of chunks is of other payloads"));
        }
        Ok(index)
    }

    /// The whole patch in a file, verified. What an earlier try fetched is not fetched again.
    pub(super) fn fetch_patch(
        &mut self,
        patch: &Patch,
        carrier: &mut dyn Carrier,
    ) -> Result<File, WriteError> {
        const WHAT: &str = "the patch";
        let path = patch_file(self.scratch, patch);
        let error = |source| WriteError::Scratch { path: path.clone(), source };
        fs::create_dir_all(self.scratch).map_err(error)?;
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(error)?;
        let size = patch.blob.size;
        let mut position = fetched(self.scratch, patch);
        if position == 0 {
            file.set_len(0).map_err(error)?;
        }
        if position < size {
            let reader = carrier.read(&patch.blob, position, size - position);
            let reader = reader.map_err(|source| WriteError::Carrier { what: WHAT, source })?;
            let mut stream = Stream::new(reader, WHAT, size - position);
            let mut piece = vec![0; PIECE];
            while position < size {
                let length = usize::try_from(size - position).map_or(PIECE, |left| left.min(PIECE));
                let count = stream.some(&mut piece[..length])?;
                device::put(Place::Patch, &file, position, &piece[..count]).map_err(error)?;
                position += count as u64;
                self.watch.fetched(count as u64)?;
            }
        }
        if self.digest_of(&file, WHAT)? != patch.blob.digest {
            remove(&path);
            return Err(WriteError::Wrong { what: WHAT });
        }
        Ok(file)
    }

    fn digest_of(&mut self, file: &File, what: &'static str) -> Result<Digest, WriteError> {
        let mut span = Span { file, offset: 0, end: u64::MAX };
        let (mut hasher, mut piece) = (Sha256::new(), vec![0; PIECE]);
        loop {
            let count = span.read(&mut piece).map_err(|source| WriteError::Read { what, source })?;
            if count == 0 {
                return Ok(Digest::from_sha256(&hasher.finalize().into()));
            }
            hasher.update(&piece[..count]);
            self.watch.worked(count as u64)?;
        }
    }
}
