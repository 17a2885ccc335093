//! How a blank node becomes a member of a fleet, and the other messages between node and hub (`/node/v1`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    document::{self, DocumentError},
    facts::Facts,
    id::NodeId,
};

/// The `schema` number of [`EnrollRequest`] and [`EnrollGrant`].
pub const SCHEMA: u32 = 1;

/// Largest enrolment request that is read, in bytes.
pub const MAX_REQUEST_BYTES: usize = 128 << 10;

/// Largest grant that is read, in bytes: it carries two TUF roots.
pub const MAX_GRANT_BYTES: usize = 1 << 20;

/// The payload of the JWS that a blank node posts to `/node/v1/enroll`, signed by the key that it names: proof that the
/// node holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EnrollRequest {
    /// Always 1.
    pub schema: u32,
    /// The enrolment token, as `cairn token create` printed it.
    pub token: String,
    /// The node's raw Ed25519 public key (32 bytes), base64url without padding.
    pub public_key: String,
    /// What the node is.
    pub facts: Facts,
}

impl EnrollRequest {
    /// Reads the payload of an enrolment request.
    ///
    /// # Errors
    /// If it is larger than [`MAX_REQUEST_BYTES`], of a schema that is not known, or malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        document::parse("enrolment request", bytes, MAX_REQUEST_BYTES, SCHEMA)
    }
}

/// Where a node stands with its hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EnrollState {
    /// Waits for `cairn node approve`.
    Pending,
    /// A member: may fetch its bundle.
    Approved,
}

/// The hub's answer to `/node/v1/enroll` and to `GET /node/v1/enrollment`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnrollGrant {
    /// Always 1.
    pub schema: u32,
    /// The id that the hub knows this node by.
    pub node: NodeId,
    /// Whether it is in already.
    pub state: EnrollState,
    /// The first root of the node's director repository, to pin; present once approved. Byte for byte as signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub director_root: Option<Box<RawValue>>,
    /// The first root of the artifacts repository, to pin; present once approved. Byte for byte as signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts_root: Option<Box<RawValue>>,
}

impl EnrollGrant {
    /// Reads a grant.
    ///
    /// # Errors
    /// If it is larger than [`MAX_GRANT_BYTES`], of a schema that is not known, or malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        document::parse("enrolment grant", bytes, MAX_GRANT_BYTES, SCHEMA)
    }
}

/// The answer to the long poll `GET /node/v1/wait?generation=N`: 200 with this as soon as the hub has a newer
/// generation than N, 204 after 50 seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WaitResponse {
    /// The newest generation; a hint only, what counts is signed.
    pub generation: u64,
}

/// The body of `POST /node/v1/reports`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReportsRequest {
    /// Compact JWS envelopes, each with a [`crate::Report`] as payload, by rising sequence.
    pub envelopes: Vec<String>,
}

/// The hub's answer: what it has on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReportsResponse {
    /// The highest sequence up to which the hub has stored every report of this node. The outbox drops these, and
    /// only these.
    pub acknowledged: u64,
}
