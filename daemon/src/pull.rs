//! Brings a newer generation onto the node: refresh both repositories → verify → documents → blobs → ledger. Whole or
//! not at all: the ledger takes the generation last, when everything that it needs is on the disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use cairn_model::{Digest, desired::DesiredState};
use cairn_trust::{
    clock::Clock,
    fetch::FetchError,
    node::{Bundle, Update, UpdateError, Verifier},
};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::{
    assemble::{AssembleError, Assembled, Assembly, Blob, Content, Need, assemble, node_arch},
    blobs::{BlobError, Blobs},
    ledger::{Ledger, LedgerError, StoredGeneration},
    source::{Missing, Source, SourceError},
};

/// Documents and blobs that are fetched at once: enough to hide a slow link's latency.
const CONCURRENT_FETCHES: usize = 4;
/// App → config → image → index's manifest → config: what a desired state can lead to, and some more.
const MAX_ROUNDS: usize = 8;
/// Most documents of one generation, so that a signed but senseless state cannot fill the ledger.
const MAX_DOCUMENTS: usize = 4096;

/// Why a generation was not taken. What runs keeps running.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The bundle is not believed, or its metadata could not be had.
    #[error(transparent)]
    Verify(#[from] UpdateError),
    /// A document or blob could not be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A blob is not on the disk.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// What was signed makes no sense.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// A manifest that is not among the signed targets.
    #[error(
        "manifest {digest} is needed, but not both repositories have signed it; it is not fetched. Deploy the app again"
    )]
    Unsigned {
        /// Which.
        digest: Digest,
    },
    /// Too many documents, or they never end.
    #[error(
        "generation {generation} needs more documents than any real one ({MAX_DOCUMENTS}); it is refused"
    )]
    Endless {
        /// Which generation.
        generation: u64,
    },
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl PullError {
    /// The name of the attack that this may be, for the event.
    pub fn attack(&self) -> Option<String> {
        match self {
            Self::Verify(e) => e.attack().map(|attack| attack.to_string()),
            Self::Unsigned { .. } => Some("arbitrary-software".to_owned()),
            Self::Source(SourceError::Corrupt { .. })
            | Self::Blob(BlobError::Source(SourceError::Corrupt { .. })) => {
                Some("arbitrary-software".to_owned())
            }
            Self::Source(SourceError::Fetch(FetchError::NotAFile { .. }))
            | Self::Blob(BlobError::Source(SourceError::Fetch(FetchError::NotAFile { .. }))) => {
                Some("malformed".to_owned())
            }
            Self::Source(_) | Self::Blob(_) | Self::Assemble(_) | Self::Endless { .. } | Self::Ledger(_) => {
                None
            }
        }
    }

    /// Whether hub or network were only not reached.
    pub fn is_transport(&self) -> bool {
        match self {
            Self::Verify(e) => e.is_transport(),
            Self::Source(e) | Self::Blob(BlobError::Source(e)) => !e.is_answer(),
            Self::Blob(_)
            | Self::Assemble(_)
            | Self::Unsigned { .. }
            | Self::Endless { .. }
            | Self::Ledger(_) => false,
        }
    }
}

/// Pulls generations.
#[derive(Debug)]
pub struct Puller {
    verifier: Verifier,
    ledger: Ledger,
    blobs: Blobs,
    layers: PathBuf,
    documents: BTreeMap<Digest, Vec<u8>>,
    announced: u64,
}

impl Puller {
    /// A puller that goes on from what the ledger holds.
    pub async fn build(
        verifier: Verifier,
        ledger: Ledger,
        blobs: Blobs,
        layers: PathBuf,
    ) -> Result<Self, LedgerError> {
        let documents = ledger.generation().await?.map(|g| g.documents).unwrap_or_default();
        Ok(Self { verifier, ledger, blobs, layers, documents, announced: 0 })
    }

    /// One look at the source. Yields the newer generation if there is one and all of it is on the disk.
    pub async fn pull(
        &mut self,
        source: &dyn Source,
        clock: Clock,
        applied: u64,
    ) -> Result<Option<Arc<Assembled>>, PullError> {
        let update = self.verifier.update(source.director(), source.artifacts(), clock, applied).await?;
        let Update::Verified(bundle) = update else { return Ok(None) };
        // A generation that cannot be completed yet is verified again with every try: said once.
        if std::mem::replace(&mut self.announced, bundle.generation) != bundle.generation {
            tracing::info!(
                generation = bundle.generation,
                "a newer generation is verified; fetching what it needs"
            );
        }
        let (assembled, documents) = self.documents_of(source, &bundle).await?;
        self.ensure_blobs(source, &assembled).await?;
        let stored = StoredGeneration {
            generation: bundle.generation,
            desired_state: bundle.desired_state_bytes,
            documents: documents.clone(),
        };
        self.ledger.accept(&stored).await?;
        self.documents = documents;
        // Here nothing is being fetched, so nothing that is on its way can be taken for left over.
        let all: BTreeSet<Digest> = assembled.images.values().flat_map(Content::blobs).cloned().collect();
        self.blobs.retain(&all).await;
        Ok(Some(Arc::new(assembled)))
    }

