//! The registry, as clients use it.

use cairn_model::{Digest, oci};
use reqwest::{Method, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    deploy::COMPOSE,
    harness::{Hub, answer},
    node::Node,
};

pub async fn push_blob(hub: &Hub, repository: &str, bytes: Vec<u8>) -> Digest {
    let digest = Digest::of(&bytes);
    let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
    let response = hub.ask(Method::POST, &path).body(bytes).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    digest
}

pub fn manifest_of(config: (&Digest, usize), layer: (&Digest, usize), more: Value) -> Value {
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": oci::MEDIA_TYPE_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.0, "size": config.1},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.0, "size": layer.1}],
    });
    for (key, value) in more.as_object().unwrap() {
        manifest[key] = value.clone();
    }
    manifest
}

pub async fn put_manifest(hub: &Hub, path: &str, media_type: &str, manifest: &Value) -> Response {
    let request = hub.ask(Method::PUT, path).header(header::CONTENT_TYPE, media_type);
    request.body(manifest.to_string()).send().await.unwrap()
}

/// Pushes a small image and returns its digest.
pub async fn push_image(hub: &Hub, repository: &str, tag: &str, content: &str) -> Digest {
    let config =
        json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/run", content]}}).to_string();
    let config = (push_blob(hub, repository, config.clone().into_bytes()).await, config.len());
    let layer = (push_blob(hub, repository, content.as_bytes().to_vec()).await, content.len());
    let manifest = manifest_of((&config.0, config.1), (&layer.0, layer.1), json!({}));
    let path = format!("/v2/{repository}/manifests/{tag}");
    let response = put_manifest(hub, &path, oci::MEDIA_TYPE_MANIFEST, &manifest).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    response.headers()["docker-content-digest"].to_str().unwrap().parse().unwrap()
}

/// Asserts status and OCI code of an error.
async fn refused(response: Response, status: u16, code: &str) {
    let (got, body) = answer(response).await;
    assert_eq!((got.as_u16(), &body["errors"][0]["code"]), (status, &json!(code)), "{body}");
}

async fn start(hub: &Hub, repository: &str) -> String {
    let response = hub.ask(Method::POST, &format!("/v2/{repository}/blobs/uploads/")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    response.headers()[header::LOCATION].to_str().unwrap().to_owned()
}

async fn patch(hub: &Hub, location: &str, start: usize, chunk: &[u8]) -> Response {
    let range = format!("{start}-{}", start + chunk.len() - 1);
    let request = hub.ask(Method::PATCH, location).header(header::CONTENT_RANGE, range);
    request.body(chunk.to_vec()).send().await.unwrap()
}

#[tokio::test]
async fn takes_blobs_in_chunks_and_serves_them_whole_and_in_part() {
    let hub = Hub::start();
    let content: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7 % 251) as u8).collect();
    let digest = Digest::of(&content);
    let blob = format!("/v2/demo/web/blobs/{digest}");
    let location = start(&hub, "demo/web").await;
    let response = patch(&hub, &location, 0, &content[..1_000_000]).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    assert_eq!(response.headers()[header::RANGE], "0-999999");
    refused(patch(&hub, &location, 5, b"later").await, 416, "BLOB_UPLOAD_INVALID").await;
    let status = hub.ask(Method::GET, &location).send().await.unwrap();
    assert_eq!(
        (status.status(), &status.headers()[header::RANGE]),
        (StatusCode::NO_CONTENT, &"0-999999".parse().unwrap())
    );
    refused(hub.ask(Method::GET, &blob).send().await.unwrap(), 404, "BLOB_UNKNOWN").await;
    assert_eq!(
        patch(&hub, &location, 1_000_000, &content[1_000_000..2_000_000]).await.status(),
        StatusCode::ACCEPTED
    );
    let last =
        hub.ask(Method::PUT, &format!("{location}?digest={digest}")).body(content[2_000_000..].to_vec());
    assert_eq!(last.send().await.unwrap().status(), StatusCode::CREATED);

    let head = hub.ask(Method::HEAD, &blob).send().await.unwrap();
    assert_eq!(head.headers()[header::CONTENT_LENGTH], "3000000");
    assert_eq!(hub.ask(Method::GET, &blob).send().await.unwrap().bytes().await.unwrap(), content);
    let part = hub.ask(Method::GET, &blob).header(header::RANGE, "bytes=10-19").send().await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()[header::CONTENT_RANGE], "bytes 10-19/3000000");
    assert_eq!(part.bytes().await.unwrap(), content[10..20]);
    let outside = hub.ask(Method::GET, &blob).header(header::RANGE, "bytes=3000000-").send().await.unwrap();
    assert_eq!(outside.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    // The upload is over.
    refused(hub.ask(Method::GET, &location).send().await.unwrap(), 404, "BLOB_UPLOAD_UNKNOWN").await;
    assert_eq!(hub.metric("cairn_hub_uploads").await, 0.0);
}

