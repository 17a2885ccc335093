//! A TUF repository whose every field and signature a test can bend, unlike those of the library.

use std::collections::BTreeMap;

use cairn_model::id::Digest;
use cairn_trust::{
    client::{Client, ClientError, Limits, Refreshed},
    clock::{Clock, Freshness},
    keys::KeyPair,
    sign::sign_file,
    store::Store,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::source::Source;

/// The day on which the tests play.
pub(crate) fn today() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

/// So many days from then.
pub(crate) fn day(days: i64) -> Timestamp {
    today() + SignedDuration::from_hours(24 * days)
}

/// A clock that is right and shows `now`.
pub(crate) fn at(now: Timestamp) -> Clock {
    Clock { system: now, os_build: None }
}

/// A role's content, and who signs it.
pub(crate) struct Role {
    pub(crate) version: u64,
    pub(crate) expires: Timestamp,
    pub(crate) signers: Vec<&'static str>,
    pub(crate) body: Value,
}

/// Keys by name, roles by name, and what is published of them.
pub(crate) struct Repository {
    pub(crate) keys: BTreeMap<&'static str, KeyPair>,
    pub(crate) roles: BTreeMap<String, Role>,
    pub(crate) source: Source,
}

impl Repository {
    /// A repository with four roles of one key each, all of whose metadata expires in a week but the root's.
    pub(crate) fn new() -> Self {
        let names = ["root", "targets", "snapshot", "timestamp", "stranger", "second", "delegate"];
        let keys: BTreeMap<_, _> = names.map(|name| (name, KeyPair::generate().unwrap())).into();
        let mut repository = Self { keys, roles: BTreeMap::new(), source: Source::default() };
        let top = ["root", "targets", "snapshot", "timestamp"];
        let roles: BTreeMap<_, _> = top.map(|name| (name, repository.role_keys(&[name], 1))).into();
        let root = json!({ "consistent_snapshot": true, "keys": repository.key_map(&top), "roles": roles });
        repository.set_role("root", vec!["root"], root);
        repository.role("root").expires = day(3650);
        repository.set_role("targets", vec!["targets"], json!({ "targets": {} }));
        repository.set_role("snapshot", vec!["snapshot"], json!({ "meta": {} }));
        repository.set_role("timestamp", vec!["timestamp"], json!({ "meta": {} }));
        repository.add_target("targets", "first", b"first");
        repository.publish();
        repository
    }

    pub(crate) fn set_role(&mut self, name: &str, signers: Vec<&'static str>, body: Value) {
        self.roles.insert(name.to_owned(), Role { version: 1, expires: day(7), signers, body });
    }

    pub(crate) fn role(&mut self, name: &str) -> &mut Role {
        self.roles.get_mut(name).unwrap()
    }

    pub(crate) fn role_keys(&self, keys: &[&str], threshold: u64) -> Value {
        let ids: Vec<_> = keys.iter().map(|key| self.keys[*key].public().tuf_key_id()).collect();
        json!({ "keyids": ids, "threshold": threshold })
    }

    pub(crate) fn key_map(&self, keys: &[&str]) -> Value {
        let keys = keys.iter().map(|key| {
            let public = self.keys[*key].public();
            let keyval = json!({ "public": hex::encode(public.as_bytes()) });
            (public.tuf_key_id(), json!({ "keytype": "ed25519", "scheme": "ed25519", "keyval": keyval }))
        });
        Value::Object(keys.collect())
    }

    pub(crate) fn add_target(&mut self, role: &str, name: &str, bytes: &[u8]) {
        let digest = Digest::of(bytes);
        let target = json!({ "length": bytes.len(), "hashes": { "sha256": digest.hex() } });
        self.role(role).body["targets"][name] = target;
        self.source.put(&format!("targets/{}.{name}", digest.hex()), bytes);
    }

    /// Lets `delegator` delegate `paths` to the new role `name`, signed by the key `delegate`.
    pub(crate) fn delegate(&mut self, delegator: &str, name: &str, paths: &[&str]) {
        let keys = self.key_map(&["delegate"]);
        let mut role = self.role_keys(&["delegate"], 1);
        role["name"] = name.into();
        role["terminating"] = false.into();
        role["paths"] = paths.into();
        let body = &mut self.role(delegator).body;
        if body["delegations"].is_null() {
            body["delegations"] = json!({ "keys": keys, "roles": [] });
        }
        body["delegations"]["roles"].as_array_mut().unwrap().push(role);
        self.set_role(name, vec!["delegate"], json!({ "targets": {} }));
    }

    /// The bytes of a role's file as it stands.
    pub(crate) fn file(&self, name: &str) -> Vec<u8> {
        let role = &self.roles[name];
        let kind = if ["root", "snapshot", "timestamp"].contains(&name) { name } else { "targets" };
        let mut signed = role.body.clone();
        signed["_type"] = kind.into();
        signed["spec_version"] = "1.0.31".into();
        signed["version"] = role.version.into();
        signed["expires"] = role.expires.to_string().into();
        let file = json!({ "signed": signed, "signatures": [] }).to_string();
        let keys: Vec<_> = role.signers.iter().map(|name| &self.keys[name]).collect();
        sign_file(file.as_bytes(), &keys).unwrap()
    }

    /// Publishes all roles as they stand, with pins that fit.
    pub(crate) fn publish(&mut self) {
        let targets: Vec<String> = self
            .roles
            .keys()
            .filter(|n| !["root", "snapshot", "timestamp"].contains(&n.as_str()))
            .cloned()
            .collect();
        let mut meta = serde_json::Map::new();
        for name in targets {
            let file = self.file(&name);
            meta.insert(format!("{name}.json"), pin(self.roles[&name].version, &file));
            self.source.put(&format!("{}.{name}.json", self.roles[&name].version), file);
        }
        self.role("snapshot").body["meta"] = meta.into();
        self.publish_snapshot();
    }

    /// Publishes snapshot, timestamp and root as they stand, the pins of the snapshot untouched.
    pub(crate) fn publish_snapshot(&mut self) {
        let file = self.file("snapshot");
        let version = self.roles["snapshot"].version;
        self.role("timestamp").body["meta"] = json!({ "snapshot.json": pin(version, &file) });
        self.source.put(&format!("{version}.snapshot.json"), file);
        let file = self.file("timestamp");
        self.source.put("timestamp.json", file);
        let root = self.file("root");
        self.source.put(&format!("{}.root.json", self.roles["root"].version), root);
    }

    /// The next version of targets, snapshot and timestamp.
    pub(crate) fn bump(&mut self) {
        for name in ["targets", "snapshot", "timestamp"] {
            self.role(name).version += 1;
        }
    }

    /// A client that pins this repository's root as it stands.
    pub(crate) fn client(&self) -> Node {
        Node::pin(&self.file("root"))
    }
}

fn pin(version: u64, file: &[u8]) -> Value {
    json!({ "version": version, "length": file.len(), "hashes": { "sha256": Digest::of(file).hex() } })
}

/// A client whose state lies in a folder of its own.
pub(crate) struct Node {
    pub(crate) folder: TempDir,
    pub(crate) client: Client,
}

impl Node {
    pub(crate) fn pin(root: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::init(folder.path(), root).unwrap();
        let client = Client::open(store, Limits::default(), Freshness::default()).unwrap();
        Self { folder, client }
    }

    /// As after a reboot.
    pub(crate) fn reopen(&mut self) {
        self.reopen_with(Limits::default(), Freshness::default());
    }

    pub(crate) fn reopen_with(&mut self, limits: Limits, freshness: Freshness) {
        self.client = Client::open(Store::open(self.folder.path()).unwrap(), limits, freshness).unwrap();
    }

    pub(crate) async fn refresh(&mut self, repository: &Repository) -> Result<Refreshed, ClientError> {
        self.client.refresh(&repository.source, at(today())).await
    }

    /// Refreshes, expects a refusal, and returns the attack that it names.
    pub(crate) async fn refused(&mut self, repository: &Repository) -> &'static str {
        let error = self.refresh(repository).await.unwrap_err();
        error.attack().unwrap_or_else(|| panic!("names no attack: {error:?}")).name()
    }
}
