//! Reads the root that runs in full, before anybody says that the boot is complete. A block that goes bad and is first
//! read later would restart the machine again and again without the initrd ever looking: it looks only where the last
//! boot was not completed.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::{Machine, length};
use crate::verity::{self, TreeBuilder};

/// Bytes that are read at once: large enough that a disk reads at its own speed.
const PIECE: usize = 1 << 20;

/// Why the OS that runs is not known to be whole.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// It could not be looked at.
    #[error("failed to open {path}")]
    Open {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A part of it cannot be read, or is not what was installed.
    #[error(
        "the OS that runs is damaged on {path}; restart the machine, which then looks at all of it and takes the other slot, \
         and install a release into this one"
    )]
    Damaged {
        /// Where.
        path: PathBuf,
        /// How it shows.
        #[source]
        source: io::Error,
    },
}

impl Machine {
    /// Reads the whole root that runs through its verified device, where the kernel restarts the machine at a block that
    /// is not what the root hash says. A machine of plain files has no such device: its root is compared here.
    ///
    /// # Errors
    /// If it cannot be read, or is not what its root hash says.
    pub fn scan(&self) -> Result<(), ScanError> {
        match &self.verified {
            Some(device) => {
                let size =
                    length(device).map_err(|source| ScanError::Open { path: device.clone(), source })?;
                read(device, size, &mut |_| {})
            }
            None => self.compare(),
        }
    }

    fn compare(&self) -> Result<(), ScanError> {
        let devices = self.devices(self.running);
        let open = |source| ScanError::Open { path: devices.tree.clone(), source };
        let held = devices.open_tree().and_then(|tree| verity::identify(&tree)).map_err(open)?;
        let damaged = |path: &Path, why: &'static str| ScanError::Damaged {
            path: path.to_owned(),
            source: io::Error::other(why),
        };
        let sound = held.filter(|(_, root_hash)| *root_hash == self.identity.root_hash);
        let (superblock, root_hash) =
            sound.ok_or_else(|| damaged(&devices.tree, "its hash tree is another one"))?;
        let mut builder = TreeBuilder::new(&superblock.salt, superblock.uuid);
        read(&devices.root, superblock.data_size(), &mut |bytes| builder.push(bytes))?;
        let whole = builder.finish().is_ok_and(|tree| tree.root_hash == root_hash);
        if whole { Ok(()) } else { Err(damaged(&devices.root, "it has another root hash")) }
    }
}

/// Reads `size` bytes in order, and has the kernel forget them: the cache is for what is used.
fn read(path: &Path, size: u64, each: &mut dyn FnMut(&[u8])) -> Result<(), ScanError> {
    let file = File::open(path).map_err(|source| ScanError::Open { path: path.to_owned(), source })?;
    let mut buffer = vec![0; PIECE];
    let mut offset = 0;
    while offset < size {
        let count = usize::try_from(size - offset).unwrap_or(PIECE).min(PIECE);
        let bytes = &mut buffer[..count];
        file.read_exact_at(bytes, offset)
            .map_err(|source| ScanError::Damaged { path: path.to_owned(), source })?;
        each(bytes);
        // Only a wish.
        let (at, length) = (offset.try_into().unwrap_or(0), count.try_into().unwrap_or(0));
        let _ = posix_fadvise(&file, at, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        offset += count as u64;
    }
    Ok(())
}
