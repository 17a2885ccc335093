//! Blobs on disk: `blobs/sha256/<hex>`. A blob is under its name only when it is whole, has its digest, and is on the
//! disk; until then it is `<hex>.part`, and a later try goes on where the last one ended.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use cairn_model::Digest;
use futures_util::StreamExt;
use nix::sys::statvfs::statvfs;
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::{self, File, OpenOptions},
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
    task::spawn_blocking,
};

use crate::{
    assemble::Blob,
    source::{Source, SourceError},
};

/// What stays free on the data partition: the ledger, the journal and the workloads themselves need room too.
const RESERVE_BYTES: u64 = 64 << 20;

/// Why a blob is not on the disk.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is no room.
    #[error(
        "no room for {digest}: {needed} bytes are needed and {} MiB are free on the data partition, of which {} MiB \
         stay in reserve; remove apps or volumes, or use a larger disk", .free >> 20, RESERVE_BYTES >> 20
    )]
    NoRoom {
        /// Which blob.
        digest: Digest,
        /// What is still to come.
        needed: u64,
        /// What is free.
        free: u64,
    },
    /// The disk failed.
    #[error("failed to {action} {path}; check the data partition")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The source failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// More or fewer bytes than the manifest says.
    #[error(
        "{digest} has not the {size} bytes that its manifest says; the hub, the stick or something on the way changed it"
    )]
    Size {
        /// Which blob.
        digest: Digest,
        /// What the manifest says.
        size: u64,
    },
}

/// The folder of blobs.
#[derive(Debug, Clone)]
pub struct Blobs {
    folder: PathBuf,
}

impl Blobs {
    /// Blobs below `state_dir`.
    pub fn new(state_dir: &Path) -> Self {
        Self { folder: state_dir.join("blobs/sha256") }
    }

    /// Where a blob is once it is whole.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.hex())
    }

    /// Whether it is whole and there.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// Drops a blob that is not needed any more.
    pub async fn remove(&self, digest: &Digest) {
        // What cannot be removed costs room, nothing else; the next collection tries again.
        let _ = fs::remove_file(self.path(digest)).await;
    }

    /// Drops every blob, whole or partial, that is not in `keep`.
    pub async fn retain(&self, keep: &BTreeSet<Digest>) {
        let Ok(mut entries) = fs::read_dir(&self.folder).await else { return };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let name = entry.file_name();
            let hex = name.to_string_lossy();
            let hex = hex.strip_suffix(".part").unwrap_or(&hex);
            if !keep.iter().any(|digest| digest.hex() == hex) {
                let _ = fs::remove_file(entry.path()).await;
            }
        }
    }

    /// How much of `blob` is there, in bytes; `None` where it is whole.
    pub async fn have(&self, blob: &Blob) -> Option<u64> {
        if fs::try_exists(self.path(&blob.digest)).await.unwrap_or(false) {
            return None;
        }
        let part = fs::metadata(self.part(&blob.digest)).await.map_or(0, |metadata| metadata.len());
        Some(if part > blob.size { 0 } else { part })
    }

    fn part(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{}.part", digest.hex()))
    }

    /// Makes sure that `blob` is there, fetching what is missing of it.
    pub async fn ensure(&self, blob: &Blob, source: &dyn Source) -> Result<(), BlobError> {
        let resumed = self.have(blob).await.is_some_and(|have| have > 0);
        match self.fetch(blob, source).await {
            // What was there already may be what is wrong: it is of a fetch that was cut off before it could be checked,
            // perhaps from a stick that was damaged. It is gone now, and this source is not to blame before it was asked.
            Err(BlobError::Source(SourceError::Corrupt { .. })) if resumed => self.fetch(blob, source).await,
            outcome => outcome,
        }
    }

    async fn fetch(&self, blob: &Blob, source: &dyn Source) -> Result<(), BlobError> {
        let whole = self.path(&blob.digest);
        if fs::try_exists(&whole).await.unwrap_or(false) {
            return Ok(());
        }
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| BlobError::Io { action, path, source }
        };
        fs::create_dir_all(&self.folder).await.map_err(io("make", &self.folder))?;
        let part = self.part(&blob.digest);
        let (mut file, mut hash, mut have) = open_part(&part, blob.size).await.map_err(io("open", &part))?;
        if have < blob.size {
            self.check_room(&blob.digest, blob.size - have)?;
            let mut stream = source.blob(&blob.digest, have).await?;
            if stream.offset != have {
                file.set_len(0).await.map_err(io("truncate", &part))?;
                file.rewind().await.map_err(io("truncate", &part))?;
                (hash, have) = (Sha256::new(), 0);
            }
            while let Some(piece) = stream.bytes.next().await {
                let piece = piece?;
                have += piece.len() as u64;
                if have > blob.size {
                    break;
                }
                hash.update(&piece);
                file.write_all(&piece).await.map_err(io("write", &part))?;
            }
            file.flush().await.map_err(io("write", &part))?;
        }
        if have != blob.size {
            if have > blob.size {
                let _ = fs::remove_file(&part).await;
            }
            // A short one stays: the next try goes on from there.
            return Err(BlobError::Size { digest: blob.digest.clone(), size: blob.size });
        }
        if Digest::from_sha256(&hash.finalize().into()) != blob.digest {
            let _ = fs::remove_file(&part).await;
            return Err(SourceError::Corrupt { digest: blob.digest.clone() }.into());
        }
        file.sync_all().await.map_err(io("sync", &part))?;
        match fs::rename(&part, &whole).await {
            // A fetch that was cut off had come as far as this, and its last step was under way.
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.contains(&blob.digest) => {}
            renamed => renamed.map_err(io("rename", &part))?,
        }
        let folder = File::open(&self.folder).await.map_err(io("open", &self.folder))?;
        folder.sync_all().await.map_err(io("sync", &self.folder))
    }

    fn check_room(&self, digest: &Digest, needed: u64) -> Result<(), BlobError> {
        let stat = statvfs(&self.folder).map_err(|e| BlobError::Io {
            action: "look at",
            path: self.folder.clone(),
            source: e.into(),
        })?;
        let free = stat.blocks_available() * stat.fragment_size();
        if free < needed.saturating_add(RESERVE_BYTES) {
            return Err(BlobError::NoRoom { digest: digest.clone(), needed, free });
        }
        Ok(())
    }
}

/// Opens what is there already, with its hash so far. What is larger than the whole is thrown away.
async fn open_part(path: &Path, size: u64) -> io::Result<(File, Sha256, u64)> {
    let file = OpenOptions::new().create(true).read(true).write(true).truncate(false).open(path).await?;
    let file = file.into_std().await;
    // A fetch that was cut off may have a last write under way: it would change what is hashed here already.
    let locked = spawn_blocking(move || file.lock().map(|()| file)).await.map_err(io::Error::other)?;
    let mut file = File::from_std(locked?);
    let (mut hash, mut have) = (Sha256::new(), 0u64);
    if file.metadata().await?.len() > size {
        file.set_len(0).await?;
        return Ok((file, hash, 0));
    }
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer).await? {
            0 => return Ok((file, hash, have)),
            n => {
                hash.update(&buffer[..n]);
                have += n as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests;
