//! Apps and their replicas.

use std::fmt::Write as _;

use cairn_model::{
    api::{AppStatus, AppSummary, Replica},
    report::{Health, WorkloadState, WorkloadStatus},
};
use jiff::Timestamp;

use super::{Column, Detail, Row, table::lay_out, text};

fn state_word(state: WorkloadState) -> &'static str {
    match state {
        WorkloadState::Pending => "pending",
        WorkloadState::Starting => "starting",
        WorkloadState::Running => "running",
        WorkloadState::Completed => "completed",
        WorkloadState::Failed => "failed",
        WorkloadState::Stopping => "stopping",
    }
}

fn health_word(health: Health) -> &'static str {
    match health {
        Health::None => "-",
        Health::Starting => "starting",
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
    }
}

/// The head of a table of workloads on one node.
pub(super) fn workload_head() -> Vec<String> {
    ["APP", "SERVICE", "REPLICA", "STATE", "HEALTH", "RESTARTS", "DETAIL"].map(String::from).to_vec()
}

/// A line of it.
pub(super) fn workload_line(workload: &WorkloadStatus) -> Vec<String> {
    vec![
        workload.app.to_string(),
        workload.service.to_string(),
        workload.replica.to_string(),
        state_word(workload.state).into(),
        health_word(workload.health).into(),
        workload.restarts.to_string(),
        workload.detail.as_deref().map_or_else(|| "-".into(), text::clean),
    ]
}

impl Row for AppSummary {
    const COLUMNS: &'static [Column] = &[
        Column::always("APP"),
        Column::always("READY"),
        Column::always("SERVICES"),
        Column::always("DEPLOYED"),
        Column::always("BY"),
        Column::always("PROBLEMS"),
        Column::wide("DIGEST"),
    ];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let services: Vec<_> = self.services.keys().map(|name| name.as_str()).collect();
        vec![
            self.name.to_string(),
            format!("{}/{}", self.ready, self.desired),
            services.join(","),
            text::age(&self.deployed_at, now),
            self.deployed_by.clone(),
            if self.problems.is_empty() { String::new() } else { self.problems.len().to_string() },
            self.digest.to_string(),
        ]
    }

    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Detail for AppSummary {
    fn detail(&self, _wide: bool, now: Timestamp) -> String {
        let mut out = format!(
            "{}: {} of {} ready, deployed {} by {}\n",
            self.name,
            self.ready,
            self.desired,
            text::age(&self.deployed_at, now),
            text::clean(&self.deployed_by)
        );
        for problem in &self.problems {
            let _ = writeln!(out, "Problem: {}", text::clean(problem));
        }
        out
    }

    fn name(&self) -> String {
        self.name.to_string()
    }
}

/// A line for one replica.
fn replica_line(replica: &Replica, wide: bool) -> Vec<String> {
    let mut line = vec![
        replica.service.to_string(),
        replica.replica.to_string(),
        if replica.hostname.is_empty() { replica.node.to_string() } else { text::clean(&replica.hostname) },
    ];
    match &replica.status {
        Some(status) => line.extend(workload_line(status).into_iter().skip(3)),
        None => line.extend(["not reported yet", "-", "-", "-"].map(String::from)),
    }
    if wide {
        let image = replica.status.as_ref().map_or_else(|| "-".into(), |s| text::short_digest(&s.image));
        line.extend([replica.node.to_string(), image]);
    }
    line
}

impl Detail for AppStatus {
    fn detail(&self, wide: bool, now: Timestamp) -> String {
        let mut out = self.summary.detail(wide, now);
        if self.replicas.is_empty() {
            out.push_str("No replica is placed on any node.\n");
            return out;
        }
        let mut head = ["SERVICE", "REPLICA", "NODE", "STATE", "HEALTH", "RESTARTS", "DETAIL"]
            .map(String::from)
            .to_vec();
        if wide {
            head.extend(["NODE ID", "IMAGE"].map(String::from));
        }
        let mut table = vec![head];
        table.extend(self.replicas.iter().map(|replica| replica_line(replica, wide)));
        out.push('\n');
        out.push_str(&lay_out(&table));
        out
    }

    fn name(&self) -> String {
        self.summary.name.to_string()
    }
}
