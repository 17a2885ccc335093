//! A stick as a source. Nothing on it is trusted, and it is never listed: only paths are opened that follow from the
//! node's own id and from signed digests, only regular files, and no link is followed. All reading is done off the
//! runtime and has its time: a stick that dies may hang for long, and must hold up nothing but itself.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Seek, SeekFrom},
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use cairn_model::{
    Digest, DocumentError, NodeId, Release,
    enroll::{EnrollGrant, MAX_GRANT_BYTES},
    error::chain,
    media::{ARTIFACTS, DIRECTOR, MAX_PARTS, PART_BYTES, RECEIPT, blob_path, grant_path, part_path},
};
use cairn_trust::fetch::{Fetch, FetchError, Folder, FolderFetch};
use futures_util::{StreamExt, stream};
use tokio::{sync::oneshot, time::timeout};

use super::{BlobStream, Missing, Source, SourceError};

/// Largest piece of a blob that is in memory at once, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// Longest time that a stick may take for one piece: the kernel resets a stuck one a few times before it gives up.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);

/// A stick, for one node. Holds a descriptor on what is mounted: it can be unmounted once this is dropped.
#[derive(Debug)]
pub struct MediaSource {
    node: NodeId,
    folder: Folder,
    /// How long each part of a blob is that lies in parts.
    part_bytes: u64,
    thread: StickThread,
    director: Metadata,
    artifacts: Metadata,
}

impl MediaSource {
    /// Takes up the stick that is mounted at `root`, for `node`.
    pub fn open(root: &Path, node: &NodeId) -> io::Result<Self> {
        Ok(Self::new(Folder::open(root)?, node.clone()))
    }

    /// The same, of a folder that is open.
    pub fn new(folder: Folder, node: NodeId) -> Self {
        Self::on(StickThread::start(PIECE_TIMEOUT), folder, node)
    }

    fn on(thread: StickThread, folder: Folder, node: NodeId) -> Self {
        let within = |prefix: &str| Metadata {
            files: FolderFetch::within(folder.clone(), prefix),
            thread: thread.clone(),
        };
        let (director, artifacts) = (within(&format!("{DIRECTOR}/{node}")), within(ARTIFACTS));
        Self { node, folder, part_bytes: PART_BYTES, thread, director, artifacts }
    }

    /// Whose bundle is read.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Whether it still is a stick of Cairn's: what says so can be read.
    pub async fn is_there(&self) -> bool {
        let first = |folder: &Folder| match folder.file(RECEIPT)? {
            Some(mut file) => file.read(&mut [0]),
            None => Ok(0),
        };
        matches!(self.blocking(RECEIPT, first).await, Ok(1))
    }

    /// What makes this node a member, where the stick brings that.
    pub async fn grant(&self) -> Result<Option<EnrollGrant>, SourceError> {
        let path = grant_path(&self.node);
        let read = {
            let path = path.clone();
            move |folder: &Folder| folder.read(&path, MAX_GRANT_BYTES as u64)
        };
        let Some(bytes) = self.blocking(&path, read).await? else { return Ok(None) };
        let damaged = |e: DocumentError| SourceError::Damaged { what: path.clone(), cause: chain(&e) };
        EnrollGrant::parse(&bytes).map(Some).map_err(damaged)
    }

    /// The first root of the artifacts repository that the stick carries: to tell the fleet that it is of. Not trusted.
    pub async fn artifacts_root(&self) -> Option<Vec<u8>> {
        let path = format!("{ARTIFACTS}/1.root.json");
        let read = {
            let path = path.clone();
            move |folder: &Folder| folder.read(&path, MAX_GRANT_BYTES as u64)
        };
        self.blocking(&path, read).await.ok().flatten()
    }

    /// Whether `release` can be written from this stick alone: all its chunks are there, or a patch is.
    pub async fn brings(&self, release: &Release) -> bool {
        let wanted: Vec<Vec<(Digest, u64)>> =
            std::iter::once(vec![&release.chunks.index, &release.chunks.pack])
                .chain(release.patches.iter().map(|patch| vec![&patch.blob]))
                .map(|way| way.into_iter().map(|payload| (payload.digest.clone(), payload.size)).collect())
                .collect();
        let part_bytes = self.part_bytes;
        let look = move |folder: &Folder| {
            let holds = |(digest, size): &(Digest, u64)| {
                size_of(folder, digest, part_bytes).ok().flatten() == Some(*size)
            };
            Ok(wanted.iter().any(|way| way.iter().all(holds)))
        };
        self.blocking("the OS release", look).await.unwrap_or(false)
    }

