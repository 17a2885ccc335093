//! The keys of both repositories, as a hub holds them: some may be kept elsewhere.

use std::path::{Path, PathBuf};

use super::SignError;
use crate::keys::{KeyError, KeyPair};

const ROOT: &str = "root.pem";
const DIRECTOR_TARGETS: &str = "director-targets.pem";
const DIRECTOR_SNAPSHOT: &str = "director-snapshot.pem";
const DIRECTOR_TIMESTAMP: &str = "director-timestamp.pem";
const ARTIFACTS_TARGETS: &str = "artifacts-targets.pem";
const ARTIFACTS_SNAPSHOT: &str = "artifacts-snapshot.pem";
const ARTIFACTS_TIMESTAMP: &str = "artifacts-timestamp.pem";

/// The keys of both repositories.
#[derive(Debug)]
pub struct HubKeys {
    /// Signs the roots of both. Belongs to the operators; absent once they have taken it offline.
    pub root: Option<KeyPair>,
    /// Says what shall run on each node.
    pub director_targets: KeyPair,
    /// Binds a node's director files together.
    pub director_snapshot: KeyPair,
    /// Says that a node's director files are the newest.
    pub director_timestamp: KeyPair,
    /// Says what is genuine. Belongs to the operators; absent once they have taken it offline.
    pub artifacts_targets: Option<KeyPair>,
    /// Binds the artifacts files together.
    pub artifacts_snapshot: KeyPair,
    /// Says that the artifacts files are the newest.
    pub artifacts_timestamp: KeyPair,
    folder: PathBuf,
}

impl HubKeys {
    /// Makes seven new keys.
    pub fn generate() -> Result<Self, SignError> {
        Ok(Self {
            root: Some(KeyPair::generate()?),
            director_targets: KeyPair::generate()?,
            director_snapshot: KeyPair::generate()?,
            director_timestamp: KeyPair::generate()?,
            artifacts_targets: Some(KeyPair::generate()?),
            artifacts_snapshot: KeyPair::generate()?,
            artifacts_timestamp: KeyPair::generate()?,
            folder: PathBuf::new(),
        })
    }

    /// Saves each key as a file of `folder`, mode 0600.
    pub fn save(&self, folder: &Path) -> Result<(), SignError> {
        for (name, key) in self.named() {
            if let Some(key) = key {
                key.save(&folder.join(name))?;
            }
        }
        Ok(())
    }

    /// Loads the keys from `folder`; only root and artifacts-targets may be absent.
    pub fn load(folder: &Path) -> Result<Self, SignError> {
        let load = |name| KeyPair::load(&folder.join(name));
        let optional = |name| match load(name) {
            Err(KeyError::Absent { .. }) => Ok(None),
            loaded => loaded.map(Some),
        };
        Ok(Self {
            root: optional(ROOT)?,
            director_targets: load(DIRECTOR_TARGETS)?,
            director_snapshot: load(DIRECTOR_SNAPSHOT)?,
            director_timestamp: load(DIRECTOR_TIMESTAMP)?,
            artifacts_targets: optional(ARTIFACTS_TARGETS)?,
            artifacts_snapshot: load(ARTIFACTS_SNAPSHOT)?,
            artifacts_timestamp: load(ARTIFACTS_TIMESTAMP)?,
            folder: folder.to_owned(),
        })
    }

    /// Loads the keys from `folder`, or makes and saves them where the folder has none. After a power cut in the middle,
    /// the keys that are there are kept and the others made. Once all were made, a key that is absent was taken
    /// offline, and is never made anew.
    pub fn load_or_generate(folder: &Path) -> Result<Self, SignError> {
        let names = Self::names();
        // They are made in this order, so the last one says that all were.
        if names.last().is_some_and(|last| folder.join(last).exists()) {
            return Self::load(folder);
        }
        for name in names {
            KeyPair::load_or_generate(&folder.join(name))?;
        }
        Self::load(folder)
    }

    /// The files' names, the two that belong offline first.
    pub fn names() -> [&'static str; 7] {
        [
            ROOT,
            ARTIFACTS_TARGETS,
            DIRECTOR_TARGETS,
            DIRECTOR_SNAPSHOT,
            DIRECTOR_TIMESTAMP,
            ARTIFACTS_SNAPSHOT,
            ARTIFACTS_TIMESTAMP,
        ]
    }

    fn named(&self) -> [(&'static str, Option<&KeyPair>); 7] {
        [
            (ROOT, self.root.as_ref()),
            (ARTIFACTS_TARGETS, self.artifacts_targets.as_ref()),
            (DIRECTOR_TARGETS, Some(&self.director_targets)),
            (DIRECTOR_SNAPSHOT, Some(&self.director_snapshot)),
            (DIRECTOR_TIMESTAMP, Some(&self.director_timestamp)),
            (ARTIFACTS_SNAPSHOT, Some(&self.artifacts_snapshot)),
            (ARTIFACTS_TIMESTAMP, Some(&self.artifacts_timestamp)),
        ]
    }

    /// The root key, or where to find out why it is not here.
    pub fn require_root(&self) -> Result<&KeyPair, SignError> {
        let absent = || SignError::KeyOffline { role: "root", path: self.folder.join(ROOT) };
        self.root.as_ref().ok_or_else(absent)
    }

    /// The artifacts targets key, or where to find out why it is not here.
    pub fn require_artifacts_targets(&self) -> Result<&KeyPair, SignError> {
        let absent =
            || SignError::KeyOffline { role: "artifacts targets", path: self.folder.join(ARTIFACTS_TARGETS) };
        self.artifacts_targets.as_ref().ok_or_else(absent)
    }
}