#[tokio::test]
async fn never_serves_what_is_half_written_or_not_what_was_announced() {
    let hub = Hub::start();
    let digest = Digest::of(b"whole");
    let wrong = format!("/v2/a/blobs/uploads/?digest={digest}");
    refused(hub.ask(Method::POST, &wrong).body("hole").send().await.unwrap(), 400, "DIGEST_INVALID").await;
    let location = start(&hub, "a").await;
    assert_eq!(patch(&hub, &location, 0, b"who").await.status(), StatusCode::ACCEPTED);
    let put = hub.ask(Method::PUT, &format!("{location}?digest={digest}")).send().await.unwrap();
    refused(put, 400, "DIGEST_INVALID").await;
    refused(hub.ask(Method::GET, &location).send().await.unwrap(), 404, "BLOB_UPLOAD_UNKNOWN").await;
    refused(
        hub.ask(Method::GET, &format!("/v2/a/blobs/{digest}")).send().await.unwrap(),
        404,
        "BLOB_UNKNOWN",
    )
    .await;

    let location = start(&hub, "a").await;
    assert_eq!(hub.ask(Method::DELETE, &location).send().await.unwrap().status(), StatusCode::NO_CONTENT);
    refused(hub.ask(Method::GET, &location).send().await.unwrap(), 404, "BLOB_UPLOAD_UNKNOWN").await;
    // Nothing but finished blobs is left on disk.
    let staged = std::fs::read_dir(hub.folder.data.join("uploads")).map_or(0, Iterator::count);
    assert_eq!(staged, 0);
    for name in ["A", "a..b", "_x", "a/-b"] {
        let response = hub.ask(Method::POST, &format!("/v2/{name}/blobs/uploads/")).send().await.unwrap();
        refused(response, 400, "NAME_INVALID").await;
    }
}

#[tokio::test]
async fn refused_uploads_take_no_place_from_good_ones() {
    let hub = Hub::start();
    let bad = format!("/v2/a/blobs/uploads/?digest=sha512:{}", "0".repeat(128));
    for _ in 0..65 {
        refused(hub.ask(Method::POST, &bad).body("x").send().await.unwrap(), 400, "DIGEST_INVALID").await;
    }
    assert_eq!(hub.metric("cairn_hub_uploads").await, 0.0);
    push_image(&hub, "demo/web", "1", "one").await;
}

