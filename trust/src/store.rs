//! Trusted metadata of one repository on disk, the state that rollback protection rests on.
//!
//! Beside the metadata (`root.json`, `timestamp.json`, `snapshot.json`, `targets.json`, `<delegate>.json`) lies
//! [`STATE_FILE`], which names each of them with its SHA-256 and carries a checksum of itself. A change is written as:
//! state with old and new hashes, the files, state with the new hashes; each step synced. So a power cut at any instant
//! leaves a store that opens, either with the old file or with the new one, while a file that is torn, missing, swapped
//! or put back from an earlier day is an error that names its cure. Nothing is ever reset on its own.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::durable;

/// The file that says what the others must be. Its name does not end in `.json`: it is no metadata.
pub const STATE_FILE: &str = "trusted.state";
/// The trusted root.
pub const ROOT: &str = "root.json";

const SCHEMA: u32 = 1;
/// A state names a few dozen roles at most.
const MAX_STATE_BYTES: u64 = 1 << 20;
/// No metadata file that was ever accepted is larger.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no state, so nothing is known of what was trusted before.
    #[error(
        "{folder} holds no trusted state ({STATE_FILE} is missing); restore the folder from a backup, or remove it and enrol the node again"
    )]
    Missing {
        /// The store's folder.
        folder: PathBuf,
    },
    /// The state or a file is damaged, or not the one that was trusted last.
    #[error(
        "{path} is not what was trusted last ({what}); rollback protection would be lost: restore {folder} from a backup, or remove it and enrol the node again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The store's folder.
        folder: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The folder is initialised with another root, or holds something else.
    #[error(
        "{folder} is in use already, with another root; remove it if this node is to trust a new repository"
    )]
    Occupied {
        /// The store's folder.
        folder: PathBuf,
    },
    /// A role's name makes no file name.
    #[error("the role name {role:?} cannot be kept as a file; rename the role")]
    BadName {
        /// The role.
        role: String,
    },
    /// Reading or writing failed.
    #[error("failed to {action} {path}; check the disk and its free space")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// One file of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Hex SHA-256 of the file, empty where there was none before.
    sha256: String,
    /// Hex SHA-256 of the file that is being put in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    schema: u32,
    /// Hex SHA-256 of the root that was pinned at the beginning.
    pinned: String,
    files: BTreeMap<String, Entry>,
}

/// The metadata that one repository has been trusted with so far. One process at a time.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    state: State,
    files: BTreeMap<String, Vec<u8>>,
}

impl Store {
    /// Pins `root` in `folder`. Doing it again with the same root is nothing; with another it is refused.
    pub fn init(folder: &Path, root: &[u8]) -> Result<Self, StoreError> {
        let pinned = hash(root);
        match Self::load(folder) {
            Ok(mut store) if store.state.pinned == pinned => {
                // A power cut during the first commit leaves a state that awaits its root.
                if store.file(ROOT).is_none() {
                    store.commit(&[(ROOT.to_owned(), root.to_vec())])?;
                }
                return Ok(store);
            }
            Ok(_) => return Err(StoreError::Occupied { folder: folder.to_owned() }),
            Err(StoreError::Missing { .. }) => {}
            Err(other) => return Err(other),
        }
        // Metadata without a state is what is left when somebody deletes the state: not a fresh folder.
        let left_over = match durable::read(&folder.join(ROOT), MAX_FILE_BYTES) {
            Ok(there) => {
                there.is_some_and(|bytes| hash(&bytes) != pinned) || folder.join("timestamp.json").exists()
            }
            Err(source) => return Err(StoreError::Io { action: "read", path: folder.join(ROOT), source }),
        };
        if left_over {
            return Err(StoreError::Missing { folder: folder.to_owned() });
        }
        durable::create_folder(folder, 0o700).map_err(|source| StoreError::Io {
            action: "create",
            path: folder.to_owned(),
            source,
        })?;
        let state = State { schema: SCHEMA, pinned, files: BTreeMap::new() };
        let mut store = Self { folder: folder.to_owned(), state, files: BTreeMap::new() };
        store.commit(&[(ROOT.to_owned(), root.to_vec())])?;
        Ok(store)
    }

