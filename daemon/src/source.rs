//! Where a bundle comes from: the hub over HTTP, or a stick. Nothing here is trusted: metadata is judged by `cairn_trust`,
//! everything else by digest, all of it bounded in size and time.

use std::fmt;

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use cairn_model::Digest;
use cairn_trust::fetch::{Fetch, FetchError};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};

use crate::assemble::Blob;

mod http;
mod media;
#[cfg(test)]
pub(crate) mod tests;
mod validity;

pub use http::{Clocked, HubClient, HubTls};
pub use media::MediaSource;
pub(crate) use media::StickThread;
#[cfg(test)]
pub(crate) use media::fault::Fault;
pub(crate) use validity::judged_by_the_clock;

/// Why a source did not give what was asked for. Says nothing about trust.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The source could not be reached, or broke off.
    #[error("the hub cannot be reached ({cause}); check the network, the hub's address and its certificate")]
    Unreachable {
        /// The whole chain of causes.
        cause: String,
    },
    /// The hub's certificate is not valid at the time that this node believes it is.
    #[error("the hub cannot be reached: {cause}")]
    Clock {
        /// Both times, and the cure.
        cause: String,
    },
    /// The source answered with an error of its own.
    #[error("the hub refuses ({status}): {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The kebab-case code of the answer; empty where it has none.
        code: String,
        /// Cause and cure, in the hub's words.
        message: String,
    },
    /// The answer is not what the protocol says.
    #[error(
        "the hub's answer to {what} makes no sense ({cause}); check that the address is that of a Cairn hub"
    )]
    Garbage {
        /// Which request.
        what: &'static str,
        /// What is wrong with the answer.
        cause: String,
    },
    /// A document or blob is larger than it may be, or metadata could not be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A document does not have its digest.
    #[error(
        "{digest} arrived with other bytes than its digest says; the hub, the stick or something on the way changed it"
    )]
    Corrupt {
        /// What was asked for.
        digest: Digest,
    },
    /// The stick cannot be read, or not any more.
    #[error("{what} cannot be read from the stick ({cause}); plug it in again, or export to another one")]
    Media {
        /// What was to be read.
        what: String,
        /// What the system said.
        cause: String,
    },
    /// There is neither.
    #[error("no hub answers and no stick is plugged in; plug the stick in again, or let the hub through")]
    Nowhere,
    /// The stick does not hold a document or blob.
    #[error("the stick has no {digest}; export to it again, without `--since` an earlier one")]
    Absent {
        /// What was asked for.
        digest: Digest,
    },
    /// What lies on the stick does not have the form or the size that it must have.
    #[error("{what} on the stick is damaged ({cause}); export to it again, or to another one")]
    Damaged {
        /// What.
        what: String,
        /// What is wrong with it.
        cause: String,
    },
}

impl SourceError {
    /// Whether the source says itself that it is not well just now: it restarts, or a proxy misses it.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Refused { status: 500.., .. })
    }

    /// Whether the source itself answered: it is there, however little it helps.
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Refused { .. }
            | Self::Garbage { .. }
            | Self::Corrupt { .. }
            | Self::Absent { .. }
            | Self::Damaged { .. }
            | Self::Fetch(FetchError::NotAFile { .. }) => true,
            Self::Unreachable { .. }
            | Self::Clock { .. }
            | Self::Media { .. }
            | Self::Nowhere
            | Self::Fetch(_) => false,
        }
    }
}

/// A blob that is about to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Which.
    pub blob: Blob,
    /// How much of it is there already, in bytes.
    pub have: u64,
}

/// The bytes of a blob from some offset on.
pub struct BlobStream {
    /// Where the bytes begin: what was asked for, or 0 where the source cannot resume.
    pub offset: u64,
    /// The bytes.
    pub bytes: BoxStream<'static, Result<Bytes, SourceError>>,
}

impl fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobStream").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl BlobStream {
    /// The bytes from `offset` on, `length` of them or fewer where the stream ends earlier.
    pub fn cut(self, offset: u64, length: u64) -> BoxStream<'static, Result<Bytes, SourceError>> {
        let state = (self.bytes, offset.saturating_sub(self.offset), length);
        stream::unfold(state, |(mut bytes, mut skip, mut left)| async move {
            while left > 0 {
                let mut piece = match bytes.next().await? {
                    Ok(piece) => piece,
                    Err(e) => return Some((Err(e), (bytes, skip, 0))),
                };
                let before = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
                skip -= before as u64;
                piece.advance(before);
                piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                if !piece.is_empty() {
                    left -= piece.len() as u64;
                    return Some((Ok(piece), (bytes, skip, left)));
                }
            }
            None
        })
        .boxed()
    }
}

/// Outside text, fit for journal, console and hub: bounded, and nothing in it that a terminal would obey.
pub(crate) fn plain(text: &str, max_chars: usize) -> String {
    text.chars().take(max_chars).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A carrier of bundles.
#[async_trait]
pub trait Source: Send + Sync {
    /// The director repository of this node.
    fn director(&self) -> &dyn Fetch;
    /// The artifacts repository.
    fn artifacts(&self) -> &dyn Fetch;
    /// Told what is about to be copied, before the first byte of it: a source that can look says here what it lacks.
    async fn announce(&self, _missing: &[Missing]) -> Result<(), SourceError> {
        Ok(())
    }
    /// A manifest by digest, checked.
    async fn manifest(&self, digest: &Digest, max_bytes: u64) -> Result<Bytes, SourceError>;
    /// A small blob by digest, checked.
    async fn document(&self, digest: &Digest, max_bytes: u64) -> Result<Bytes, SourceError>;
    /// A blob by digest from `offset` on, not checked: the caller hashes as it writes.
    async fn blob(&self, digest: &Digest, offset: u64) -> Result<BlobStream, SourceError>;
    /// At most `length` bytes of a blob from `offset` on, not checked. A source that cannot begin there begins at 0, as
    /// the answer says: [`BlobStream::cut`] leaves what was asked for.
    async fn range(&self, digest: &Digest, offset: u64, length: u64) -> Result<BlobStream, SourceError>;
}
