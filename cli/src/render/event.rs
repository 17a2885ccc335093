//! What happened: events of nodes, and the audit.

use cairn_model::{
    api::{AuditRow, NodeEvent},
    report::Severity,
};
use jiff::Timestamp;
use serde::Serialize;

use super::{Column, Row, text};

impl Row for NodeEvent {
    const COLUMNS: &'static [Column] = &[
        Column::always("WHEN"),
        Column::always("SEVERITY"),
        Column::always("REASON"),
        Column::wide("TIME"),
        Column::always("MESSAGE"),
    ];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let severity = match self.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        vec![
            text::age(&self.time, now),
            severity.into(),
            self.reason.clone(),
            self.time.clone(),
            self.message.clone(),
        ]
    }

    fn name(&self) -> String {
        self.reason.clone()
    }
}

/// A row of the audit.
#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct AuditEntry(pub(crate) AuditRow);

impl Row for AuditEntry {
    const COLUMNS: &'static [Column] = &[
        Column::always("ID"),
        Column::always("WHEN"),
        Column::always("WHO"),
        Column::always("FROM"),
        Column::always("ACTION"),
        Column::always("SUBJECT"),
        Column::wide("TIME"),
        Column::wide("BEFORE"),
        Column::wide("AFTER"),
    ];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let value =
            |value: &Option<serde_json::Value>| value.as_ref().map(ToString::to_string).unwrap_or_default();
        let row = &self.0;
        vec![
            row.id.to_string(),
            text::age(&row.time, now),
            row.actor.clone(),
            row.from.clone(),
            row.action.clone(),
            row.subject.clone(),
            row.time.clone(),
            value(&row.before),
            value(&row.after),
        ]
    }

    fn name(&self) -> String {
        self.0.id.to_string()
    }
}
