//! Sticks that are no good: each refused with cause and cure, and mended by the next export where that is possible.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use cairn_model::Digest;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    real::{Node, RealHub, blob, put, receipt},
    run::{Ran, User},
};

/// A stick for one node with one app.
struct Written {
    hub: RealHub,
    edge: Node,
    stick: TempDir,
    roots: PathBuf,
    layer: Digest,
}

impl Written {
    fn new() -> Self {
        let hub = RealHub::start();
        let stick = tempfile::tempdir().unwrap();
        let edge = hub.member("edge1");
        let layer = hub.deploy("web", &[7; 5000]);
        hub.run(&["trust", "roots", "roots"]).ok();
        let roots = hub.user.path("roots");
        let written = Self { hub, edge, stick, roots, layer };
        written.export().ok();
        written
    }

    fn path(&self) -> &Path {
        self.stick.path()
    }

    fn dir(&self) -> &str {
        self.path().to_str().unwrap()
    }

    fn export(&self) -> Ran {
        self.hub.run(&["usb", "export", self.dir(), "--node", "edge1", "--yes"])
    }

    fn verify(&self) -> Ran {
        User::new().run(&["usb", "verify", self.dir(), "--roots", self.roots.to_str().unwrap()])
    }

    /// A fault that `verify` names, and the next export mends.
    #[track_caller]
    fn is_found_and_mended(&self, says: &[&str]) {
        self.verify().fails(4, says);
        self.export().ok();
        self.verify().ok();
    }
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn rejects_every_damage_by_name_and_the_next_export_mends_it() {
    let written = Written::new();
    let layer = blob(written.path(), &written.layer);
    flip(&layer);
    let digest = written.layer.as_str();
    written.is_found_and_mended(&[digest, "not those of its digest", "cairn usb export"]);
    fs::remove_file(&layer).unwrap();
    written.is_found_and_mended(&[digest, "it is missing"]);
    // Cut short, and a hole of 4 TB: told by the size alone.
    File::options().write(true).open(&layer).unwrap().set_len(100).unwrap();
    written.is_found_and_mended(&[digest, "100 bytes instead of 5000"]);
    File::options().write(true).open(&layer).unwrap().set_len(4 << 40).unwrap();
    written.is_found_and_mended(&[digest, "instead of 5000"]);
    // A link to the right bytes, elsewhere.
    fs::rename(&layer, written.hub.user.path("layer")).unwrap();
    symlink(written.hub.user.path("layer"), &layer).unwrap();
    written.verify().fails(4, &["symbolic link"]);
    let ran = written.export().fails(4, &["symbolic link", "nobody of ours put that there"]);
    assert!(!ran.out.contains("good until"));
    fs::remove_file(&layer).unwrap();
    written.export().ok();
    let timestamp = written.path().join(format!("tuf/director/{}/timestamp.json", written.edge.id));
    flip(&timestamp);
    written.is_found_and_mended(&[written.edge.id.as_str(), "director"]);
    fs::remove_file(&timestamp).unwrap();
    written.is_found_and_mended(&[written.edge.id.as_str()]);
    flip(&written.path().join("tuf/artifacts/timestamp.json"));
    written.is_found_and_mended(&["artifacts"]);
}

#[test]
fn rejects_a_receipt_that_says_something_else() {
    let written = Written::new();
    let path = written.path().join("cairn-bundle.json");
    let change = |pointer: &str, value| {
        let mut receipt = receipt(written.path());
        *receipt.pointer_mut(pointer).unwrap() = value;
        fs::write(&path, receipt.to_string()).unwrap();
    };
    change("/nodes/0/generation", json!(77));
    written.is_found_and_mended(&["speaks of generation 77"]);
    change("/nodes/0/node", json!("n-aaaa000000000000"));
    written.is_found_and_mended(&["n-aaaa000000000000"]);
    // A receipt that hides a blob: what is signed for counts.
    change("/blobs", json!([]));
    fs::remove_file(blob(written.path(), &written.layer)).unwrap();
    written.is_found_and_mended(&[written.layer.as_str(), "it is missing"]);
    fs::write(&path, "{").unwrap();
    written.verify().fails(4, &["not readable", "--replace"]);
    written.export().fails(4, &["not readable", "--replace"]);
    fs::remove_file(&path).unwrap();
    symlink("/etc/passwd", &path).unwrap();
    written.verify().fails(4, &["symbolic link"]);
    fs::remove_file(&path).unwrap();
    written.export().ok();
    written.verify().ok();
}

#[test]
fn rejects_a_grant_that_would_hand_the_node_to_another_fleet() {
    let written = Written::new();
    let path = written.path().join(format!("enroll/{}.json", written.edge.id));
    let mut grant: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    grant["director_root"] = json!({"signed": {}, "signatures": []});
    fs::write(&path, grant.to_string()).unwrap();
    written.is_found_and_mended(&["would have the node trust other roots"]);
}

#[test]
fn rejects_what_lies_there_for_a_node_that_the_receipt_does_not_name() {
    let written = Written::new();
    let thief = RealHub::start();
    let victim = thief.member("victim");
    let theirs = tempfile::tempdir().unwrap();
    thief.run(&["usb", "export", theirs.path().to_str().unwrap(), "--node", "victim", "--yes"]).ok();
    let (grant, director) = (format!("enroll/{}.json", victim.id), format!("tuf/director/{}", victim.id));
    let lay = |path: &str| put(&written.path().join(path), &fs::read(theirs.path().join(path)).unwrap());
    let pins = "would have the node trust other roots";
    lay(&grant);
    written.is_found_and_mended(&[&grant, pins, "do not plug this stick into a blank node", "remove it"]);
    lay(&format!("{director}/timestamp.json"));
    written.is_found_and_mended(&[&director, "of no member that the receipt names"]);
    // Also where the unsigned receipt would have nothing looked at.
    let rewrite = |pointer: &str, value| {
        let mut receipt = receipt(written.path());
        *receipt.pointer_mut(pointer).unwrap() = value;
        fs::write(written.path().join("cairn-bundle.json"), receipt.to_string()).unwrap();
    };
    lay(&grant);
    rewrite("/nodes/0/state", json!("pending"));
    written.verify().fails(4, &[&grant, pins, written.edge.id.as_str()]);
    rewrite("/nodes", json!([]));
    let ran = written.verify().fails(4, &[&grant, pins, written.edge.id.as_str()]);
    assert!(!ran.out.contains("blank stick"), "{ran:?}");
    let ran = User::new().run(&["usb", "verify", written.dir()]);
    ran.fails(4, &[&grant, "of no member that the receipt names"]);
    written.export().ok();
    written.verify().ok();
    // Another spelling, which some file systems find under the node's name as well; links; more than anybody reads.
    let other = written.path().join(format!("enroll/{}.JSON", victim.id.as_str().to_uppercase()));
    put(&other, b"{}");
    written.verify().fails(4, &[".JSON", "of no member"]);
    fs::remove_file(&other).unwrap();
    let link = written.path().join(&director);
    symlink(theirs.path().join(&director), &link).unwrap();
    written.verify().fails(4, &[&director, "of no member"]);
    fs::remove_file(&link).unwrap();
    let enroll = written.path().join("enroll");
    for n in 0..10_001 {
        fs::write(enroll.join(format!("{n}")), "").unwrap();
    }
    written.verify().fails(4, &["enroll cannot be listed", "more than 10000 entries", "empty the stick"]);
    fs::remove_dir_all(&enroll).unwrap();
    symlink(theirs.path().join("enroll"), &enroll).unwrap();
    written.verify().fails(4, &["enroll cannot be listed", "symbolic link"]);
}

#[test]
fn rejects_a_blank_stick_with_a_grant() {
    let hub = RealHub::start();
    let stick = tempfile::tempdir().unwrap();
    let dir = stick.path().to_str().unwrap();
    hub.run(&["usb", "export", dir, "--blank"]).ok();
    assert!(hub.run(&["usb", "verify", dir]).ok().contains("a blank stick"));
    for path in ["enroll/n-aaaa000000000000.json", "tuf/director/n-aaaa000000000000/timestamp.json"] {
        put(&stick.path().join(path), b"{}");
        let says = &path[..path.find("n-").unwrap() + 18];
        for args in [&["usb", "verify", dir][..], &["usb", "export", dir, "--blank"]] {
            hub.run(args).fails(4, &[says, "of no member that the receipt names", "remove it"]);
        }
        fs::remove_dir_all(stick.path().join(path.split('/').next().unwrap())).unwrap();
    }
    hub.run(&["usb", "verify", dir]).ok();
}

#[test]
fn a_stick_is_for_one_fleet() {
    let written = Written::new();
    let other = RealHub::start();
    other.member("other1");
    let layer = other.deploy("web", &[9; 4000]);
    let export = |more: &[&str]| {
        other.run(&[&["usb", "export", written.dir(), "--node", "other1", "--yes"], more].concat())
    };
    export(&[]).fails(4, &["of another fleet", "--replace"]);
    written.verify().ok();
    export(&["--replace"]).ok();
    assert!(blob(written.path(), &layer).exists() && !blob(written.path(), &written.layer).exists());
    written.verify().fails(4, &["is not for you"]);
    // Nor is somebody's own OCI image layout overwritten.
    let layout = tempfile::tempdir().unwrap();
    fs::write(layout.path().join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
    other
        .run(&["usb", "export", layout.path().to_str().unwrap(), "--node", "other1", "--yes"])
        .fails(4, &["no export wrote", "--replace"]);
    other.run(&["usb", "export", written.dir(), "--blank"]).fails(4, &["carries a bundle already"]);
}

#[test]
fn nothing_in_an_outbox_leads_elsewhere_and_one_bad_letter_stops_no_other() {
    let written = Written::new();
    let outbox = written.path().join(format!("outbox/{}", written.edge.id));
    for sequence in 1..=2 {
        written.edge.report(written.path(), sequence);
    }
    let secret = written.hub.user.file("secret", "a.b.c");
    symlink(&secret, outbox.join(format!("{:020}.jws", 3))).unwrap();
    File::create(outbox.join(format!("{:020}.jws", 4))).unwrap().set_len(4 << 40).unwrap();
    fs::write(outbox.join(format!("{:020}.jws", 5)), "no envelope").unwrap();
    fs::write(outbox.join("notes.txt"), "mine").unwrap();
    symlink(written.hub.user.path("."), written.path().join("outbox/n-bbbb000000000000")).unwrap();
    let stranger = Node::new("stranger");
    stranger.report(written.path(), 1);
    let ran = written.hub.run(&["usb", "import", written.dir()]).fails(
        4,
        &[
            "symbolic link",
            "larger than",
            "no envelope of a node",
            "n-bbbb000000000000",
            stranger.id.as_str(),
        ],
    );
    assert!(ran.out.contains(&format!("{}   edge1      2     0       2", written.edge.id)), "{ran:?}");
    let names: Vec<_> = fs::read_dir(&outbox).unwrap().collect();
    assert_eq!(names.len(), 6, "nothing is removed");
    // Reports of one node in the folder of another count for who signed them.
    let hub = &written.hub;
    let other = hub.member("edge2");
    let elsewhere = tempfile::tempdir().unwrap();
    other.report(elsewhere.path(), 1);
    fs::rename(
        elsewhere.path().join(format!("outbox/{}", other.id)),
        elsewhere.path().join(format!("outbox/{}", written.edge.id)),
    )
    .unwrap();
    let out = hub.run(&["usb", "import", elsewhere.path().to_str().unwrap()]).ok();
    assert!(out.contains("edge2") && !out.contains("edge1"), "{out}");
    let nothing = tempfile::tempdir().unwrap();
    let ran = hub.run(&["usb", "import", nothing.path().to_str().unwrap()]);
    assert!(ran.err.contains("no node has written"), "{ran:?}");
    ran.ok();
}

#[test]
fn what_is_no_folder_is_said() {
    let user = User::new();
    for verb in [
        ["usb", "export", "/dev/null", "--blank"].as_slice(),
        &["usb", "verify", "/dev/null"],
        &["usb", "import", "/dev/null"],
    ] {
        user.run(verb).fails(2, &["neither a folder nor a block device", "mounted on"]);
    }
    user.run(&["usb", "verify", "nowhere"]).fails(2, &["there is no nowhere"]);
    user.file("file", "x");
    user.run(&["usb", "verify", "file/below"]).fails(2, &["cannot look at file/below"]);
    user.run(&["usb", "verify", "file"]).fails(2, &["neither a folder nor a block device"]);
}
