//! The operators' API, `/api/v1`: the messages between `cairn` (or any client) and the hub.
//!
//! | method and path | body → answer | role |
//! |---|---|---|
//! | `GET /nodes?selector=k=v,k!=v` | → `Vec<Node>` | viewer |
//! | `GET /nodes/{id or host name}` | → `Node` | viewer |
//! | `POST /nodes/{id}/approve` | → `Node` | operator |
//! | `PATCH /nodes/{id}/labels` | `LabelChange` → `Node` | operator |
//! | `DELETE /nodes/{id}` | → 204 | operator |
//! | `POST /nodes/freshness` | `FreshnessSet` → `Vec<Node>`: those it changed | operator |
//! | `GET /nodes/{id}/events` | → `Vec<NodeEvent>` newest first, at most 200 | viewer |
//! | `GET`, `POST /tokens` | `NewToken` → `CreatedToken`; → `Vec<Token>` | operator |
//! | `DELETE /tokens/{id}` | → 204 | operator |
//! | `GET`, `POST /access-tokens` | `NewAccessToken` → `CreatedAccessToken`; → `Vec<AccessToken>` | admin |
//! | `DELETE /access-tokens/{id}` | → 204 | admin |
//! | `GET /apps` | → `Vec<AppSummary>` | viewer |
//! | `PUT /apps/{name}` | `Deploy` → `AppSummary`; 422 `ApiError` with `problems` | operator |
//! | `GET /apps/{name}` | → `AppStatus` | viewer |
//! | `DELETE /apps/{name}` | → 204 | operator |
//! | `POST /apps/{name}/logs` | `LogsRequest` → `LogsStarted` | operator |
//! | `GET /logs/{id}` | → `LogsResult` | operator |
//! | `GET /artifacts` | → `Vec<Artifact>` | viewer |
//! | `GET /artifacts/unsigned-targets` | → the next `targets` metadata to sign, raw JSON | operator |
//! | `POST /artifacts/signed-targets` | the signed metadata, raw JSON → `Vec<Artifact>` | operator |
//! | `GET /os/releases` | → `Vec<OsRelease>` newest version first | viewer |
//! | `GET /os/nodes?selector=k=v` | → `Vec<OsNode>` | viewer |
//! | `POST /os/set` | `OsSet` → `Vec<OsNode>`: those it changed | operator |
//! | `POST /os/unset` | `OsNodes` → `Vec<OsNode>`: those it changed | operator |
//! | `POST /os/apply` | `OsNodes` → `Vec<OsNode>`: those that are told to restart | operator |
//! | `GET /trust/roots` | → `TrustRoots` | viewer |
//! | `POST /usb/plan` | `OsNodes` → `MediaPlan` | operator |
//! | `POST /usb/metadata` | `MediaNodes` → `MediaFiles` | operator |
//! | `POST /usb/import` | `MediaImport` → `MediaImported` | operator |
//! | `GET /audit?limit=N` | → `Vec<AuditRow>` newest first | viewer |
//!
//! Times are RFC 3339 in UTC. Every error has the body [`ApiError`].

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    desired::{DesiredOs, OsHealth, RebootPolicy},
    enroll::EnrollState,
    facts::Facts,
    id::{AppName, Digest, NodeId, ServiceName},
    media::Freshness,
    release::Release,
    report::{NodeStatus, OsStatus, Severity, WorkloadStatus},
};

/// The body of every answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiError {
    /// What went wrong.
    pub error: ApiErrorBody,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiErrorBody {
    /// A stable name in kebab-case.
    pub code: String,
    /// Cause and cure.
    pub message: String,
    /// Where there may be more than one: one line each, `cause; cure`, with `file:line:column:` for a Compose file and
    /// `node ID (HOST NAME):` for a change to some nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// A member of the fleet, or one that waits to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Pending or approved.
    pub state: EnrollState,
    /// SHA-256 of its public key, hex in groups: to compare with what the node shows.
    pub fingerprint: String,
    /// Labels by operators and tokens, over those of the node's own.
    pub labels: BTreeMap<String, String>,
    /// What it says of itself.
    pub facts: Facts,
    /// When it enrolled.
    pub enrolled_at: String,
    /// When the hub last heard of it; absent for never since.
    pub last_seen: Option<String>,
    /// Heard of within the last two minutes.
    pub online: bool,
    /// How it was last heard of; absent for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_by: Option<HeardBy>,
    /// How long metadata for it holds.
    #[serde(default)]
    pub freshness: Freshness,
    /// The generation that the hub wants there.
    pub desired_generation: u64,
    /// What it last reported.
    pub status: Option<NodeStatus>,
}

