//! What supervises workloads: systemd on an appliance, plain child processes on a developer's machine.
//!
//! A unit carries what the daemon must know of it after a restart in its description: which replica it is, which spec
//! it was made from, which ports it holds. So a daemon that comes back adopts what runs without a file of its own.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use cairn_model::Digest;
use tokio::sync::Notify;

use crate::plan::{HostPort, Phase, Restart};

/// How every description of a workload's unit begins.
const TAG_PREFIX: &str = "Cairn workload ";

/// What a unit says of itself in its description: `Cairn workload <app>/<service>/<n> spec sha256:… [ports tcp:80,…]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// `<app>/<service>/<n>`, for people.
    pub replica: String,
    /// What it was made from.
    pub spec: Digest,
    /// The node's ports that it holds.
    pub ports: Vec<HostPort>,
}

impl Tag {
    /// The description.
    pub fn describe(&self) -> String {
        let mut text = format!("{TAG_PREFIX}{} spec {}", self.replica, self.spec);
        if !self.ports.is_empty() {
            let ports: Vec<String> = self.ports.iter().map(|(p, n)| format!("{p}:{n}")).collect();
            text.push_str(" ports ");
            text.push_str(&ports.join(","));
        }
        text
    }

    /// The tag in a description; nothing for units that are not ours.
    pub fn parse(description: &str) -> Option<Self> {
        let mut words = description.strip_prefix(TAG_PREFIX)?.split(' ');
        let replica = words.next()?.to_owned();
        let spec = (words.next()? == "spec").then(|| words.next()?.parse().ok()).flatten()?;
        let mut ports = Vec::new();
        if words.next() == Some("ports") {
            for port in words.next()?.split(',') {
                let (protocol, number) = port.split_once(':')?;
                ports.push((protocol.to_owned(), number.parse().ok()?));
            }
        }
        Some(Self { replica, spec, ports })
    }
}

/// What a program that is not in a container may see of the node, where the supervisor has the means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Files and folders that it cannot reach.
    pub hidden: Vec<PathBuf>,
    /// Folders that it may write to; everything else is read-only.
    pub writable: Vec<PathBuf>,
}

impl Sandbox {
    /// Hides the daemon's own secrets and memory, the containers' files, and the sockets that command the node.
    pub fn new(state_dir: &Path, run_dir: &Path, writable: Vec<PathBuf>) -> Self {
        let state = [
            "keys",
            "trust",
            "ledger.sqlite",
            "ledger.sqlite-wal",
            "ledger.sqlite-shm",
            "upper",
            "layers",
            "trash",
            "os",
        ];
        let mut hidden: Vec<PathBuf> = state.iter().map(|name| state_dir.join(name)).collect();
        hidden.push(run_dir.join("cairnd.sock"));
        hidden.extend(["/run/dbus", "/run/systemd/private", "/run/credentials"].map(PathBuf::from));
        Self { hidden, writable }
    }
}

/// A unit to start.
#[derive(Debug, Clone, PartialEq)]
pub struct UnitSpec {
    /// Without `.service`.
    pub name: String,
    /// What goes into the description.
    pub tag: Tag,
    /// Its app's name: for the journal.
    pub app: String,
    /// The slice that holds all of the app's replicas.
    pub slice: String,
    /// Its service's name: for the journal.
    pub service: String,
    /// Program and arguments.
    pub exec_start: Vec<String>,
    /// What to run after it ended, whatever the cause.
    pub exec_stop_post: Option<Vec<String>>,
    /// Whether the supervisor may start it again by itself.
    pub restart: Restart,
    /// Memory limit in bytes.
    pub memory_max: Option<u64>,
    /// CPU time a second, in microseconds.
    pub cpu_quota_usec: Option<u64>,
    /// Number of tasks.
    pub tasks_max: Option<u64>,
    /// Signal that asks it to stop.
    pub kill_signal: i32,
    /// How long it may take to stop before it is killed.
    pub stop_timeout: Duration,
    /// Whether it needs a cgroup of its own to make more in.
    pub delegate: bool,
    /// For what brings no walls of its own; a container does.
    pub sandbox: Option<Sandbox>,
}

/// A unit that the supervisor knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    /// What it says of itself.
    pub tag: Tag,
    /// Where it is in its life.
    pub phase: Phase,
    /// How often the supervisor started it again.
    pub restarts: u32,
    /// Why it is where it is: last exit code or signal.
    pub detail: Option<String>,
}

/// Why the supervisor did not do as asked.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action} {unit}: {cause}")]
pub struct SupervisorError {
    /// What was tried.
    pub action: &'static str,
    /// On which unit.
    pub unit: String,
    /// What it answered.
    pub cause: String,
}

impl SupervisorError {
    /// Names what was tried, on what, and what came of it.
    pub fn new(action: &'static str, unit: &str, cause: impl std::fmt::Display) -> Self {
        Self { action, unit: unit.to_owned(), cause: cause.to_string() }
    }
}

/// Supervises workloads. Calls return as soon as the request is accepted; what comes of it shows in [`Self::list`].
#[async_trait]
pub trait Supervisor: Send {
    /// Every unit of ours, by name without `.service`.
    async fn list(&mut self) -> Result<BTreeMap<String, UnitState>, SupervisorError>;
    /// Starts a unit whose name is free.
    async fn start(&mut self, spec: &UnitSpec) -> Result<(), SupervisorError>;
    /// Asks a unit to stop.
    async fn stop(&mut self, unit: &str) -> Result<(), SupervisorError>;
    /// Forgets a unit that has ended.
    async fn clear(&mut self, unit: &str) -> Result<(), SupervisorError>;
    /// Rings whenever a unit may have changed.
    fn changes(&self) -> Arc<Notify>;
    /// Ends what must not outlive the daemon: nothing under systemd, everything as child processes.
    async fn shutdown(&mut self);
}

/// Restarts the machine.
#[async_trait]
pub trait RestartMachine: Send + Sync {
    /// Asks for an orderly restart; returns as soon as the request is accepted.
    async fn restart_machine(&self) -> Result<(), SupervisorError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_round_trips_and_other_units_have_none() {
        let mut tag = Tag { replica: "shop/web/0".into(), spec: Digest::of(b"x"), ports: vec![] };
        assert_eq!(Tag::parse(&tag.describe()), Some(tag.clone()));
        tag.ports = vec![("tcp".into(), 80), ("udp".into(), 53)];
        assert_eq!(Tag::parse(&tag.describe()), Some(tag));
        for other in ["", "Cairn node daemon", "Cairn workload x", "Cairn workload x spec sha256:1"] {
            assert_eq!(Tag::parse(other), None, "{other}");
        }
    }
}
