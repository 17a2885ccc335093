//! Apps at rest: every deployed version, where its replicas are, and what the scheduler said of it.

use std::collections::BTreeMap;

use cairn_model::{AppName, Digest, NodeId, ServiceName};
use sqlx::{Row, sqlite::SqliteRow};

use super::{Result, Store, Tx, parse_id, parse_json, to_json};

/// Versions of an app that are kept: enough for the last signed one to be among them where an operator signs by hand.
const VERSIONS_KEPT: i64 = 50;

/// An app as it was deployed once.
#[derive(Debug, Clone)]
pub(crate) struct AppVersion {
    /// Its name.
    pub(crate) app: AppName,
    /// 1 for the first.
    pub(crate) number: u64,
    /// Digest of its artifact's manifest.
    pub(crate) digest: Digest,
    /// The Compose file with images pinned, canonical JSON.
    pub(crate) document: String,
    /// The manifest that each service is pinned to.
    pub(crate) images: BTreeMap<ServiceName, Digest>,
    /// Unix milliseconds.
    pub(crate) deployed_at: i64,
    /// Name of the operator's token.
    pub(crate) deployed_by: String,
}

impl AppVersion {
    /// Every manifest that must be signed before a node accepts this version.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = &Digest> {
        std::iter::once(&self.digest).chain(self.images.values())
    }
}

/// What the scheduler last said of an app.
#[derive(Debug, Clone)]
pub(crate) struct AppRow {
    /// Its name.
    pub(crate) name: AppName,
    /// Replicas without a place.
    pub(crate) unplaced: u32,
    /// Why, in words with a cure.
    pub(crate) problems: Vec<String>,
}

/// One replica and its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PlacedReplica {
    /// Of which app.
    pub(crate) app: AppName,
    /// Of which service.
    pub(crate) service: ServiceName,
    /// Its index.
    pub(crate) replica: u32,
    /// Where.
    pub(crate) node: NodeId,
    /// The node's generation from which on it is as it is now.
    pub(crate) since: u64,
}

fn version(row: &SqliteRow) -> Result<AppVersion> {
    Ok(AppVersion {
        app: parse_id("app name", row.try_get("app")?)?,
        number: row.try_get::<i64, _>("number")?.cast_unsigned(),
        digest: parse_id("digest", row.try_get("digest")?)?,
        document: row.try_get("document")?,
        images: parse_json("digests", row.try_get("images")?)?,
        deployed_at: row.try_get("deployed_at")?,
        deployed_by: row.try_get("deployed_by")?,
    })
}

impl Store {
    /// All versions of all apps, newest first in each app.
    pub(crate) async fn app_versions(&self) -> Result<BTreeMap<AppName, Vec<AppVersion>>> {
        let rows = sqlx::query("SELECT * FROM app_version ORDER BY app, number DESC")
            .fetch_all(&self.readers)
            .await?;
        let mut apps: BTreeMap<AppName, Vec<AppVersion>> = BTreeMap::new();
        for row in &rows {
            let version = version(row)?;
            apps.entry(version.app.clone()).or_default().push(version);
        }
        Ok(apps)
    }

    /// The newest version of each app, by name.
    pub(crate) async fn latest_versions(&self) -> Result<Vec<AppVersion>> {
        let rows = sqlx::query(
            "SELECT v.* FROM app_version v
             WHERE v.number = (SELECT MAX(number) FROM app_version WHERE app = v.app) ORDER BY v.app",
        )
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(version).collect()
    }

    /// The newest version of one app.
    pub(crate) async fn latest_version(&self, app: &AppName) -> Result<Option<AppVersion>> {
        let row = sqlx::query("SELECT * FROM app_version WHERE app = $1 ORDER BY number DESC LIMIT 1")
            .bind(app.as_str())
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(version).transpose()
    }

    /// All versions of one app, newest first.
    pub(crate) async fn versions_of(&self, app: &AppName) -> Result<Vec<AppVersion>> {
        let rows = sqlx::query("SELECT * FROM app_version WHERE app = $1 ORDER BY number DESC")
            .bind(app.as_str())
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(version).collect()
    }