/// The way on which a node was last heard of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum HeardBy {
    /// It asked the hub itself.
    Network,
    /// Its reports came by stick.
    Stick {
        /// When the newest of them was made, by the node's clock, RFC 3339.
        reported_at: String,
    },
}

/// The first roots of both repositories, which nodes pin: what `cairn usb verify` needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrustRoots {
    /// Of the nodes' director repositories. Byte for byte as signed.
    pub director: Box<serde_json::value::RawValue>,
    /// Of the artifacts repository. Byte for byte as signed.
    pub artifacts: Box<serde_json::value::RawValue>,
}

/// Labels to change on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LabelChange {
    /// To set.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// To remove.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// An event that a node reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeEvent {
    /// When, by the node's clock.
    pub time: String,
    /// How bad.
    pub severity: Severity,
    /// A stable name.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// An enrolment token to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Seconds until it expires; 24 hours where absent, at most a year.
    #[serde(default)]
    pub expires_in_seconds: Option<u64>,
    /// May enrol any number of nodes.
    #[serde(default)]
    pub reusable: bool,
    /// Nodes that come with it are members at once.
    #[serde(default)]
    pub auto_approve: bool,
    /// Labels that such nodes get.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// An enrolment token without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    /// Its public id.
    pub id: String,
    /// For people.
    pub description: String,
    /// When it was made.
    pub created_at: String,
    /// When it ends.
    pub expires_at: String,
    /// May enrol any number of nodes.
    pub reusable: bool,
    /// Nodes that come with it are members at once.
    pub auto_approve: bool,
    /// Labels that such nodes get.
    pub labels: BTreeMap<String, String>,
    /// How many nodes came with it.
    pub used: u64,
}

/// A new enrolment token: the only time that its secret is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CreatedToken {
    /// What it is.
    pub token: Token,
    /// What to give to the node.
    pub secret: String,
}

/// What an operator's token allows. Each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Sees everything but secrets.
    Viewer,
    /// Changes nodes, apps, artifacts, enrolment tokens.
    Operator,
    /// Changes who may do what.
    Admin,
}

/// An operator's token to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAccessToken {
    /// Whose it is; shown in the audit.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// Seconds until it expires; 90 days where absent.
    #[serde(default)]
    pub expires_in_seconds: Option<u64>,
}

/// An operator's token without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessToken {
    /// Its public id.
    pub id: String,
    /// Whose it is.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// When it was made.
    pub created_at: String,
    /// When it ends; absent for never.
    pub expires_at: Option<String>,
}

/// A new operator's token: the only time that its secret is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CreatedAccessToken {
    /// What it is.
    pub token: AccessToken,
    /// What to send as `Authorization: Bearer`.
    pub secret: String,
}

/// An app to deploy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    /// The Compose file's name, for messages.
    pub file: String,
    /// The Compose file.
    pub compose: String,
}

/// An app in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AppSummary {
    /// Its name.
    pub name: AppName,
    /// Digest of its artifact.
    pub digest: Digest,
    /// Its services with the images they are pinned to.
    pub services: BTreeMap<ServiceName, Digest>,
    /// When it was last deployed.
    pub deployed_at: String,
    /// By whom.
    pub deployed_by: String,
    /// Replicas that should run, over all nodes.
    pub desired: u32,
    /// Replicas that run (and are healthy where they have a health check).
    pub ready: u32,
    /// Why it is not all placed or not signed, in words with a cure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// An app with every replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AppStatus {
    /// The summary.
    #[serde(flatten)]
    pub summary: AppSummary,
    /// Every placed replica, by node and service.
    pub replicas: Vec<Replica>,
}