    /// Runs `work` where blocking is allowed, and not for ever.
    async fn blocking<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce(&Folder) -> io::Result<T> + Send + 'static,
    ) -> Result<T, SourceError> {
        let folder = self.folder.clone();
        self.thread.run(move || work(&folder)).await.map_err(|e| told(what, e))
    }

    async fn small(&self, digest: &Digest, max_bytes: u64) -> Result<Bytes, SourceError> {
        let path = blob_path(digest);
        let read = {
            let path = path.clone();
            move |folder: &Folder| folder.read(&path, max_bytes)
        };
        let Some(bytes) = self.blocking(&path, read).await? else {
            return Err(SourceError::Absent { digest: digest.clone() });
        };
        if Digest::of(&bytes) != *digest {
            return Err(SourceError::Corrupt { digest: digest.clone() });
        }
        Ok(bytes.into())
    }
}

/// A thread for one stick, which does one thing after the other: that is what sticks do best, and the few threads that the
/// daemon has for files are not held up by a kernel that waits for a stick. It ends with the last handle.
#[derive(Debug, Clone)]
pub(crate) struct StickThread {
    jobs: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    patience: Duration,
    #[cfg(test)]
    fault: fault::Fault,
}

impl StickThread {
    /// Starts it; each piece of work is given up after `patience`.
    pub(crate) fn start(patience: Duration) -> Self {
        let (jobs, received) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let work = move || received.into_iter().for_each(|job| job());
        if let Err(e) = thread::Builder::new().name("stick".to_owned()).spawn(work) {
            // Every read says then that nobody reads.
            tracing::error!("no thread for the stick: {e}");
        }
        Self {
            jobs,
            patience,
            #[cfg(test)]
            fault: fault::Fault::default(),
        }
    }

    /// What `work` gives; nothing that it holds is held any more then. Given up after its time.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (reply, answer) = oneshot::channel();
        #[cfg(test)]
        let work = {
            let fault = self.fault.clone();
            move || {
                fault.strike()?;
                work()
            }
        };
        // Who asked may have left.
        let job = Box::new(move || drop(reply.send(work())));
        let nobody = || io::Error::other("no thread for the stick");
        self.jobs.send(job).map_err(|_| nobody())?;
        match timeout(self.patience, answer).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(nobody())),
            Err(_) => Err(io::Error::new(ErrorKind::TimedOut, "it does not answer")),
        }
    }
}

fn told(what: &str, error: io::Error) -> SourceError {
    match error.kind() {
        ErrorKind::InvalidData => FetchError::NotAFile { path: what.to_owned(), source: error }.into(),
        ErrorKind::FileTooLarge => {
            SourceError::Damaged { what: what.to_owned(), cause: "it is larger than it may be".to_owned() }
        }
        _ => SourceError::Media { what: what.to_owned(), cause: error.to_string() },
    }
}

/// Metadata, each file within its time. Read on the stick's own thread as all else of it: a read that was given up still
/// holds its thread, and the runtime's few are everybody's.
#[derive(Debug)]
struct Metadata {
    files: FolderFetch,
    thread: StickThread,
}

#[async_trait]
impl Fetch for Metadata {
    async fn fetch(&self, path: &str, max_len: u64) -> Result<Option<Bytes>, FetchError> {
        let (files, name) = (self.files.clone(), path.to_owned());
        self.thread.run(move || Ok(files.read(&name, max_len))).await.unwrap_or_else(|source| {
            Err(FetchError::Transport { path: path.to_owned(), source: Box::new(source) })
        })
    }
}

/// How many bytes the blob has, in one file or in parts; `None` where it is not there.
fn size_of(folder: &Folder, digest: &Digest, part_bytes: u64) -> io::Result<Option<u64>> {
    if let Some(size) = folder.len(&blob_path(digest))? {
        return Ok(Some(size));
    }
    let mut whole = None;
    for part in 0..MAX_PARTS {
        let Some(size) = folder.len(&part_path(digest, part))? else { break };
        whole = Some(whole.unwrap_or(0) + size);
        // Only the last one may be short: what came after a hole would be at the wrong place.
        if size != part_bytes {
            break;
        }
    }
    Ok(whole)
}

/// A blob as it is read.
struct Reading {
    folder: Folder,
    digest: Digest,
    part_bytes: u64,
    file: File,
    /// The part that is open; `None` where all is in one file.
    part: Option<u64>,
    /// How much of the open file counts.
    left: u64,
}

