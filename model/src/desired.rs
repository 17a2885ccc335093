//! `desired-state.json`: everything that concerns one node, as the hub signs it (design section 3).

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    document::{self, DocumentError},
    id::{AppName, Digest, NodeId, ServiceName},
    os_version::OsVersion,
};

/// The target name of this document in the node's director repository.
pub const TARGET_NAME: &str = "desired-state.json";

/// Largest document that a node reads, in bytes.
pub const MAX_BYTES: u64 = 4 << 20;

/// The `schema` number of [`DesiredState`].
pub const SCHEMA: u32 = 1;

/// What shall run on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DesiredState {
    /// Always [`SCHEMA`].
    pub schema: u32,
    /// The one node that this is for.
    pub node: NodeId,
    /// Grows by at least one with every change; a node never applies a smaller one.
    pub generation: u64,
    /// The apps to run, by name.
    pub apps: BTreeMap<AppName, DesiredApp>,
    /// The OS to run; what runs is left alone where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<DesiredOs>,
    /// One-off requests, each carried out at most once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<Command>,
    /// How the node behaves towards its hub.
    pub policy: Policy,
}

impl DesiredState {
    /// Reads a desired state.
    ///
    /// # Errors
    /// If it is larger than [`MAX_BYTES`], of a schema that is not known, malformed, or unsound: a replica or command
    /// twice, a pause of zero.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let state: Self = document::parse("desired state", bytes, MAX_BYTES as usize, SCHEMA)?;
        for (service, indices) in state.apps.values().flat_map(|app| &app.services) {
            let mut seen = BTreeSet::new();
            if let Some(&index) = indices.iter().find(|index| !seen.insert(**index)) {
                return Err(DocumentError::ReplicaTwice { service: service.clone(), index });
            }
        }
        let mut ids = BTreeSet::new();
        for Command { id, .. } in &state.commands {
            if id.is_empty() || id.len() > 128 || !ids.insert(id) {
                return Err(DocumentError::CommandId { id: id.chars().take(80).collect() });
            }
        }
        if let Some(os) = &state.os {
            os.check()?;
        }
        let Policy { poll_seconds, report_seconds } = state.policy;
        for (key, seconds) in [("poll_seconds", poll_seconds), ("report_seconds", report_seconds)] {
            if seconds == 0 {
                return Err(DocumentError::Pause { key });
            }
        }
        Ok(state)
    }
}

/// One app on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DesiredApp {
    /// Digest of the app artifact's OCI manifest; its config blob is the canonical JSON of the Compose file.
    pub app: Digest,
    /// The replica indices of each service that run here. A service that is absent does not run here.
    pub services: BTreeMap<ServiceName, Vec<u32>>,
}

/// A one-off request to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Unique for ever; the node remembers which it has carried out.
    pub id: String,
    /// Unix seconds after which the node must not start it.
    pub not_after: i64,
    /// What to do.
    pub kind: CommandKind,
}

/// What a [`Command`] asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum CommandKind {
    /// The last lines that a service wrote to the journal.
    Logs {
        /// Of which app.
        app: AppName,
        /// Of which service; all of the app's where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<ServiceName>,
        /// At most so many lines, newest last; the node caps it at 10,000.
        lines: u32,
    },
    /// Restart into the OS that stands written in the other slot, without waiting for a window.
    OsApply,
}

/// How a node behaves towards its hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Seconds between polls where the long poll does not work.
    pub poll_seconds: u32,
    /// Seconds between two status records when nothing changes.
    pub report_seconds: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self { poll_seconds: 60, report_seconds: 300 }
    }
}

/// The OS that a node shall run, and how it gets there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DesiredOs {
    /// Digest of the release artifact's OCI manifest; its config blob is a [`crate::Release`].
    pub release: Digest,
    /// The version that the release says of itself: for people, the signed release counts.
    pub version: OsVersion,
    /// An operator asked by name for a version older than the running one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_downgrade: bool,
    /// A release that failed on the node is tried again when this number is larger than at that failure.
    #[serde(default)]
    pub attempt: u32,
    /// When the node restarts into it.
    #[serde(default)]
    pub reboot: RebootPolicy,
    /// What decides whether it stays.
    #[serde(default)]
    pub health: OsHealth,
}

impl DesiredOs {
    fn check(&self) -> Result<(), DocumentError> {
        let Self { reboot, health, .. } = self;
        let cause = match reboot {
            _ if health.deadline_seconds == 0 || health.deadline_seconds > 86_400 => {
                "os.health.deadline_seconds is not within 1 to 86400"
            }
            RebootPolicy::Window { windows, .. } if windows.is_empty() || windows.len() > 32 => {
                "os.reboot.windows does not have 1 to 32 entries"
            }
            RebootPolicy::Window { windows, time_zone }
                if time_zone.len() > 64 || windows.iter().any(|window| window.len() > 64) =>
            {
                "os.reboot has a text of over 64 bytes"
            }
            _ => return Ok(()),
        };
        Err(DocumentError::Os { cause })
    }
}

/// When a node restarts into an OS that stands written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RebootPolicy {
    /// As soon as it is written.
    #[default]
    AtOnce,
    /// Within the next maintenance window.
    Window {
        /// `[DAYS ]HH:MM-HH:MM`; DAYS as in systemd.time(7): `Mon`, `Mon..Fri`, `Sat,Sun`; a window that ends before
        /// it begins runs over midnight.
        windows: Vec<String>,
        /// IANA name of the zone that the windows are in, `Europe/Berlin`; `UTC` where nothing else is said.
        time_zone: String,
    },
    /// Only on `cairn os apply`, or when the node restarts for another reason.
    Manual,
}

/// What must hold before a new OS is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OsHealth {
    /// Seconds from the start of cairnd until all of it must hold.
    pub deadline_seconds: u32,
    /// The hub must have answered; false for nodes without a network.
    pub hub: bool,
}

impl Default for OsHealth {
    fn default() -> Self {
        Self { deadline_seconds: 600, hub: true }
    }
}
