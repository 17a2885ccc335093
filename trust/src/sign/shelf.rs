//! A folder of published metadata: what is read from it when signing, and in which order files are put into it.

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::de::DeserializeOwned;
use tough::schema::Signed;

use super::SignError;
use crate::durable;

/// Largest file that is read back.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// How many versions of targets and snapshot stay, for clients that are in the middle of an update.
const KEPT_VERSIONS: u64 = 8;

/// A folder of published metadata.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    pub(super) folder: PathBuf,
}

impl Shelf {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, SignError> {
        let path = self.path(name);
        match durable::read(&path, MAX_FILE_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(None),
            read => read.map_err(|source| SignError::Io { action: "read", path, source }),
        }
    }

    pub(super) fn required(&self, name: &str) -> Result<Vec<u8>, SignError> {
        let missing = || SignError::Damaged { path: self.path(name), what: "it is missing".into() };
        self.read(name)?.ok_or_else(missing)
    }

    pub(super) fn parse<T: DeserializeOwned>(&self, name: &str, bytes: &[u8]) -> Result<T, SignError> {
        let file: Signed<T> = serde_json::from_slice(bytes)
            .map_err(|error| SignError::Damaged { path: self.path(name), what: error.to_string() })?;
        Ok(file.signed)
    }

    /// Puts files in place, one after the other, each durable before the next: what a file names is there before it.
    pub(super) fn put(&self, files: &[(String, impl AsRef<[u8]>)]) -> Result<(), SignError> {
        for (name, bytes) in files {
            let path = self.path(name);
            let io = |action| {
                let path = path.clone();
                move |source| SignError::Io { action, path, source }
            };
            let folder = path.parent().unwrap_or(Path::new("."));
            durable::create_folder(folder, 0o755).map_err(io("make the folder of"))?;
            durable::write(&path, bytes.as_ref(), durable::PUBLIC).map_err(io("write"))?;
        }
        Ok(())
    }

    /// The newest root and its version.
    pub(super) fn newest_root(&self) -> Result<Option<(u64, Vec<u8>)>, SignError> {
        let newest = self.versions("root.json")?.into_iter().max();
        newest.map(|version| Ok((version, self.required(&format!("{version}.root.json"))?))).transpose()
    }

    /// The versions N of which there is a file `N.<name>`.
    pub(super) fn versions(&self, name: &str) -> Result<Vec<u64>, SignError> {
        let io = |source| SignError::Io { action: "list", path: self.folder.clone(), source };
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io)?,
        };
        let mut versions = Vec::new();
        for entry in entries {
            let file = entry.map_err(io)?.file_name();
            let version =
                file.to_str().and_then(|file| file.split_once('.')).filter(|(_, rest)| *rest == name);
            versions.extend(version.and_then(|(version, _)| version.parse::<u64>().ok()));
        }
        Ok(versions)
    }

    /// Removes what no client can be in the middle of any more. Best effort: what is left over harms nobody.
    pub(super) fn prune(&self, name: &str, newest: u64) {
        for old in self.versions(name).unwrap_or_default() {
            if old.saturating_add(KEPT_VERSIONS) <= newest {
                let _ = std::fs::remove_file(self.path(&format!("{old}.{name}")));
            }
        }
    }
}

impl Shelf {
    /// As [`Shelf::prune`], for documents that are named by their hash: `current`, which is published now, stays, and of
    /// the others the youngest. Their order is that of the file system's times, which is good enough for what is kept
    /// only for clients in the middle of an update; those from a future that a clock was set back from go first.
    pub(super) fn prune_documents(&self, folder: &str, current: &str) {
        let Ok(entries) = std::fs::read_dir(self.path(folder)) else { return };
        let now = SystemTime::now();
        let age = |entry: std::fs::DirEntry| {
            let modified = entry.metadata().ok()?.modified().ok()?;
            Some((modified <= now, modified, entry.path()))
        };
        let others = entries.flatten().filter(|entry| entry.file_name() != current);
        let mut others: Vec<_> = others.filter_map(age).collect();
        others.sort();
        let kept = usize::try_from(KEPT_VERSIONS - 1).unwrap_or(usize::MAX);
        let surplus = others.len().saturating_sub(kept);
        for (_, _, path) in others.drain(..surplus) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Whether `name` is a file that a client may ask for, apart from `timestamp.json`.
pub(super) fn is_versioned(name: &str, kinds: &[&str]) -> bool {
    name.split_once('.').is_some_and(|(version, kind)| {
        (1..=20).contains(&version.len())
            && version.bytes().all(|b| b.is_ascii_digit())
            && kinds.contains(&kind)
    })
}
