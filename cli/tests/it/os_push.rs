//! `cairn os push`: a release as `cairn-image release` makes it, and as it should not be.

use std::fs;

use cairn_model::Digest;
use serde_json::{Value, json};

use crate::{
    hub::{Hub, error, os_release, release},
    run::User,
};

/// Over the size at which blobs go in pieces, with a little behind.
const BIG: usize = (32 << 20) + 1000;
const PIECE: usize = 32 << 20;

/// A layout on disk.
struct Layout {
    user: User,
    hub: Hub,
    manifest: String,
    pack: Vec<u8>,
}

impl Layout {
    fn new() -> Self {
        Self::with(1000, |_| (), |_| ())
    }

    /// With a pack of that size, and with changes to the release and the manifest.
    fn with(size: usize, of_release: impl FnOnce(&mut Value), of_manifest: impl FnOnce(&mut Value)) -> Self {
        let hub = Hub::new();
        let user = User::of(&hub.url());
        let blob = |media_type: &str, bytes: &[u8]| {
            let digest = Digest::of(bytes);
            user.file(&format!("layout/blobs/sha256/{}", digest.hex()), bytes);
            json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
        };
        let pack: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let layers = [
            blob("application/vnd.cairn.release.index.v1", b"index"),
            blob("application/vnd.cairn.release.pack.v1", &pack),
            blob("application/vnd.cairn.release.patch.v1", b"patch"),
        ];
        let payload = |layer: &Value| json!({"digest": layer["digest"], "size": layer["size"]});
        let mut config = release("1.2.0~rc1");
        config["chunks"] = json!({"index": payload(&layers[0]), "pack": payload(&layers[1])});
        config["patches"][0]["blob"] = payload(&layers[2]);
        of_release(&mut config);
        let config = blob("application/vnd.cairn.release.config.v1+json", config.to_string().as_bytes());
        let mut manifest = json!({"schemaVersion": 2, "artifactType": "application/vnd.cairn.release.v1+json",
            "config": config, "layers": layers});
        of_manifest(&mut manifest);
        let manifest = manifest.to_string();
        let top = blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
        user.file("layout/oci-layout", "{}");
        user.file("layout/index.json", json!({"schemaVersion": 2, "manifests": [top]}).to_string());
        Self { user, hub, manifest, pack }
    }

    fn digest(&self) -> Digest {
        Digest::of(self.manifest.as_bytes())
    }

    fn blobs(&self) -> String {
        "/v2/os/cairn-generic-amd64/blobs".into()
    }

    fn finish(&self, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes).to_string().replace(':', "%3A");
        format!("PUT {}/uploads/u?digest={digest}", self.blobs())
    }

    /// All of the hub but what becomes of the pack.
    fn serve(&self) {
        let mut listed = os_release('0', "1.2.0~rc1", false);
        listed["digest"] = json!(self.digest());
        self.hub.on("GET /api/v1/os/releases", 200, json!([]));
        self.hub.on("GET /api/v1/os/releases", 200, json!([listed]));
        let start = format!("POST {}/uploads/", self.blobs());
        self.hub.on_with(&start, 202, &[("location", "u")], String::new());
        for file in fs::read_dir(self.user.path("layout/blobs/sha256")).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            if bytes != self.pack {
                self.hub.on(&self.finish(&bytes), 201, Value::Null);
            }
        }
        self.hub.on("PUT /v2/os/cairn-generic-amd64/manifests/1.2.0_rc1", 201, Value::Null);
    }

    /// What was asked of the upload, in order, with the range that it was about.
    fn uploads(&self) -> Vec<(String, String, usize)> {
        let asked = self.hub.asked().into_iter();
        asked
            .filter(|asked| asked.what.contains("/uploads/u") && asked.headers.contains_key("content-range"))
            .map(|asked| {
                let range = asked.headers["content-range"].to_str().unwrap().to_owned();
                (asked.what[..asked.what.find(' ').unwrap()].to_owned(), range, asked.body.len())
            })
            .collect()
    }
}

#[test]
fn what_is_no_release_is_refused_before_anything_is_sent() {
    fn check(layout: &Layout, says: &str) {
        layout.user.run(&["os", "push", "layout"]).fails(4, &[says, "cairn-image release"]);
        assert!(layout.hub.asked().is_empty(), "{says}");
    }
    let of_release = |change: fn(&mut Value)| Layout::with(1000, change, |_| ());
    let of_manifest = |change: fn(&mut Value)| Layout::with(1000, |_| (), change);
    check(&of_manifest(|m| m["artifactType"] = json!("x")), "its artifact type is not that of an OS release");
    check(&of_manifest(|m| m["config"]["mediaType"] = json!("x")), "its config's media type");
    check(&of_manifest(|m| drop(m["layers"].as_array_mut().unwrap().pop())), "the patch from 1.1.0");
    check(&of_manifest(|m| drop(m["layers"].as_array_mut().unwrap().remove(1))), "the pack of chunks");
    check(&of_manifest(|m| m["config"] = m["layers"][0].clone()), "config's media type");
    check(&of_release(|r| r["chunks"]["pack"]["size"] = json!(999)), "the pack of chunks");
    check(&of_release(|r| r["version"] = json!("v1")), "malformed");
    check(&of_release(|r| r["compatible"] = json!("A")), "'compatible'");
    check(&of_release(|r| r["health_command"] = json!(["a\u{0}b"])), "'health_command'");
    check(&of_release(|r| r["evil"] = json!(true)), "malformed");
}

