//! The bridge between the updater, which is a plain thread that reads, and stick and hub, which are asked asynchronously.
//! The reader names a range and waits; the async side fetches it in pieces, a few ahead at most, from the stick that is
//! plugged in before the hub, and begins again where the connection broke or the stick was pulled, after a pause. Nothing here is believed: the updater checks every byte by digest.

use std::{
    future::pending,
    io::{self, Read},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, Bytes};
use cairn_model::{Digest, release::Payload};
use cairn_ota::Carrier;
use futures_util::StreamExt;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    backoff::{Backoff, random},
    source::{HubClient, MediaSource, Source, SourceError},
};

/// Largest piece that is handed over, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that may wait for the reader: with the one that it holds, at most 1 MiB.
const PIECES_AHEAD: usize = 3;
/// How often a waiting side looks whether it shall stop.
const STOP_LOOK: Duration = Duration::from_millis(500);

/// How long a range that does not come is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// First and longest pause between two tries.
    pub retry: (Duration, Duration),
    /// Without a single byte for so long, the transfer is given up; what stands in the slot is used by the next one.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            retry: (Duration::from_millis(500), Duration::from_secs(30)),
            silence: Duration::from_secs(600),
        }
    }
}

/// A range that the reader wants, and where its pieces go.
#[derive(Debug)]
struct Wanted {
    digest: Digest,
    offset: u64,
    length: u64,
    pieces: mpsc::Sender<Result<Bytes, SourceError>>,
}

/// The reader's side.
#[derive(Debug)]
pub struct SourceCarrier {
    wanted: mpsc::Sender<Wanted>,
    stop: Arc<AtomicBool>,
}

/// Makes both sides. The future serves the carrier until that is dropped; `stop` ends a read that waits.
pub fn build(
    sources: Sources,
    patience: Patience,
    stop: Arc<AtomicBool>,
) -> (SourceCarrier, impl Future<Output = ()> + Send) {
    let (wanted, requests) = mpsc::channel(1);
    let serving = serve(requests, sources, patience, stop.clone());
    (SourceCarrier { wanted, stop }, serving)
}

impl Carrier for SourceCarrier {
    fn read(&mut self, blob: &Payload, offset: u64, length: u64) -> io::Result<Box<dyn Read + Send + '_>> {
        let (pieces, received) = mpsc::channel(PIECES_AHEAD);
        let wanted = Wanted { digest: blob.digest.clone(), offset, length, pieces };
        self.wanted.blocking_send(wanted).map_err(|_| stopped())?;
        Ok(Box::new(Pieces { received, piece: Bytes::new(), left: length, stop: &self.stop }))
    }
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the transfer was stopped")
}

/// One range as it comes in.
struct Pieces<'a> {
    received: mpsc::Receiver<Result<Bytes, SourceError>>,
    piece: Bytes,
    left: u64,
    stop: &'a AtomicBool,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(stopped());
        }
        if self.piece.is_empty() && self.left > 0 && !buffer.is_empty() {
            self.piece = match self.received.blocking_recv() {
                Some(Ok(piece)) => piece,
                Some(Err(e)) => return Err(io::Error::other(e)),
                None => return Err(stopped()),
            };
        }
        let n = self.piece.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.piece[..n]);
        self.piece.advance(n);
        self.left = self.left.saturating_sub(n as u64);
        Ok(n)
    }
}

/// Where ranges come from: a stick that is plugged in before the hub.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The stick that is plugged in.
    pub stick: watch::Receiver<Option<Arc<MediaSource>>>,
    /// The hub once the node is a member of one.
    pub hub: watch::Receiver<Option<HubClient>>,
    /// A stick that gave nothing useful: the hub is asked first where there is one. It is not held for that.
    pub tired: Option<Weak<MediaSource>>,
}

/// A source for a while.
enum Chosen {
    Stick(Arc<MediaSource>),
    Hub(Box<HubClient>),
}

impl Sources {
    /// The best that there is now.
    fn choose(&mut self) -> Option<Chosen> {
        let stick = self.stick.borrow_and_update().clone();
        let hub = self.hub.borrow_and_update().clone();
        match (stick, hub) {
            (Some(stick), Some(hub)) if is(&self.tired, &stick) => {
                drop(stick);
                Some(Chosen::Hub(Box::new(hub)))
            }
            (Some(stick), _) => Some(Chosen::Stick(stick)),
            (None, hub) => hub.map(|hub| Chosen::Hub(Box::new(hub))),
        }
    }

