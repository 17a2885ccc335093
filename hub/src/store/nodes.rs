//! Nodes at rest, and what is desired of each.

use std::collections::BTreeMap;

use cairn_model::{Digest, Facts, NodeId, media::Freshness, report::NodeStatus};
use sqlx::{Row, sqlite::SqliteRow};

use super::{Result, Store, Tx, corrupt, parse_id, parse_json, to_json};

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeState {
    /// Waits for an operator.
    Pending,
    /// A member.
    Approved,
    /// Was taken out; its row stays so that its generation never goes back.
    Removed,
}

impl NodeState {
    /// The text form, in the database and in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Removed => "removed",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        match text {
            "pending" => Ok(Self::Pending),
            "approved" => Ok(Self::Approved),
            "removed" => Ok(Self::Removed),
            other => Err(corrupt("node state", other)),
        }
    }
}

/// The way on which a node was last heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// It asked by itself.
    Network,
    /// What it says came by stick.
    Stick {
        /// When its newest report was made, by its own clock, in Unix milliseconds; absent where only its enrolment came.
        reported_at: Option<i64>,
    },
}

impl Way {
    fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Stick { .. } => "stick",
        }
    }

    fn reported_at(self) -> Option<i64> {
        match self {
            Self::Network => None,
            Self::Stick { reported_at } => reported_at,
        }
    }

    fn parse(text: &str, reported_at: Option<i64>) -> Result<Self> {
        match text {
            "network" => Ok(Self::Network),
            "stick" => Ok(Self::Stick { reported_at }),
            other => Err(corrupt("way of a node", other)),
        }
    }
}

/// A node at rest, without the document that is desired of it.
#[derive(Debug, Clone)]
pub(crate) struct NodeRow {
    /// Its id.
    pub(crate) id: NodeId,
    /// Its raw Ed25519 key, base64url.
    pub(crate) public_key: String,
    /// Where it stands.
    pub(crate) state: NodeState,
    /// Labels by operators and tokens.
    pub(crate) labels: BTreeMap<String, String>,
    /// What it says of itself.
    pub(crate) facts: Facts,
    /// Unix milliseconds.
    pub(crate) enrolled_at: i64,
    /// Unix milliseconds; as of the last flush.
    pub(crate) last_seen: Option<i64>,
    /// On which way; absent for never.
    pub(crate) heard_by: Option<Way>,
    /// How long metadata for it holds.
    pub(crate) freshness: Freshness,
    /// The highest report that is stored.
    pub(crate) acknowledged: u64,
    /// What it last reported.
    pub(crate) status: Option<NodeStatus>,
    /// The generation that is wanted there; 0 before the first.
    pub(crate) generation: u64,
}

impl NodeRow {
    /// The labels that count: the hub's over the node's own.
    pub(crate) fn effective_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.facts.labels.clone();
        labels.extend(self.labels.clone());
        labels
    }
}

/// What is desired of a node, as it is to be signed.
#[derive(Debug, Clone)]
pub(crate) struct DesiredRow {
    /// Of which node.
    pub(crate) node: NodeId,
    /// Its generation.
    pub(crate) generation: u64,
    /// `desired-state.json`, byte for byte.
    pub(crate) document: String,
    /// Every manifest that it needs.
    pub(crate) needs: Vec<Digest>,
}

fn node(row: &SqliteRow) -> Result<NodeRow> {
    let status: Option<String> = row.try_get("status")?;
    let heard_by: Option<String> = row.try_get("heard_by")?;
    let reported_at: Option<i64> = row.try_get("reported_at")?;
    Ok(NodeRow {
        id: parse_id("node id", row.try_get("id")?)?,
        public_key: row.try_get("public_key")?,
        state: NodeState::parse(row.try_get("state")?)?,
        labels: parse_json("labels", row.try_get("labels")?)?,
        facts: parse_json("facts", row.try_get("facts")?)?,
        enrolled_at: row.try_get("enrolled_at")?,
        last_seen: row.try_get("last_seen")?,
        heard_by: heard_by.map(|text| Way::parse(&text, reported_at)).transpose()?,
        freshness: parse_json("freshness", row.try_get("freshness")?)?,
        acknowledged: row.try_get::<i64, _>("acknowledged")?.cast_unsigned(),
        status: status.map(|t| parse_json("status", &t)).transpose()?,
        generation: row.try_get::<i64, _>("generation")?.cast_unsigned(),
    })
}

