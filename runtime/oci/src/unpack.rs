//! One image layer → a folder that overlayfs takes as a lower layer. The layer is outside data: everything it says is
//! bounded, and every path is opened beneath the target folder by the kernel itself (`openat2`), never by string
//! arithmetic alone.

mod apply;
mod name;
mod stream;
mod tape;
#[cfg(test)]
mod tests;
mod tree;

use std::{
    fs::{self, File},
    io::BufReader,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use cairn_model::id::Digest;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags};

use crate::cli;

/// How much a layer may make us do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of the uncompressed tar.
    pub(crate) bytes: u64,
    /// Entries of the tar.
    pub(crate) entries: u64,
}

/// `cairn-oci unpack`.
pub(crate) fn run(args: &cli::Unpack) -> Result<()> {
    let limits = Limits { bytes: args.max_bytes, entries: args.max_entries };
    unpack(&args.blob, &args.media_type, &args.diff_id, &args.into, limits)
        .with_context(|| format!("failed to unpack layer {}", args.diff_id))
}

/// Unpacks `blob` into the new folder `into`, which appears whole (by rename, after everything is on disk) or not at all.
pub(crate) fn unpack(
    blob: &Path,
    media_type: &str,
    diff_id: &Digest,
    into: &Path,
    limits: Limits,
) -> Result<()> {
    if into.symlink_metadata().is_ok() {
        return Ok(());
    }
    let compression = stream::Compression::of_media_type(media_type)?;
    let file = File::open(blob).with_context(|| format!("failed to open {}", blob.display()))?;
    let staging = Staging::create(into)?;
    let mut tar = stream::HashingReader::new(compression.decoder(BufReader::new(file))?, limits.bytes);
    apply::apply(&mut tar, &staging.dir, limits)?;
    let found = tar.finish()?;
    if found != *diff_id {
        bail!(
            "the layer's content is {found}, not what the image's config says: the image is damaged or forged; \
             push it again"
        );
    }
    staging.publish(into)
}

/// The folder being filled, next to its final place. Whoever fills it holds a lock on it, so that a folder without a
/// lock is a crashed run's and may go.
struct Staging {
    path: PathBuf,
    dir: OwnedFd,
    published: bool,
}

impl Staging {
    fn create(into: &Path) -> Result<Self> {
        let (Some(parent), Some(name)) = (into.parent(), into.file_name().and_then(|n| n.to_str())) else {
            bail!(
                "{} is not a path that a layer can be unpacked into; give an absolute path",
                into.display()
            );
        };
        let prefix = format!(".unpack-{name}-");
        fs::create_dir_all(parent).with_context(|| format!("failed to make {}", parent.display()))?;
        remove_abandoned(parent, &prefix)?;
        let path = parent.join(format!("{prefix}{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("failed to make {}", path.display()))?;
        let dir = open_dir(&path)?;
        rustix::fs::flock(&dir, FlockOperation::LockExclusive)
            .context("failed to lock the staging folder")?;
        Ok(Self { path, dir, published: false })
    }

    /// Makes everything durable, then visible.
    fn publish(mut self, into: &Path) -> Result<()> {
        rustix::fs::syncfs(&self.dir).context("failed to write the layer to disk")?;
        match rustix::fs::renameat_with(CWD, &self.path, CWD, into, RenameFlags::NOREPLACE) {
            Ok(()) => self.published = true,
            // Another process unpacked the same layer meanwhile: both are the same bytes.
            Err(rustix::io::Errno::EXIST | rustix::io::Errno::NOTEMPTY) => return Ok(()),
            Err(error) => {
                return Err(error).with_context(|| format!("failed to move the layer to {}", into.display()));
            }
        }
        let parent = into.parent().unwrap_or(Path::new("/"));
        rustix::fs::fsync(open_dir(parent)?).with_context(|| format!("failed to sync {}", parent.display()))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            // What can't be removed now is removed by the next run.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn remove_abandoned(parent: &Path, prefix: &str) -> Result<()> {
    for entry in fs::read_dir(parent).with_context(|| format!("failed to list {}", parent.display()))? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(prefix) {
            continue;
        }
        let Ok(dir) = open_dir(&entry.path()) else { continue };
        if rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("failed to remove the abandoned {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(path, flags, Mode::empty()).with_context(|| format!("failed to open {}", path.display()))
}
