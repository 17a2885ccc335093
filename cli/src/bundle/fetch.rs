//! Blobs from the hub onto a stick: a few at a time, each checked while it is written, and gone on with after a break.

use std::{cell::Cell, sync::Arc, time::Duration};

use cairn_model::{media::MediaBlob, oci::MAX_MANIFEST_BYTES};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{sync::mpsc, task::spawn_blocking};

use super::{
    stick::Stick,
    write::{BLOBS, Limits, WriteError, Writer},
};
use crate::{
    client::Client,
    failure::{Failure, Kind},
    meter::Meter,
};

/// Enough to hide a slow link's latency; a stick writes no faster for more.
const AT_ONCE: usize = 4;
/// Pieces that wait for a slow stick.
const WAITING: usize = 16;
/// How often in a row a transfer may break before the export gives up; what came is kept.
const ATTEMPTS: u32 = 5;
/// The first pause; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// How often the line is drawn.
const TICK: Duration = Duration::from_millis(100);

/// Writes all of `blobs`.
pub(crate) async fn fetch_all(
    client: &Client,
    stick: &Arc<Stick>,
    blobs: &[MediaBlob],
    limits: Limits,
) -> Result<(), Failure> {
    let total = super::plan::bytes(blobs);
    let (done, finished) = (Cell::new(0u64), Cell::new(0usize));
    let fetches = stream::iter(blobs.iter().map(|blob| async {
        let fetch = Fetch { client, stick, blob, limits, done: &done };
        fetch.run().await?;
        finished.set(finished.get() + 1);
        Ok::<_, Failure>(())
    }));
    let all = fetches.buffer_unordered(AT_ONCE).try_collect::<()>();
    tokio::pin!(all);
    let mut meter = Meter::new(format!("writing {} blobs", blobs.len()), total);
    let mut tick = tokio::time::interval(TICK);
    loop {
        // Cancel-safe: the transfers are polled on by reference, and a tick that is lost is a line less.
        tokio::select! {
            end = &mut all => return end.map_err(|failure| stopped(failure, finished.get(), blobs.len())),
            _ = tick.tick() => meter.set(done.get()),
        }
    }
}

/// Says what the break-off means.
fn stopped(failure: Failure, finished: usize, count: usize) -> Failure {
    let cause = format!("{} ({finished} of {count} blobs are on the stick)", failure.cause);
    let failure = Failure { cause, ..failure };
    match failure.kind {
        Kind::NoConnection | Kind::Timeout => failure.cure("run this again: it goes on where it stopped"),
        _ => failure,
    }
}

struct Fetch<'a> {
    client: &'a Client,
    stick: &'a Arc<Stick>,
    blob: &'a MediaBlob,
    limits: Limits,
    /// Bytes of all blobs.
    done: &'a Cell<u64>,
}

