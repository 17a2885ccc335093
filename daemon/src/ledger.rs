//! What the node must remember across a power cut, in one SQLite file (WAL, `synchronous=FULL`): enrolment, the last
//! verified generation with every document that it needs, the outbox, the commands that were carried out, addresses.
//!
//! A generation is written in one transaction: whole or not at all, and never over a newer one. A file that is torn is
//! an error that names its cure, never silently a fresh one.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use cairn_model::{Digest, NodeId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::{
    Row, SqlitePool,
    sqlite::{
        SqliteConnectOptions, SqliteJournalMode, SqliteLockingMode, SqlitePoolOptions, SqliteSynchronous,
    },
};

mod outbox;
#[cfg(test)]
pub(crate) mod tests;

pub use outbox::{OutboxRow, RecordClass};

/// The only layout so far, kept in `PRAGMA user_version`.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS generation (
    id INTEGER PRIMARY KEY CHECK (id = 1), generation INTEGER NOT NULL, desired_state BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS documents (digest TEXT PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT, sequence INTEGER UNIQUE, class TEXT NOT NULL, report TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS commands (id TEXT PRIMARY KEY, claimed_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS restarts (unit TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS addresses (name TEXT PRIMARY KEY, slot INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file is there and is no sound database.
    #[error(
        "the ledger {path} is damaged ({finding}); the workloads that run go on. Check the disk, then move \
         ledger.sqlite* away and restart cairnd: the node fetches its state from the hub again"
    )]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What SQLite says.
        finding: String,
    },
    /// The file was made by a newer daemon.
    #[error(
        "the ledger {path} has version {found}, this cairnd knows {SCHEMA_VERSION}; install a newer cairnd"
    )]
    Newer {
        /// Where.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// A generation that is not newer than the one that is applied.
    #[error("generation {offered} is older than {applied}, which this node has applied; it is refused")]
    Older {
        /// What was offered.
        offered: u64,
        /// What is applied.
        applied: u64,
    },
    /// A stored value does not have its form.
    #[error("the ledger holds a {what} that does not parse; move ledger.sqlite* away and restart cairnd")]
    Content {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// SQLite failed: disk full, I/O error.
    #[error("failed to {action} in the ledger; check that the data partition has room and is writable")]
    Sql {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
}

type Result<T, E = LedgerError> = std::result::Result<T, E>;

/// Names the step in which SQLite failed.
fn doing(action: &'static str) -> impl FnOnce(sqlx::Error) -> LedgerError {
    move |source| LedgerError::Sql { action, source }
}

/// Where an enrolment with a hub is kept.
const ENROLMENT: &str = "enrolment";
/// Where one without is kept: a daemon that knows only those with a hub takes the node for new after its OS went back,
/// and leaves what runs alone, where it would refuse the whole ledger over an enrolment that it cannot read.
const ENROLMENT_BY_MEDIA: &str = "enrolment-by-media";
const HUB_WAS_LAST: &str = "hub-was-heard-last";

/// What enrolment gave; with it the node can reach and judge its hub.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Enrolment {
    /// The hub's address; absent for a node that only sticks come to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<url::Url>,
    /// The hub's CA, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// The id that the hub knows this node by.
    pub node: NodeId,
    /// The pinned first root of the director repository.
    pub director_root: Box<RawValue>,
    /// The pinned first root of the artifacts repository.
    pub artifacts_root: Box<RawValue>,
}

/// The last verified generation: enough to run it without network.
#[derive(Debug, Clone)]
pub struct StoredGeneration {
    /// Its number.
    pub generation: u64,
    /// The desired state as signed.
    pub desired_state: Vec<u8>,
    /// Manifests and configs by digest; each was checked when it was stored and is checked again on load.
    pub documents: BTreeMap<Digest, Vec<u8>>,
}

/// A handle on the open file; cheap to clone, one connection behind all of them.
#[derive(Debug, Clone)]
pub struct Ledger {
    pool: SqlitePool,
}

impl Ledger {
    /// Opens or creates the file, checks that it is sound, and brings it to this version's layout.
    pub async fn open(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            // Nobody else reads it. The index of the log is in memory then, not in a file that has to be made at each start:
            // a node whose disk is full could not open its ledger, and would run nothing after a reboot.
            .locking_mode(SqliteLockingMode::Exclusive)
            .statement_cache_capacity(16)
            // 256 KiB of pages: the ledger is small and so shall the daemon be.
            .pragma("cache_size", "-256");
        let damaged = |e: sqlx::Error| damaged_or(path, e, "open the file");
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(damaged)?;
        let finding: String =
            sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&pool).await.map_err(damaged)?;
        if finding != "ok" {
            return Err(LedgerError::Damaged { path: path.to_owned(), finding });
        }
        let found: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&pool).await.map_err(damaged)?;
        if found > SCHEMA_VERSION {
            return Err(LedgerError::Newer { path: path.to_owned(), found });
        }
        if found < SCHEMA_VERSION {
            sqlx::raw_sql(SCHEMA).execute(&pool).await.map_err(damaged)?;
            sqlx::raw_sql("PRAGMA user_version = 1").execute(&pool).await.map_err(damaged)?;
        }
        Ok(Self { pool })
    }

    /// Closes the file: what was written is in it, not in the write-ahead log.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// What enrolment gave, once there was one.
    pub async fn enrolment(&self) -> Result<Option<Enrolment>> {
        let bytes = match self.meta(ENROLMENT).await? {
            Some(bytes) => Some(bytes),
            None => self.meta(ENROLMENT_BY_MEDIA).await?,
        };
        let Some(bytes) = bytes else { return Ok(None) };
        let parsed = serde_json::from_slice(&bytes)
            .map_err(|source| LedgerError::Content { what: "enrolment", source })?;
        Ok(Some(parsed))
    }

    /// Remembers what enrolment gave.
    pub async fn set_enrolment(&self, enrolment: &Enrolment) -> Result<()> {
        let bytes = serde_json::to_vec(enrolment)
            .map_err(|source| LedgerError::Content { what: "enrolment", source })?;
        let (key, other) = match (&enrolment.hub, &enrolment.ca_pem) {
            (Some(_), Some(_)) => (ENROLMENT, ENROLMENT_BY_MEDIA),
            _ => (ENROLMENT_BY_MEDIA, ENROLMENT),
        };
        let write = || doing("write the enrolment");
        let mut tx = self.pool.begin().await.map_err(write())?;
        sqlx::query("DELETE FROM meta WHERE key = $1").bind(other).execute(&mut *tx).await.map_err(write())?;
        sqlx::query("INSERT OR REPLACE INTO meta (key, value) VALUES ($1, $2)")
            .bind(key)
            .bind(bytes)
            .execute(&mut *tx)
            .await
            .map_err(write())?;
        tx.commit().await.map_err(write())
    }

    /// Whether it was the hub itself that was believed last, and no stick; also where that was before this daemon began.
    pub async fn hub_was_heard_last(&self) -> Result<bool> {
        Ok(self.meta(HUB_WAS_LAST).await?.is_some_and(|value| value == [1]))
    }

    /// Remembers that; written only where it changes.
    pub async fn set_hub_was_heard_last(&self, hub: bool) -> Result<()> {
        if self.hub_was_heard_last().await? == hub {
            return Ok(());
        }
        self.set_meta(HUB_WAS_LAST, vec![u8::from(hub)]).await
    }

    /// The last verified generation.
    pub async fn generation(&self) -> Result<Option<StoredGeneration>> {
        let read = doing("read the generation");
        let row = sqlx::query("SELECT generation, desired_state FROM generation WHERE id = 1")
            .fetch_optional(&self.pool)
            .await
            .map_err(read)?;
        let Some(row) = row else { return Ok(None) };
        let rows = sqlx::query("SELECT digest, bytes FROM documents")
            .fetch_all(&self.pool)
            .await
            .map_err(doing("read the documents"))?;
        let mut documents = BTreeMap::new();
        for document in rows {
            let bytes: Vec<u8> = document.get(1);
            let digest = Digest::of(&bytes);
            if digest.as_str() != document.get::<String, _>(0) {
                let finding = format!("document {} does not have its digest", document.get::<String, _>(0));
                return Err(LedgerError::Damaged { path: "ledger.sqlite".into(), finding });
            }
            documents.insert(digest, bytes);
        }
        let generation = row.get::<i64, _>(0).unsigned_abs();
        Ok(Some(StoredGeneration { generation, desired_state: row.get(1), documents }))
    }

    /// Makes `new` the generation to run, with its documents and no others: in one transaction, and never over a newer
    /// one. The same number again is accepted, so that a repeat after a crash is no error.
    pub async fn accept(&self, new: &StoredGeneration) -> Result<()> {
        let write = || doing("store a generation");
        let mut tx = self.pool.begin().await.map_err(write())?;
        let applied: Option<i64> = sqlx::query_scalar("SELECT generation FROM generation WHERE id = 1")
            .fetch_optional(&mut *tx)
            .await
            .map_err(write())?;
        let applied = applied.map_or(0, i64::unsigned_abs);
        if new.generation < applied {
            return Err(LedgerError::Older { offered: new.generation, applied });
        }
        sqlx::query("INSERT OR REPLACE INTO generation (id, generation, desired_state) VALUES (1, $1, $2)")
            .bind(i64::try_from(new.generation).unwrap_or(i64::MAX))
            .bind(&new.desired_state)
            .execute(&mut *tx)
            .await
            .map_err(write())?;
        sqlx::query("DELETE FROM documents").execute(&mut *tx).await.map_err(write())?;
        for (digest, bytes) in &new.documents {
            sqlx::query("INSERT INTO documents (digest, bytes) VALUES ($1, $2)")
                .bind(digest.as_str())
                .bind(bytes)
                .execute(&mut *tx)
                .await
                .map_err(write())?;
        }
        tx.commit().await.map_err(write())
    }

    /// Claims a command: true exactly once for each id, ever. Claimed before it is carried out, because at most once
    /// is what is promised.
    pub async fn claim_command(&self, id: &str, now_seconds: i64) -> Result<bool> {
        let done = sqlx::query("INSERT OR IGNORE INTO commands (id, claimed_at) VALUES ($1, $2)")
            .bind(id)
            .bind(now_seconds)
            .execute(&self.pool)
            .await
            .map_err(doing("claim a command"))?;
        Ok(done.rows_affected() == 1)
    }

    /// How often each unit was restarted by the daemon.
    pub async fn restarts(&self) -> Result<BTreeMap<String, u32>> {
        let rows = sqlx::query("SELECT unit, count FROM restarts")
            .fetch_all(&self.pool)
            .await
            .map_err(doing("read restart counters"))?;
        Ok(rows
            .into_iter()
            .map(|row| (row.get(0), u32::try_from(row.get::<i64, _>(1)).unwrap_or(u32::MAX)))
            .collect())
    }

    /// Sets a unit's restart counter; 0 forgets it.
    pub async fn set_restarts(&self, unit: &str, count: u32) -> Result<()> {
        let query = if count == 0 {
            sqlx::query("DELETE FROM restarts WHERE unit = $1").bind(unit)
        } else {
            sqlx::query("INSERT OR REPLACE INTO restarts (unit, count) VALUES ($1, $2)")
                .bind(unit)
                .bind(i64::from(count))
        };
        query.execute(&self.pool).await.map_err(doing("write a restart counter")).map(drop)
    }

    /// Which slot of the address range each app (`app/<name>`) and unit (`unit/<name>`) has.
    pub async fn address_slots(&self) -> Result<BTreeMap<String, u16>> {
        let rows = sqlx::query("SELECT name, slot FROM addresses")
            .fetch_all(&self.pool)
            .await
            .map_err(doing("read addresses"))?;
        Ok(rows
            .into_iter()
            .filter_map(|row| Some((row.get(0), u16::try_from(row.get::<i64, _>(1)).ok()?)))
            .collect())
    }

    /// Replaces all address slots.
    pub async fn set_address_slots(&self, slots: &BTreeMap<String, u16>) -> Result<()> {
        let write = || doing("write addresses");
        let mut tx = self.pool.begin().await.map_err(write())?;
        sqlx::query("DELETE FROM addresses").execute(&mut *tx).await.map_err(write())?;
        for (name, slot) in slots {
            sqlx::query("INSERT INTO addresses (name, slot) VALUES ($1, $2)")
                .bind(name)
                .bind(i64::from(*slot))
                .execute(&mut *tx)
                .await
                .map_err(write())?;
        }
        tx.commit().await.map_err(write())
    }

    async fn meta(&self, key: &'static str) -> Result<Option<Vec<u8>>> {
        sqlx::query_scalar("SELECT value FROM meta WHERE key = $1")
            .bind(key)
            .fetch_optional(&self.pool)
            .await
            .map_err(doing("read a setting"))
    }

    async fn set_meta(&self, key: &'static str, value: Vec<u8>) -> Result<()> {
        sqlx::query("INSERT OR REPLACE INTO meta (key, value) VALUES ($1, $2)")
            .bind(key)
            .bind(value)
            .execute(&self.pool)
            .await
            .map_err(doing("write a setting"))
            .map(drop)
    }
}

/// SQLITE_CORRUPT and SQLITE_NOTADB mean that the file is damaged; all else that the disk or the system failed.
fn damaged_or(path: &Path, error: sqlx::Error, action: &'static str) -> LedgerError {
    let code = error.as_database_error().and_then(|e| e.code()).and_then(|c| c.parse::<i32>().ok());
    match code.map(|c| c & 0xff) {
        Some(11 | 26) => LedgerError::Damaged { path: path.to_owned(), finding: error.to_string() },
        _ => LedgerError::Sql { action, source: error },
    }
}
