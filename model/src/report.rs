//! What a node tells its hub (design section 3): records in a signed envelope, in sequence, until acknowledged.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    document::{self, DocumentError},
    facts::Facts,
    id::{AppName, BootId, Digest, NodeId, ServiceName},
    os_version::OsVersion,
};

/// The `schema` number of [`Report`].
pub const SCHEMA: u32 = 1;

/// Largest envelope (compact JWS) that a hub takes, in bytes.
pub const MAX_ENVELOPE_BYTES: usize = 1 << 20;

/// The payload of one envelope.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Always [`SCHEMA`].
    pub schema: u32,
    /// Who reports; must be the key that signed.
    pub node: NodeId,
    /// During which boot.
    pub boot: BootId,
    /// 1 for the first report of this node, one more for each next, across boots: what the hub stores exactly once and
    /// acknowledges.
    pub sequence: u64,
    /// Unix milliseconds, by the node's clock.
    pub time_ms: i64,
    /// What happened, in order.
    pub records: Vec<Record>,
}

impl Report {
    /// Reads the payload of an envelope.
    ///
    /// # Errors
    /// If it is larger than [`MAX_ENVELOPE_BYTES`], of a schema that is not known, malformed, or has sequence 0.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let report: Self = document::parse("report", bytes, MAX_ENVELOPE_BYTES, SCHEMA)?;
        if report.sequence == 0 {
            return Err(DocumentError::Sequence { node: report.node });
        }
        Ok(report)
    }
}

/// One thing that a node says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Record {
    /// The whole state of the node as it is now; a later one replaces it.
    Status(NodeStatus),
    /// Something happened.
    Event(Event),
    /// A piece of a command's output.
    CommandOutput(CommandOutput),
    /// The node's facts; a later one replaces them.
    Facts(Facts),
}

/// How a node stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// The generation that the node has applied; 0 for none yet.
    pub generation: u64,
    /// Every replica that should run or does run here.
    pub workloads: Vec<WorkloadStatus>,
    /// What keeps the node from doing as it is told, in words with a cure; empty where all is well.
    pub problems: Vec<String>,
    /// How its OS stands; absent where the node does not update its OS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<OsStatus>,
}

/// How the OS of a node stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OsStatus {
    /// The version that runs.
    pub version: OsVersion,
    /// What kind of machine the OS is for.
    pub compatible: String,
    /// The slot that runs.
    pub slot: Slot,
    /// What the other slot holds, where it can be booted.
    pub other: Option<OsVersion>,
    /// Where the latest update stands.
    pub state: OsState,
    /// The release that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Digest>,
    /// That release's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<OsVersion>,
    /// How far its transfer is, or what it came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<OsProgress>,
    /// Why it is in this state, with a cure where one is needed: what was refused, which check failed and the last lines
    /// of its log, what the node waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// One of the two places for an OS on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Slot {
    /// Partitions 2 and 3.
    A,
    /// Partitions 4 and 5.
    B,
}

impl Slot {
    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// `a` or `b`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

/// The steps of an update (design section 7), and how it can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OsState {
    /// Nothing to do.
    Idle,
    /// The release goes into the other slot.
    Fetching,
    /// All of it is there and verified; the boot loader does not know it yet.
    Written,
    /// The boot loader will try it at the next start.
    Armed,
    /// It runs, and must show that it is well.
    Trying,
    /// It runs and stays.
    Good,
    /// It was tried, and the node went back.
    RolledBack,
    /// The release is not for this node, or failed here before.
    Refused,
    /// The transfer or the writing failed; it is tried again.
    Failed,
}

/// How a release comes to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OsMethod {
    /// A patch on what runs.
    Patch,
    /// The chunks that neither slot has.
    Chunks,
}

/// How far a transfer is. All counts are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OsProgress {
    /// By which way.
    pub method: OsMethod,
    /// Written to the slot so far.
    pub written: u64,
    /// To be written in all.
    pub total: u64,
    /// Fetched so far.
    pub fetched: u64,
    /// To be fetched in all.
    pub to_fetch: u64,
    /// What a transfer without delta would fetch.
    pub full: u64,
    /// Fetched a second, over the last seconds.
    pub rate: u64,
}

