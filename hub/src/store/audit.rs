//! Who changed what: rows that only ever grow (triggers refuse anything else).

use cairn_model::api::AuditRow;
use serde_json::Value;
use sqlx::Row;

use super::{Result, Store, Tx, parse_json};
use crate::clock;

/// One change, to be written in the transaction that makes it.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    /// Name of the operator's token, or the node.
    pub(crate) actor: &'a str,
    /// Address of the client.
    pub(crate) origin: &'a str,
    /// `node.approve`, `app.deploy`, ….
    pub(crate) action: &'a str,
    /// What it was done to.
    pub(crate) subject: &'a str,
    /// Before, where there was something.
    pub(crate) before: Option<Value>,
    /// After, where there is something.
    pub(crate) after: Option<Value>,
}

impl Tx {
    /// Adds `change`.
    pub(crate) async fn audit(&mut self, now_ms: i64, change: Change<'_>) -> Result<()> {
        sqlx::query(
            "INSERT INTO audit (time, actor, origin, action, subject, before_state, after_state)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(now_ms)
        .bind(change.actor)
        .bind(change.origin)
        .bind(change.action)
        .bind(change.subject)
        .bind(change.before.map(|v| v.to_string()))
        .bind(change.after.map(|v| v.to_string()))
        .execute(&mut *self.0)
        .await?;
        Ok(())
    }
}

impl Store {
    /// The newest `limit` rows, newest first.
    pub(crate) async fn audit_rows(&self, limit: u32) -> Result<Vec<AuditRow>> {
        let rows = sqlx::query(
            "SELECT id, time, actor, origin, action, subject, before_state, after_state
             FROM audit ORDER BY id DESC LIMIT $1",
        )
        .bind(limit)
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                let state = |name: &str| -> Result<Option<Value>> {
                    row.try_get::<Option<String>, _>(name)?.map(|t| parse_json("audit state", &t)).transpose()
                };
                Ok(AuditRow {
                    id: row.try_get("id")?,
                    time: clock::rfc3339(row.try_get("time")?),
                    actor: row.try_get("actor")?,
                    from: row.try_get("origin")?,
                    action: row.try_get("action")?,
                    subject: row.try_get("subject")?,
                    before: state("before_state")?,
                    after: state("after_state")?,
                })
            })
            .collect()
    }
}
