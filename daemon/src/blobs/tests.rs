//! Blobs: whole or not there, resumed where they ended, and never believed before the digest fits.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use cairn_trust::fetch::{Fetch, FolderFetch};
use futures_util::stream;

use super::*;
use crate::source::BlobStream;

/// A source that gives `bytes` in pieces and breaks off after `breaks_at`.
struct Pieces {
    bytes: Vec<u8>,
    breaks_at: Option<usize>,
    resumes: bool,
    folder: FolderFetch,
    asked: AtomicUsize,
}

impl Pieces {
    fn new(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            breaks_at: None,
            resumes: true,
            folder: FolderFetch::new("/nonexistent"),
            asked: AtomicUsize::new(0),
        }
    }
}

#[async_trait]
impl Source for Pieces {
    fn director(&self) -> &dyn Fetch {
        &self.folder
    }
    fn artifacts(&self) -> &dyn Fetch {
        &self.folder
    }
    async fn manifest(&self, digest: &Digest, _max: u64) -> Result<Bytes, SourceError> {
        Err(SourceError::Corrupt { digest: digest.clone() })
    }
    async fn document(&self, digest: &Digest, _max: u64) -> Result<Bytes, SourceError> {
        Err(SourceError::Corrupt { digest: digest.clone() })
    }
    async fn blob(&self, _digest: &Digest, offset: u64) -> Result<BlobStream, SourceError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let offset = if self.resumes { offset } else { 0 };
        let end = self.breaks_at.unwrap_or(self.bytes.len());
        let from = usize::try_from(offset).unwrap().min(end);
        let mut pieces: Vec<Result<Bytes, SourceError>> =
            self.bytes[from..end].chunks(3).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        if self.breaks_at.is_some() {
            pieces.push(Err(SourceError::Unreachable { cause: "cable pulled".to_owned() }));
        }
        Ok(BlobStream { offset, bytes: stream::iter(pieces).boxed() })
    }
    async fn range(&self, digest: &Digest, offset: u64, _length: u64) -> Result<BlobStream, SourceError> {
        self.blob(digest, offset).await
    }
}

fn blob(bytes: &[u8]) -> Blob {
    Blob { digest: Digest::of(bytes), size: bytes.len() as u64 }
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_ended() {
    for resumes in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(dir.path());
        let wanted = blob(b"hello edge world");
        let mut source = Pieces { breaks_at: Some(7), resumes, ..Pieces::new(b"hello edge world") };
        assert!(matches!(blobs.ensure(&wanted, &source).await, Err(BlobError::Source(_))));
        assert!(!blobs.contains(&wanted.digest), "half a blob is no blob");
        source.breaks_at = None;
        blobs.ensure(&wanted, &source).await.unwrap();
        assert_eq!(std::fs::read(blobs.path(&wanted.digest)).unwrap(), b"hello edge world");
        blobs.ensure(&wanted, &Pieces::new(b"")).await.unwrap();
    }
}

#[tokio::test]
async fn rejects_a_blob_with_other_bytes_and_starts_afresh() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::new(dir.path());
    let wanted = blob(b"genuine");
    let error = blobs.ensure(&wanted, &Pieces::new(b"tempted")).await.unwrap_err();
    assert!(matches!(error, BlobError::Source(SourceError::Corrupt { .. })), "{error}");
    assert!(!blobs.contains(&wanted.digest));
    blobs.ensure(&wanted, &Pieces::new(b"genuine")).await.unwrap();
}

#[tokio::test]
async fn what_another_source_left_is_not_held_against_an_honest_one_and_a_liar_is_asked_twice_at_most() {
    // A part of it, and as much as the whole: both are of a fetch that was cut off before it could be checked.
    for left in [&b"tem"[..], b"tempted"] {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(dir.path());
        let wanted = blob(b"genuine");
        let leave = || {
            std::fs::create_dir_all(&blobs.folder).unwrap();
            std::fs::write(blobs.part(&wanted.digest), left).unwrap();
        };
        leave();
        let liar = Pieces::new(b"tempted");
        let error = blobs.ensure(&wanted, &liar).await.unwrap_err();
        assert!(matches!(error, BlobError::Source(SourceError::Corrupt { .. })), "{error}");
        assert!(liar.asked.into_inner() <= 2);
        assert!(
            !blobs.contains(&wanted.digest) && !blobs.part(&wanted.digest).exists(),
            "nothing is left of it"
        );
        leave();
        blobs.ensure(&wanted, &Pieces::new(b"genuine")).await.unwrap();
        assert_eq!(std::fs::read(blobs.path(&wanted.digest)).unwrap(), b"genuine");
    }
}

#[tokio::test]
async fn rejects_endless_data_and_too_little() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::new(dir.path());
    let wanted = blob(b"four");
    let error = blobs.ensure(&wanted, &Pieces::new(&[b'x'; 100_000])).await.unwrap_err();
    assert!(matches!(error, BlobError::Size { .. }), "{error}");
    let error = blobs.ensure(&wanted, &Pieces::new(b"fo")).await.unwrap_err();
    assert!(matches!(error, BlobError::Size { .. }), "{error}");
    let on_disk: u64 = std::fs::read_dir(dir.path().join("blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(on_disk <= 4, "no more is written than the manifest says");
}

#[tokio::test]
async fn says_so_when_there_is_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::new(dir.path());
    let wanted = Blob { digest: Digest::of(b"huge"), size: 1 << 60 };
    let error = blobs.ensure(&wanted, &Pieces::new(b"huge")).await.unwrap_err();
    assert!(matches!(error, BlobError::NoRoom { .. }), "{error}");
    assert!(error.to_string().contains("remove apps or volumes"), "{error}");
}

#[tokio::test]
async fn keeps_what_is_named_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::new(dir.path());
    for bytes in [b"kept", b"gone"] {
        blobs.ensure(&blob(bytes), &Pieces::new(bytes)).await.unwrap();
    }
    blobs.retain(&BTreeSet::from([Digest::of(b"kept")])).await;
    assert!(blobs.contains(&Digest::of(b"kept")) && !blobs.contains(&Digest::of(b"gone")));
}