#[test]
fn what_is_damaged_or_no_layout_is_refused_before_anything_is_sent() {
    let layout = Layout::new();
    let pack = layout.user.path("layout/blobs/sha256").join(Digest::of(&layout.pack).hex());
    fs::write(&pack, b"other").unwrap();
    layout
        .user
        .run(&["os", "push", "layout"])
        .fails(4, &["does not hold what its name says", "make the layout again"]);
    fs::remove_file(&pack).unwrap();
    layout.user.run(&["os", "push", "layout"]).fails(4, &["the layout lacks a blob"]);
    layout
        .user
        .run(&["os", "push", "gone"])
        .fails(2, &["gone is no OCI image layout", "that `cairn-image release` made"]);
    let odd = Layout::with(1000, |release| release["compatible"] = json!("a..b"), |_| ());
    odd.user
        .run(&["os", "push", "layout"])
        .fails(4, &["'a..b' can't be the name of a repository", "--compatible"]);
    assert!(layout.hub.asked().is_empty() && odd.hub.asked().is_empty());
}

#[test]
fn a_version_is_never_two_releases() {
    let layout = Layout::new();
    layout.hub.on("GET /api/v1/os/releases", 200, json!([os_release('c', "1.2.0~rc1", true)]));
    layout
        .user
        .run(&["os", "push", "layout"])
        .fails(4, &["another release 1.2.0~rc1 for cairn-generic-amd64", "with a version of its own"]);
    assert_eq!(layout.hub.asked().len(), 1);
}

#[test]
fn a_release_goes_to_its_machines_repository_under_its_version() {
    let layout = Layout::new();
    layout.serve();
    // The patch is there already.
    let patch = format!("HEAD {}/{}", layout.blobs(), Digest::of(b"patch"));
    layout.hub.on(&patch, 200, Value::Null);
    layout.hub.on(&layout.finish(&layout.pack), 201, Value::Null);
    let ran = layout.user.run(&["os", "push", "layout"]);
    assert_eq!(
        ran.err,
        "not signed yet: nodes take it after `cairn artifact sign --key FILE`\n\
         make nodes run it: `cairn os set 1.2.0~rc1 --node NODE` (or --selector, --all)\n"
    );
    assert_eq!(
        ran.ok(),
        format!(
            "1.2.0~rc1 for cairn-generic-amd64 is {} (os/cairn-generic-amd64:1.2.0_rc1)\n",
            layout.digest()
        )
    );
    let manifest = layout.hub.only("PUT /v2/os/cairn-generic-amd64/manifests/1.2.0_rc1");
    assert_eq!(&manifest.body[..], layout.manifest.as_bytes());
    assert_eq!(layout.hub.only(&layout.finish(&layout.pack)).body, layout.pack);
    assert!(layout.hub.asked().iter().all(|asked| asked.what != layout.finish(b"patch")));
}

#[test]
fn a_large_blob_goes_in_pieces_and_is_gone_on_with_where_it_broke_off() {
    let layout = Layout::with(BIG, |_| (), |_| ());
    layout.serve();
    let place = format!("{}/uploads/u", layout.blobs());
    // The first piece breaks off after 1000 bytes, the hub says; then it is gone on with, and the last request breaks off
    // too, though its bytes arrived.
    layout.hub.hangs_up(&format!("PATCH {place}"));
    layout.hub.on_with(&format!("GET {place}"), 204, &[("range", "0-999")], String::new());
    layout.hub.hangs_up(&layout.finish(&layout.pack));
    layout.hub.on(&format!("GET {place}"), 404, error("BLOB_UPLOAD_UNKNOWN", "no such upload"));
    let head = format!("HEAD {}/{}", layout.blobs(), Digest::of(&layout.pack));
    layout.hub.on(&head, 404, Value::Null);
    layout.hub.on(&head, 200, Value::Null);
    layout.user.run(&["os", "push", "layout"]).ok();
    let first = format!("0-{}", PIECE - 1);
    let rest = format!("1000-{}", BIG - 1);
    assert_eq!(layout.uploads(), [("PATCH".into(), first, PIECE), ("PUT".into(), rest, PIECE)]);
    let last = layout.hub.only(&layout.finish(&layout.pack));
    assert!(last.body == layout.pack[1000..], "the bytes that were missing, and no others");
}

#[test]
fn an_upload_that_the_hub_forgot_is_started_again() {
    let layout = Layout::with(BIG, |_| (), |_| ());
    layout.serve();
    let place = format!("{}/uploads/u", layout.blobs());
    layout.hub.hangs_up(&format!("PATCH {place}"));
    let all_of_it = format!("0-{}", PIECE - 1);
    layout.hub.on_with(
        &format!("PATCH {place}"),
        202,
        &[("range", &all_of_it), ("location", "u")],
        String::new(),
    );
    layout.hub.on(&layout.finish(&layout.pack), 201, Value::Null);
    layout.user.run(&["os", "push", "layout"]).ok();
    let last = format!("{PIECE}-{}", BIG - 1);
    assert_eq!(
        layout.uploads(),
        [
            ("PATCH".into(), all_of_it.clone(), PIECE),
            ("PATCH".into(), all_of_it, PIECE),
            ("PUT".into(), last, 1000)
        ]
    );
}

#[test]
fn a_hub_that_lost_a_part_and_one_that_refuses_are_not_asked_again() {
    let layout = Layout::with(BIG, |_| (), |_| ());
    layout.serve();
    let patch = format!("PATCH {}/uploads/u", layout.blobs());
    layout.hub.on_with(&patch, 202, &[("range", "0-17")], String::new());
    layout.hub.on(&patch, 413, error("SIZE_INVALID", "larger than this hub takes"));
    layout.user.run(&["os", "push", "layout"]).fails(1, &["lost a part of the upload", "try again"]);
    layout.hub.on("GET /api/v1/os/releases", 200, json!([]));
    layout.user.run(&["os", "push", "layout"]).fails(4, &["larger than this hub takes"]);
    assert_eq!(layout.uploads().len(), 2);
}