    /// What the scheduler last said of each app.
    pub(crate) async fn app_rows(&self) -> Result<BTreeMap<AppName, AppRow>> {
        let rows = sqlx::query("SELECT * FROM app").fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| {
                let name: AppName = parse_id("app name", row.try_get("name")?)?;
                let row = AppRow {
                    name: name.clone(),
                    unplaced: u32::try_from(row.try_get::<i64, _>("unplaced")?).unwrap_or(0),
                    problems: parse_json("problems", row.try_get("problems")?)?,
                };
                Ok((name, row))
            })
            .collect()
    }

    /// Every replica's place.
    pub(crate) async fn placements(&self) -> Result<Vec<PlacedReplica>> {
        let rows = sqlx::query("SELECT * FROM placement ORDER BY app, service, node, replica")
            .fetch_all(&self.readers)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(PlacedReplica {
                    app: parse_id("app name", row.try_get("app")?)?,
                    service: parse_id("service name", row.try_get("service")?)?,
                    replica: u32::try_from(row.try_get::<i64, _>("replica")?).unwrap_or(u32::MAX),
                    node: parse_id("node id", row.try_get("node")?)?,
                    since: row.try_get::<i64, _>("since")?.cast_unsigned(),
                })
            })
            .collect()
    }
}

impl Tx {
    /// The newest version of one app, as this transaction sees it.
    pub(crate) async fn latest_version(&mut self, app: &AppName) -> Result<Option<AppVersion>> {
        let row = sqlx::query("SELECT * FROM app_version WHERE app = $1 ORDER BY number DESC LIMIT 1")
            .bind(app.as_str())
            .fetch_optional(&mut *self.0)
            .await?;
        row.as_ref().map(version).transpose()
    }

    /// Adds a version, and the app where it is the first.
    pub(crate) async fn insert_version(&mut self, version: &AppVersion) -> Result<()> {
        sqlx::query("INSERT INTO app (name, unplaced, problems) VALUES ($1, 0, '[]') ON CONFLICT DO NOTHING")
            .bind(version.app.as_str())
            .execute(&mut *self.0)
            .await?;
        sqlx::query(
            "INSERT INTO app_version (app, number, digest, document, images, deployed_at, deployed_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(version.app.as_str())
        .bind(version.number.cast_signed())
        .bind(version.digest.as_str())
        .bind(&version.document)
        .bind(to_json(&version.images))
        .bind(version.deployed_at)
        .bind(&version.deployed_by)
        .execute(&mut *self.0)
        .await?;
        sqlx::query("DELETE FROM app_version WHERE app = $1 AND number <= $2")
            .bind(version.app.as_str())
            .bind(version.number.cast_signed() - VERSIONS_KEPT)
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    /// Takes an app away; its replicas go with the next look of the fleet's task.
    pub(crate) async fn delete_app(&mut self, app: &AppName) -> Result<()> {
        sqlx::query("DELETE FROM app_version WHERE app = $1")
            .bind(app.as_str())
            .execute(&mut *self.0)
            .await?;
        sqlx::query("DELETE FROM app WHERE name = $1").bind(app.as_str()).execute(&mut *self.0).await?;
        Ok(())
    }

    /// Writes down what the scheduler said of an app.
    pub(crate) async fn set_app_row(&mut self, row: &AppRow) -> Result<()> {
        sqlx::query("UPDATE app SET unplaced = $2, problems = $3 WHERE name = $1")
            .bind(row.name.as_str())
            .bind(i64::from(row.unplaced))
            .bind(to_json(&row.problems))
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    /// Takes a replica from its place.
    pub(crate) async fn delete_placement(&mut self, placed: &PlacedReplica) -> Result<()> {
        sqlx::query("DELETE FROM placement WHERE app = $1 AND service = $2 AND node = $3 AND replica = $4")
            .bind(placed.app.as_str())
            .bind(placed.service.as_str())
            .bind(placed.node.as_str())
            .bind(i64::from(placed.replica))
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    /// Gives a replica a place, or a newer `since` there.
    pub(crate) async fn upsert_placement(&mut self, placed: &PlacedReplica) -> Result<()> {
        sqlx::query(
            "INSERT INTO placement (app, service, replica, node, since) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (app, service, node, replica) DO UPDATE SET since = excluded.since",
        )
        .bind(placed.app.as_str())
        .bind(placed.service.as_str())
        .bind(i64::from(placed.replica))
        .bind(placed.node.as_str())
        .bind(placed.since.cast_signed())
        .execute(&mut *self.0)
        .await?;
        Ok(())
    }
}