impl OsProgress {
    /// How much of it is written: 0 to 100.
    pub fn percent(&self) -> u8 {
        let percent = u128::from(self.written.min(self.total)) * 100 / u128::from(self.total.max(1));
        // At most 100, by the line before.
        u8::try_from(percent).unwrap_or(100)
    }
}

/// How one replica stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkloadStatus {
    /// Its app.
    pub app: AppName,
    /// Its service.
    pub service: ServiceName,
    /// Its replica index.
    pub replica: u32,
    /// The image or component that it runs, by manifest digest.
    pub image: Digest,
    /// Where it is in its life.
    pub state: WorkloadState,
    /// What the health check says.
    pub health: Health,
    /// How often it was restarted since it was created.
    pub restarts: u32,
    /// Why it is in this state, where that is not plain: last exit code, refusal, missing dependency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl WorkloadStatus {
    /// Healthy, or running where nothing checks it, or through with what it had to do once.
    pub fn is_well(&self) -> bool {
        match self.state {
            WorkloadState::Running => matches!(self.health, Health::None | Health::Healthy),
            WorkloadState::Completed => true,
            WorkloadState::Pending
            | WorkloadState::Starting
            | WorkloadState::Failed
            | WorkloadState::Stopping => false,
        }
    }
}

/// The life of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadState {
    /// Its artifacts are being fetched or unpacked, or what it depends on is not ready.
    Pending,
    /// Its unit is starting.
    Starting,
    /// Its main process runs.
    Running,
    /// It ended with exit code 0 and is not to be restarted.
    Completed,
    /// It ended otherwise, or could not be started; back-off may start it again.
    Failed,
    /// Its unit is stopping.
    Stopping,
}

/// What the health check of a replica says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// It has no health check.
    None,
    /// No verdict yet: within the start period, or too few probes.
    Starting,
    /// The last probe passed.
    Healthy,
    /// As many probes in a row as `retries` says have failed.
    Unhealthy,
}

/// Something that happened on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Unix milliseconds, by the node's clock.
    pub time_ms: i64,
    /// How bad.
    pub severity: Severity,
    /// A stable name: `bundle-refused`, `workload-failed`, `generation-applied`, ….
    pub reason: String,
    /// For people: cause and cure.
    pub message: String,
}

/// How bad an [`Event`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// As it should be.
    Info,
    /// Wants a look.
    Warning,
    /// Something does not work.
    Error,
}

/// A piece of the output of a [`crate::desired::Command`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommandOutput {
    /// The command's id.
    pub command: String,
    /// 0 for the first piece.
    pub chunk: u32,
    /// The text; invalid UTF-8 is replaced.
    pub text: String,
    /// Set on the last piece: 0 for success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_is_healthy_or_unchecked_or_through() {
        use Health::{Healthy, None, Starting, Unhealthy};
        use WorkloadState::{Completed, Failed, Pending, Running, Stopping};
        for (state, health, expected) in [
            (Running, None, true),
            (Running, Healthy, true),
            (Running, Starting, false),
            (Running, Unhealthy, false),
            (Completed, Unhealthy, true),
            (Pending, None, false),
            (WorkloadState::Starting, None, false),
            (Failed, Healthy, false),
            (Stopping, Healthy, false),
        ] {
            let workload = WorkloadStatus {
                app: "shop".parse().unwrap(),
                service: "web".parse().unwrap(),
                replica: 0,
                image: Digest::of(b"image"),
                state,
                health,
                restarts: 0,
                detail: Option::None,
            };
            assert_eq!(workload.is_well(), expected, "{state:?} {health:?}");
        }
    }

    #[test]
    fn percent_stays_within_its_bounds() {
        for (written, total, expected) in
            [(0, 0, 0), (5, 0, 0), (1, 200, 0), (199, 200, 99), (201, 200, 100), (u64::MAX, u64::MAX, 100)]
        {
            let method = OsMethod::Chunks;
            let progress = OsProgress { method, written, total, fetched: 0, to_fetch: 0, full: 0, rate: 0 };
            assert_eq!(progress.percent(), expected, "{written} of {total}");
        }
    }
}
