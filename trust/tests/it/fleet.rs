//! A hub's two repositories and a node that follows them, as in the field.

use std::path::{Path, PathBuf};

use cairn_model::{
    desired::{DesiredApp, DesiredState, Policy, SCHEMA},
    id::{Digest, NodeId},
};
use cairn_trust::{
    keys::KeyPair,
    node::{Update, UpdateError, Verifier},
    sign::{Artifacts, Director, HubKeys, Lifetimes, TargetEntry},
};
use tempfile::TempDir;

use crate::{
    repository::{at, today},
    source::Source,
};

/// A hub with its data folder.
pub(crate) struct Hub {
    pub(crate) folder: TempDir,
    pub(crate) keys: HubKeys,
    pub(crate) director: Director,
    pub(crate) artifacts: Artifacts,
}

impl Hub {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = HubKeys::load_or_generate(&folder.path().join("keys")).unwrap();
        let lifetimes = Lifetimes::default();
        let director = Director::init(&folder.path().join("director"), &keys, lifetimes, today()).unwrap();
        let artifacts = Artifacts::init(&folder.path().join("artifacts"), &keys, lifetimes, today()).unwrap();
        Self { folder, keys, director, artifacts }
    }

    /// Signs a manifest as genuine.
    pub(crate) fn push(&self, manifest: &[u8]) -> TargetEntry {
        let entry = entry(manifest);
        let named = entry.clone().media_type("application/test").name("web:1");
        self.artifacts.add(&self.keys, &[named], today()).unwrap();
        entry
    }

    /// Tells `node` to run the apps.
    pub(crate) fn deploy(&self, node: &NodeId, generation: u64, apps: &[TargetEntry]) {
        let state = serde_json::to_vec(&desired_state(node, generation, apps)).unwrap();
        self.director.publish(&self.keys, node, generation, &state, apps, today()).unwrap();
    }

    /// What the hub serves to a node: director and artifacts.
    pub(crate) fn serve(&self, node: &NodeId) -> (Source, Source) {
        let mut director = Source::default();
        load(&mut director, &self.folder.path().join("director"), "", false);
        load(&mut director, &self.folder.path().join("director").join(node.as_str()), "", true);
        let mut artifacts = Source::default();
        load(&mut artifacts, &self.folder.path().join("artifacts"), "", true);
        (director, artifacts)
    }
}

fn load(source: &mut Source, folder: &Path, prefix: &str, deep: bool) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path: PathBuf = entry.unwrap().path();
        let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_file() {
            source.put(&name, std::fs::read(&path).unwrap());
        } else if deep {
            load(source, &path, &format!("{name}/"), true);
        }
    }
}

pub(crate) fn entry(manifest: &[u8]) -> TargetEntry {
    TargetEntry::new(Digest::of(manifest), manifest.len() as u64)
}

pub(crate) fn desired_state(node: &NodeId, generation: u64, apps: &[TargetEntry]) -> DesiredState {
    let app = |(index, entry): (usize, &TargetEntry)| {
        let app =
            DesiredApp { app: entry.digest.clone(), services: [("web".parse().unwrap(), vec![0])].into() };
        (format!("app{index}").parse().unwrap(), app)
    };
    DesiredState {
        schema: SCHEMA,
        node: node.clone(),
        generation,
        apps: apps.iter().enumerate().map(app).collect(),
        os: None,
        commands: Vec::new(),
        policy: Policy::default(),
    }
}

/// A node that has enrolled.
pub(crate) struct Member {
    pub(crate) folder: TempDir,
    pub(crate) id: NodeId,
    pub(crate) verifier: Verifier,
}

impl Member {
    pub(crate) fn of(hub: &Hub) -> Self {
        let id = KeyPair::generate().unwrap().public().node_id();
        let folder = tempfile::tempdir().unwrap();
        let (director, artifacts) = (hub.director.first_root().unwrap(), hub.artifacts.first_root().unwrap());
        Verifier::init(folder.path(), &director, &artifacts).unwrap();
        let verifier = Verifier::open(folder.path(), id.clone()).unwrap();
        Self { folder, id, verifier }
    }

    pub(crate) async fn update(&mut self, hub: &Hub, applied: u64) -> Result<Update, UpdateError> {
        let (director, artifacts) = hub.serve(&self.id);
        self.verifier.update(&director, &artifacts, at(today()), applied).await
    }

    /// Updates, expects a refusal, and returns the attack that it names.
    pub(crate) async fn refused(&mut self, hub: &Hub, applied: u64) -> &'static str {
        let error = self.update(hub, applied).await.unwrap_err();
        error.attack().unwrap_or_else(|| panic!("names no attack: {error:?}")).name()
    }
}