impl Reading {
    /// Begins at `offset`; `None` where the blob is not there.
    fn open(folder: &Folder, digest: &Digest, offset: u64, part_bytes: u64) -> io::Result<Option<Self>> {
        let reading = |file, part, left| {
            let (folder, digest) = (folder.clone(), digest.clone());
            Self { folder, digest, part_bytes, file, part, left }
        };
        if let Some(mut file) = folder.file(&blob_path(digest))? {
            file.seek(SeekFrom::Start(offset))?;
            return Ok(Some(reading(file, None, u64::MAX)));
        }
        let (part, within) = (offset / part_bytes, offset % part_bytes);
        if part >= MAX_PARTS {
            return Ok(None);
        }
        let Some(mut file) = folder.file(&part_path(digest, part))? else { return Ok(None) };
        file.seek(SeekFrom::Start(within))?;
        Ok(Some(reading(file, Some(part), part_bytes - within)))
    }

    /// The next piece; none at the end.
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let mut piece = vec![0; most];
            let n = match self.file.read(&mut piece) {
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if n > 0 {
                piece.truncate(n);
                self.left -= n as u64;
                return Ok(Some(piece.into()));
            }
            let Some(part) = self.part.filter(|part| self.left == 0 && part + 1 < MAX_PARTS) else {
                return Ok(None);
            };
            let Some(file) = self.folder.file(&part_path(&self.digest, part + 1))? else { return Ok(None) };
            (self.file, self.part, self.left) = (file, Some(part + 1), self.part_bytes);
        }
    }
}

#[async_trait]
impl Source for MediaSource {
    fn director(&self) -> &dyn Fetch {
        &self.director
    }

    fn artifacts(&self) -> &dyn Fetch {
        &self.artifacts
    }

    /// Whether each is there with the size that is signed: nothing is copied from a stick that lacks a part.
    async fn announce(&self, missing: &[Missing]) -> Result<(), SourceError> {
        let part_bytes = self.part_bytes;
        let digests: Vec<_> = missing.iter().map(|m| m.blob.digest.clone()).collect();
        let look =
            move |folder: &Folder| digests.iter().map(|digest| size_of(folder, digest, part_bytes)).collect();
        let sizes: Vec<Option<u64>> = self.blocking("the blobs", look).await?;
        for (Missing { blob, .. }, size) in missing.iter().zip(sizes) {
            let Some(size) = size else { return Err(SourceError::Absent { digest: blob.digest.clone() }) };
            if size != blob.size {
                let cause = format!("it has {size} bytes, {} are signed", blob.size);
                return Err(SourceError::Damaged { what: blob.digest.to_string(), cause });
            }
        }
        Ok(())
    }

    async fn manifest(&self, digest: &Digest, max_bytes: u64) -> Result<Bytes, SourceError> {
        self.small(digest, max_bytes).await
    }

    async fn document(&self, digest: &Digest, max_bytes: u64) -> Result<Bytes, SourceError> {
        self.small(digest, max_bytes).await
    }

    async fn blob(&self, digest: &Digest, offset: u64) -> Result<BlobStream, SourceError> {
        let (opening, part_bytes) = (digest.clone(), self.part_bytes);
        let open = move |folder: &Folder| Reading::open(folder, &opening, offset, part_bytes);
        let (path, reader) = (blob_path(digest), self.thread.clone());
        let Some(reading) = self.blocking(&path, open).await? else {
            return Err(SourceError::Absent { digest: digest.clone() });
        };
        let bytes = stream::unfold(Some(reading), move |reading| {
            let (path, reader) = (path.clone(), reader.clone());
            async move {
                let mut reading = reading?;
                let read = reader.run(move || reading.next().map(|piece| (piece, reading))).await;
                match read {
                    Ok((piece, reading)) => Some((Ok(piece?), Some(reading))),
                    Err(e) => Some((Err(told(&path, e)), None)),
                }
            }
        });
        Ok(BlobStream { offset, bytes: bytes.boxed() })
    }

    async fn range(&self, digest: &Digest, offset: u64, length: u64) -> Result<BlobStream, SourceError> {
        let bytes = self.blob(digest, offset).await?.cut(offset, length);
        Ok(BlobStream { offset, bytes })
    }
}

#[cfg(test)]
pub(crate) mod fault;
#[cfg(test)]
mod tests;