impl Fetch<'_> {
    async fn run(&self) -> Result<(), Failure> {
        let (stick, digest, size, limits) =
            (Arc::clone(self.stick), self.blob.digest.clone(), self.blob.size, self.limits);
        let writer = self.blocking(move || Writer::resume(&stick, &digest, size, limits)).await?;
        let resumed = writer.have() > 0;
        self.count(0, writer.have());
        match self.fill(writer).await? {
            // What an earlier run had left may be torn by a stick that was pulled: once more, from the beginning.
            Err(WriteError::Digest) if resumed => {
                let (stick, digest) = (Arc::clone(self.stick), self.blob.digest.clone());
                self.count(self.blob.size, 0);
                let writer = self.blocking(move || Writer::resume(&stick, &digest, size, limits)).await?;
                self.fill(writer).await?.map_err(|error| self.failed(error))
            }
            other => other.map_err(|error| self.failed(error)),
        }
    }

    /// Everything that is missing, whatever breaks on the way; the inner result is that of the blob as a whole.
    async fn fill(&self, mut writer: Writer) -> Result<Result<(), WriteError>, Failure> {
        let (mut failed, mut pause) = (0, FIRST_PAUSE);
        while writer.have() < self.blob.size {
            let before = writer.have();
            let (back, outcome) = self.transfer(writer).await?;
            writer = back;
            let Err(failure) = outcome else { continue };
            if writer.have() > before {
                (failed, pause) = (0, FIRST_PAUSE);
            }
            failed += 1;
            if failed >= ATTEMPTS || !matches!(failure.kind, Kind::NoConnection | Kind::Timeout) {
                return Err(failure);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        spawn_blocking(move || Ok(writer.finish())).await.unwrap_or_else(|error| Err(panicked(&error)))
    }

    /// One connection's worth. The writer comes back with what arrived, whatever broke.
    async fn transfer(&self, mut writer: Writer) -> Result<(Writer, Result<(), Failure>), Failure> {
        // Manifests have their own address in a registry.
        if self.blob.media_type.is_some() {
            let asked = self
                .client
                .manifest(
                    Some(&self.blob.repository),
                    &self.blob.digest,
                    MAX_MANIFEST_BYTES.min(self.blob.size),
                )
                .await;
            let bytes = match asked {
                Ok(bytes) if bytes.len() as u64 == self.blob.size => bytes,
                Ok(_) => return Err(self.failed(WriteError::Digest)),
                Err(failure) => return Ok((writer, Err(failure))),
            };
            self.count(writer.have(), self.blob.size);
            let write = move || {
                writer
                    .restart()
                    .map_err(WriteError::from)
                    .and_then(|()| writer.write(&bytes))
                    .map(|()| writer)
            };
            return Ok((self.blocking(write).await?, Ok(())));
        }
        let begun = self.client.download(&self.blob.repository, &self.blob.digest, writer.have()).await;
        let mut download = match begun {
            Ok(download) => download,
            Err(failure) => return Ok((writer, Err(failure))),
        };
        let restart = download.offset != writer.have();
        if restart {
            self.count(writer.have(), 0);
        }
        let (sender, mut receiver) = mpsc::channel::<bytes::Bytes>(WAITING);
        let writing = self.blocking(move || {
            if restart {
                writer.restart()?;
            }
            while let Some(piece) = receiver.blocking_recv() {
                writer.write(&piece)?;
            }
            Ok(writer)
        });
        let reading = async move {
            loop {
                match download.next().await {
                    Ok(Some(piece)) => {
                        self.count(0, piece.len() as u64);
                        // The stick failed: the writer says how.
                        if sender.send(piece).await.is_err() {
                            return Ok(());
                        }
                    }
                    Ok(None) => return Ok(()),
                    Err(failure) => return Err(failure),
                }
            }
        };
        let (writer, read) = tokio::join!(writing, reading);
        let writer = writer?;
        let short = || Failure::new(Kind::NoConnection, "the hub ended a transfer before its end");
        let outcome = if read.is_ok() && writer.have() < self.blob.size { Err(short()) } else { read };
        Ok((writer, outcome))
    }

    fn count(&self, less: u64, more: u64) {
        self.done.set(self.done.get().saturating_sub(less).saturating_add(more));
    }

    /// Work on the stick, apart from the one thread that the network is on.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, WriteError> + Send + 'static,
    ) -> Result<T, Failure> {
        match spawn_blocking(work).await {
            Ok(done) => done.map_err(|error| self.failed(error)),
            Err(error) => Err(panicked(&error)),
        }
    }

    fn failed(&self, error: WriteError) -> Failure {
        let digest = &self.blob.digest;
        match error {
            WriteError::Io(error) => self.stick.failed("write", &format!("{BLOBS}/{}", digest.hex()))(error),
            WriteError::Digest | WriteError::TooLong(_) => {
                Failure::refused(format!("the hub sent something else than {digest}: {error}"))
                    .cure("run this again; if it stays so, the hub's store is damaged: see its log")
            }
            WriteError::TooManyParts => {
                Failure::refused(format!("{digest} is too large for this stick: {error}"))
                    .cure("format the stick as exFAT or ext4, which hold larger files")
            }
        }
    }
}

fn panicked(error: &tokio::task::JoinError) -> Failure {
    Failure::failed(format!("writing broke off: {error}"))
}