    /// Opens an initialised store; anything missing, torn or swapped is an error.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let store = Self::load(folder)?;
        if store.file(ROOT).is_none() {
            return Err(StoreError::Missing { folder: folder.to_owned() });
        }
        Ok(store)
    }

    fn load(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(STATE_FILE);
        let bytes = durable::read(&path, MAX_STATE_BYTES)
            .map_err(|source| StoreError::Io { action: "read", path: path.clone(), source })?
            .ok_or_else(|| StoreError::Missing { folder: folder.to_owned() })?;
        let damaged = |what| StoreError::Damaged { path: path.clone(), folder: folder.to_owned(), what };
        let mut state = decode(&bytes).map_err(damaged)?;
        if !state.files.contains_key(ROOT) {
            return Err(damaged("it names no root"));
        }
        let mut files = BTreeMap::new();
        for (name, entry) in &mut state.files {
            let bytes = read_file(folder, name)?;
            settle(entry, bytes.as_deref()).map_err(|what| StoreError::Damaged {
                path: folder.join(name),
                folder: folder.to_owned(),
                what,
            })?;
            if let Some(bytes) = bytes {
                files.insert(name.clone(), bytes);
            }
        }
        state.files.retain(|_, entry| !entry.sha256.is_empty());
        Ok(Self { folder: folder.to_owned(), state, files })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What was trusted last under `name` (`root.json`, …).
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }

    /// Replaces files, so that after a power cut each is the old or the new one and the store still opens.
    pub fn commit(&mut self, changes: &[(String, Vec<u8>)]) -> Result<(), StoreError> {
        let changes: Vec<_> = changes.iter().filter(|(n, bytes)| self.file(n) != Some(bytes)).collect();
        if changes.is_empty() {
            return Ok(());
        }
        let mut state = self.state.clone();
        for (name, bytes) in &changes {
            if !is_file_name(name) {
                return Err(StoreError::BadName { role: name.clone() });
            }
            let empty = || Entry { sha256: String::new(), next: None };
            state.files.entry(name.clone()).or_insert_with(empty).next = Some(hash(bytes));
        }
        self.write_state(&state)?;
        for (name, bytes) in &changes {
            let path = self.folder.join(name);
            durable::write_unsynced(&path, bytes, durable::PRIVATE).map_err(|source| StoreError::Io {
                action: "write",
                path,
                source,
            })?;
        }
        for entry in state.files.values_mut() {
            if let Some(next) = entry.next.take() {
                entry.sha256 = next;
            }
        }
        // Syncs the folder, and with it the renames of the files, before the old hashes are forgotten: the state's own
        // rename cannot be durable before theirs.
        durable::sync_folder(&self.folder.join(STATE_FILE)).map_err(|source| StoreError::Io {
            action: "sync",
            path: self.folder.clone(),
            source,
        })?;
        self.write_state(&state)?;
        self.state = state;
        self.files.extend(changes.into_iter().cloned());
        Ok(())
    }

    fn write_state(&self, state: &State) -> Result<(), StoreError> {
        let path = self.folder.join(STATE_FILE);
        durable::write(&path, encode(state).as_bytes(), durable::PRIVATE).map_err(|source| StoreError::Io {
            action: "write",
            path,
            source,
        })
    }
}

/// Decides what a file is after a crash: the old one, the new one, or neither, which is an error.
fn settle(entry: &mut Entry, bytes: Option<&[u8]>) -> Result<(), &'static str> {
    let next = entry.next.take();
    match bytes.map(hash) {
        None if entry.sha256.is_empty() => Ok(()),
        None => Err("it is missing"),
        Some(found) if found == entry.sha256 => Ok(()),
        Some(found) if next.as_ref() == Some(&found) => {
            entry.sha256 = found;
            Ok(())
        }
        Some(_) => Err("its content is another"),
    }
}

fn read_file(folder: &Path, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let path = folder.join(name);
    durable::read(&path, MAX_FILE_BYTES).map_err(|source| StoreError::Io { action: "read", path, source })
}

/// Ending in `.json`, a name can be neither the state's, nor a temporary file's, nor `.` or `..`.
fn is_file_name(name: &str) -> bool {
    name.len() <= 200 && name.ends_with(".json") && !name.contains(['/', '\0'])
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// One line with the checksum of the rest, then the state.
fn encode(state: &State) -> String {
    // A struct of strings and numbers always serialises.
    let body = serde_json::to_string(state).unwrap_or_default();
    format!("{}\n{body}\n", hash(body.as_bytes()))
}

fn decode(bytes: &[u8]) -> Result<State, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is torn")?;
    let (sum, body) = text.strip_suffix('\n').and_then(|t| t.split_once('\n')).ok_or("it is torn")?;
    if hash(body.as_bytes()) != sum {
        return Err("its checksum is wrong");
    }
    let state: State = serde_json::from_str(body).map_err(|_| "its form is unknown")?;
    if state.schema != SCHEMA {
        return Err("it was written by another version");
    }
    if !state.files.keys().all(|name| is_file_name(name)) {
        return Err("it names files outside the folder");
    }
    Ok(state)
}

#[cfg(test)]
mod tests;
