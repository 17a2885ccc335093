//! The bundle on a USB stick (design section 5): where everything lies, and the messages between `cairn usb` and the hub.
//!
//! ```text
//! cairn-bundle.json                                the receipt, written last; it marks the stick as one of Cairn's
//! oci-layout  index.json  blobs/sha256/<hex>       OCI Image Layout; a blob too large for the file system lies in parts
//! tuf/artifacts/{N.root,timestamp,N.snapshot,N.targets}.json
//! tuf/director/<node>/{N.root,timestamp,N.snapshot,N.targets}.json
//! tuf/director/<node>/targets/<sha256>.desired-state.json
//! enroll/<node>.json                               an [`crate::enroll::EnrollGrant`], for a node without a network
//! outbox/<node>/<sequence>.jws  outbox/<node>/enroll.jws      the way back
//! ```
//!
//! Nothing on a stick is believed for lying there: the receipt says what was written, what counts is signed.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    api::Node,
    document::{self, DocumentError},
    enroll::EnrollState,
    id::{Digest, NodeId},
};

/// Name of the [`Receipt`].
pub const RECEIPT: &str = "cairn-bundle.json";

/// The `schema` number of [`Receipt`].
pub const SCHEMA: u32 = 1;

/// Largest receipt that is read, in bytes.
pub const MAX_RECEIPT_BYTES: usize = 64 << 20;

/// Folder of the artifacts repository.
pub const ARTIFACTS: &str = "tuf/artifacts";

/// Folder of the nodes' director repositories.
pub const DIRECTOR: &str = "tuf/director";

/// Folder of the grants.
pub const ENROLL: &str = "enroll";

/// Folder of what nodes send back.
pub const OUTBOX: &str = "outbox";

/// Name of a node's enrolment request in its folder of the outbox.
pub const ENROLL_REQUEST: &str = "enroll.jws";

/// Size of all parts but the last of a blob that does not fit one file, in bytes: vfat holds files of under 4 GiB.
pub const PART_BYTES: u64 = 2 << 30;

/// Most parts of one blob.
pub const MAX_PARTS: u64 = 512;

/// Path of a blob, relative to the stick's root.
pub fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Path of a part of a blob that does not fit one file; numbers begin with 0.
pub fn part_path(digest: &Digest, part: u64) -> String {
    format!("blobs/sha256/{}.{part:03}", digest.hex())
}

/// Path of a node's grant.
pub fn grant_path(node: &NodeId) -> String {
    format!("{ENROLL}/{node}.json")
}

/// Path of a node's report of this sequence. The digits are padded, so that names sort by number.
pub fn report_path(node: &NodeId, sequence: u64) -> String {
    format!("{OUTBOX}/{node}/{sequence:020}.jws")
}

/// What `cairn usb export` has written. Anyone may have changed it since: `cairn usb verify` holds it against what is
/// signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Receipt {
    /// Always [`SCHEMA`].
    pub schema: u32,
    /// When it was written, RFC 3339.
    pub written_at: String,
    /// Address of the hub that it comes from.
    pub hub: String,
    /// The nodes that it is for.
    pub nodes: Vec<MediaNode>,
    /// Every blob that those nodes need, those included that `--since` left out.
    pub blobs: Vec<MediaBlob>,
    /// Digests of blobs that are not on this stick because an earlier one brought them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<Digest>,
}

impl Receipt {
    /// Reads a receipt.
    ///
    /// # Errors
    /// If it is larger than [`MAX_RECEIPT_BYTES`], of a schema that is not known, or malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        document::parse("receipt", bytes, MAX_RECEIPT_BYTES, SCHEMA)
    }
}

/// A node that a bundle is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MediaNode {
    /// Its id.
    pub node: NodeId,
    /// Its host name, for people.
    pub hostname: String,
    /// Whether it is a member; one that is not gets no bundle, only its grant once it is approved.
    pub state: EnrollState,
    /// The generation in the bundle; 0 where nothing was ever desired of it.
    pub generation: u64,
    /// The manifests that it needs: apps, images, OS release.
    pub manifests: Vec<Digest>,
    /// The highest sequence of its reports that the hub has.
    pub acknowledged: u64,
    /// How long its metadata holds.
    pub freshness: Freshness,
}

/// How long the metadata for a node may be taken for new: what a freeze attack, and a stick in a drawer, is limited by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Freshness {
    /// As for every connected node: a week.
    #[default]
    Connected,
    /// So many days from the export; 90 where nothing else is said.
    Days(u32),
    /// For ever.
    Unlimited,
}

impl Freshness {
    /// Where nobody said otherwise for a node without a network.
    pub const AIR_GAPPED: Self = Self::Days(90);
}

/// A blob of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MediaBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Set for manifests: their media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// For manifests: `repository:tag` names that point at it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// A repository of the hub's registry that holds it.
    pub repository: String,
}

