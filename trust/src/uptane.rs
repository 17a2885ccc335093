//! Uptane's full verification: a node acts only where director and artifacts repository agree. Pure functions; each
//! refusal names the attack.
//!
//! In order: [`claim`] reads what the director wants of this node; the caller looks each artifact up in the artifacts
//! repository; [`agree`] compares; [`read_desired_state`] checks the document itself against both. [`verify`] is the
//! four in one, over two repositories that are loaded.

use std::collections::BTreeMap;

use cairn_model::{
    desired::{DesiredState, MAX_BYTES, TARGET_NAME},
    error::chain,
    id::{Digest, NodeId},
};
use sigstore_tuf::Targets;

use crate::{attack::Attack, target::TargetInfo};

/// Most artifacts that one node can be told to hold.
const MAX_ARTIFACTS: usize = 4096;

/// The fact on the desired state that says up to which sequence the node's reports have arrived. It is signed, for a
/// node drops what has arrived: were it a file of its own, whoever held the stick could make a node drop what has not.
pub(crate) const ACKNOWLEDGED: &str = "acknowledged";

/// Why a node applies nothing of a generation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The director's targets do not list a desired state.
    #[error(
        "refused (malformed): the director lists no {TARGET_NAME}; the hub's director repository for this node is damaged"
    )]
    NoDesiredState,
    /// The director delegates, which it must not.
    #[error(
        "refused (malformed): the director delegates to other roles, which a director must not; look into the hub"
    )]
    DirectorDelegates,
    /// The director's facts on the desired state are not node and generation.
    #[error("refused (malformed): {what}; look into the hub")]
    Malformed {
        /// What is wrong.
        what: String,
    },
    /// The bundle is for another node.
    #[error(
        "refused (wrong-node): this bundle was signed for {found}; the source serves another node's bundle"
    )]
    WrongNode {
        /// The node that it names.
        found: String,
    },
    /// The generation is older than the one that was applied.
    #[error(
        "refused (rollback): generation {offered} is older than {applied}, which was applied; if the hub was restored from a backup, deploy again"
    )]
    OlderGeneration {
        /// What was offered.
        offered: u64,
        /// What was applied.
        applied: u64,
    },
    /// The director names an artifact that the artifacts repository does not hold.
    #[error(
        "refused (arbitrary-software): {digest} is wanted by the director but signed by no operator; push and sign it, then deploy again"
    )]
    NotGenuine {
        /// The artifact.
        digest: Digest,
    },
    /// Both know the artifact, but not as the same bytes.
    #[error(
        "refused (mix-and-match): director and artifacts repository disagree on length or hashes of {digest}; look into the hub"
    )]
    Disagreement {
        /// The artifact.
        digest: Digest,
    },
    /// An artifact's hash is not the one in its name.
    #[error("refused (mix-and-match): the target named for {digest} has another hash; look into the hub")]
    Misnamed {
        /// The artifact.
        digest: Digest,
    },
    /// The desired state's bytes are not those that the director signed.
    #[error("refused (tampering): {TARGET_NAME} is not what the director signed; look into the source")]
    Tampered,
    /// The desired state itself names another node or generation than the director's signed facts.
    #[error(
        "refused (mix-and-match): {TARGET_NAME} contradicts the director's metadata on {what}; look into the hub"
    )]
    Contradiction {
        /// On what.
        what: &'static str,
    },
    /// The desired state uses an app that the bundle does not carry.
    #[error(
        "refused (arbitrary-software): {TARGET_NAME} wants {digest}, which the director's targets do not list; look into the hub"
    )]
    Unlisted {
        /// The app or release.
        digest: Digest,
    },
}

impl Refusal {
    /// The attack that this refusal may mean.
    pub fn attack(&self) -> Attack {
        match self {
            Self::NoDesiredState | Self::DirectorDelegates | Self::Malformed { .. } => Attack::Malformed,
            Self::WrongNode { .. } => Attack::WrongNode,
            Self::OlderGeneration { .. } => Attack::Rollback,
            Self::NotGenuine { .. } | Self::Unlisted { .. } => Attack::ArbitrarySoftware,
            Self::Disagreement { .. } | Self::Misnamed { .. } | Self::Contradiction { .. } => {
                Attack::MixAndMatch
            }
            Self::Tampered => Attack::Tampering,
        }
    }
}

/// What the director wants of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The generation.
    pub generation: u64,
    /// The desired state, not read yet.
    pub desired_state: TargetInfo,
    /// Every artifact that it needs, as the director describes it.
    pub artifacts: BTreeMap<Digest, TargetInfo>,
}

/// A manifest that both repositories vouch for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Its length in bytes.
    pub length: u64,
    /// Its media type, as signed by the operators.
    pub media_type: Option<String>,
    /// The name that it was pushed under (`repo:tag`), for people.
    pub name: Option<String>,
}

