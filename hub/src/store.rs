//! The hub's database: SQLite by sqlx, its sole user. What a method has returned for is on disk (WAL, synchronous=FULL).
//!
//! Reads go through a small pool; writes through one connection, in transactions ([`Tx`]), so that no writer ever meets
//! another. The statements are portable: PostgreSQL can take the same text.

use std::{path::Path, time::Duration};

use sqlx::{
    Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

mod apps;
mod artifacts;
mod audit;
mod commands;
mod nodes;
mod os;
mod reports;
mod tokens;

pub(crate) use apps::{AppRow, AppVersion, PlacedReplica};
pub(crate) use artifacts::{BlobRow, ManifestRow};
pub(crate) use audit::Change;
pub(crate) use commands::NewCommand;
pub(crate) use nodes::{DesiredRow, NodeRow, NodeState, Way};
pub(crate) use os::{OsRow, ReleaseRow};
pub(crate) use tokens::{AccessTokenRow, EnrollTokenRow};

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Opening or migrating.
    #[error("failed to open database {path}")]
    Open {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The schema could not be brought up to date.
    #[error("failed to migrate the database; it may come from a newer cairn-hub: run that one")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A statement.
    #[error("a statement failed")]
    Sql(#[from] sqlx::Error),
    /// A value that this program did not write so.
    #[error("the database holds a {what} that cannot be read: {text:?}")]
    Corrupt {
        /// Of which kind.
        what: &'static str,
        /// The value, cut.
        text: String,
    },
}

/// What the store's methods return.
pub(crate) type Result<T> = std::result::Result<T, StoreError>;

/// The open database.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    readers: SqlitePool,
    writer: SqlitePool,
}

/// A transaction; dropped without [`Tx::commit`] it has never been.
pub(crate) struct Tx(Transaction<'static, Sqlite>);

impl Store {
    /// Opens the database at `path`, making it and bringing its schema up to date as needed.
    pub(crate) async fn open(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            // An acknowledged write survives a power cut, not only a crash of this process.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        let fail = |source| StoreError::Open { path: path.display().to_string(), source };
        let writer =
            SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await.map_err(fail)?;
        sqlx::migrate!("./migrations").run(&writer).await?;
        let readers =
            SqlitePoolOptions::new().max_connections(8).connect_with(options).await.map_err(fail)?;
        Ok(Self { readers, writer })
    }

    /// Starts a transaction that may write. There is one at a time: keep it short.
    pub(crate) async fn begin(&self) -> Result<Tx> {
        Ok(Tx(self.writer.begin().await?))
    }

    /// Whether the database answers.
    pub(crate) async fn check(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.readers).await?;
        Ok(())
    }

    /// Writes what is left and closes the files.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

impl Tx {
    /// Puts everything on disk.
    pub(crate) async fn commit(self) -> Result<()> {
        Ok(self.0.commit().await?)
    }
}

/// Reads a document or an id that this program wrote.
fn parse_json<T: serde::de::DeserializeOwned>(what: &'static str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|_| corrupt(what, text))
}

fn parse_id<T: std::str::FromStr>(what: &'static str, text: &str) -> Result<T> {
    text.parse().map_err(|_| corrupt(what, text))
}

fn corrupt(what: &'static str, text: &str) -> StoreError {
    StoreError::Corrupt { what, text: text.chars().take(80).collect() }
}

/// Writes a document; ours have string keys and no floats, so that this cannot fail.
fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

#[cfg(test)]
mod tests;