    /// Another stick, or none any more. Cancel-safe, as the watch is; never where nobody brings sticks.
    async fn stick_changed(&mut self) {
        if self.stick.changed().await.is_err() {
            pending::<()>().await;
        }
    }

    /// Another stick, or a hub.
    async fn changed(&mut self) {
        let Self { stick, hub, .. } = self;
        // Both arms are cancel-safe: watches keep their latest value. One that is closed is out of the race.
        tokio::select! {
            Ok(()) = stick.changed() => {}
            Ok(()) = hub.changed() => {}
            else => pending().await,
        }
    }
}

/// Whether `weak` is this very stick, plugged in this very time.
pub(super) fn is(weak: &Option<Weak<MediaSource>>, stick: &Arc<MediaSource>) -> bool {
    weak.as_ref().is_some_and(|weak| std::ptr::eq(weak.as_ptr(), Arc::as_ptr(stick)))
}

async fn serve(
    mut requests: mpsc::Receiver<Wanted>,
    mut sources: Sources,
    patience: Patience,
    stop: Arc<AtomicBool>,
) {
    while let Some(wanted) = requests.recv().await {
        // Every arm may be dropped: the reader sees the end of its pieces, or has left before it.
        tokio::select! {
            () = fetch(&wanted, &mut sources, patience) => {}
            () = wanted.pieces.closed() => {}
            () = stop_is_set(&stop) => {}
        }
    }
}

/// The flag is set from outside and rings no bell; a look now and then is enough for one that ends a transfer.
async fn stop_is_set(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        sleep(STOP_LOOK).await;
    }
}

/// One range, whole or with the last error: as many connections and sticks as it takes.
async fn fetch(wanted: &Wanted, sources: &mut Sources, patience: Patience) {
    let mut backoff = Backoff::new(patience.retry.0, patience.retry.1);
    let (mut done, mut heard) = (0, Instant::now());
    while done < wanted.length {
        let Some(chosen) = sources.choose() else {
            // Not a member yet, or the stick was pulled.
            if timeout_at(heard + patience.silence, sources.changed()).await.is_err() {
                let _ = wanted.pieces.send(Err(SourceError::Nowhere)).await;
                return;
            }
            continue;
        };
        let before = done;
        let stick = match &chosen {
            Chosen::Stick(stick) => Some(Arc::downgrade(stick)),
            Chosen::Hub(_) => None,
        };
        // Dropped, what was handed over counts: another stick is read at once, and one that goes is let go.
        let end = tokio::select! {
            end = some(chosen, wanted, &mut done) => end,
            () = sources.stick_changed() => continue,
        };
        let error = match end {
            Ok(()) => SourceError::Unreachable { cause: "the answer ended early".to_owned() },
            Err(Gone) => return,
            Err(Broken(error)) => error,
        };
        if done == wanted.length {
            return;
        }
        if done > before {
            heard = Instant::now();
            backoff.reset();
        }
        if stick.is_some() {
            sources.tired = stick;
            if sources.hub.borrow().is_some() {
                tracing::info!(digest = %wanted.digest, "the hub is asked for what the stick does not give: {error}");
                continue;
            }
        }
        let hopeless = error.is_answer() && !error.is_passing();
        if hopeless || heard.elapsed() >= patience.silence {
            // A reader that is gone does not want to know.
            let _ = wanted.pieces.send(Err(error)).await;
            return;
        }
        tracing::debug!(digest = %wanted.digest, done, "a transfer broke off, going on: {error}");
        sleep(backoff.after_failure(random())).await;
    }
}

enum End {
    /// Nobody reads any more.
    Gone,
    /// The source broke off.
    Broken(SourceError),
}
use End::{Broken, Gone};

/// As much as one connection, or one stick, gives.
async fn some(chosen: Chosen, wanted: &Wanted, done: &mut u64) -> Result<(), End> {
    let source: &dyn Source = match &chosen {
        Chosen::Stick(stick) => stick.as_ref(),
        Chosen::Hub(client) => client.as_ref(),
    };
    let (offset, length) = (wanted.offset + *done, wanted.length - *done);
    let mut stream = source.range(&wanted.digest, offset, length).await.map_err(Broken)?.cut(offset, length);
    while let Some(piece) = stream.next().await {
        let mut piece = piece.map_err(Broken)?;
        while !piece.is_empty() {
            let part = piece.split_to(PIECE_BYTES.min(piece.len()));
            let n = part.len() as u64;
            wanted.pieces.send(Ok(part)).await.map_err(|_| Gone)?;
            *done += n;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