/// The answer to `POST /usb/plan`: what a bundle for some nodes needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MediaPlan {
    /// The nodes, by id.
    pub nodes: Vec<MediaNode>,
    /// Every blob once, by digest.
    pub blobs: Vec<MediaBlob>,
    /// What will not work as asked, in words with a cure: an app that is not signed, an OS update that waits for the hub.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// The body of `POST /usb/metadata`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MediaNodes {
    /// At most [`MAX_METADATA_NODES`].
    pub nodes: Vec<NodeId>,
}

/// Most nodes of one `POST /usb/metadata`.
pub const MAX_METADATA_NODES: usize = 100;

/// The answer to `POST /usb/metadata`: signed for the way by stick, which is a change that the audit names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MediaFiles {
    /// Text by path, relative to the stick's root: both repositories' metadata, desired states, grants. To be written
    /// byte for byte. A repository's `timestamp.json` goes last.
    pub files: BTreeMap<String, String>,
    /// When the first of the signatures ends, RFC 3339.
    pub expires: String,
    /// Why it holds for less long than the nodes' freshness allows, in words with a cure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// Most reports of one `POST /usb/import`; more are sent in turns, each node's by rising sequence.
pub const MAX_IMPORT_REPORTS: usize = 10_000;

/// Most enrolment requests of one `POST /usb/import`.
pub const MAX_IMPORT_ENROLMENTS: usize = 1_000;

/// Largest body of one `POST /usb/import`, in bytes: sixteen reports of the largest size.
pub const MAX_IMPORT_BYTES: usize = 17 << 20;

/// The body of `POST /usb/import`: what nodes have put on a stick.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MediaImport {
    /// Compact JWS envelopes of reports, of any nodes, each node's by rising sequence.
    #[serde(default)]
    pub reports: Vec<String>,
    /// Compact JWS envelopes of enrolment requests.
    #[serde(default)]
    pub enrolments: Vec<String>,
    /// Whether to go on where the first new report of a node comes after a gap, as it does for ever when the hub was
    /// restored from an older backup: the reports in between are given up, and whoever still has them drops them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accept_gaps: bool,
}

/// The answer to `POST /usb/import`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MediaImported {
    /// What came of the reports, by node.
    pub nodes: Vec<MediaImportedNode>,
    /// Nodes that asked to be enrolled, as they stand now.
    pub enrolled: Vec<Node>,
    /// What was refused, one line each, cause and cure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

/// What came of one node's reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MediaImportedNode {
    /// Whose.
    pub node: NodeId,
    /// Its host name, for people.
    pub hostname: String,
    /// Reports that are new and stored.
    pub stored: u64,
    /// Reports that were there already.
    pub known: u64,
    /// Reports that are missing and were given up, as [`MediaImport::accept_gaps`] asks.
    #[serde(default)]
    pub given_up: u64,
    /// The highest sequence up to which the hub has all; the next export tells the node.
    pub acknowledged: u64,
}

/// The body of `POST /nodes/freshness`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FreshnessSet {
    /// Where.
    #[serde(flatten)]
    pub nodes: crate::api::OsNodes,
    /// How long.
    pub freshness: Freshness,
    /// Has to be said for [`Freshness::Unlimited`]: such a node takes any stick, however old, that is newer than what it has.
    #[serde(default)]
    pub accept_no_expiry: bool,
}

/// What a node does with the stick that is plugged in, or did with the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MediaStatus {
    /// The block device, `sdb1`.
    pub device: String,
    /// How far it is.
    pub state: MediaState,
    /// The stick may be pulled.
    pub removable: bool,
    /// What was taken, or why not, with a cure; one line each.
    pub messages: Vec<String>,
    /// Bytes copied so far of those that were missing.
    #[serde(default)]
    pub copied: u64,
    /// Bytes that were missing.
    #[serde(default)]
    pub to_copy: u64,
}

impl MediaStatus {
    /// How much is copied of what was missing: 0 to 100.
    pub fn percent(&self) -> u8 {
        let percent = u128::from(self.copied.min(self.to_copy)) * 100 / u128::from(self.to_copy.max(1));
        // At most 100, by the line before.
        u8::try_from(percent).unwrap_or(100)
    }

    /// Whether it may be pulled, for people.
    pub fn may_be_pulled(&self) -> &'static str {
        if self.removable { "it can be pulled" } else { "do not pull it yet" }
    }
}

/// The steps of a visit by stick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MediaState {
    /// Mounted; the bundle is looked for and verified.
    Verifying,
    /// What is missing is copied.
    Copying,
    /// An OS release is written to the other slot.
    WritingOs,
    /// Reports are written to it.
    WritingOutbox,
    /// All is done.
    Done,
    /// It is no stick of Cairn's; it is left alone.
    Foreign,
    /// Nothing was taken from it: see the messages.
    Refused,
    /// It was pulled, or failed, in the middle; it can be plugged in again.
    Failed,
}

impl MediaState {
    /// The step, for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Verifying => "it is looked at and verified",
            Self::Copying => "what is new is copied from it",
            Self::WritingOs => "the OS is written from it",
            Self::WritingOutbox => "what this node has to say is written to it",
            Self::Done => "done",
            Self::Foreign => "it is none of Cairn's",
            Self::Refused => "nothing was taken from it",
            Self::Failed => "it failed, or was pulled too early",
        }
    }
}
