//! `state.json`: what the updater remembers across restarts. A file that is lost or torn is no failure: what counts is on
//! the ESP and in the boot records, and what is remembered is made anew from those.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use cairn_model::{Digest, report::OsState};
use fail::fail_point;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

use super::state::Attempt;

/// The `schema` number. Fields may be added without a new one: an older OS that the node went back to reads what it
/// knows and leaves out the rest.
const SCHEMA: u32 = 1;

/// Largest file that is read; over twice what can be written.
const MAX_BYTES: u64 = 1 << 20;

/// Most failed releases that are remembered, the latest first.
const MAX_FAILURES: usize = 32;

/// Longest reason that is kept, in characters.
const MAX_REASON: usize = 4096;

/// A release that failed on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) digest: Digest,
    /// Number of the attempt that failed.
    #[serde(default)]
    pub(super) attempt: u32,
    #[serde(default)]
    pub(super) reason: String,
}

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) schema: u32,
    /// One that a newer OS wrote so that it cannot be read here is none; the rest is kept.
    #[serde(default, deserialize_with = "lenient")]
    pub(super) attempt: Option<Attempt>,
    #[serde(default, deserialize_with = "readable")]
    pub(super) failures: Vec<Failure>,
    /// Root hash of a corrupt slot that was reported.
    #[serde(default)]
    pub(super) fell_over: Option<String>,
}

impl Saved {
    /// Remembers that a release failed.
    pub(super) fn failed(&mut self, digest: &Digest, attempt: u32, reason: &str) {
        self.failures.retain(|failure| failure.digest != *digest);
        self.failures.insert(0, Failure { digest: digest.clone(), attempt, reason: bounded(reason) });
        self.failures.truncate(MAX_FAILURES);
    }

    /// Nothing was ever recorded, or it was lost.
    pub(super) fn is_new(&self) -> bool {
        self.schema == 0
    }

    /// Why a release must not be tried with this number, where only its boot entry tells: what was recorded was lost.
    pub(super) fn forgotten_failure(&self, root_hash: &str, attempt: u32) -> Option<String> {
        let failed = self.attempt.as_ref().filter(|old| {
            old.state == OsState::RolledBack && old.digest.is_none() && old.root_hash == root_hash
        })?;
        (failed.attempt >= attempt).then(|| failed.detail.clone().unwrap_or_default())
    }

    /// Why a release must not be tried with this number.
    pub(super) fn failure(&self, digest: &Digest, attempt: u32) -> Option<&Failure> {
        self.failures.iter().find(|failure| failure.digest == *digest && failure.attempt >= attempt)
    }
}

/// A value that cannot be read is none: it was written by a newer OS, which knows more.
pub(super) fn lenient<'de, T: DeserializeOwned, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    serde_json::Value::deserialize(from).map(|value| serde_json::from_value(value).ok())
}

/// Those of a list that can be read.
fn readable<'de, T: DeserializeOwned, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    let values = Vec::<serde_json::Value>::deserialize(from)?;
    Ok(values.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect())
}

/// The beginning of a reason, as long as one is kept.
pub(super) fn bounded(reason: &str) -> String {
    reason.chars().take(MAX_REASON).collect()
}

/// The folder in which the state is kept.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
}

impl Store {
    /// Makes the folder where it is not there.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.join("state.json")
    }

    /// What is remembered, or why nothing is.
    pub(super) fn read(&self) -> Result<Saved, String> {
        let mut bytes = Vec::new();
        let file = match File::open(self.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Saved::default()),
            Err(error) => return Err(error.to_string()),
        };
        file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        let saved: Saved = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        match saved.schema {
            SCHEMA => Ok(saved),
            other => Err(format!("its schema is {other}")),
        }
    }

    /// Writes it so that a power cut leaves the old or the new one.
    pub(super) fn write(&self, saved: &Saved) -> io::Result<()> {
        fail_point!("ota::state-write", |code: Option<String>| Err(io::Error::from_raw_os_error(
            code.and_then(|code| code.parse().ok()).unwrap_or(nix::libc::EIO)
        )));
        let bytes = serde_json::to_vec_pretty(&Saved { schema: SCHEMA, ..saved.clone() })?;
        write_durably(&self.path(), &bytes)?;
        fail_point!("ota::state-written", |_| Err(io::Error::other("a fault point")));
        Ok(())
    }
}

/// Replaces a file: a power cut leaves the old or the new one.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}
