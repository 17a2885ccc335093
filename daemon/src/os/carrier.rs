//! The bridge between the updater, which is a plain thread that reads, and the hub, which is asked asynchronously. The
//! reader names a range and waits; the async side fetches it in pieces, a few ahead at most, and begins again where the
//! connection broke, after a pause. Nothing here is believed: the updater checks every byte by digest.

use std::{
    io::{self, Read},
    sync::{
        Arc,
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
    time::{Instant, sleep},
};

use crate::{
    backoff::{Backoff, random},
    source::{HubClient, Source, SourceError},
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
pub struct HubCarrier {
    wanted: mpsc::Sender<Wanted>,
    stop: Arc<AtomicBool>,
}

/// Makes both sides. The future serves the carrier until that is dropped; `stop` ends a read that waits.
pub fn build(
    hub: watch::Receiver<Option<HubClient>>,
    patience: Patience,
    stop: Arc<AtomicBool>,
) -> (HubCarrier, impl Future<Output = ()> + Send) {
    let (wanted, requests) = mpsc::channel(1);
    let serving = serve(requests, hub, patience, stop.clone());
    (HubCarrier { wanted, stop }, serving)
}

impl Carrier for HubCarrier {
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

async fn serve(
    mut requests: mpsc::Receiver<Wanted>,
    mut hub: watch::Receiver<Option<HubClient>>,
    patience: Patience,
    stop: Arc<AtomicBool>,
) {
    while let Some(wanted) = requests.recv().await {
        // Every arm may be dropped: the reader sees the end of its pieces, or has left before it.
        tokio::select! {
            () = fetch(&wanted, &mut hub, patience) => {}
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

/// One range, whole or with the last error: as many connections as it takes.
async fn fetch(wanted: &Wanted, hub: &mut watch::Receiver<Option<HubClient>>, patience: Patience) {
    let mut backoff = Backoff::new(patience.retry.0, patience.retry.1);
    let (mut done, mut heard) = (0, Instant::now());
    while done < wanted.length {
        // Not a member yet, or not opened yet: the link's task will say when.
        let Ok(client) = hub.wait_for(Option::is_some).await.map(|client| client.clone()) else { return };
        let Some(client) = client else { return };
        let before = done;
        let error = match some(&client, wanted, &mut done).await {
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

/// As much as one connection gives.
async fn some(client: &HubClient, wanted: &Wanted, done: &mut u64) -> Result<(), End> {
    let (offset, length) = (wanted.offset + *done, wanted.length - *done);
    let mut stream = client.range(&wanted.digest, offset, length).await.map_err(Broken)?.cut(offset, length);
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