fn desired(row: &SqliteRow) -> Result<DesiredRow> {
    Ok(DesiredRow {
        node: parse_id("node id", row.try_get("id")?)?,
        generation: row.try_get::<i64, _>("generation")?.cast_unsigned(),
        document: row.try_get("desired")?,
        needs: parse_json("digests", row.try_get("needs")?)?,
    })
}

impl Store {
    /// Every node but the removed ones, by id.
    pub(crate) async fn nodes(&self) -> Result<Vec<NodeRow>> {
        let rows = sqlx::query("SELECT * FROM node WHERE state <> 'removed' ORDER BY id")
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(node).collect()
    }

    /// One node, removed or not.
    pub(crate) async fn node(&self, id: &NodeId) -> Result<Option<NodeRow>> {
        let row = sqlx::query("SELECT * FROM node WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(node).transpose()
    }

    /// The generation that is signed and served for a node.
    pub(crate) async fn published_generation(&self, id: &NodeId) -> Result<u64> {
        let row = sqlx::query("SELECT published FROM node WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(&self.readers)
            .await?;
        Ok(row.map(|r| r.try_get::<i64, _>("published")).transpose()?.unwrap_or(0).cast_unsigned())
    }

    /// What is desired of one member, if anything ever was, and the generation that is signed and served for it.
    pub(crate) async fn desired_of(&self, id: &NodeId) -> Result<Option<(DesiredRow, u64)>> {
        let row = sqlx::query(
            "SELECT id, generation, desired, needs, published FROM node
             WHERE id = $1 AND state = 'approved' AND desired IS NOT NULL",
        )
        .bind(id.as_str())
        .fetch_optional(&self.readers)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((desired(&row)?, row.try_get::<i64, _>("published")?.cast_unsigned())))
    }

    /// What is desired of every member that has a generation.
    pub(crate) async fn desired(&self) -> Result<Vec<DesiredRow>> {
        let rows = sqlx::query(
            "SELECT id, generation, desired, needs FROM node WHERE state = 'approved' AND desired IS NOT NULL",
        )
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(desired).collect()
    }

    /// Every manifest that a node needs.
    pub(crate) async fn needs(&self, id: &NodeId) -> Result<Vec<Digest>> {
        let row = sqlx::query("SELECT needs FROM node WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(&self.readers)
            .await?;
        row.map_or_else(|| Ok(Vec::new()), |row| parse_json("digests", row.try_get("needs")?))
    }

    /// What is desired but not yet signed and served.
    pub(crate) async fn unpublished(&self) -> Result<Vec<DesiredRow>> {
        let rows = sqlx::query(
            "SELECT id, generation, desired, needs FROM node
             WHERE state = 'approved' AND desired IS NOT NULL AND published < generation ORDER BY id",
        )
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(desired).collect()
    }

    /// Writes down when nodes last asked by themselves. Not worth a transaction of its own each.
    pub(crate) async fn save_last_seen(&self, seen: &[(NodeId, i64)]) -> Result<()> {
        let mut tx = self.begin().await?;
        for (id, at) in seen {
            // Unless a stick came since.
            sqlx::query(
                "UPDATE node SET last_seen = $2, heard_by = 'network', reported_at = NULL
                 WHERE id = $1 AND (heard_by IS NULL OR heard_by <> 'stick' OR last_seen <= $2)",
            )
            .bind(id.as_str())
            .bind(at)
            .execute(&mut *tx.0)
            .await?;
        }
        tx.commit().await
    }
}

impl Tx {
    /// One node, removed or not, as this transaction sees it.
    pub(crate) async fn node(&mut self, id: &NodeId) -> Result<Option<NodeRow>> {
        let row = sqlx::query("SELECT * FROM node WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(&mut *self.0)
            .await?;
        row.as_ref().map(node).transpose()
    }

    /// Adds a node, or takes a removed one in again; its generation and its acknowledged sequence stay.
    pub(crate) async fn enroll_node(&mut self, node: &NodeRow) -> Result<()> {
        sqlx::query(
            "INSERT INTO node (id, public_key, state, labels, facts, enrolled_at, last_seen, acknowledged, status,
                               generation, published, desired, needs, heard_by, reported_at, freshness)
             VALUES ($1, $2, $3, $4, $5, $6, $6, 0, NULL, 0, 0, NULL, '[]', $7, $8, $9)
             ON CONFLICT (id) DO UPDATE SET state = excluded.state, labels = excluded.labels,
                 facts = excluded.facts, enrolled_at = excluded.enrolled_at, last_seen = excluded.last_seen,
                 heard_by = excluded.heard_by, reported_at = excluded.reported_at,
                 freshness = excluded.freshness",
        )
        .bind(node.id.as_str())
        .bind(&node.public_key)
        .bind(node.state.as_str())
        .bind(to_json(&node.labels))
        .bind(to_json(&node.facts))
        .bind(node.enrolled_at)
        .bind(node.heard_by.map(Way::as_str))
        .bind(node.heard_by.and_then(Way::reported_at))
        .bind(to_json(&node.freshness))
        .execute(&mut *self.0)
        .await?;
        Ok(())
    }

    /// Moves a node to `state`.
    pub(crate) async fn set_node_state(&mut self, id: &NodeId, state: NodeState) -> Result<()> {
        sqlx::query("UPDATE node SET state = $2 WHERE id = $1")
            .bind(id.as_str())
            .bind(state.as_str())
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    /// Sets how long metadata for a node holds.
    pub(crate) async fn set_node_freshness(&mut self, id: &NodeId, freshness: Freshness) -> Result<()> {
        sqlx::query("UPDATE node SET freshness = $2 WHERE id = $1")
            .bind(id.as_str())
            .bind(to_json(&freshness))
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    /// Writes down that reports of a node came by stick at `now_ms`; the newest was made at `reported_at` by its clock.
    pub(crate) async fn heard_by_stick(&mut self, id: &NodeId, now_ms: i64, reported_at: i64) -> Result<()> {
        sqlx::query("UPDATE node SET last_seen = $2, heard_by = 'stick', reported_at = $3 WHERE id = $1")
            .bind(id.as_str())
            .bind(now_ms)
            .bind(reported_at)
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    /// Replaces a node's labels.
    pub(crate) async fn set_node_labels(
        &mut self,
        id: &NodeId,
        labels: &BTreeMap<String, String>,
    ) -> Result<()> {
        sqlx::query("UPDATE node SET labels = $2 WHERE id = $1")
            .bind(id.as_str())
            .bind(to_json(labels))
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    /// Replaces what is desired of a node. It is served only once it is signed ([`Tx::mark_published`]).
    pub(crate) async fn set_desired(&mut self, desired: &DesiredRow) -> Result<()> {
        sqlx::query("UPDATE node SET generation = $2, desired = $3, needs = $4 WHERE id = $1")
            .bind(desired.node.as_str())
            .bind(desired.generation.cast_signed())
            .bind(&desired.document)
            .bind(to_json(&desired.needs))
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    /// Writes down that the signed files of `generation` are on disk.
    pub(crate) async fn mark_published(&mut self, id: &NodeId, generation: u64) -> Result<()> {
        sqlx::query("UPDATE node SET published = $2 WHERE id = $1 AND published < $2")
            .bind(id.as_str())
            .bind(generation.cast_signed())
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }
}
