//! Where metadata comes from: a hub, a relay, or a folder. Nothing here is trusted; everything is bounded in size and
//! in time.

mod folder;
mod http;

use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, timeout_at};

pub use folder::{Folder, FolderFetch};
pub use http::{Headers, HttpFetch};

/// Why a file could not be had. Says nothing about trust.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The source sends more than the file may hold: the endless data attack, or a file that has outgrown its limit.
    #[error("{path} is larger than {limit} bytes; the source may be sending endless data")]
    TooLarge {
        /// The file.
        path: String,
        /// The most that is taken.
        limit: u64,
    },
    /// The source sends so slowly that an update would never end.
    #[error(
        "{path} arrives too slowly; the source or the network may be holding the update back, another try follows"
    )]
    TooSlow {
        /// The file.
        path: String,
    },
    /// The source refuses or fails.
    #[error(
        "{path}: the source answers {status}; check that the node is approved and that the hub is healthy"
    )]
    Status {
        /// The file.
        path: String,
        /// The HTTP status.
        status: u16,
    },
    /// The source could not be reached or broke off.
    #[error("failed to read {path}; check network and hub")]
    Transport {
        /// The file.
        path: String,
        /// What the transport said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something else lies where a file should: a link, a pipe, a device, a folder.
    #[error("{path} is not a plain file in its source; the source was tampered with or is damaged")]
    NotAFile {
        /// The file.
        path: String,
        /// What it is.
        #[source]
        source: std::io::Error,
    },
    /// The name would lead out of the source.
    #[error("{path:?} is not the name of a metadata file")]
    BadPath {
        /// The name.
        path: String,
    },
}

/// A source of metadata files and small targets, by path below the repository's base. Segments of a path are
/// percent-encoded, in a URL and as file names alike.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// The content of `path`, at most `max_len` bytes; `None` where the source has no such file.
    async fn fetch(&self, path: &str, max_len: u64) -> Result<Option<Bytes>, FetchError>;
}

#[async_trait]
impl<F: Fetch + ?Sized> Fetch for &F {
    async fn fetch(&self, path: &str, max_len: u64) -> Result<Option<Bytes>, FetchError> {
        (**self).fetch(path, max_len).await
    }
}

#[async_trait]
impl<F: Fetch + ?Sized> Fetch for Box<F> {
    async fn fetch(&self, path: &str, max_len: u64) -> Result<Option<Bytes>, FetchError> {
        (**self).fetch(path, max_len).await
    }
}

/// How slow a source may be before it counts as holding an update back.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Time in which nothing at all needs to arrive: connecting, a hub that signs, a satellite link.
    pub start: Duration,
    /// Least average rate after that, in bytes per second.
    pub bytes_per_second: u32,
}

impl Default for Pace {
    /// Half a minute to begin, then 512 bytes per second: slower than any link that could carry a workload, and still
    /// an end to every transfer.
    fn default() -> Self {
        Self { start: Duration::from_secs(30), bytes_per_second: 512 }
    }
}

impl Pace {
    /// When the next piece must have come, given what has come so far.
    fn deadline(&self, begun: Instant, received: u64) -> Instant {
        let millis = received.saturating_mul(1000) / u64::from(self.bytes_per_second.max(1));
        begun + self.start + Duration::from_millis(millis)
    }
}

/// Collects `stream`, begun at `begun`, refusing what is too large or too slow.
pub async fn collect_paced<S, E>(
    path: &str,
    max_len: u64,
    pace: Pace,
    begun: Instant,
    stream: S,
) -> Result<Bytes, FetchError>
where
    S: Stream<Item = Result<Bytes, E>>,
    E: std::error::Error + Send + Sync + 'static,
{
    let mut stream = std::pin::pin!(stream);
    let mut collected = BytesMut::new();
    loop {
        let deadline = pace.deadline(begun, collected.len() as u64);
        let piece = timeout_at(deadline, stream.next())
            .await
            .map_err(|_| FetchError::TooSlow { path: path.to_owned() })?;
        let Some(piece) = piece else { return Ok(collected.freeze()) };
        let piece = piece
            .map_err(|source| FetchError::Transport { path: path.to_owned(), source: Box::new(source) })?;
        if collected.len() as u64 + piece.len() as u64 > max_len {
            return Err(FetchError::TooLarge { path: path.to_owned(), limit: max_len });
        }
        // A source that has always one more byte ready never lets the timer run: the deadline is held here too.
        if Instant::now() > deadline {
            return Err(FetchError::TooSlow { path: path.to_owned() });
        }
        collected.extend_from_slice(&piece);
    }
}

/// Percent-encodes one segment of a path: all but the unreserved characters of RFC 3986, as python-tuf names files.
pub(crate) fn encode_segment(segment: &str) -> String {
    use std::fmt::Write;
    segment.bytes().fold(String::with_capacity(segment.len()), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

/// Whether `path` stays below its base: relative, percent-encoded where need be, no empty, `.` or `..` segment.
fn is_plain(path: &str) -> bool {
    let safe =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'%' | b'/');
    path.len() <= 1024
        && path.bytes().all(safe)
        && path.to_ascii_lowercase().replace("%2e", ".").split('/').all(|s| !matches!(s, "" | "." | ".."))
}
