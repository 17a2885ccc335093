//! Uploads under way: bytes go to a staging object as they come, hashed on the way; only a finished one gets a name.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use cairn_model::Digest;
use futures_util::{Stream, StreamExt};
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart, path::Path as Key};
use sha2::{Digest as _, Sha256};

use super::{RegistryError, Result};
use crate::secret;

#[cfg(test)]
mod tests;

/// The prefix of staging objects.
pub(super) const STAGING: &str = "uploads";

/// Bytes held in memory before they go to disk, twice a running upload.
const CHUNK_BYTES: usize = 1 << 20;

/// A client that sends nothing for so long is let go; it may come back with the next chunk.
pub(super) const STALL: Duration = Duration::from_secs(60);

/// An upload that nobody touched for so long is dropped.
pub(crate) const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// An upload that nobody touched for so long gives its place to a new one where all are taken.
const IDLE: Duration = Duration::from_secs(10 * 60);

/// The table of uploads. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Uploads(Arc<Table>);

struct Table {
    objects: Arc<dyn ObjectStore>,
    max_blob: u64,
    max_uploads: usize,
    stall: Duration,
    // Held for look-ups only, never across an await.
    sessions: Mutex<HashMap<String, Slot>>,
}

/// An upload's place in the table: empty while a request works on it.
struct Slot {
    repository: String,
    at: u64,
    touched: Instant,
    session: Option<Session>,
}

struct Session {
    writer: WriteMultipart,
    hasher: Sha256,
    size: u64,
}

/// How far an upload is.
#[derive(Debug)]
pub(crate) struct UploadStatus {
    /// Its id.
    pub(crate) id: String,
    /// Bytes received.
    pub(crate) size: u64,
}

/// One request's hold on an upload; given back when dropped.
pub(crate) struct Lease {
    table: Arc<Table>,
    id: String,
    session: Option<Session>,
    resumable: bool,
}

impl Uploads {
    pub(super) fn new(
        objects: Arc<dyn ObjectStore>,
        max_blob: u64,
        max_uploads: usize,
        stall: Duration,
    ) -> Self {
        Self(Arc::new(Table { objects, max_blob, max_uploads, stall, sessions: Mutex::default() }))
    }

    /// Starts an upload into `repository`.
    pub(crate) async fn start(&self, repository: &str) -> Result<Lease> {
        self.start_at(repository, Instant::now()).await
    }

    async fn start_at(&self, repository: &str, now: Instant) -> Result<Lease> {
        let id = secret::random_hex(16);
        let idle = {
            let mut sessions = self.0.lock();
            let idle = if sessions.len() < self.0.max_uploads {
                None
            } else {
                let oldest = longest_idle(&sessions, now);
                let oldest = oldest.ok_or(RegistryError::TooManyUploads(self.0.max_uploads))?;
                sessions.remove(&oldest).and_then(|slot| slot.session)
            };
            let slot = Slot { repository: repository.to_owned(), at: 0, touched: now, session: None };
            sessions.insert(id.clone(), slot);
            idle
        };
        // From here on the lease gives the place back whatever happens.
        let mut lease = Lease { table: Arc::clone(&self.0), id, session: None, resumable: true };
        if let Some(idle) = idle {
            // Best effort: what stays on disk has no name, and goes with the next start.
            let _ = idle.writer.abort().await;
        }
        let writer = self.0.objects.put_multipart(&lease.key()).await?;
        let writer = WriteMultipart::new_with_chunk_size(writer, CHUNK_BYTES);
        lease.session = Some(Session { writer, hasher: Sha256::new(), size: 0 });
        Ok(lease)
    }

    /// Takes hold of an upload of `repository`.
    pub(crate) fn take(&self, repository: &str, id: &str) -> Result<Lease> {
        let mut sessions = self.0.lock();
        let slot = sessions.get_mut(id).filter(|slot| slot.repository == repository);
        let session = slot.and_then(|slot| slot.session.take()).ok_or(RegistryError::UploadUnknown)?;
        Ok(Lease { table: Arc::clone(&self.0), id: id.to_owned(), session: Some(session), resumable: true })
    }

    /// How far an upload is.
    pub(crate) fn status(&self, repository: &str, id: &str) -> Result<UploadStatus> {
        let sessions = self.0.lock();
        let slot = sessions.get(id).filter(|slot| slot.repository == repository);
        let slot = slot.ok_or(RegistryError::UploadUnknown)?;
        Ok(UploadStatus { id: id.to_owned(), size: slot.at })
    }

