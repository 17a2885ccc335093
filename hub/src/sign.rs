//! Drives cairn-trust: the two TUF repositories on disk, behind calls that do not block the runtime.
//!
//! What cairn-trust writes, it writes targets first and timestamp last, each by fsync and rename: a reader sees the old
//! repository or the new one.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use cairn_model::{Digest, NodeId, error::chain, media::Freshness};
use cairn_trust::sign::{Artifacts, Director, Exported, HubKeys, Lifetimes, SignError, TargetEntry};
use jiff::Timestamp;

/// Why something could not be signed or served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignerError {
    /// The artifacts targets key is not here.
    #[error("the artifacts targets key is not on this hub")]
    KeyOffline,
    /// No metadata file of that name.
    #[error("no such metadata file")]
    NoSuchFile,
    /// Metadata from outside that does not verify; the text is for the client.
    #[error("{0}")]
    Refused(String),
    /// There are as many artifacts as nodes can read; the text is for the client.
    #[error("{0}")]
    Full(String),
    /// Keys or repositories could not be opened.
    #[error("failed to open the {what} in {path}")]
    Open {
        /// Keys, or which repository.
        what: &'static str,
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: anyhow::Error,
    },
    /// Anything else that cairn-trust says.
    #[error("failed to sign")]
    Sign(#[source] SignError),
    /// The blocking task died.
    #[error("the signing task died")]
    Task(#[from] tokio::task::JoinError),
}

impl From<SignError> for SignerError {
    fn from(source: SignError) -> Self {
        match source {
            SignError::KeyOffline { .. } => Self::KeyOffline,
            SignError::NoSuchFile { .. } => Self::NoSuchFile,
            error @ (SignError::Refused(_) | SignError::WrongVersion { .. } | SignError::NotMetadata(_)) => {
                Self::Refused(chain(&error))
            }
            full @ SignError::Full { .. } => Self::Full(full.to_string()),
            other => Self::Sign(other),
        }
    }
}

type Result<T> = std::result::Result<T, SignerError>;

/// The hub's signing half. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Signer(Arc<Inner>);

struct Inner {
    keys: HubKeys,
    director: Director,
    artifacts: Artifacts,
    // What `artifacts` has as targets: read without waiting for a signature that is being made.
    signed: RwLock<HashSet<Digest>>,
}

/// Where the signing half lives below the data folder.
pub(crate) fn keys_dir(data: &Path) -> PathBuf {
    data.join("keys")
}

fn director_dir(data: &Path) -> PathBuf {
    data.join("tuf/director")
}

fn artifacts_dir(data: &Path) -> PathBuf {
    data.join("tuf/artifacts")
}

/// Makes all keys and both repositories below `data`. The keys are returned so that init can say which is which.
pub(crate) fn init(data: &Path) -> Result<()> {
    let keys = HubKeys::generate().map_err(|e| open_error("keys", data, e))?;
    keys.save(&keys_dir(data)).map_err(|e| open_error("keys", data, e))?;
    let now = Timestamp::now();
    Director::init(&director_dir(data), &keys, Lifetimes::default(), now)?;
    Artifacts::init(&artifacts_dir(data), &keys, Lifetimes::default(), now)?;
    Ok(())
}

fn open_error(what: &'static str, path: &Path, source: impl Into<anyhow::Error>) -> SignerError {
    SignerError::Open { what, path: path.display().to_string(), source: source.into() }
}

impl Signer {
    /// Opens keys and repositories below `data`.
    pub(crate) fn open(data: &Path) -> Result<Self> {
        let path = keys_dir(data);
        let keys = HubKeys::load(&path).map_err(|e| open_error("keys", &path, e))?;
        let path = director_dir(data);
        let director = Director::open(&path, Lifetimes::default())
            .map_err(|e| open_error("director repository", &path, e))?;
        let path = artifacts_dir(data);
        let artifacts = Artifacts::open(&path, Lifetimes::default())
            .map_err(|e| open_error("artifacts repository", &path, e))?;
        let signed = RwLock::new(artifacts.entries().into_iter().map(|entry| entry.digest).collect());
        Ok(Self(Arc::new(Inner { keys, director, artifacts, signed })))
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner, Timestamp) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || work(&inner, Timestamp::now())).await?
    }

    /// Whether a push can be signed here, or waits for an operator's key.
    pub(crate) fn signs_artifacts(&self) -> bool {
        self.0.keys.artifacts_targets.is_some()
    }

    /// Whether nodes accept this manifest.
    pub(crate) fn is_signed(&self, digest: &Digest) -> bool {
        self.0.signed.read().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    /// Makes `entries` targets of the artifacts repository.
    pub(crate) async fn add_artifacts(&self, entries: Vec<TargetEntry>) -> Result<()> {
        self.run(move |inner, now| {
            inner.artifacts.add(&inner.keys, &entries, now)?;
            inner.note_signed();
            Ok(())
        })
        .await
    }

    /// The next targets metadata, with `entries`, for an operator to sign.
    pub(crate) async fn unsigned_targets(&self, entries: Vec<TargetEntry>) -> Result<Vec<u8>> {
        self.run(move |inner, now| Ok(inner.artifacts.unsigned_targets(&entries, now)?)).await
    }

    /// Whether an operator must sign the targets again, so that they do not expire.
    pub(crate) fn awaits_renewal(&self) -> bool {
        !self.signs_artifacts() && self.0.artifacts.targets_due(Timestamp::now())
    }

    /// Takes targets metadata that an operator signed.
    pub(crate) async fn accept_targets(&self, signed: Vec<u8>) -> Result<()> {
        self.run(move |inner, now| {
            inner.artifacts.accept_targets(&inner.keys, &signed, now)?;
            inner.note_signed();
            Ok(())
        })
        .await
    }

    /// Signs what is desired of one node, and serves it from now on.
    pub(crate) async fn publish(&self, desired: crate::store::DesiredRow) -> Result<()> {
        self.run(move |inner, now| {
            let entries: Vec<TargetEntry> =
                desired.needs.iter().filter_map(|digest| inner.artifacts.entry(digest)).collect();
            let document = desired.document.as_bytes();
            inner.director.publish(
                &inner.keys,
                &desired.node,
                desired.generation,
                document,
                &entries,
                now,
            )?;
            Ok(())
        })
        .await
    }

    /// A node's director files, signed for the way by stick: with what the hub has of its reports, and to hold as long as
    /// `freshness` says.
    pub(crate) async fn export_director(
        &self,
        node: NodeId,
        acknowledged: u64,
        freshness: Freshness,
    ) -> Result<Exported> {
        self.run(move |inner, now| {
            Ok(inner.director.export(&inner.keys, &node, acknowledged, freshness, now)?)
        })
        .await
    }

    /// The files of the artifacts repository, signed for the way by stick.
    pub(crate) async fn export_artifacts(&self, freshness: Freshness) -> Result<Exported> {
        self.run(move |inner, now| Ok(inner.artifacts.export(&inner.keys, freshness, now)?)).await
    }

    /// A file of a node's director repository.
    pub(crate) async fn director_file(&self, node: NodeId, name: String) -> Result<Vec<u8>> {
        self.run(move |inner, now| Ok(inner.director.file(&inner.keys, &node, &name, now)?)).await
    }

    /// A file of the artifacts repository.
    pub(crate) async fn artifacts_file(&self, name: String) -> Result<Vec<u8>> {
        self.run(move |inner, now| Ok(inner.artifacts.file(&inner.keys, &name, now)?)).await
    }

    /// The first roots of both repositories, for a node to pin: director, artifacts.
    pub(crate) async fn first_roots(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        self.run(|inner, _| Ok((inner.director.first_root()?, inner.artifacts.first_root()?))).await
    }
}

impl Inner {
    fn note_signed(&self) {
        let now = self.artifacts.entries().into_iter().map(|entry| entry.digest).collect();
        *self.signed.write().unwrap_or_else(PoisonError::into_inner) = now;
    }
}