/// One placed replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Replica {
    /// Where.
    pub node: NodeId,
    /// The node's host name.
    pub hostname: String,
    /// Of which service.
    pub service: ServiceName,
    /// Its index.
    pub replica: u32,
    /// What the node last said of it; absent where it has not said anything yet.
    pub status: Option<WorkloadStatus>,
}

/// Logs to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogsRequest {
    /// Of one service only.
    #[serde(default)]
    pub service: Option<ServiceName>,
    /// Of one node only.
    #[serde(default)]
    pub node: Option<NodeId>,
    /// At most so many lines a node; 100 where absent.
    #[serde(default)]
    pub lines: Option<u32>,
}

/// The request is on its way to the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogsStarted {
    /// For `GET /logs/{id}`.
    pub id: String,
    /// The nodes that are asked.
    pub nodes: Vec<NodeId>,
}

/// What came back so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogsResult {
    /// By node: its text, and whether that is all of it.
    pub nodes: BTreeMap<NodeId, NodeLogs>,
    /// Every node has answered in full.
    pub complete: bool,
}

/// One node's answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeLogs {
    /// The lines.
    pub text: String,
    /// No more will come.
    pub complete: bool,
}

/// An OCI manifest in the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Artifact {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its artifact type, or the config's media type.
    pub artifact_type: String,
    /// `repository:tag` names that point at it.
    pub names: Vec<String>,
    /// Bytes of the manifest and all that it names.
    pub size: u64,
    /// A target of the artifacts repository: nodes accept it.
    pub signed: bool,
    /// When it was pushed.
    pub pushed_at: String,
}

/// An OS release in the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OsRelease {
    /// Digest of its manifest.
    pub digest: Digest,
    /// What it says of itself.
    pub release: Release,
    /// A target of the artifacts repository: nodes accept it.
    pub signed: bool,
    /// When it was pushed.
    pub pushed_at: String,
    /// On how many nodes it is desired.
    pub desired: u32,
    /// On how many nodes it runs.
    pub running: u32,
}

/// Some nodes: those named, and those whose labels match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OsNodes {
    /// Ids or host names.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// `k=v,k!=v`.
    #[serde(default)]
    pub selector: Option<String>,
}

/// An OS to run on some nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OsSet {
    /// A version, or the digest of a release where several have that version.
    pub release: String,
    /// Where: every node that is a member now and matches; those that join later are not included.
    #[serde(flatten)]
    pub nodes: OsNodes,
    /// The version is older than what some of the nodes run, and that is meant.
    #[serde(default)]
    pub allow_downgrade: bool,
    /// Try it again on nodes where it failed.
    #[serde(default)]
    pub retry: bool,
    /// When the nodes restart into it.
    #[serde(default)]
    pub reboot: RebootPolicy,
    /// What decides whether it stays.
    #[serde(default)]
    pub health: OsHealth,
}

/// A node and its OS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OsNode {
    /// Its id.
    pub node: NodeId,
    /// Its host name.
    pub hostname: String,
    /// Heard of within the last two minutes.
    pub online: bool,
    /// What it shall run; absent where nobody said.
    pub desired: Option<DesiredOs>,
    /// What it last said; absent where it has not said anything yet.
    pub status: Option<OsStatus>,
    /// Why the hub does not tell it what is desired, in words with a cure; empty where it does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// Who changed what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditRow {
    /// Rises by one.
    pub id: i64,
    /// When.
    pub time: String,
    /// Name of the operator's token, or the node.
    pub actor: String,
    /// Address of the client.
    pub from: String,
    /// `node.approve`, `app.deploy`, ….
    pub action: String,
    /// What it was done to.
    pub subject: String,
    /// Before, where there was something.
    pub before: Option<serde_json::Value>,
    /// After, where there is something.
    pub after: Option<serde_json::Value>,
}