    /// Drops what nobody touched for [`ABANDONED`]; returns how many.
    pub(crate) async fn drop_abandoned(&self, now: Instant) -> usize {
        let abandoned: Vec<Session> = {
            let mut sessions = self.0.lock();
            let idle = |slot: &Slot| slot.session.is_some() && now.duration_since(slot.touched) > ABANDONED;
            let ids: Vec<String> =
                sessions.iter().filter(|(_, slot)| idle(slot)).map(|(id, _)| id.clone()).collect();
            ids.iter().filter_map(|id| sessions.remove(id)?.session).collect()
        };
        let count = abandoned.len();
        for session in abandoned {
            // Best effort: what stays on disk has no name, and goes with the next start.
            let _ = session.writer.abort().await;
        }
        count
    }

    /// How many are under way.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().len()
    }
}

/// The upload that nobody works on and that was left alone the longest, if for long enough.
fn longest_idle(sessions: &HashMap<String, Slot>, now: Instant) -> Option<String> {
    let idle = |slot: &Slot| slot.session.is_some() && now.duration_since(slot.touched) > IDLE;
    let oldest = sessions.iter().filter(|(_, slot)| idle(slot)).min_by_key(|(_, slot)| slot.touched);
    oldest.map(|(id, _)| id.clone())
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// How far it is.
    pub(crate) fn status(&self) -> UploadStatus {
        UploadStatus { id: self.id.clone(), size: self.size() }
    }

    /// Makes it end with this hold: nobody is told its id, so nobody could go on with it.
    pub(crate) fn in_one_request(mut self) -> Self {
        self.resumable = false;
        self
    }

    fn size(&self) -> u64 {
        self.session.as_ref().map_or(0, |session| session.size)
    }

    fn key(&self) -> Key {
        Key::from_iter([STAGING, &self.id])
    }

    /// Refuses a chunk that announces to start elsewhere than the upload is at.
    pub(crate) fn ensure_at(&self, start: u64) -> Result<()> {
        let at = self.size();
        if start == at { Ok(()) } else { Err(RegistryError::OutOfOrder { got: start, at }) }
    }

    /// Takes in a request's body. What came before an error of the client's stays; one of the disk ends the upload.
    pub(crate) async fn receive<S, E>(&mut self, mut stream: S) -> Result<()>
    where
        S: Stream<Item = std::result::Result<Bytes, E>> + Unpin,
        E: std::error::Error + Send + Sync + 'static,
    {
        let (limit, stall) = (self.table.max_blob, self.table.stall);
        loop {
            let next = tokio::time::timeout(stall, stream.next()).await;
            let Some(chunk) = next.map_err(|_| RegistryError::Stalled(stall))? else { return Ok(()) };
            let chunk = chunk.map_err(|e| RegistryError::Body(Box::new(e)))?;
            let session = self.session.as_mut().ok_or(RegistryError::UploadUnknown)?;
            if session.size + chunk.len() as u64 > limit {
                return Err(RegistryError::TooLarge { limit });
            }
            if let Err(error) = session.writer.wait_for_capacity(1).await {
                // A part is lost, though its bytes are hashed: gone on with, this would become a blob with a hole.
                self.discard().await;
                return Err(error.into());
            }
            session.size += chunk.len() as u64;
            session.hasher.update(&chunk);
            session.writer.put(chunk);
        }
    }

    /// Lets go of the session, so that nobody can go on with it.
    async fn discard(&mut self) {
        if let Some(session) = self.session.take() {
            // Best effort: what stays on disk has no name, and goes with the next start.
            let _ = session.writer.abort().await;
        }
    }

    /// Ends it: the bytes are on disk, fsynced, under the returned staging key, and have the digest `wanted`.
    pub(super) async fn finish(mut self, wanted: &Digest) -> Result<(Key, u64)> {
        let session = self.session.take().ok_or(RegistryError::UploadUnknown)?;
        let got = Digest::from_sha256(&session.hasher.finalize().into());
        if got != *wanted {
            let _ = session.writer.abort().await;
            return Err(RegistryError::DigestMismatch { got, wanted: wanted.to_string() });
        }
        session.writer.finish().await?;
        Ok((self.key(), session.size))
    }

    /// Drops it.
    pub(crate) async fn cancel(mut self) -> Result<()> {
        if let Some(session) = self.session.take() {
            session.writer.abort().await?;
        }
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut sessions = self.table.lock();
        match self.session.take().filter(|_| self.resumable) {
            Some(session) => {
                if let Some(slot) = sessions.get_mut(&self.id) {
                    slot.at = session.size;
                    slot.touched = Instant::now();
                    slot.session = Some(session);
                }
            }
            None => {
                sessions.remove(&self.id);
            }
        }
    }
}
