//! The data partition after a cut: the trust state and the ledger, neither torn nor older than what was flushed.

use std::{collections::BTreeMap, fs, ops::Range, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};
use cairn_model::NodeId;
use cairn_tests_vm::replay::Disk;
use cairn_trust::node::Verifier;
use ext4_view::{Ext4, Ext4Read};
use serde_json::Value;
use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};

/// Below the mount point.
const STATE: &str = "/lib/cairn";

/// The partition, as the reader of ext4 takes it.
struct Volume {
    disk: Disk,
    start: u64,
}

impl Ext4Read for Volume {
    fn read(
        &mut self,
        start: u64,
        bytes: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        Ok(self.disk.read(self.start + start, bytes).map_err(|error| format!("{error:#}"))?)
    }
}

/// How far the node had got. Each number may only grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// By name: versions of trusted metadata, generation, records written to the outbox.
    pub numbers: BTreeMap<String, u64>,
}

impl Progress {
    /// Nothing that had been reached is lost.
    pub fn ensure_after(&self, earlier: &Self) -> Result<()> {
        for (name, reached) in &earlier.numbers {
            let now = self.numbers.get(name).copied().unwrap_or_default();
            ensure!(now >= *reached, "{name} went back from {reached} to {now}");
        }
        Ok(())
    }
}

/// Takes up the partition as the node would after the cut. `None` where the superblock was torn in the middle: the node
/// then has e2fsck repair it before it mounts.
pub fn open(disk: &Disk, range: Range<u64>) -> Result<Option<Ext4>> {
    match Ext4::load(Box::new(Volume { disk: disk.clone(), start: range.start })) {
        Ok(ext4) => Ok(Some(ext4)),
        Err(error) if error.to_string().contains("superblock checksum") => Ok(None),
        Err(error) => Err(error).context("the data partition does not parse"),
    }
}

/// Repairs a copy of the partition with the option that the appliance has (`fsck.repair=yes`), and takes it up. A torn
/// superblock takes e2fsck two runs: the first ends with an error once it has replayed the journal from a backup
/// superblock; the appliance restarts then, and the second finds nothing left.
pub fn repair(copy: &Path) -> Result<Ext4> {
    let mut said = String::new();
    for _ in 0..2 {
        let output = Command::new("e2fsck").arg("-y").arg(copy).output().context("failed to start e2fsck")?;
        if output.status.code().is_some_and(|code| code & !3 == 0) {
            return Ext4::load_from_path(copy).context("the repaired data partition does not parse");
        }
        said = String::from_utf8_lossy(&output.stdout).into_owned();
    }
    bail!("e2fsck gives up: {said}")
}

/// Reads what the node would find there, with `scratch` for copies of it.
pub async fn read(ext4: &Ext4, node: &NodeId, scratch: &Path) -> Result<Progress> {
    fs::remove_dir_all(scratch).ok();
    let mut numbers = BTreeMap::new();
    for repository in ["director", "artifacts"] {
        let (from, to) = (format!("{STATE}/trust/{repository}"), scratch.join("trust").join(repository));
        copy(ext4, &from, &to).with_context(|| format!("failed to read {from}"))?;
        for role in ["root", "timestamp", "snapshot", "targets"] {
            let Ok(bytes) = fs::read(to.join(format!("{role}.json"))) else { continue };
            let file: Value =
                serde_json::from_slice(&bytes).with_context(|| format!("{repository} {role}"))?;
            let version = file["signed"]["version"].as_u64().context("a role has a version")?;
            numbers.insert(format!("{repository} {role}"), version);
        }
    }
    // The node's own code must take it up: it refuses what is torn or older than it was.
    Verifier::open(&scratch.join("trust"), node.clone()).context("the trust state is refused")?;
    for file in ["ledger.sqlite", "ledger.sqlite-wal"] {
        match ext4.read(format!("{STATE}/{file}").as_str()) {
            Ok(bytes) => fs::write(scratch.join(file), bytes)?,
            Err(error) => ensure!(file.ends_with("-wal"), "the ledger is gone: {error}"),
        }
    }
    ledger(&scratch.join("ledger.sqlite"), &mut numbers).await.context("the ledger")?;
    if let Ok(state) = ext4.read(format!("{STATE}/os/state.json").as_str()) {
        serde_json::from_slice::<Value>(&state).context("the state of the update is torn")?;
    }
    Ok(Progress { numbers })
}

fn copy(ext4: &Ext4, from: &str, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in ext4.read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_regular_file() {
            let name = entry.file_name().as_str()?.to_owned();
            fs::write(to.join(name), ext4.read(&entry.path())?)?;
        }
    }
    Ok(())
}

async fn ledger(file: &Path, numbers: &mut BTreeMap<String, u64>) -> Result<()> {
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(false);
    let mut database = SqliteConnection::connect_with(&options).await?;
    let found: String = sqlx::query("PRAGMA integrity_check").fetch_one(&mut database).await?.get(0);
    ensure!(found == "ok", "it is damaged: {found}");
    for (name, query) in [
        ("generation", "SELECT COALESCE(MAX(generation), 0) FROM generation"),
        ("records", "SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'outbox'"),
    ] {
        let value: i64 = sqlx::query(query).fetch_one(&mut database).await?.get(0);
        numbers.insert(name.to_owned(), u64::try_from(value)?);
    }
    numbered(&mut database).await?;
    database.close().await?;
    Ok(())
}

/// The reports that have a number and wait to be acknowledged are all there, up to the last number that was given.
async fn numbered(database: &mut SqliteConnection) -> Result<()> {
    let row =
        sqlx::query("SELECT COUNT(*), MIN(sequence), MAX(sequence) FROM outbox WHERE sequence IS NOT NULL")
            .fetch_one(&mut *database)
            .await?;
    let (rows, first, last): (i64, Option<i64>, Option<i64>) = (row.get(0), row.get(1), row.get(2));
    let (Some(first), Some(last)) = (first, last) else { return Ok(()) };
    let next: Vec<u8> = sqlx::query("SELECT value FROM meta WHERE key = 'next-sequence'")
        .fetch_one(database)
        .await
        .context("reports have numbers, and the next one is not known")?
        .get(0);
    let next = i64::from_le_bytes(next.as_slice().try_into().context("the next number has another form")?);
    ensure!(
        last - first + 1 == rows && last + 1 == next,
        "{rows} reports are left of numbers {first} to {last}, and the next number is {next}"
    );
    Ok(())
}
