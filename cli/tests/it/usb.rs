//! `cairn usb`, `cairn trust` and `cairn node freshness`: a fleet that has only sticks, with the real hub.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use cairn_model::Digest;
use serde_json::{Value, json};

use crate::{
    hub::{Hub, ago, node},
    real::{Node, RealHub, blob, receipt},
    run::User,
};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_node_without_a_network_enrols_gets_its_apps_and_answers() {
    let hub = RealHub::start();
    let stick = tempfile::tempdir().unwrap();
    let dir = text(stick.path());
    // A blank stick, to which a blank node writes.
    let ran = hub.run(&["usb", "export", dir, "--blank"]);
    assert!(ran.err.contains("cairn usb import"), "{ran:?}");
    assert!(ran.ok().contains("ready for requests"));
    assert_eq!(receipt(stick.path())["nodes"], json!([]));
    let edge = Node::new("edge1");
    edge.ask_to_enroll(stick.path());
    for _ in 0..2 {
        let ran = hub.run(&["usb", "import", dir]);
        assert!(ran.err.contains(&format!("cairn node approve {}", edge.id)), "{ran:?}");
        let out = ran.ok();
        assert!(out.contains("edge1") && out.contains("pending") && out.contains("FINGERPRINT"), "{out}");
    }
    // Nothing for it before it is approved; then all that it needs.
    hub.deploy("web", b"a layer");
    let ran = hub.run(&["usb", "export", dir, "--node", "edge1", "--dry-run"]);
    assert!(ran.out.contains("waits for approval"), "{ran:?}");
    assert!(!stick.path().join("index.json").exists(), "a dry run writes nothing");
    let ran = hub.run(&["usb", "export", dir, "--node", "edge1", "--yes"]);
    assert!(ran.err.contains("1 of the nodes wait for `cairn node approve`"), "{ran:?}");
    ran.ok();
    assert!(!stick.path().join("enroll").exists());
    assert!(hub.run(&["usb", "verify", dir]).ok().contains("nothing is to be verified"));
    hub.run(&["node", "approve", "edge1"]).ok();
    let out = hub.run(&["usb", "export", dir, "--node", "edge1", "--yes"]).ok();
    assert!(
        out.contains("90 days")
            && out.contains("good until ")
            && (out.contains("in 89d") || out.contains("in 90d")),
        "{out}"
    );
    assert_eq!(fs::read(blob(stick.path(), &Digest::of(b"a layer"))).unwrap(), b"a layer");
    assert!(stick.path().join(format!("enroll/{}.json", edge.id)).exists());
    assert!(stick.path().join(format!("outbox/{}/enroll.jws", edge.id)).exists(), "the outbox stays");
    // What it reports, twice; the second time all is known.
    for sequence in 1..=3 {
        edge.report(stick.path(), sequence);
    }
    for (new, known) in [(3, 0), (0, 3)] {
        let answer: Value =
            serde_json::from_str(&hub.run(&["usb", "import", dir, "-o", "json"]).ok()).unwrap();
        let came = &answer["nodes"][0];
        assert_eq!((&came["stored"], &came["known"]), (&json!(new), &json!(known)), "{answer}");
        assert_eq!(came["acknowledged"], 3);
    }
    let shown = hub.run(&["node", "show", "edge1"]).ok();
    assert!(shown.contains("by stick, reported 3d ago, imported "), "{shown}");
    assert!(shown.contains("holds 90 days"), "{shown}");
    assert!(hub.run(&["node", "ls"]).ok().contains("by stick, reported 3d ago"));
    hub.run(&["usb", "export", dir, "--node", "edge1", "--yes"]).ok();
    assert_eq!(receipt(stick.path())["nodes"][0]["acknowledged"], 3);
    assert!(stick.path().join(format!("outbox/{}/{:020}.jws", edge.id, 1)).exists(), "the outbox stays");
}

#[test]
fn a_stick_is_verified_where_nothing_is_but_the_roots() {
    let hub = RealHub::start();
    let stick = tempfile::tempdir().unwrap();
    let dir = text(stick.path());
    hub.member("edge1");
    hub.deploy("web", b"a layer");
    hub.run(&["usb", "export", dir, "--node", "edge1", "--yes"]).ok();
    let roots = hub.user.path("roots");
    let fingerprint = hub.run(&["trust", "roots", text(&roots)]).ok();
    assert_eq!(fingerprint.trim().len(), 64 + 15, "{fingerprint}");
    assert_eq!(hub.run(&["trust", "roots"]).ok(), fingerprint);
    let elsewhere = User::new();
    let out = elsewhere.run(&["usb", "verify", dir, "--roots", text(&roots)]).ok();
    assert!(out.contains("edge1") && out.contains("good until "), "{out}");
    let ran = elsewhere.run(&["usb", "verify", dir]);
    assert!(ran.err.contains(fingerprint.trim()) && ran.err.contains("not whose it is"), "{ran:?}");
    ran.ok();
    // Another hub's roots, a folder without roots, a folder without a stick.
    let other = RealHub::start();
    other.run(&["trust", "roots", "roots"]).ok();
    elsewhere
        .run(&["usb", "verify", dir, "--roots", text(&other.user.path("roots"))])
        .fails(4, &["is not for you", "fault"]);
    elsewhere
        .run(&["usb", "verify", dir, "--roots", dir])
        .fails(2, &["director.root.json", "cairn trust roots"]);
    elsewhere.run(&["usb", "verify", text(&roots)]).fails(3, &["no cairn-bundle.json", "mounted on"]);
}

