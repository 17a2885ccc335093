//! What runs, and may be started from.

use std::{fs::File, io::Read};

use cairn_model::Digest;
use sha2::{Digest as _, Sha256};

use super::{Target, WriteError, device, device::Span, watch::Watch};
use crate::verity;

/// Largest kernel image that is looked at.
const MAX_UKI: u64 = 1 << 30;

/// The slot that runs.
pub(super) struct Running<'a> {
    pub(super) root: &'a File,
    /// Bytes of it that count.
    pub(super) size: u64,
    /// What its tree says; `None` without a tree.
    pub(super) root_hash: Option<String>,
    /// The kernel image and its size.
    pub(super) uki: Option<(File, u64)>,
}

impl<'a> Running<'a> {
    /// Whatever cannot be read is not started from; that keeps nobody from fetching everything.
    pub(super) fn look(target: &Target<'a>) -> Self {
        let tree = verity::identify(target.running_tree).ok().flatten();
        let room = device::size_of(target.running_root).unwrap_or(0);
        let (size, root_hash) = match tree {
            Some((superblock, root_hash)) => (superblock.data_size().min(room), Some(root_hash)),
            None => (room, None),
        };
        let uki = target.running_uki.and_then(|path| {
            let file = File::open(path).ok()?;
            let size = file.metadata().ok().filter(|m| m.is_file() && m.len() <= MAX_UKI)?.len();
            Some((file, size))
        });
        Self { root: target.running_root, size, root_hash, uki }
    }

    /// The digest of the kernel image, if it can be read.
    pub(super) fn uki_digest(&self, watch: &mut Watch<'_>) -> Result<Option<Digest>, WriteError> {
        let Some((file, size)) = &self.uki else { return Ok(None) };
        let mut span = Span { file, offset: 0, end: *size };
        let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 256 << 10]);
        loop {
            match span.read(&mut buffer) {
                Ok(0) => return Ok(Some(Digest::from_sha256(&hasher.finalize().into()))),
                Ok(count) => hasher.update(&buffer[..count]),
                Err(_) => return Ok(None),
            }
            watch.worked(buffer.len() as u64)?;
        }
    }
}
