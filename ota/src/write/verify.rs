//! The end of writing: everything is made durable and read back from the devices, and only what was read there makes the
//! hash tree.

use std::{fs::File, io::Read};

use cairn_model::Digest;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use sha2::{Digest as _, Sha256};

use super::{
    Work, WriteError,
    device::{Place, Span, put, sync},
};
use crate::{
    chunks::Part,
    verity::{HashTree, TreeBuilder},
};

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

impl Work<'_> {
    /// Makes root and kernel image durable, reads them back, and writes the hash tree of what was read.
    pub(super) fn verify(&mut self) -> Result<(), WriteError> {
        let (release, slot) = (self.release, &self.slot);
        let write = |place: Place| move |source| WriteError::Write { what: place.as_str(), source };
        slot.uki.set_len(release.uki.size).map_err(write(Place::Uki))?;
        sync(Place::Root, slot.root).map_err(write(Place::Root))?;
        sync(Place::Uki, slot.uki).map_err(write(Place::Uki))?;

        let mut builder = TreeBuilder::new(&slot.salt, slot.uuid);
        let (root, uki, tree_file) = (slot.root, slot.uki, slot.tree);
        // The signed root hash vouches for every block: a digest of the whole beside it would cost as much again.
        self.read_back(Place::Root, root, release.root.size, &mut |bytes| builder.push(bytes))?;
        let tree = builder.finish().ok().filter(|tree| tree.root_hash == release.verity.root_hash);
        let Some(tree) = tree else { return Err(self.why_another_root_hash(root)?) };
        self.write_tree(&tree, tree_file)?;
        if self.digest(Place::Uki, uki, release.uki.size)? != release.uki.digest {
            return Err(WriteError::Verify { what: Part::Uki.as_str() });
        }
        Ok(())
    }

    fn write_tree(&mut self, tree: &HashTree, file: &File) -> Result<(), WriteError> {
        let write = |source| WriteError::Write { what: Place::Tree.as_str(), source };
        let size = tree.bytes.len() as u64;
        for (piece, offset) in tree.bytes.chunks(PIECE).zip((0..).step_by(PIECE)) {
            put(Place::Tree, file, offset, piece).map_err(write)?;
        }
        sync(Place::Tree, file).map_err(write)?;
        if self.digest(Place::Tree, file, size)? == Digest::of(&tree.bytes) {
            return Ok(());
        }
        Err(WriteError::Verify { what: "hash tree" })
    }

    /// Tells a disk that does not keep what is written to it from a release that contradicts itself.
    fn why_another_root_hash(&mut self, root: &File) -> Result<WriteError, WriteError> {
        if self.digest(Place::Root, root, self.release.root.size)? == self.release.root.digest {
            return Ok(WriteError::Release("its root file system has another verity root hash"));
        }
        Ok(WriteError::Verify { what: Part::Root.as_str() })
    }

    /// The digest of what a device really holds.
    fn digest(&mut self, place: Place, file: &File, size: u64) -> Result<Digest, WriteError> {
        let mut hasher = Sha256::new();
        self.read_back(place, file, size, &mut |bytes| hasher.update(bytes))?;
        Ok(Digest::from_sha256(&hasher.finalize().into()))
    }

    /// Hands out what a device really holds.
    fn read_back(
        &mut self,
        place: Place,
        file: &File,
        size: u64,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), WriteError> {
        // What is in memory would answer for the device. The kernel may refuse to forget it; then it does answer.
        let _ = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        let mut span = Span { file, offset: 0, end: size };
        let mut buffer = vec![0; PIECE];
        loop {
            let read = span.read(&mut buffer);
            let count = read.map_err(|source| WriteError::Read { what: place.as_str(), source })?;
            if count == 0 {
                return Ok(());
            }
            each(&buffer[..count]);
            self.watch.worked(count as u64)?;
        }
    }
}
