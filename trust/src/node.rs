//! What a node does with its two repositories: follow both, and hand on only what Uptane's verification lets through.

use std::{collections::BTreeMap, path::Path};

use cairn_model::{
    desired::{DesiredState, TARGET_NAME},
    id::{Digest, NodeId},
};
use jiff::Timestamp;
use sigstore_tuf::TrustedMetadataSet;

use crate::{
    attack::Attack,
    client::{Client, ClientError, Limits},
    clock::{Clock, Freshness},
    fetch::Fetch,
    store::Store,
    uptane::{self, Artifact, Refusal},
};

/// Where below a repository's base its targets lie.
const TARGETS_PREFIX: &str = "targets/";

/// Why a node's update came to nothing. What runs keeps running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// The director repository could not be followed.
    #[error("failed to follow the director repository")]
    Director(#[source] ClientError),
    /// The artifacts repository could not be followed.
    #[error("failed to follow the artifacts repository")]
    Artifacts(#[source] ClientError),
    /// Both could, but what they say together is refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl UpdateError {
    /// The attack that this may mean; `None` where nothing hints at one.
    pub fn attack(&self) -> Option<Attack> {
        match self {
            Self::Director(error) | Self::Artifacts(error) => error.attack(),
            Self::Refused(refusal) => Some(refusal.attack()),
        }
    }

    /// Whether hub or network were only not reached.
    pub fn is_transport(&self) -> bool {
        match self {
            Self::Director(error) | Self::Artifacts(error) => error.is_transport(),
            Self::Refused(_) => false,
        }
    }
}

/// What an update has brought.
#[derive(Debug)]
pub enum Update {
    /// Nothing newer than the applied generation.
    Unchanged,
    /// A newer generation, verified in full.
    Verified(Box<Bundle>),
}

/// A verified generation.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Its number.
    pub generation: u64,
    /// The document.
    pub desired_state: DesiredState,
    /// The document as it was signed, for the ledger.
    pub desired_state_bytes: Vec<u8>,
    /// Every manifest that both repositories vouch for; nothing else may be fetched or run.
    pub artifacts: BTreeMap<Digest, Artifact>,
}

/// The two repositories of one node.
#[derive(Debug)]
pub struct Verifier {
    node: NodeId,
    director: Client,
    artifacts: Client,
}

impl Verifier {
    /// Pins both first roots below `folder`, at enrolment. Doing it again with the same roots is nothing.
    pub fn init(folder: &Path, director_root: &[u8], artifacts_root: &[u8]) -> Result<(), UpdateError> {
        // Both are looked at before either is pinned.
        let check =
            |root| TrustedMetadataSet::from_root(root).map_err(ClientError::refused("root")).map(drop);
        check(director_root).map_err(UpdateError::Director)?;
        check(artifacts_root).map_err(UpdateError::Artifacts)?;
        let pin = |name, root| Store::init(&folder.join(name), root).map_err(ClientError::from).map(drop);
        pin("director", director_root).map_err(UpdateError::Director)?;
        pin("artifacts", artifacts_root).map_err(UpdateError::Artifacts)
    }

    /// Takes up what `folder` holds. State that is missing or damaged is an error that names its cure.
    pub fn open(folder: &Path, node: NodeId) -> Result<Self, UpdateError> {
        Self::open_with(folder, node, Freshness::default())
    }

    /// As [`Verifier::open`], for a node that may run on metadata that has expired for a while.
    pub fn open_with(folder: &Path, node: NodeId, freshness: Freshness) -> Result<Self, UpdateError> {
        let client = |name| -> Result<Client, ClientError> {
            Client::open(Store::open(&folder.join(name))?, Limits::default(), freshness)
        };
        let director = client("director").map_err(UpdateError::Director)?.bound_to(node.clone());
        let artifacts = client("artifacts").map_err(UpdateError::Artifacts)?;
        Ok(Self { node, director, artifacts })
    }

    fn last_good(&self) -> Option<Timestamp> {
        self.director.last_good().max(self.artifacts.last_good())
    }

    /// The believed time: a node whose own clock is at 1970 makes its request tokens with this.
    pub fn believed_time(&self, clock: Clock) -> Timestamp {
        clock.believed(self.last_good())
    }

    /// Up to which sequence the hub has this node's reports, as the director has signed it; `None` where it never said.
    /// Holds also where an update was refused: what is trusted was verified before.
    pub fn acknowledged(&self) -> Option<u64> {
        uptane::acknowledged(self.director.targets()?, &self.node)
    }

    /// What a wrong clock kept from being checked, in words with a cure: to be asked after an update, with its clock.
    pub fn unchecked(&self, clock: Clock) -> Vec<String> {
        clock.unchecked(self.last_good()).into_iter().collect()
    }

    /// Follows both repositories and verifies what is newer than `applied` (0: nothing was applied yet). Keeps
    /// returning the same generation until it is told that it was applied, so that a failed fetch of blobs is tried
    /// again. An idle update is two requests.
    pub async fn update(
        &mut self,
        director: &dyn Fetch,
        artifacts: &dyn Fetch,
        clock: Clock,
        applied: u64,
    ) -> Result<Update, UpdateError> {
        self.director.poll(director, clock).await.map_err(UpdateError::Director)?;
        self.artifacts.poll(artifacts, clock).await.map_err(UpdateError::Artifacts)?;
        let targets = self.director.targets().ok_or(UpdateError::Director(ClientError::Incomplete))?;
        let claim = uptane::claim(targets, &self.node, applied)?;
        if claim.generation == applied {
            return Ok(Update::Unchanged);
        }
        let mut genuine = BTreeMap::new();
        for digest in claim.artifacts.keys() {
            let found = self.artifacts.find(artifacts, &digest.target_name(), clock).await;
            if let Some(info) = found.map_err(UpdateError::Artifacts)? {
                genuine.insert(digest.clone(), info);
            }
        }
        let agreed = uptane::agree(&claim, &genuine)?;
        let bytes = self
            .director
            .download(director, TARGETS_PREFIX, TARGET_NAME, &claim.desired_state)
            .await
            .map_err(UpdateError::Director)?;
        let desired_state = uptane::read_desired_state(&claim, &self.node, &bytes)?;
        Ok(Update::Verified(Box::new(Bundle {
            generation: claim.generation,
            desired_state,
            desired_state_bytes: bytes,
            artifacts: agreed,
        })))
    }
}
