//! OS releases at rest, and which of them each node shall run.

use cairn_model::{
    Digest, NodeId, Release,
    desired::{DesiredOs, OsHealth, RebootPolicy},
};
use sqlx::{Row, sqlite::SqliteRow};

use super::{Result, Store, Tx, parse_id, parse_json, to_json};

/// A release that was pushed.
#[derive(Debug, Clone)]
pub(crate) struct ReleaseRow {
    /// Digest of its manifest.
    pub(crate) digest: Digest,
    /// What it says of itself.
    pub(crate) release: Release,
    /// Unix milliseconds.
    pub(crate) pushed_at: i64,
}

/// The OS that a node shall run.
#[derive(Debug, Clone)]
pub(crate) struct OsRow {
    /// Which node.
    pub(crate) node: NodeId,
    /// What it is told.
    pub(crate) desired: DesiredOs,
    /// Unix milliseconds.
    pub(crate) set_at: i64,
    /// Name of the operator's token.
    pub(crate) set_by: String,
}

fn os_row(row: &SqliteRow) -> Result<OsRow> {
    let reboot: RebootPolicy = parse_json("reboot policy", row.try_get("reboot")?)?;
    let health: OsHealth = parse_json("health policy", row.try_get("health")?)?;
    let desired = DesiredOs {
        release: parse_id("digest", row.try_get("digest")?)?,
        version: parse_id("OS version", row.try_get("version")?)?,
        allow_downgrade: row.try_get("allow_downgrade")?,
        attempt: u32::try_from(row.try_get::<i64, _>("attempt")?).unwrap_or(u32::MAX),
        reboot,
        health,
    };
    Ok(OsRow {
        node: parse_id("node id", row.try_get("node")?)?,
        desired,
        set_at: row.try_get("set_at")?,
        set_by: row.try_get("set_by")?,
    })
}

impl Store {
    /// Every release, in no order.
    pub(crate) async fn releases(&self) -> Result<Vec<ReleaseRow>> {
        let rows = sqlx::query(
            "SELECT r.digest, r.document, m.pushed_at FROM os_release r JOIN manifest m ON m.digest = r.digest",
        )
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(ReleaseRow {
                    digest: parse_id("digest", row.try_get("digest")?)?,
                    release: parse_json("release", row.try_get("document")?)?,
                    pushed_at: row.try_get("pushed_at")?,
                })
            })
            .collect()
    }

    /// What every node shall run where somebody said so, by node.
    pub(crate) async fn os_rows(&self) -> Result<Vec<OsRow>> {
        let rows = sqlx::query("SELECT * FROM os_desired ORDER BY node").fetch_all(&self.readers).await?;
        rows.iter().map(os_row).collect()
    }

    /// What one node shall run, where somebody said so.
    pub(crate) async fn os_row(&self, node: &NodeId) -> Result<Option<OsRow>> {
        let row = sqlx::query("SELECT * FROM os_desired WHERE node = $1")
            .bind(node.as_str())
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(os_row).transpose()
    }

    /// A node that shall run that release, if any shall.
    pub(crate) async fn node_of_release(&self, digest: &Digest) -> Result<Option<NodeId>> {
        let row = sqlx::query("SELECT node FROM os_desired WHERE digest = $1 LIMIT 1")
            .bind(digest.as_str())
            .fetch_optional(&self.readers)
            .await?;
        row.map(|row| parse_id("node id", row.try_get("node")?)).transpose()
    }
}

impl Tx {
    /// Lists a manifest, whose row is there, as a release.
    pub(crate) async fn insert_release(&mut self, digest: &Digest, release: &Release) -> Result<()> {
        sqlx::query("INSERT INTO os_release (digest, document) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(digest.as_str())
            .bind(to_json(release))
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    /// What a node shall run, as this transaction sees it.
    pub(crate) async fn os_row(&mut self, node: &NodeId) -> Result<Option<OsRow>> {
        let row = sqlx::query("SELECT * FROM os_desired WHERE node = $1")
            .bind(node.as_str())
            .fetch_optional(&mut *self.0)
            .await?;
        row.as_ref().map(os_row).transpose()
    }

    /// Replaces what a node shall run.
    pub(crate) async fn set_os_row(&mut self, row: &OsRow) -> Result<()> {
        let desired = &row.desired;
        sqlx::query(
            "INSERT INTO os_desired
             (node, digest, version, allow_downgrade, attempt, reboot, health, set_at, set_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (node) DO UPDATE SET digest = excluded.digest, version = excluded.version,
                 allow_downgrade = excluded.allow_downgrade, attempt = excluded.attempt,
                 reboot = excluded.reboot, health = excluded.health, set_at = excluded.set_at,
                 set_by = excluded.set_by",
        )
        .bind(row.node.as_str())
        .bind(desired.release.as_str())
        .bind(desired.version.as_str())
        .bind(desired.allow_downgrade)
        .bind(i64::from(desired.attempt))
        .bind(to_json(&desired.reboot))
        .bind(to_json(&desired.health))
        .bind(row.set_at)
        .bind(&row.set_by)
        .execute(&mut *self.0)
        .await?;
        Ok(())
    }

    /// A number for a new attempt on a node: larger than all before.
    pub(crate) async fn next_os_attempt(&mut self, node: &NodeId) -> Result<u32> {
        let row =
            sqlx::query("UPDATE node SET os_attempt = os_attempt + 1 WHERE id = $1 RETURNING os_attempt")
                .bind(node.as_str())
                .fetch_one(&mut *self.0)
                .await?;
        Ok(u32::try_from(row.try_get::<i64, _>("os_attempt")?).unwrap_or(u32::MAX))
    }

    /// Leaves a node's OS to itself; returns what it should have run.
    pub(crate) async fn delete_os_row(&mut self, node: &NodeId) -> Result<Option<OsRow>> {
        let row = sqlx::query("DELETE FROM os_desired WHERE node = $1 RETURNING *")
            .bind(node.as_str())
            .fetch_optional(&mut *self.0)
            .await?;
        row.as_ref().map(os_row).transpose()
    }
}