/// Reads what the director's verified `targets` want of `node`, of which generation `applied` (0: none) is in force.
pub fn claim(targets: &Targets, node: &NodeId, applied: u64) -> Result<Claim, Refusal> {
    if targets.delegations.as_ref().is_some_and(|delegations| !delegations.roles.is_empty()) {
        return Err(Refusal::DirectorDelegates);
    }
    let desired_state = TargetInfo::from(targets.target(TARGET_NAME).ok_or(Refusal::NoDesiredState)?);
    let malformed = |what: &str| Refusal::Malformed { what: what.to_owned() };
    let custom = &desired_state.custom;
    let found = custom["node"].as_str().ok_or_else(|| malformed("the director names no node"))?;
    if found != node.as_str() {
        return Err(Refusal::WrongNode { found: found.chars().take(80).collect() });
    }
    let generation =
        custom["generation"].as_u64().ok_or_else(|| malformed("the director names no generation"))?;
    if generation < applied {
        return Err(Refusal::OlderGeneration { offered: generation, applied });
    }
    if desired_state.length > MAX_BYTES {
        return Err(malformed("the desired state is larger than a node reads"));
    }
    if targets.targets.len() > MAX_ARTIFACTS {
        return Err(malformed("the director lists more artifacts than a node holds"));
    }
    let mut artifacts = BTreeMap::new();
    for (name, file) in targets.targets.iter().filter(|(name, _)| name.as_str() != TARGET_NAME) {
        let digest = Digest::from_target_name(name)
            .ok_or_else(|| malformed("the director lists a target that is no artifact"))?;
        let info = TargetInfo::from(file);
        if info.sha256() != Some(digest.hex()) {
            return Err(Refusal::Misnamed { digest });
        }
        artifacts.insert(digest, info);
    }
    Ok(Claim { generation, desired_state, artifacts })
}

/// Up to which sequence the director's verified `targets` tell `node` that its reports have arrived.
pub fn acknowledged(targets: &Targets, node: &NodeId) -> Option<u64> {
    let custom = targets.target(TARGET_NAME)?.custom.as_ref()?;
    custom[ACKNOWLEDGED].as_u64().filter(|_| custom["node"].as_str() == Some(node.as_str()))
}

/// Compares the claim with what the artifacts repository says of each artifact that it names: same length and all the
/// same hashes, or nothing of this generation is applied.
pub fn agree(
    claim: &Claim,
    genuine: &BTreeMap<Digest, TargetInfo>,
) -> Result<BTreeMap<Digest, Artifact>, Refusal> {
    let mut agreed = BTreeMap::new();
    for (digest, wanted) in &claim.artifacts {
        let known = genuine.get(digest).ok_or_else(|| Refusal::NotGenuine { digest: digest.clone() })?;
        if known.sha256() != Some(digest.hex()) {
            return Err(Refusal::Misnamed { digest: digest.clone() });
        }
        if known.length != wanted.length || known.hashes != wanted.hashes {
            return Err(Refusal::Disagreement { digest: digest.clone() });
        }
        let text = |key: &str| known.custom[key].as_str().map(str::to_owned);
        let artifact = Artifact { length: known.length, media_type: text("mediaType"), name: text("name") };
        agreed.insert(digest.clone(), artifact);
    }
    Ok(agreed)
}

/// Reads the desired state and holds it against what was signed about it.
pub fn read_desired_state(claim: &Claim, node: &NodeId, bytes: &[u8]) -> Result<DesiredState, Refusal> {
    if !claim.desired_state.matches(bytes) {
        return Err(Refusal::Tampered);
    }
    let state = DesiredState::parse(bytes).map_err(|error| Refusal::Malformed {
        what: format!("{TARGET_NAME} is not taken: {}", chain(&error)),
    })?;
    if state.node != *node {
        return Err(Refusal::Contradiction { what: "the node" });
    }
    if state.generation != claim.generation {
        return Err(Refusal::Contradiction { what: "the generation" });
    }
    let apps = state.apps.values().map(|app| &app.app);
    let wanted = apps.chain(state.os.as_ref().map(|os| &os.release));
    for digest in wanted {
        if !claim.artifacts.contains_key(digest) {
            return Err(Refusal::Unlisted { digest: digest.clone() });
        }
    }
    Ok(state)
}

/// All of it, over two loaded repositories: the director's verified targets, what the artifacts repository says of the
/// artifacts, and the desired state's bytes.
pub fn verify(
    director: &Targets,
    genuine: &BTreeMap<Digest, TargetInfo>,
    node: &NodeId,
    applied: u64,
    desired_state: &[u8],
) -> Result<(DesiredState, BTreeMap<Digest, Artifact>), Refusal> {
    let claim = claim(director, node, applied)?;
    let artifacts = agree(&claim, genuine)?;
    Ok((read_desired_state(&claim, node, desired_state)?, artifacts))
}
