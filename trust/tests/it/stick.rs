//! A stick as `cairn usb export` writes it, and a node that it is brought to.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cairn_model::{
    id::NodeId,
    media::{ARTIFACTS, DIRECTOR, Freshness},
};
use cairn_trust::{
    clock::Clock,
    fetch::{Folder, FolderFetch},
    node::{Bundle, Update, UpdateError},
    sign::Exported,
};
use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;

use crate::fleet::{Hub, Member};

/// A folder in the form of a stick.
pub(crate) struct Stick {
    folder: TempDir,
}

impl Stick {
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// Signed by `hub` for one node.
    pub(crate) fn of(hub: &Hub, node: &NodeId, freshness: Freshness, now: Timestamp) -> Self {
        let stick = Self::empty();
        stick.export(hub, node, 0, freshness, now);
        stick
    }

    /// Puts the newest of `hub` onto it, over what may be there.
    pub(crate) fn export(
        &self,
        hub: &Hub,
        node: &NodeId,
        acknowledged: u64,
        freshness: Freshness,
        now: Timestamp,
    ) -> (Exported, Exported) {
        let director = hub.director.export(&hub.keys, node, acknowledged, freshness, now).unwrap();
        let artifacts = hub.artifacts.export(&hub.keys, freshness, now).unwrap();
        for (folder, exported) in [(self.director(node), &director), (ARTIFACTS.to_owned(), &artifacts)] {
            assert_eq!(exported.files.last().unwrap().0, "timestamp.json");
            for (name, bytes) in &exported.files {
                self.put(&format!("{folder}/{name}"), bytes);
            }
        }
        (director, artifacts)
    }

    /// Where a node's director files lie.
    pub(crate) fn director(&self, node: &NodeId) -> String {
        format!("{DIRECTOR}/{node}")
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub(crate) fn put(&self, path: &str, bytes: &[u8]) {
        let file = self.path(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }

    pub(crate) fn get(&self, path: &str) -> Vec<u8> {
        fs::read(self.path(path)).unwrap()
    }

    /// Copies the folder `from` of another stick to `to` here.
    pub(crate) fn copy(&self, other: &Self, from: &str, to: &str) {
        copy_folder(&other.path(from), &self.path(to));
    }

    /// The newest file `N.<name>` of a folder.
    pub(crate) fn newest(&self, folder: &str, name: &str) -> String {
        let number = |file: fs::DirEntry| {
            let file = file.file_name().into_string().unwrap();
            file.strip_suffix(name)?.strip_suffix('.')?.parse::<u64>().ok()
        };
        let newest = fs::read_dir(self.path(folder)).unwrap().filter_map(|file| number(file.unwrap())).max();
        format!("{folder}/{}.{name}", newest.unwrap())
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let from = entry.unwrap().path();
        let to = to.join(from.file_name().unwrap());
        if from.is_dir() {
            copy_folder(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

impl Member {
    /// The stick is plugged in.
    pub(crate) async fn visit(
        &mut self,
        stick: &Stick,
        clock: Clock,
        applied: u64,
    ) -> Result<Update, UpdateError> {
        let folder = Folder::open(stick.folder.path()).unwrap();
        let director = FolderFetch::within(folder.clone(), &stick.director(&self.id));
        let artifacts = FolderFetch::within(folder, ARTIFACTS);
        self.verifier.update(&director, &artifacts, clock, applied).await
    }

    /// The stick is plugged in, and brings a generation.
    pub(crate) async fn takes(&mut self, stick: &Stick, clock: Clock, applied: u64) -> Box<Bundle> {
        match self.visit(stick, clock, applied).await {
            Ok(Update::Verified(bundle)) => bundle,
            other => panic!("nothing taken: {other:?}"),
        }
    }

    /// The stick is plugged in and refused: the attack and all that is said about it.
    pub(crate) async fn refuses(&mut self, stick: &Stick, clock: Clock) -> (&'static str, String) {
        let error = self.visit(stick, clock, 0).await.unwrap_err();
        let said = cairn_model::error::chain(&error);
        (error.attack().map_or("no attack", |attack| attack.name()), said)
    }

    /// The node reaches the hub, at `now`.
    pub(crate) async fn online(
        &mut self,
        hub: &Hub,
        now: Timestamp,
        applied: u64,
    ) -> Result<Update, UpdateError> {
        hub.director.file(&hub.keys, &self.id, "timestamp.json", now).unwrap();
        hub.artifacts.file(&hub.keys, "timestamp.json", now).unwrap();
        let (director, artifacts) = hub.serve(&self.id);
        self.verifier.update(&director, &artifacts, crate::repository::at(now), applied).await
    }
}

/// A member of the signed part of a metadata file.
pub(crate) fn signed(file: &[u8], member: &str) -> Value {
    serde_json::from_slice::<Value>(file).unwrap()["signed"][member].clone()
}

pub(crate) fn version(file: &[u8]) -> u64 {
    signed(file, "version").as_u64().unwrap()
}

pub(crate) fn expires(file: &[u8]) -> Timestamp {
    signed(file, "expires").as_str().unwrap().parse().unwrap()
}
