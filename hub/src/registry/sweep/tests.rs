//! What is given back, and that a push beside it loses nothing.

use bytes::Bytes;
use cairn_model::{Digest, api::Role, oci};
use serde_json::json;

use super::*;
use crate::{clock, registry::Reference, service::Operator, sign, sign::Signer, store::Store};

/// So far after everything that nothing unnamed is kept.
const LATER: i64 = 2 * KEEP_UNNAMED_MS;

async fn registry(data: &std::path::Path) -> Registry {
    sign::init(data).unwrap();
    let store = Store::open(&data.join("hub.sqlite")).await.unwrap();
    Registry::open(data, store, Signer::open(data).unwrap(), 1 << 20, 4).unwrap()
}

fn somebody() -> Operator {
    Operator { name: "olga".to_owned(), role: Role::Operator, origin: "here".to_owned() }
}

/// Puts an image of one layer into `repository`; `None` where a part of it was given back before it had a name.
async fn push(registry: &Registry, repository: &str, content: &str) -> Option<(Digest, Digest)> {
    let config = registry.put_blob(repository, Bytes::from_static(b"{}")).await.unwrap();
    let layer = registry.put_blob(repository, Bytes::from(content.to_owned())).await.unwrap();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": oci::MEDIA_TYPE_MANIFEST,
        "config": {"mediaType": "c", "digest": config, "size": 2},
        "layers": [{"mediaType": "l", "digest": layer, "size": content.len()}],
    });
    let bytes = Bytes::from(manifest.to_string());
    let tag = Reference::Tag("latest".to_owned());
    let put = registry.put_manifest(repository, &tag, oci::MEDIA_TYPE_MANIFEST, bytes, None).await;
    match put {
        Ok((digest, _)) => Some((digest, layer)),
        Err(crate::registry::RegistryError::ManifestBlobUnknown(_)) => None,
        Err(other) => panic!("{other}"),
    }
}

async fn is_there(registry: &Registry, digest: &Digest) -> bool {
    match registry.small_blob(digest, 1 << 20).await {
        Ok(bytes) => {
            assert_eq!(Digest::of(&bytes), *digest);
            true
        }
        Err(_) => false,
    }
}

#[tokio::test]
async fn gives_back_what_lost_its_last_name_after_a_day() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path()).await;
    let (kept, kept_layer) = push(&registry, "a", "kept").await.unwrap();
    let (gone, gone_layer) = push(&registry, "a", "gone").await.unwrap();
    push(&registry, "b", "kept").await.unwrap();
    let loose = registry.put_blob("a", Bytes::from_static(b"loose")).await.unwrap();
    let now = clock::now_ms();
    registry.delete_manifest("a", &Reference::Digest(gone.clone()), &somebody()).await.unwrap();
    assert_eq!(registry.sweep(now).await.unwrap(), 1, "the manifest; its layer may be wanted again");
    assert!(is_there(&registry, &gone_layer).await && is_there(&registry, &loose).await);
    let stray = folder.path().join("blobs/sha256").join(Digest::of(b"stray").hex());
    std::fs::write(&stray, "stray").unwrap();
    assert_eq!(registry.sweep(now).await.unwrap(), 1);
    assert!(!stray.exists());

    assert_eq!(registry.sweep(now + LATER).await.unwrap(), 2);
    for gone in [gone, gone_layer, loose] {
        assert!(!is_there(&registry, &gone).await);
        assert!(registry.blob_size(None, &gone).await.is_err());
    }
    // The config is shared, the layer is named by both repositories.
    for kept in [kept, kept_layer.clone(), Digest::of(b"{}")] {
        assert!(is_there(&registry, &kept).await);
    }
    assert_eq!(registry.blob_size(Some("a"), &kept_layer).await.unwrap(), 4);
    assert!(registry.mount("c", None, &kept_layer).await.unwrap());
    registry.sweep(now + LATER).await.unwrap();
    assert!(registry.blob_size(Some("c"), &kept_layer).await.is_err(), "nothing of c names it");
    assert_eq!(registry.blob_size(None, &kept_layer).await.unwrap(), 4);
}

#[tokio::test]
async fn gives_nothing_back_while_a_manifest_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path()).await;
    let (digest, layer) = push(&registry, "a", "x").await.unwrap();
    // As an earlier version left it, and damaged since.
    let mut tx = registry.store.begin().await.unwrap();
    tx.forget_what_manifests_name().await.unwrap();
    tx.commit().await.unwrap();
    let path = folder.path().join("blobs/sha256").join(digest.hex());
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, "{}").unwrap();
    registry.note_named_blobs().await.unwrap();
    assert_eq!(registry.sweep(clock::now_ms() + LATER).await.unwrap(), 0);
    assert!(is_there(&registry, &layer).await);
    std::fs::write(&path, whole).unwrap();
    registry.note_named_blobs().await.unwrap();
    assert_eq!(registry.sweep(clock::now_ms() + LATER).await.unwrap(), 0);
    assert!(is_there(&registry, &layer).await);
    assert!(registry.store.any_names_blob(&[digest], &layer).await.unwrap());
}

/// Nothing unnamed is kept here at all, so that pushes and sweeps meet all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_push_beside_a_sweep_is_whole_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path()).await;
    let pushing = {
        let registry = registry.clone();
        tokio::spawn(async move {
            let mut pushed = 0;
            for round in 0..60 {
                let content = format!("content {}", round % 3);
                let Some((manifest, layer)) = push(&registry, "a", &content).await else { continue };
                pushed += 1;
                assert!(is_there(&registry, &manifest).await && is_there(&registry, &layer).await);
                let all = Reference::Digest(manifest);
                registry.delete_manifest("a", &all, &somebody()).await.unwrap();
            }
            pushed
        })
    };
    while !pushing.is_finished() {
        registry.sweep(clock::now_ms() + LATER).await.unwrap();
        for digest in registry.store.contents().await.unwrap() {
            let promised =
                || async { registry.store.begin().await.unwrap().promises(&digest).await.unwrap() };
            assert!(is_there(&registry, &digest).await || !promised().await, "{digest} is promised");
        }
    }
    assert!(pushing.await.unwrap() > 0, "too little was tried to mean anything");
}
