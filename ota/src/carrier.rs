//! Where the bytes of a release come from: a hub, a relay, a folder. Nothing that a carrier says is believed.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use cairn_model::{Digest, release::Payload};

/// Gives pieces of blobs.
pub trait Carrier: Send {
    /// The bytes from `offset` on, `length` of them; a carrier that breaks off earlier ends with an error or early.
    ///
    /// # Errors
    /// Whatever keeps the carrier from giving them; the same request may work later.
    fn read(&mut self, blob: &Payload, offset: u64, length: u64) -> io::Result<Box<dyn Read + Send + '_>>;
}

/// An OCI image layout in a folder.
#[derive(Debug, Clone)]
pub struct FolderCarrier {
    blobs: PathBuf,
}

impl FolderCarrier {
    /// Of the layout at `layout`, whose blobs are below `blobs/sha256`.
    pub fn new(layout: &Path) -> Self {
        Self { blobs: layout.join("blobs/sha256") }
    }

    /// Where a blob lies.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }
}

impl Carrier for FolderCarrier {
    fn read(&mut self, blob: &Payload, offset: u64, length: u64) -> io::Result<Box<dyn Read + Send + '_>> {
        let mut file = File::open(self.path(&blob.digest))?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(file.take(length)))
    }
}
