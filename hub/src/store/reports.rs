//! What nodes reported: each report exactly once, in one transaction with its acknowledgement.

use cairn_model::{
    Facts, NodeId,
    api::NodeEvent,
    report::{CommandOutput, Event, NodeStatus, Severity},
};
use sqlx::Row;

use super::{Result, Store, Tx, corrupt, to_json};
use crate::clock;

/// Events that are kept of each node; older ones go.
const EVENTS_PER_NODE: i64 = 10_000;

/// Characters that are kept of one command's output; the rest is dropped, but for the last piece's word that it ended.
const OUTPUT_PER_COMMAND: i64 = 16 << 20;

fn severity_text(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn parse_severity(text: &str) -> Result<Severity> {
    match text {
        "info" => Ok(Severity::Info),
        "warning" => Ok(Severity::Warning),
        "error" => Ok(Severity::Error),
        other => Err(corrupt("severity", other)),
    }
}

impl Tx {
    /// Writes down that every report of `node` up to `sequence` is stored.
    pub(crate) async fn acknowledge(&mut self, node: &NodeId, sequence: u64) -> Result<()> {
        sqlx::query("UPDATE node SET acknowledged = $2 WHERE id = $1")
            .bind(node.as_str())
            .bind(sequence.cast_signed())
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    /// Replaces a node's status.
    pub(crate) async fn set_status(&mut self, node: &NodeId, status: &NodeStatus) -> Result<()> {
        sqlx::query("UPDATE node SET status = $2 WHERE id = $1")
            .bind(node.as_str())
            .bind(to_json(status))
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    /// Replaces a node's facts.
    pub(crate) async fn set_facts(&mut self, node: &NodeId, facts: &Facts) -> Result<()> {
        sqlx::query("UPDATE node SET facts = $2 WHERE id = $1")
            .bind(node.as_str())
            .bind(to_json(facts))
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    /// Adds an event, the `position`th record of report `sequence`.
    pub(crate) async fn insert_event(
        &mut self,
        node: &NodeId,
        sequence: u64,
        position: usize,
        event: &Event,
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO event (node, sequence, position, time, severity, reason, message)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
        )
        .bind(node.as_str())
        .bind(sequence.cast_signed())
        .bind(i64::try_from(position).unwrap_or(i64::MAX))
        .bind(event.time_ms)
        .bind(severity_text(event.severity))
        .bind(&event.reason)
        .bind(&event.message)
        .execute(&mut *self.0)
        .await?;
        Ok(())
    }

    /// Drops the oldest events of a node over the cap.
    pub(crate) async fn trim_events(&mut self, node: &NodeId) -> Result<()> {
        sqlx::query(
            "DELETE FROM event WHERE node = $1 AND sequence < COALESCE((SELECT sequence FROM event
             WHERE node = $1 ORDER BY sequence DESC, position DESC LIMIT 1 OFFSET $2), 0)",
        )
        .bind(node.as_str())
        .bind(EVENTS_PER_NODE)
        .execute(&mut *self.0)
        .await?;
        Ok(())
    }

    /// Adds a piece of a command's output, if the command is this node's; says whether it was the last one.
    pub(crate) async fn insert_output(&mut self, node: &NodeId, output: &CommandOutput) -> Result<bool> {
        let known = sqlx::query("SELECT 1 FROM command WHERE id = $1 AND node = $2")
            .bind(&output.command)
            .bind(node.as_str())
            .fetch_optional(&mut *self.0)
            .await?;
        if known.is_none() {
            return Ok(false);
        }
        let row =
            sqlx::query("SELECT COALESCE(SUM(LENGTH(text)), 0) AS n FROM command_output WHERE command = $1")
                .bind(&output.command)
                .fetch_one(&mut *self.0)
                .await?;
        let full = row.try_get::<i64, _>("n")? > OUTPUT_PER_COMMAND;
        sqlx::query(
            "INSERT INTO command_output (command, chunk, text, last) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        )
        .bind(&output.command)
        .bind(i64::from(output.chunk))
        .bind(if full { "" } else { output.text.as_str() })
        .bind(output.exit_code.is_some())
        .execute(&mut *self.0)
        .await?;
        if output.exit_code.is_some() {
            sqlx::query("UPDATE command SET complete = TRUE WHERE id = $1")
                .bind(&output.command)
                .execute(&mut *self.0)
                .await?;
        }
        Ok(output.exit_code.is_some())
    }
}

impl Store {
    /// The newest events of a node, newest first.
    pub(crate) async fn events(&self, node: &NodeId, limit: u32) -> Result<Vec<NodeEvent>> {
        let rows = sqlx::query(
            "SELECT time, severity, reason, message FROM event WHERE node = $1
             ORDER BY sequence DESC, position DESC LIMIT $2",
        )
        .bind(node.as_str())
        .bind(limit)
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(NodeEvent {
                    time: clock::rfc3339(row.try_get("time")?),
                    severity: parse_severity(row.try_get("severity")?)?,
                    reason: row.try_get("reason")?,
                    message: row.try_get("message")?,
                })
            })
            .collect()
    }
}
