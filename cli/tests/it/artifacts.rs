//! `cairn artifact ls` and `push`.

use std::fs;

use cairn_model::Digest;
use serde_json::{Value, json};

use crate::{
    hub::{Hub, ago, digest, error},
    run::User,
};

const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

#[test]
fn artifacts_are_listed() {
    let hub = Hub::new();
    let wasm = json!({"digest": digest('c'), "media_type": "application/vnd.oci.image.manifest.v1+json",
        "artifact_type": "application/vnd.wasm.config.v0+json", "names": ["demo/hello:1", "demo/hello:latest"],
        "size": 1_234_567, "signed": false, "pushed_at": ago(190)});
    hub.on("GET /api/v1/artifacts", 200, json!([wasm]));
    let user = User::of(&hub.url());
    assert_eq!(
        user.run(&["artifact", "ls"]).ok(),
        "DIGEST         KIND   NAMES                            SIZE     SIGNED   PUSHED\n\
         cccccccccccc   wasm   demo/hello:1,demo/hello:latest   1.2 MB   no       3m ago\n"
    );
    assert_eq!(user.run(&["artifact", "ls", "-o", "name"]).ok(), format!("{}\n", digest('c')));
}

#[test]
fn a_component_becomes_an_artifact_with_config_and_layer() {
    let hub = Hub::new();
    hub.on_with(
        "POST /v2/demo/hello/blobs/uploads/",
        202,
        &[("location", "/v2/demo/hello/blobs/uploads/u1?s=1")],
        String::new(),
    );
    let layer = Digest::of(COMPONENT);
    hub.on(
        &format!("PUT /v2/demo/hello/blobs/uploads/u1?s=1&digest={}", layer.as_str().replace(':', "%3A")),
        201,
        Value::Null,
    );
    let config = json!({"architecture": "wasm", "component": {"exports": [], "imports": [], "target": null},
        "created": "1970-01-01T00:00:00Z", "layerDigests": [layer], "os": "wasip2"});
    let config_digest = Digest::of(config.to_string().as_bytes());
    hub.on(&format!("HEAD /v2/demo/hello/blobs/{config_digest}"), 200, Value::Null);
    hub.on("PUT /v2/demo/hello/manifests/1", 201, Value::Null);
    let user = User::of(&hub.url());
    user.file("hello.wasm", COMPONENT);

    let pushed = user.run(&["artifact", "push", "hello.wasm", "demo/hello:1", "-o", "name"]).ok();
    let manifest = hub.only("PUT /v2/demo/hello/manifests/1");
    assert_eq!(pushed.trim(), Digest::of(&manifest.body).as_str());
    assert_eq!(manifest.headers["content-type"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(manifest.json()["config"]["digest"], config_digest.as_str());
    assert_eq!(manifest.json()["layers"][0]["mediaType"], "application/wasm");
    // The config was there already: one upload, of the layer.
    let uploads: Vec<_> = hub.asked().into_iter().filter(|asked| asked.what.contains("uploads/u1")).collect();
    assert_eq!(uploads.len(), 1);
    assert_eq!(&uploads[0].body[..], COMPONENT);
    assert_eq!(uploads[0].headers["content-length"], COMPONENT.len().to_string().as_str());
}

#[test]
fn a_layout_is_pushed_blobs_before_manifest() {
    let hub = Hub::new();
    hub.on_with("POST /v2/web/blobs/uploads/", 202, &[("location", "u")], String::new());
    let user = User::of(&hub.url());
    let blob = |media_type: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        user.file(&format!("layout/blobs/sha256/{}", digest.hex()), bytes);
        let put = format!("PUT /v2/web/blobs/uploads/u?digest={}", digest.as_str().replace(':', "%3A"));
        hub.on(&put, 201, Value::Null);
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    };
    let big = vec![7u8; 1 << 20];
    let config = blob("application/vnd.oci.image.config.v1+json", b"{}");
    let layer = blob("application/vnd.oci.image.layer.v1.tar", &big);
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]}).to_string();
    let manifest = blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    user.file("layout/oci-layout", "{}");
    user.file("layout/index.json", json!({"schemaVersion": 2, "manifests": [manifest]}).to_string());
    hub.on("PUT /v2/web/manifests/latest", 201, Value::Null);

    let pushed = user.run(&["artifact", "push", "layout", "web"]).ok();
    assert_eq!(pushed, format!("web:latest is {}\n", manifest["digest"].as_str().unwrap()));
    let order: Vec<_> =
        hub.asked().into_iter().map(|a| a.what).filter(|what| what.starts_with("PUT")).collect();
    assert_eq!(order.len(), 3);
    assert!(order[2].contains("/manifests/"), "{order:?}");

    fs::write(user.path("layout/blobs/sha256").join(Digest::of(&big).hex()), b"other").unwrap();
    user.run(&["artifact", "push", "layout", "web"]).fails(4, &["does not hold what its name says"]);
}

#[test]
fn what_can_not_be_pushed_is_refused_before_anything_is_sent() {
    let hub = Hub::new();
    let user = User::of(&hub.url());
    user.file("text.wasm", "(module)");
    user.file("empty/x", "");
    user.run(&["artifact", "push", "text.wasm", "a:1"])
        .fails(4, &["no WebAssembly module", "not its text form"]);
    user.run(&["artifact", "push", "empty", "a:1"]).fails(2, &["no OCI image layout", "skopeo"]);
    user.run(&["artifact", "push", "gone.wasm", "a:1"]).fails(2, &["cannot read gone.wasm"]);
    user.run(&["artifact", "push", "text.wasm", "hub.example:5000/a:1"]).fails(2, &["leave the host away"]);
    assert!(hub.asked().is_empty());
}

#[test]
fn the_token_goes_to_no_other_server() {
    let hub = Hub::new();
    let thief = Hub::new();
    let elsewhere = format!("{}/steal", thief.url());
    hub.on_with("POST /v2/a/blobs/uploads/", 202, &[("location", &elsewhere)], String::new());
    hub.on_with(
        "GET /api/v1/nodes",
        307,
        &[("location", &elsewhere)],
        error("moved", "elsewhere").to_string(),
    );
    let user = User::of(&hub.url());
    user.file("a.wasm", COMPONENT);
    user.run(&["artifact", "push", "a.wasm", "a:1"]).fails(4, &["another server"]);
    user.run(&["node", "ls"]).fails(1, &["307"]);
    assert!(thief.asked().is_empty());
}
