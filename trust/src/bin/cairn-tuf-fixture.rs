//! Writes a director and an artifacts repository as a hub publishes them, for independent readers to be tested on.

use std::path::{Path, PathBuf};

use anyhow::Context;
use cairn_model::{
    desired::{DesiredApp, DesiredState, Policy, SCHEMA},
    id::{Digest, NodeId},
    media::{ARTIFACTS, DIRECTOR, Freshness},
};
use cairn_trust::sign::{
    Artifacts, Director, Exported, HubKeys, Lifetimes, RoleName, RootChange, TargetEntry, rotate_root,
};
use clap::Parser;
use jiff::{SignedDuration, Timestamp};

/// Up to where the node's reports have arrived.
const ACKNOWLEDGED: u64 = 42;

/// Writes `tuf/` with both repositories into a folder, `stick/` with what went onto a stick before, and a description of
/// both to `fixture.json`.
#[derive(Debug, Parser)]
struct Arguments {
    /// The folder.
    folder: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let folder = Arguments::parse().folder;
    let now = Timestamp::now();
    let lifetimes = Lifetimes::default();
    let keys = HubKeys::load_or_generate(&folder.join("keys"))?;
    let node = NodeId::of_public_key(&[7; 32]);
    let director = Director::init(&folder.join("tuf/director"), &keys, lifetimes, now)?;
    let artifacts = Artifacts::init(&folder.join("tuf/artifacts"), &keys, lifetimes, now)?;

    // A rotation of each root, and several versions of everything else, so that a reader has something to follow.
    let root_key = keys.root.as_ref().context("the fixture's root key is absent")?;
    let expires = now.checked_add(SignedDuration::from_hours(24 * 365))?;
    let change = RootChange { thresholds: vec![(RoleName::Root, 1)], ..RootChange::default() };
    artifacts.accept_root(
        &keys,
        &rotate_root(&artifacts.root_json(), &change, &[root_key], expires)?,
        now,
    )?;
    director.accept_root(&rotate_root(&director.root_json(), &change, &[root_key], expires)?)?;

    let mut names = Vec::new();
    for generation in 1..=3_u64 {
        let manifest = format!("{{\"manifest\":{generation}}}");
        let digest = Digest::of(manifest.as_bytes());
        names.push(digest.target_name());
        let entry = TargetEntry::new(digest.clone(), manifest.len() as u64);
        let named =
            entry.clone().media_type("application/vnd.oci.image.manifest.v1+json").name("web/ü\"\\:1");
        artifacts.add(&keys, &[named], now)?;
        let app = DesiredApp { app: digest, services: Default::default() };
        let state = DesiredState {
            schema: SCHEMA,
            node: node.clone(),
            generation,
            apps: [("web".parse()?, app)].into(),
            os: None,
            commands: Vec::new(),
            policy: Policy::default(),
        };
        director.publish(&keys, &node, generation, &serde_json::to_vec(&state)?, &[entry], now)?;
    }
    // Without an end: its dates are those that a reader might not take.
    let exported = director.export(&keys, &node, ACKNOWLEDGED, Freshness::Unlimited, now)?;
    write(&folder.join("stick").join(DIRECTOR).join(node.as_str()), &exported)?;
    let exported = artifacts.export(&keys, Freshness::Unlimited, now)?;
    write(&folder.join("stick").join(ARTIFACTS), &exported)?;
    // A node that asks over the network gets newer ones, with the usual dates.
    director.file(&keys, &node, "timestamp.json", now)?;
    artifacts.file(&keys, "timestamp.json", now)?;
    let description = serde_json::json!({
        "node": node, "generation": 3, "artifacts": names, "acknowledged": ACKNOWLEDGED,
    });
    std::fs::write(folder.join("fixture.json"), description.to_string())
        .with_context(|| format!("failed to write {}", folder.join("fixture.json").display()))?;
    Ok(())
}

fn write(folder: &Path, exported: &Exported) -> anyhow::Result<()> {
    for (name, content) in &exported.files {
        let file = folder.join(name);
        let failed = || format!("failed to write {}", file.display());
        std::fs::create_dir_all(file.parent().unwrap_or(folder)).with_context(failed)?;
        std::fs::write(&file, content).with_context(failed)?;
    }
    Ok(())
}
