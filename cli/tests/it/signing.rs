//! `cairn artifact sign`, with the two repositories as the hub makes them and keys kept elsewhere.

use std::{fs, path::PathBuf};

use cairn_model::Digest;
use cairn_trust::{
    keys::KeyPair,
    sign::{Artifacts, HubKeys, Lifetimes, TargetEntry},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    hub::{Hub, digest, release},
    run::{Ran, User},
};

/// The manifest of a container image.
const IMAGE: &[u8] = br#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json",
    "digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":2},"layers":[]}"#;

struct Offline {
    hub: Hub,
    user: User,
    folder: TempDir,
    keys: HubKeys,
    artifacts: Artifacts,
    key: String,
}

impl Offline {
    /// A hub with one genuine artifact, whose targets key is in its operator's folder.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = HubKeys::generate().unwrap();
        keys.save(&folder.path().join("keys")).unwrap();
        let tuf = folder.path().join("tuf");
        let artifacts = Artifacts::init(&tuf, &keys, Lifetimes::default(), Timestamp::now()).unwrap();
        artifacts.add(&keys, &[entry(b"old")], Timestamp::now()).unwrap();
        let hub = Hub::new();
        let user = User::of(&hub.url());
        let key = folder.path().join("keys/artifacts-targets.pem").display().to_string();
        let offline = Self { hub, user, folder, keys, artifacts, key };
        offline.serve();
        offline.manifest("demo/x", IMAGE);
        offline
    }

    /// All files of the repository as they are now.
    fn serve(&self) {
        let mut names = vec!["timestamp.json".to_owned()];
        for version in 1..4 {
            names.extend(["root", "snapshot", "targets"].map(|role| format!("{version}.{role}.json")));
        }
        for name in names {
            if let Ok(bytes) = self.artifacts.file(&self.keys, &name, Timestamp::now()) {
                let text = String::from_utf8(bytes).unwrap();
                self.hub.on_with(&format!("GET /tuf/artifacts/{name}"), 200, &[], text);
            }
        }
    }

    /// The hub hands out a manifest, in one repository.
    fn manifest(&self, repository: &str, manifest: &[u8]) {
        let what = format!("GET /v2/{repository}/manifests/{}", Digest::of(manifest));
        self.hub.on_with(&what, 200, &[], String::from_utf8(manifest.to_vec()).unwrap());
    }

    fn blob(&self, bytes: &str) {
        let what = format!("GET /v2/_/blobs/{}", Digest::of(bytes.as_bytes()));
        self.hub.on_with(&what, 200, &[], bytes.to_owned());
    }

    fn propose(&self, change: impl FnOnce(&mut Value)) {
        self.propose_with(&[entry(IMAGE)], change);
    }

    fn sign(&self) -> Ran {
        self.user.run(&["artifact", "sign", "--key", &self.key, "--yes"])
    }

    fn nothing_was_signed(&self) {
        assert!(self.hub.asked().iter().all(|asked| asked.what.starts_with("GET")));
    }

    fn propose_with(&self, entries: &[TargetEntry], change: impl FnOnce(&mut Value)) {
        let unsigned = self.artifacts.unsigned_targets(entries, Timestamp::now()).unwrap();
        let mut unsigned: Value = serde_json::from_slice(&unsigned).unwrap();
        change(&mut unsigned);
        self.hub.on("GET /api/v1/artifacts/unsigned-targets", 200, unsigned);
        self.hub.on("POST /api/v1/artifacts/signed-targets", 200, json!([]));
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn entry(manifest: &[u8]) -> TargetEntry {
    TargetEntry::new(Digest::of(manifest), manifest.len() as u64).name("demo/x:1")
}

#[test]
fn what_is_signed_is_shown_and_the_hub_can_publish_it() {
    let offline = Offline::new();
    offline.propose(|_| ());
    let ran = offline.sign();
    assert!(ran.err.contains("taking the hub's word"), "{ran:?}");
    let out = ran.ok();
    assert!(out.contains(Digest::of(IMAGE).as_str()) && !out.contains(Digest::of(b"old").as_str()), "{out}");
    assert!(out.contains("   image   ") && out.contains("   demo/x:1\n"), "{out}");
    assert!(out.ends_with("1 signed\n"), "{out}");
    let signed = offline.hub.only("POST /api/v1/artifacts/signed-targets").body;
    offline.artifacts.accept_targets(&offline.keys, &signed, Timestamp::now()).unwrap();
    assert!(offline.artifacts.contains(&Digest::of(IMAGE)));
}

#[test]
fn a_hub_that_has_nothing_to_sign_is_no_failure() {
    let offline = Offline::new();
    let said = offline.user.run(&["artifact", "sign", "--key", &offline.key]).ok();
    assert_eq!(said, "nothing to sign: all artifacts are signed\n");
}

#[test]
fn a_signature_is_renewed_though_nothing_is_new() {
    let offline = Offline::new();
    offline.propose_with(&[], |_| ());
    let ran = offline.user.run(&["artifact", "sign", "--key", &offline.key, "--yes"]);
    let said = "nothing new: the signature on what is genuine already is renewed";
    assert!(ran.err.contains(said), "{ran:?}");
    assert_eq!(ran.ok(), "signature renewed\n");
    let signed = offline.hub.only("POST /api/v1/artifacts/signed-targets").body;
    offline.artifacts.accept_targets(&offline.keys, &signed, Timestamp::now()).unwrap();
}

#[test]
fn nothing_is_signed_unasked() {
    let offline = Offline::new();
    offline.propose(|_| ());
    offline.user.run(&["artifact", "sign", "--key", &offline.key, "--dry-run"]).ok();
    offline
        .user
        .run(&["artifact", "sign", "--key", &offline.key])
        .fails(2, &["nobody is here to ask", "--yes"]);
    assert!(offline.hub.asked().iter().all(|asked| asked.what.starts_with("GET")));
}

#[test]
fn rejects_a_proposal_that_takes_something_back() {
    let offline = Offline::new();
    offline.propose(|p| {
        drop(p["signed"]["targets"].as_object_mut().unwrap().remove(&Digest::of(b"old").target_name()))
    });
    offline
        .user
        .run(&["artifact", "sign", "--key", &offline.key, "--yes"])
        .fails(4, &["to be genuine no more", "sign nothing"]);
}

#[test]
fn rejects_a_key_that_the_root_does_not_name() {
    let offline = Offline::new();
    offline.propose(|_| ());
    let other = offline.file("other.pem");
    KeyPair::generate().unwrap().save(&other).unwrap();
    offline
        .user
        .run(&["artifact", "sign", "--key", &other.display().to_string(), "--yes"])
        .fails(4, &["not an artifacts targets key"]);
}

#[test]
fn rejects_a_hub_whose_root_is_not_the_pinned_one() {
    let offline = Offline::new();
    offline.propose(|_| ());
    let stranger = HubKeys::generate().unwrap();
    let tuf = offline.file("stranger");
    Artifacts::init(&tuf, &stranger, Lifetimes::default(), Timestamp::now()).unwrap();
    let root = tuf.join("1.root.json").display().to_string();
    offline
        .user
        .run(&["artifact", "sign", "--key", &offline.key, "--root", &root, "--yes"])
        .fails(4, &["can't be verified", "sign nothing"]);
    // The pinned root stays pinned: another one is not taken in its place.
    offline.user.run(&["artifact", "sign", "--key", &offline.key, "--yes"]).fails(4, &["can't be verified"]);
    let own = offline.file("tuf/1.root.json");
    assert!(fs::exists(&own).unwrap());
    offline
        .user
        .run(&["artifact", "sign", "--key", &offline.key, "--root", &own.display().to_string(), "--yes"])
        .fails(2, &["another root"]);
}

/// The manifest of an OS release with that config.
fn release_manifest(config: &str) -> Value {
    let layer = |media_type: &str, digit: char, size: u64| {
        json!({"mediaType": format!("application/vnd.cairn.release.{media_type}.v1"), "digest": digest(digit),
            "size": size})
    };
    json!({
        "schemaVersion": 2, "artifactType": "application/vnd.cairn.release.v1+json",
        "config": {"mediaType": "application/vnd.cairn.release.config.v1+json",
            "digest": Digest::of(config.as_bytes()), "size": config.len()},
        "layers": [layer("index", '3', 200_000), layer("pack", '4', 250_000_000), layer("patch", '5', 7_000_000)],
    })
}

#[test]
fn a_release_is_shown_as_what_it_is_whatever_the_hub_calls_it() {
    let offline = Offline::new();
    let config = release("1.2.0").to_string();
    let manifest = release_manifest(&config).to_string();
    // Under the name of an image, and untagged there: it is asked for by digest alone.
    offline.manifest("_", manifest.as_bytes());
    offline.blob(&config);
    offline.propose_with(&[entry(manifest.as_bytes()).name("demo/web:1")], |_| ());
    let out = offline.sign().ok();
    for said in [
        "   OS release   ",
        "   demo/web:1\n",
        "  Version:          1.2.0\n",
        "  For:              cairn-generic-amd64 (amd64)\n",
        "  Follows:          1.0.0 or newer\n",
        "  Health command:   \"/usr/bin/check\" \"--all\"\n",
        "  Safer [2J.\n",
        "1 signed\n",
    ] {
        assert!(out.contains(said), "no {said:?} in {out}");
    }
}

#[test]
fn rejects_what_the_hub_does_not_show() {
    let offline = Offline::new();
    offline.propose_with(&[entry(b"hidden")], |_| ());
    offline.sign().fails(4, &["can't be looked at", "sign nothing until you know why"]);
    offline.nothing_was_signed();
}

#[test]
fn rejects_other_bytes_than_those_that_are_signed() {
    let offline = Offline::new();
    let what = format!("GET /v2/demo/x/manifests/{}", Digest::of(b"evil"));
    offline.hub.on_with(&what, 200, &[], String::from_utf8(IMAGE.to_vec()).unwrap());
    offline.propose_with(&[entry(b"evil")], |_| ());
    offline.sign().fails(4, &["sent other bytes than those of", "sign nothing"]);
    // The config of a release, too.
    let config = release("1.2.0").to_string();
    let manifest = release_manifest(&config).to_string();
    let offline = Offline::new();
    offline.manifest("demo/x", manifest.as_bytes());
    let what = format!("GET /v2/demo/x/blobs/{}", Digest::of(config.as_bytes()));
    offline.hub.on(&what, 200, release("1.2.1"));
    offline.propose_with(&[entry(manifest.as_bytes())], |_| ());
    offline.sign().fails(4, &["sent other bytes than those of", "sign nothing"]);
    offline.nothing_was_signed();
}

#[test]
fn rejects_a_release_that_has_only_half_of_its_marks() {
    for (pointer, value) in [
        ("/artifactType", json!("application/vnd.cairn.app.v1+json")),
        ("/config/mediaType", json!("application/vnd.oci.image.config.v1+json")),
        ("/layers/1/size", json!(1)),
    ] {
        let offline = Offline::new();
        let config = release("1.2.0").to_string();
        let mut manifest = release_manifest(&config);
        *manifest.pointer_mut(pointer).unwrap() = value;
        let manifest = manifest.to_string();
        offline.manifest("demo/x", manifest.as_bytes());
        offline.blob(&config);
        offline.propose_with(&[entry(manifest.as_bytes())], |_| ());
        offline.sign().fails(4, &["can't be looked at", "sign nothing"]);
        offline.nothing_was_signed();
    }
}
