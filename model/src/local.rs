//! What a node's daemon answers on its own socket (`GET /v1/status` on `/run/cairn/cairnd.sock`): the input of
//! `cairn local status`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    id::NodeId,
    media::MediaStatus,
    report::{OsStatus, WorkloadStatus},
};

/// Path of the status on the socket.
pub const STATUS_PATH: &str = "/v1/status";

/// `POST` here restarts into the OS that stands written (204), whatever the policy; 409 with a reason where none does.
pub const OS_APPLY_PATH: &str = "/v1/os/apply";

/// `GET` here answers once the OS that runs is kept (200) or given up (409 with the reason): `cairnd os confirm`.
pub const OS_CONFIRM_PATH: &str = "/v1/os/confirm";

/// `POST` a [`MediaAttached`] here when a stick is mounted (204): `cairnd media attach`.
pub const MEDIA_PATH: &str = "/v1/media";

/// A stick is mounted below `/run/cairn/media/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MediaAttached {
    /// The block device's name, which is that of the mount point: `sdb1`.
    pub device: String,
}

/// How the node stands, as it sees itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LocalStatus {
    /// Always 1.
    pub schema: u32,
    /// Version of cairnd.
    pub version: String,
    /// The node's id.
    pub node: NodeId,
    /// SHA-256 of the node's public key, hex in groups of four: to compare with what the hub shows.
    pub fingerprint: String,
    /// The hub's address; absent where none is configured.
    pub hub: Option<String>,
    /// Where the node stands with its hub.
    pub link: LinkState,
    /// When the hub last answered, RFC 3339; absent for never since the daemon started.
    pub last_contact: Option<String>,
    /// The generation that the node has applied; 0 for none yet.
    pub generation: u64,
    /// Every replica that should run or does run here.
    pub workloads: Vec<WorkloadStatus>,
    /// What keeps the node from doing as it is told, in words with a cure; empty where all is well.
    pub problems: Vec<String>,
    /// How the OS stands; absent where the node does not update its OS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<OsStatus>,
    /// The stick that is plugged in, or the last one; absent where there was none since the daemon started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<MediaStatus>,
    /// Reports that the hub has not acknowledged yet.
    pub unsent_reports: u64,
}

/// Where a node stands with its hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// No hub is configured.
    Unconfigured,
    /// Not a member yet: the request has not got through.
    Enrolling,
    /// The hub knows the node; an operator must approve it.
    Pending,
    /// A member, and the hub answers.
    Online,
    /// A member, but the hub does not answer or is not believed: see the problems.
    Offline,
}