#[tokio::test]
async fn mounts_blobs_from_other_repositories() {
    let hub = Hub::start();
    let digest = push_blob(&hub, "one", b"shared".to_vec()).await;
    let there = format!("/v2/two/blobs/{digest}");
    refused(hub.ask(Method::GET, &format!("{there}x")).send().await.unwrap(), 400, "DIGEST_INVALID").await;
    assert_eq!(hub.ask(Method::HEAD, &there).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let mount = |from: &str| {
        hub.ask(Method::POST, &format!("/v2/two/blobs/uploads/?mount={digest}&from={from}")).send()
    };
    assert_eq!(mount("three").await.unwrap().status(), StatusCode::ACCEPTED, "an upload instead");
    assert_eq!(mount("one").await.unwrap().status(), StatusCode::CREATED);
    assert_eq!(hub.ask(Method::GET, &there).send().await.unwrap().bytes().await.unwrap(), "shared");
    assert_eq!(hub.ask(Method::DELETE, &there).send().await.unwrap().status(), StatusCode::ACCEPTED);
    assert_eq!(hub.ask(Method::HEAD, &there).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let here = format!("/v2/one/blobs/{digest}");
    assert_eq!(hub.ask(Method::HEAD, &here).send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn takes_manifests_by_tag_and_digest_and_lists_them() {
    let hub = Hub::start();
    let digest = push_image(&hub, "demo/web", "1", "one").await;
    for tag in ["2", "3"] {
        push_image(&hub, "demo/web", tag, tag).await;
    }
    for reference in ["1", digest.as_str()] {
        let response =
            hub.ask(Method::GET, &format!("/v2/demo/web/manifests/{reference}")).send().await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_TYPE], oci::MEDIA_TYPE_MANIFEST);
        assert_eq!(Digest::of(&response.bytes().await.unwrap()), digest);
    }
    let page = hub.ask(Method::GET, "/v2/demo/web/tags/list?n=2").send().await.unwrap();
    assert_eq!(page.headers()[header::LINK], "</v2/demo/web/tags/list?n=2&last=2>; rel=\"next\"");
    assert_eq!(answer(page).await.1["tags"], json!(["1", "2"]));
    let rest = hub.ask(Method::GET, "/v2/demo/web/tags/list?n=2&last=2").send().await.unwrap();
    assert_eq!(answer(rest).await.1["tags"], json!(["3"]));
    refused(hub.ask(Method::GET, "/v2/no/such/tags/list").send().await.unwrap(), 404, "NAME_UNKNOWN").await;

    let missing = Digest::of(b"missing");
    let manifest = manifest_of((&missing, 7), (&missing, 7), json!({}));
    let path = "/v2/demo/web/manifests/bad";
    refused(
        put_manifest(&hub, path, oci::MEDIA_TYPE_MANIFEST, &manifest).await,
        404,
        "MANIFEST_BLOB_UNKNOWN",
    )
    .await;
    refused(put_manifest(&hub, path, "text/plain", &manifest).await, 400, "MANIFEST_INVALID").await;
    refused(
        put_manifest(&hub, path, oci::MEDIA_TYPE_MANIFEST, &json!(["no"])).await,
        400,
        "MANIFEST_INVALID",
    )
    .await;
    let huge = json!({"schemaVersion": 2, "annotations": {"x": "y".repeat(5 << 20)}});
    refused(put_manifest(&hub, path, oci::MEDIA_TYPE_MANIFEST, &huge).await, 413, "SIZE_INVALID").await;
    refused(hub.ask(Method::GET, path).send().await.unwrap(), 404, "MANIFEST_UNKNOWN").await;

    let by_digest = format!("/v2/demo/web/manifests/{digest}");
    assert_eq!(hub.ask(Method::DELETE, &by_digest).send().await.unwrap().status(), StatusCode::ACCEPTED);
    let gone = hub.ask(Method::GET, "/v2/demo/web/manifests/1").send().await.unwrap();
    refused(gone, 404, "MANIFEST_UNKNOWN").await;
}

#[tokio::test]
async fn lists_what_is_attached_to_a_manifest() {
    let hub = Hub::start();
    let image = push_image(&hub, "demo/web", "1", "one").await;
    let empty = push_blob(&hub, "demo/web", b"{}".to_vec()).await;
    let subject = json!({"mediaType": oci::MEDIA_TYPE_MANIFEST, "digest": image, "size": 1});
    let more =
        json!({"subject": subject, "artifactType": "application/x.sbom", "annotations": {"who": "me"}});
    let manifest = manifest_of((&empty, 2), (&empty, 2), more);
    let path = format!("/v2/demo/web/manifests/{}", Digest::of(manifest.to_string().as_bytes()));
    let response = put_manifest(&hub, &path, oci::MEDIA_TYPE_MANIFEST, &manifest).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(response.headers()["oci-subject"], image.as_str());
    let list = |filter: &str| hub.ask(Method::GET, &format!("/v2/demo/web/referrers/{image}{filter}")).send();
    let all = list("").await.unwrap();
    assert_eq!(all.headers()[header::CONTENT_TYPE], oci::MEDIA_TYPE_INDEX);
    let body = answer(all).await.1;
    assert_eq!(body["manifests"][0]["artifactType"], "application/x.sbom");
    assert_eq!(body["manifests"][0]["annotations"], json!({"who": "me"}));
    let none = list("?artifactType=application/y").await.unwrap();
    assert_eq!(none.headers()["oci-filters-applied"], "artifactType");
    assert_eq!(answer(none).await.1["manifests"], json!([]));
}

#[tokio::test]
async fn nodes_read_what_they_need_and_nothing_else() {
    let hub = Hub::start();
    let digest = push_image(&hub, "demo/web", "1", "one").await;
    let other = push_image(&hub, "demo/other", "1", "two").await;
    let node = Node::member(&hub, "a").await;
    let status = async |path: String| node.ask(&hub, Method::GET, &path).send().await.unwrap().status();
    let (manifest, blob) =
        (format!("/v2/_/manifests/{digest}"), format!("/v2/_/blobs/{}", Digest::of(b"one")));
    assert_eq!(status(manifest.clone()).await, StatusCode::NOT_FOUND);
    assert_eq!(status(blob.clone()).await, StatusCode::NOT_FOUND);
    assert_eq!(hub.deploy("shop", COMPOSE).await.0, StatusCode::OK);
    assert_eq!(status(manifest).await, StatusCode::OK);
    assert_eq!(status(blob).await, StatusCode::OK);
    assert_eq!(status(format!("/v2/_/manifests/{other}")).await, StatusCode::NOT_FOUND);
    assert_eq!(status(format!("/v2/_/blobs/{}", Digest::of(b"two"))).await, StatusCode::NOT_FOUND);
    assert_eq!(status("/v2/_/manifests/1".to_owned()).await, StatusCode::FORBIDDEN);
    assert_eq!(status(format!("/v2/demo/web/manifests/{digest}")).await, StatusCode::FORBIDDEN);
    let push = node.ask(&hub, Method::POST, "/v2/demo/web/blobs/uploads/").send().await.unwrap();
    assert_eq!(push.status(), StatusCode::FORBIDDEN);
    let anonymous = hub.http.get(format!("{}/v2/", hub.url)).send().await.unwrap();
    assert_eq!(anonymous.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(anonymous.headers()[header::WWW_AUTHENTICATE], "Basic realm=\"cairn\"");
}

/// skopeo, where it is installed: the client that people push with.
#[tokio::test(flavor = "multi_thread")]
async fn skopeo_pushes_and_pulls() {
    if std::process::Command::new("skopeo").arg("--version").output().is_err() {
        eprintln!("skopeo is not installed: nothing tried");
        return;
    }
    let hub = Hub::start();
    let temp = hub.folder.temp.path().to_owned();
    let digest = push_image(&hub, "demo/web", "1", "not a real layer").await;
    std::fs::create_dir(temp.join("certs")).unwrap();
    std::fs::copy(hub.folder.data.join("ca.pem"), temp.join("certs/ca.crt")).unwrap();
    let address = hub.url.strip_prefix("https://").unwrap().to_owned();
    let (certs, creds) = (temp.join("certs"), format!("any:{}", hub.folder.token));
    let copy = |from: String, to: String, side: &str| {
        let output = std::process::Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--preserve-digests", &format!("--{side}-creds"), &creds])
            .arg(format!("--{side}-cert-dir"))
            .arg(&certs)
            .args([from, to])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let folder = temp.join("layout").display().to_string();
    let (layout, other) = (format!("oci:{folder}:1"), format!("docker://{address}/copied/web:2"));
    tokio::task::block_in_place(|| {
        copy(format!("docker://{address}/demo/web:1"), layout.clone(), "src");
        copy(layout, other, "dest");
    });
    let response = hub.ask(Method::GET, "/v2/copied/web/manifests/2").send().await.unwrap();
    assert_eq!(response.headers()["docker-content-digest"], digest.as_str());
}
