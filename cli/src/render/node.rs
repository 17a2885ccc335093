//! Nodes.

use std::fmt::Write as _;

use cairn_model::{
    api::{HeardBy, Node},
    enroll::EnrollState,
};
use jiff::Timestamp;

use super::{Column, Detail, Row, app::workload_line, table::lay_out, text};

/// Pending, online, offline, or never heard of.
fn state(node: &Node) -> String {
    match (node.state, node.online) {
        (EnrollState::Pending, _) => "pending",
        (EnrollState::Approved, true) => "online",
        (EnrollState::Approved, false) => "offline",
    }
    .into()
}

/// `3` where the node has what the hub wants, `2 of 3` on the way.
fn generation(node: &Node) -> String {
    let applied = node.status.as_ref().map_or(0, |status| status.generation);
    if applied == node.desired_generation {
        applied.to_string()
    } else {
        format!("{applied} of {}", node.desired_generation)
    }
}

fn os(node: &Node) -> String {
    format!("{} {}", node.facts.os, node.facts.os_version).trim().to_owned()
}

fn seen(node: &Node, now: Timestamp) -> String {
    let Some(time) = node.last_seen.as_deref() else { return "never".into() };
    match &node.heard_by {
        Some(HeardBy::Stick { reported_at }) => {
            format!("by stick, reported {}, imported {}", text::age(reported_at, now), text::age(time, now))
        }
        Some(HeardBy::Network) | None => text::age(time, now),
    }
}

impl Row for Node {
    const COLUMNS: &'static [Column] = &[
        Column::always("NODE"),
        Column::always("HOSTNAME"),
        Column::always("STATE"),
        Column::always("SEEN"),
        Column::always("GENERATION"),
        Column::always("PROBLEMS"),
        Column::always("LABELS"),
        Column::wide("ARCH"),
        Column::wide("OS"),
        Column::wide("KERNEL"),
        Column::wide("CPUS"),
        Column::wide("MEMORY"),
        Column::wide("CAIRND"),
        Column::wide("ENROLLED"),
    ];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let problems = self.status.as_ref().map_or(0, |status| status.problems.len());
        vec![
            self.id.to_string(),
            self.facts.hostname.clone(),
            state(self),
            seen(self, now),
            generation(self),
            if problems == 0 { String::new() } else { problems.to_string() },
            text::labels(&self.labels),
            self.facts.arch.clone(),
            os(self),
            self.facts.kernel.clone(),
            self.facts.cpus.to_string(),
            text::size(self.facts.memory_bytes),
            self.facts.daemon_version.clone(),
            text::age(&self.enrolled_at, now),
        ]
    }

    fn name(&self) -> String {
        self.id.to_string()
    }
}

impl Detail for Node {
    fn detail(&self, _wide: bool, now: Timestamp) -> String {
        let facts = &self.facts;
        let pair = |key: &str, value: String| vec![format!("{key}:"), text::clean(&value)];
        let mut lines = vec![
            pair("Node", self.id.to_string()),
            pair("Host", facts.hostname.clone()),
            pair("State", state(self)),
            pair("Fingerprint", self.fingerprint.clone()),
            pair("Labels", text::labels(&self.labels)),
            pair("Last heard", seen(self, now)),
            pair("Metadata", format!("holds {}", super::usb::freshness(self.freshness))),
            pair("Enrolled", text::age(&self.enrolled_at, now)),
            pair("Generation", generation(self)),
            pair("System", format!("{}, kernel {}, {}", os(self), facts.kernel, facts.arch)),
            pair(
                "Machine",
                format!(
                    "{} CPUs, {} memory, {} data",
                    facts.cpus,
                    text::size(facts.memory_bytes),
                    text::size(facts.data_bytes)
                ),
            ),
            pair("Runtimes", facts.runtimes.join(", ")),
            pair("Daemon", facts.daemon_version.clone()),
        ];
        lines.retain(|line| !line[1].is_empty());
        let (os, detail) = self
            .status
            .as_ref()
            .and_then(|status| status.os.as_ref())
            .map(super::os::block)
            .unwrap_or_default();
        lines.extend(os);
        let mut out = lay_out(&lines);
        for line in detail {
            let _ = writeln!(out, "  {line}");
        }
        if let Some(status) = &self.status {
            for problem in &status.problems {
                let _ = writeln!(out, "Problem: {}", text::clean(problem));
            }
            if !status.workloads.is_empty() {
                out.push('\n');
                let mut table = vec![super::app::workload_head()];
                table.extend(status.workloads.iter().map(workload_line));
                out.push_str(&lay_out(&table));
            }
        }
        if self.state == EnrollState::Pending {
            let _ = writeln!(
                out,
                "\nIf the node shows this fingerprint itself, let it in: cairn node approve {}",
                self.id
            );
        }
        out
    }

    fn name(&self) -> String {
        self.id.to_string()
    }
}