    /// Up to which sequence the hub says, signed, that it has this node's reports.
    pub fn acknowledged(&self) -> Option<u64> {
        self.verifier.acknowledged()
    }

    /// What a wrong clock kept from being checked, in words with a cure.
    pub fn unchecked(&self, clock: Clock) -> Vec<String> {
        self.verifier.unchecked(clock)
    }

    /// Fetches the blobs that `assembled` needs and that are neither here nor unpacked.
    pub async fn ensure_blobs(&self, source: &dyn Source, assembled: &Assembled) -> Result<(), PullError> {
        let needed: BTreeMap<Digest, Blob> = assembled
            .images
            .values()
            .flat_map(|content| self.needed(content))
            .map(|blob| (blob.digest.clone(), blob))
            .collect();
        let mut missing = Vec::new();
        for blob in needed.into_values() {
            if let Some(have) = self.blobs.have(&blob).await {
                missing.push(Missing { blob, have });
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        source.announce(&missing).await?;
        let ensure = |Missing { blob, .. }| async move { self.blobs.ensure(&blob, source).await };
        let mut fetches = stream::iter(missing.into_iter().map(ensure)).buffer_unordered(CONCURRENT_FETCHES);
        while let Some(done) = fetches.next().await {
            done?;
        }
        Ok(())
    }

    fn needed(&self, content: &Content) -> Vec<Blob> {
        match content {
            Content::Wasm(blob) => vec![blob.clone()],
            Content::Oci(layers) => layers
                .iter()
                .filter(|layer| !self.layers.join(layer.diff_id.hex()).exists())
                .map(|layer| layer.blob.clone())
                .collect(),
        }
    }

    async fn documents_of(
        &self,
        source: &dyn Source,
        bundle: &Bundle,
    ) -> Result<(Assembled, BTreeMap<Digest, Vec<u8>>), PullError> {
        let mut documents = BTreeMap::new();
        for _ in 0..MAX_ROUNDS {
            let missing = match assemble(&bundle.desired_state, &documents, node_arch())? {
                Assembly::Whole(assembled) => return Ok((*assembled, documents)),
                Assembly::Missing(missing) => missing,
            };
            if documents.len() + missing.len() > MAX_DOCUMENTS {
                break;
            }
            let fetched: Vec<(Digest, Vec<u8>)> =
                stream::iter(missing.into_iter().map(|need| self.document(source, bundle, need)))
                    .buffer_unordered(CONCURRENT_FETCHES)
                    .try_collect()
                    .await?;
            documents.extend(fetched);
        }
        Err(PullError::Endless { generation: bundle.generation })
    }

    /// One document, from the last generation where it is there already. A manifest must be a signed target of this
    /// very bundle, wherever its bytes come from.
    async fn document(
        &self,
        source: &dyn Source,
        bundle: &Bundle,
        need: Need,
    ) -> Result<(Digest, Vec<u8>), PullError> {
        let signed = bundle.artifacts.get(&need.digest);
        if need.is_manifest && signed.is_none() {
            return Err(PullError::Unsigned { digest: need.digest });
        }
        if let Some(bytes) = self.documents.get(&need.digest) {
            return Ok((need.digest, bytes.clone()));
        }
        let bytes = match signed.filter(|_| need.is_manifest) {
            Some(target) => source.manifest(&need.digest, target.length.min(need.max_bytes)).await?,
            None => source.document(&need.digest, need.max_bytes).await?,
        };
        // Every source checks; that nothing unverified is believed must not hang on that.
        if Digest::of(&bytes) != need.digest {
            return Err(SourceError::Corrupt { digest: need.digest }.into());
        }
        Ok((need.digest, bytes.to_vec()))
    }
}

/// Assembles the generation in the ledger, without network; nothing where there is none yet.
pub async fn from_ledger(ledger: &Ledger) -> Result<Option<Arc<Assembled>>, PullError> {
    let Some(stored) = ledger.generation().await? else { return Ok(None) };
    let desired: DesiredState = serde_json::from_slice(&stored.desired_state)
        .map_err(|source| LedgerError::Content { what: "desired state", source })?;
    match assemble(&desired, &stored.documents, node_arch())? {
        Assembly::Whole(assembled) => Ok(Some(Arc::new(*assembled))),
        Assembly::Missing(missing) => {
            let digest = missing.into_iter().next().map(|need| need.digest);
            let finding = format!("a document of the applied generation is missing: {digest:?}");
            Err(LedgerError::Damaged { path: "ledger.sqlite".into(), finding }.into())
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
