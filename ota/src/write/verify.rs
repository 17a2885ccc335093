//! The end of writing: everything is made durable and read back from the devices, and only what was read there makes the
//! hash tree. Half of it is read by a thread of its own.

use std::{
    fs::File,
    io::{self, Read},
    ops::Range,
    panic::resume_unwind,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use cairn_model::Digest;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use sha2::{Digest as _, Sha256};

use super::{
    Work, WriteError,
    device::{Place, Span, put, sync},
};
use crate::{
    chunks::Part,
    verity::{BLOCK, HashTree, TreeBuilder},
};

/// Bytes that are read at once, and hashed while they are near.
const PIECE: usize = 256 << 10;

impl Work<'_> {
    /// Makes root and kernel image durable, reads them back, and writes the hash tree of what was read.
    pub(super) fn verify(&mut self) -> Result<(), WriteError> {
        let (release, slot) = (self.release, &self.slot);
        let (root, uki, tree_file) = (slot.root, slot.uki, slot.tree);
        let write = |place: Place| move |source| WriteError::Write { what: place.as_str(), source };
        // Whatever an earlier try wrote is made durable too.
        thread::scope(|scope| {
            let kernel = scope.spawn(|| uki.set_len(release.uki.size).and_then(|()| sync(Place::Uki, uki)));
            let synced = sync(Place::Root, root);
            kernel.join().unwrap_or_else(|panic| resume_unwind(panic)).map_err(write(Place::Uki))?;
            synced.map_err(write(Place::Root))
        })?;

        // The signed root hash vouches for every block: a digest of the whole beside it would cost as much again.
        let (builder, kernel) = self.read_both(root, uki)?;
        let tree = builder.finish().ok().filter(|tree| tree.root_hash == release.verity.root_hash);
        let Some(tree) = tree else { return Err(self.why_another_root_hash(root)?) };
        self.write_tree(&tree, tree_file)?;
        if kernel != release.uki.digest {
            return Err(WriteError::Verify { what: Part::Uki.as_str() });
        }
        Ok(())
    }

    /// The leaves of the root's hash tree and the kernel image's digest, of what the devices really hold.
    fn read_both(&mut self, root: &File, uki: &File) -> Result<(TreeBuilder, Digest), WriteError> {
        let (release, salt, uuid) = (self.release, &self.slot.salt.clone(), self.slot.uuid);
        let middle = (release.root.size + release.uki.size) / 2;
        let middle = (middle - middle % BLOCK as u64).min(release.root.size);
        let stop = &AtomicBool::new(false);
        forget(root);
        forget(uki);
        thread::scope(|scope| {
            let other = scope.spawn(move || {
                let mut ask =
                    |_| if stop.load(Ordering::Relaxed) { Err(WriteError::Stopped) } else { Ok(()) };
                let (mut leaves, mut hasher) = (TreeBuilder::new(salt, uuid), Sha256::new());
                let kernel = 0..release.uki.size;
                read_back(Place::Uki, uki, kernel, &mut |bytes| hasher.update(bytes), &mut ask)?;
                let rest = middle..release.root.size;
                read_back(Place::Root, root, rest, &mut |bytes| leaves.push(bytes), &mut ask)?;
                Ok((leaves, Digest::from_sha256(&hasher.finalize().into())))
            });
            let mut leaves = TreeBuilder::new(salt, uuid);
            let mut worked = |count| self.watch.worked(count);
            let first = read_back(Place::Root, root, 0..middle, &mut |bytes| leaves.push(bytes), &mut worked);
            stop.store(first.is_err(), Ordering::Relaxed);
            let second = other.join().unwrap_or_else(|panic| resume_unwind(panic));
            first?;
            let (rest, kernel) = second?;
            leaves.append(rest);
            Ok((leaves, kernel))
        })
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
        forget(file);
        let mut worked = |count| self.watch.worked(count);
        read_back(place, file, 0..size, &mut |bytes| hasher.update(bytes), &mut worked)?;
        Ok(Digest::from_sha256(&hasher.finalize().into()))
    }
}

/// What is in memory would answer for the device. The kernel may refuse to forget it; then it does answer.
fn forget(file: &File) {
    let _ = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

/// Hands out what a device really holds, and tells how much that was.
fn read_back(
    place: Place,
    file: &File,
    range: Range<u64>,
    each: &mut dyn FnMut(&[u8]),
    worked: &mut dyn FnMut(u64) -> Result<(), WriteError>,
) -> Result<(), WriteError> {
    let mut span = Span { file, offset: range.start, end: range.end };
    let mut buffer = vec![0; PIECE];
    loop {
        let count = match span.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(WriteError::Read { what: place.as_str(), source }),
        };
        each(&buffer[..count]);
        worked(count as u64)?;
    }
}