#[test]
fn a_stick_that_lay_too_long_is_told() {
    if Command::new("faketime").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("faketime is not installed: nothing tried");
        return;
    }
    let hub = RealHub::start();
    let stick = tempfile::tempdir().unwrap();
    let dir = text(stick.path());
    hub.member("edge1");
    hub.run(&["usb", "export", dir, "--node", "edge1", "--yes"]).ok();
    let verify = |later: &str| {
        let args = ["-f", later, env!("CARGO_BIN_EXE_cairn"), "usb", "verify", dir];
        Command::new("faketime").args(args).output().unwrap()
    };
    assert_eq!(verify("+89d").status.code(), Some(0));
    let late = verify("+91d");
    let said = String::from_utf8_lossy(&late.stderr);
    assert!(
        late.status.code() == Some(4) && said.contains("expired") && said.contains("export to it again"),
        "{said}"
    );
}

#[test]
fn images_on_a_stick_are_read_by_skopeo() {
    if Command::new("skopeo").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("skopeo is not installed: nothing tried");
        return;
    }
    let hub = RealHub::start();
    let stick = tempfile::tempdir().unwrap();
    hub.member("edge1");
    hub.deploy("web", b"a layer");
    hub.run(&["usb", "export", text(stick.path()), "--node", "edge1", "--yes"]).ok();
    let image = format!("oci:{}:demo/web:1", text(stick.path()));
    let output = Command::new("skopeo").args(["inspect", "--raw", &image]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let manifest: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(manifest["layers"][0]["digest"], Digest::of(b"a layer").as_str());
    let output = Command::new("skopeo").args(["inspect", &image]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let copy = format!("oci:{}:web:1", text(&hub.user.path("copy")));
    let output = Command::new("skopeo")
        .args(["copy", "--insecure-policy", "--preserve-digests", &image, &copy])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(blob(&hub.user.path("copy"), &Digest::of(b"a layer")).exists());
}

#[test]
fn what_is_there_stays_and_what_nobody_needs_goes() {
    let hub = RealHub::start();
    let stick = tempfile::tempdir().unwrap();
    let dir = text(stick.path());
    hub.member("edge1");
    hub.member("edge2");
    let old = hub.deploy("web", &[1; 5000]);
    let export = |more: &[&str]| hub.run(&[&["usb", "export", dir, "--yes"], more].concat());
    export(&["--node", "edge1", "--node", "edge2"]).ok();
    fs::write(stick.path().join("holiday.jpg"), "mine").unwrap();
    let again = export(&["--node", "edge1", "--node", "edge2"]).ok();
    assert!(again.contains("To write        0 blobs, 0 B\n"), "{again}");
    assert!(again.contains("There already"), "{again}");
    // A new image, and a stick for one node alone.
    let new = hub.deploy("web", &[2; 6000]);
    let ran = export(&["--node", "edge1"]);
    assert!(ran.err.contains("of earlier exports were removed"), "{ran:?}");
    let out = ran.ok();
    assert!(out.contains("No longer for") && out.contains("edge2") && out.contains("To remove"), "{out}");
    assert!(!blob(stick.path(), &old).exists() && blob(stick.path(), &new).exists());
    let left: Vec<_> = fs::read_dir(stick.path().join("tuf/director")).unwrap().collect();
    assert_eq!(left.len(), 1);
    assert_eq!(fs::read(stick.path().join("holiday.jpg")).unwrap(), b"mine");
    hub.run(&["usb", "verify", dir]).ok();
}

#[test]
fn a_later_stick_leaves_out_what_the_nodes_have_and_a_new_node_gets_all() {
    let hub = RealHub::start();
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    hub.member("edge1");
    let layer = hub.deploy("web", &[1; 5000]);
    hub.run(&["usb", "export", text(first.path()), "--node", "edge1", "--yes"]).ok();
    let since = first.path().join("cairn-bundle.json");
    let more = hub.deploy("api", &[2; 5000]);
    let export = |node: &[&str]| {
        let dir = text(second.path());
        hub.run(&[&["usb", "export", dir, "--yes", "--since", text(&since)], node].concat())
    };
    let out = export(&["--node", "edge1"]).ok();
    assert!(out.contains("Left out") && out.contains("must have come by an earlier stick"), "{out}");
    assert!(!blob(second.path(), &layer).exists() && blob(second.path(), &more).exists());
    let listed = receipt(second.path());
    assert!(listed["left_out"].as_array().unwrap().iter().any(|digest| digest == layer.as_str()));
    assert!(listed["blobs"].as_array().unwrap().iter().any(|blob| blob["digest"] == layer.as_str()));
    hub.run(&["usb", "verify", text(second.path())]).ok();
    hub.member("edge2");
    let out = export(&["--node", "edge1", "--node", "edge2"]).ok();
    assert!(!out.contains("Left out"), "{out}");
    assert!(blob(second.path(), &layer).exists());
    hub.run(&["usb", "export", text(second.path()), "--node", "edge1", "--since", "nothing"])
        .fails(2, &["receipt"]);
}

#[test]
fn a_site_is_a_label() {
    let hub = RealHub::start();
    let stick = tempfile::tempdir().unwrap();
    let dir = text(stick.path());
    for (host, site) in [("edge1", "berlin"), ("edge2", "berlin"), ("edge3", "paris")] {
        let edge = hub.member(host);
        hub.run(&["node", "label", edge.id.as_str(), &format!("site={site}")]).ok();
    }
    hub.run(&["usb", "export", dir, "--site", "berlin", "--yes"]).ok();
    let hosts: Vec<_> = receipt(stick.path())["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["hostname"].clone())
        .collect();
    assert_eq!(hosts.len(), 2, "{hosts:?}");
    assert!(!hosts.contains(&json!("edge3")));
    hub.run(&["usb", "export", dir, "--site", "rome", "--yes"]).fails(3, &["cairn node ls"]);
    hub.run(&["usb", "export", dir, "--yes"]).fails(2, &["--node", "--site"]);
    hub.run(&["usb", "export", dir, "--node", "edge1"]).fails(2, &["nobody is here to ask", "--yes"]);
}

#[test]
fn fifty_nodes_share_each_blob() {
    let hub = RealHub::start();
    let stick = tempfile::tempdir().unwrap();
    let dir = text(stick.path());
    let nodes: Vec<Node> = (0..50).map(|n| Node::new(&format!("edge{n}"))).collect();
    for node in &nodes {
        node.ask_to_enroll(stick.path());
    }
    hub.run(&["usb", "import", dir]).ok();
    let ids: Vec<&str> = nodes.iter().map(|node| node.id.as_str()).collect();
    hub.run(&[&["node", "approve"], ids.as_slice()].concat()).ok();
    hub.deploy("web", &[3; 100_000]);
    // A label that no node has differs from every value.
    let begin = Instant::now();
    hub.run(&["usb", "export", dir, "-l", "site!=nowhere", "--yes"]).ok();
    let (exported, begin) = (begin.elapsed(), Instant::now());
    hub.run(&["usb", "verify", dir]).ok();
    println!("50 nodes: exported in {exported:?}, verified in {:?}", begin.elapsed());
    let listed = receipt(stick.path());
    assert_eq!(listed["nodes"].as_array().unwrap().len(), 50);
    let blobs: Vec<_> = fs::read_dir(stick.path().join("blobs/sha256")).unwrap().collect();
    assert_eq!(blobs.len(), listed["blobs"].as_array().unwrap().len());
    assert!(blobs.len() < 10, "each shared blob once: {}", blobs.len());
}

#[test]
fn how_long_metadata_holds_is_said_by_node() {
    let hub = RealHub::start();
    let stick = tempfile::tempdir().unwrap();
    hub.member("edge1");
    let freshness = |args: &[&str]| hub.run(&[&["node", "freshness"], args, &["--node", "edge1"]].concat());
    assert!(freshness(&["30"]).ok().contains("holds 30 days"));
    assert!(freshness(&["30"]).err.contains("nothing has changed"));
    let out = hub.run(&["usb", "export", text(stick.path()), "--node", "edge1", "--yes"]).ok();
    assert!(out.contains("in 29d") || out.contains("in 30d"), "{out}");
    freshness(&["none"]).fails(2, &["however old", "--accept-no-expiry"]);
    assert!(freshness(&["none", "--accept-no-expiry"]).ok().contains("for ever"));
    assert!(freshness(&["connected"]).ok().contains("holds a week"));
    for wrong in ["0", "ever", "4000", ""] {
        freshness(&[wrong]).fails(2, &["number of days"]);
    }
}

#[test]
fn a_node_heard_by_stick_is_shown_so() {
    let hub = Hub::new();
    let user = User::of(&hub.url());
    let mut by_stick = node("n-aaaa000000000000", "aaa");
    by_stick["online"] = json!(false);
    by_stick["heard_by"] = json!({"type": "stick", "reported_at": ago(3 * 86_400)});
    by_stick["freshness"] = json!({"days": 90});
    hub.on("GET /api/v1/nodes", 200, json!([by_stick]));
    let shown = user.run(&["node", "show", "aaa"]).ok();
    assert!(shown.contains("Last heard:    by stick, reported 3d ago, imported 3m ago\n"), "{shown}");
    assert!(shown.contains("Metadata:      holds 90 days\n"), "{shown}");
    assert!(user.run(&["node", "ls"]).ok().contains("   by stick, reported 3d ago, imported 3m ago   "));
}
