//! Pulling from real repositories, made by a hub's own code: whole or not at all, signed or not at all, never older.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use cairn_model::{
    NodeId,
    compose::App,
    enroll::{EnrollGrant, EnrollState},
    media::{ARTIFACTS, DIRECTOR, Freshness, RECEIPT, blob_path, grant_path},
    oci,
};
use cairn_trust::{
    fetch::{Fetch, FetchError},
    keys::roots_fingerprint,
    sign::{Artifacts, Director, HubKeys, Lifetimes, SignError, TargetEntry},
};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use serde_json::value::RawValue;

use super::*;
use crate::source::BlobStream;

type ReadFile = Box<dyn Fn(&str) -> Result<Vec<u8>, SignError> + Send + Sync>;

/// Serves one of the two repositories.
struct Files(ReadFile);

#[async_trait]
impl Fetch for Files {
    async fn fetch(&self, path: &str, _max_len: u64) -> Result<Option<Bytes>, FetchError> {
        match (self.0)(path) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(SignError::NoSuchFile { .. }) => Ok(None),
            Err(e) => panic!("{path}: {e}"),
        }
    }
}

/// A hub in a folder: both repositories and what hangs below them.
pub(crate) struct Hub {
    dir: tempfile::TempDir,
    pub(crate) node: NodeId,
    keys: Arc<HubKeys>,
    director: Arc<Director>,
    artifacts: Arc<Artifacts>,
    director_files: Files,
    artifacts_files: Files,
    pub(crate) content: BTreeMap<Digest, Vec<u8>>,
    asked: Mutex<Vec<Digest>>,
}

impl Hub {
    fn new() -> Self {
        Self::of(NodeId::of_public_key(&[7; 32]))
    }

    /// The hub of one node.
    pub(crate) fn of(node: NodeId) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let keys = Arc::new(HubKeys::generate().unwrap());
        let lifetimes = Lifetimes::default();
        let director = Arc::new(Director::init(&dir.path().join("d"), &keys, lifetimes, now).unwrap());
        let artifacts = Arc::new(Artifacts::init(&dir.path().join("a"), &keys, lifetimes, now).unwrap());
        let director_files = Files(Box::new({
            let (keys, director, node) = (keys.clone(), director.clone(), node.clone());
            move |path| director.file(&keys, &node, path, Timestamp::now())
        }));
        let artifacts_files = Files(Box::new({
            let (keys, artifacts) = (keys.clone(), artifacts.clone());
            move |path| artifacts.file(&keys, path, Timestamp::now())
        }));
        let (content, asked) = (BTreeMap::new(), Mutex::default());
        Self { dir, node, keys, director, artifacts, director_files, artifacts_files, content, asked }
    }

    pub(crate) fn put(&mut self, bytes: impl Into<Vec<u8>>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        self.content.insert(digest.clone(), bytes);
        digest
    }

    /// A manifest over `config`, with `layers` as (media type, digest, size).
    fn manifest(&mut self, config_type: &str, config: Vec<u8>, layers: &[(&str, Digest, usize)]) -> Digest {
        let size = config.len();
        let config = self.put(config);
        let layers: Vec<_> = layers
            .iter()
            .map(
                |(kind, digest, size)| serde_json::json!({"mediaType": kind, "digest": digest, "size": size}),
            )
            .collect();
        let config = serde_json::json!({"mediaType": config_type, "digest": config, "size": size});
        let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": layers});
        self.put(serde_json::to_vec(&manifest).unwrap())
    }

    /// A component as an image, and an app that runs it.
    pub(crate) fn app(&mut self, module: &[u8]) -> (Digest, Digest) {
        let (app, mut images) = self.app_of(&[("api", module)]);
        (app, images.remove(0))
    }

    /// The same of several services, each with its component.
    pub(crate) fn app_of(&mut self, services: &[(&str, &[u8])]) -> (Digest, Vec<Digest>) {
        let (mut compose, mut images) = ("services:\n".to_owned(), Vec::new());
        for (service, module) in services {
            let blob = (oci::MEDIA_TYPE_WASM_LAYER, self.put(*module), module.len());
            let image = self.manifest(oci::MEDIA_TYPE_WASM_CONFIG, b"{}".to_vec(), &[blob]);
            compose += &format!("  {service}:\n    image: a@{image}\n    platform: wasi/wasm\n");
            images.push(image);
        }
        let app = App::parse("compose.yaml", &compose).unwrap().to_canonical_json();
        (self.manifest(oci::ARTIFACT_TYPE_APP, app, &[]), images)
    }

    fn entry(&self, digest: &Digest) -> TargetEntry {
        TargetEntry::new(digest.clone(), self.content[digest].len() as u64)
    }

    /// Wants `app` on the node; `signed` are the manifests that both repositories vouch for.
    pub(crate) fn publish(&self, generation: u64, app: &Digest, signed: &[&Digest]) {
        self.publish_services(generation, app, &["api"], signed);
    }

    /// The same of an app with these services.
    pub(crate) fn publish_services(
        &self,
        generation: u64,
        app: &Digest,
        services: &[&str],
        signed: &[&Digest],
    ) {
        let services: BTreeMap<&str, [u32; 1]> = services.iter().map(|service| (*service, [0])).collect();
        let entries: Vec<_> = signed.iter().map(|digest| self.entry(digest)).collect();
        let desired = serde_json::json!({
            "schema": 1, "node": self.node, "generation": generation,
            "apps": {"shop": {"app": app, "services": services}},
            "policy": {"poll_seconds": 60, "report_seconds": 300},
        });
        let desired = serde_json::to_vec(&desired).unwrap();
        let now = Timestamp::now();
        self.artifacts.add(&self.keys, &entries, now).unwrap();
        self.director.publish(&self.keys, &self.node, generation, &desired, &entries, now).unwrap();
    }

    /// What makes the node a member.
    pub(crate) fn grant(&self) -> EnrollGrant {
        let raw = |bytes| Some(RawValue::from_string(String::from_utf8(bytes).unwrap()).unwrap());
        EnrollGrant {
            schema: 1,
            node: self.node.clone(),
            state: EnrollState::Approved,
            director_root: raw(self.director.first_root().unwrap()),
            artifacts_root: raw(self.artifacts.first_root().unwrap()),
        }
    }

    pub(crate) fn roots_fingerprint(&self) -> String {
        roots_fingerprint(&self.director.first_root().unwrap(), &self.artifacts.first_root().unwrap())
    }

    /// Writes a stick for the node, as `cairn usb export` does; signed at `now`.
    pub(crate) fn export(&self, stick: &Path, acknowledged: u64, freshness: Freshness, now: Timestamp) {
        let put = |path: String, bytes: &[u8]| {
            let path = stick.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        for (digest, bytes) in &self.content {
            put(blob_path(digest), bytes);
        }
        let director = self.director.export(&self.keys, &self.node, acknowledged, freshness, now).unwrap();
        let artifacts = self.artifacts.export(&self.keys, freshness, now).unwrap();
        for (name, bytes) in director.files {
            put(format!("{DIRECTOR}/{}/{name}", self.node), &bytes);
        }
        for (name, bytes) in artifacts.files {
            put(format!("{ARTIFACTS}/{name}"), &bytes);
        }
        put(grant_path(&self.node), &serde_json::to_vec(&self.grant()).unwrap());
        put(RECEIPT.to_owned(), b"{}");
    }

    async fn puller(&self) -> (Ledger, Puller) {
        let trust = self.dir.path().join("trust");
        let (director, artifacts) =
            (self.director.first_root().unwrap(), self.artifacts.first_root().unwrap());
        Verifier::init(&trust, &director, &artifacts).unwrap();
        let verifier = Verifier::open(&trust, self.node.clone()).unwrap();
        let ledger = Ledger::open(&self.dir.path().join("ledger.sqlite")).await.unwrap();
        let blobs = Blobs::new(self.dir.path());
        let puller =
            Puller::build(verifier, ledger.clone(), blobs, self.dir.path().join("layers")).await.unwrap();
        (ledger, puller)
    }

    fn get(&self, digest: &Digest) -> Result<Vec<u8>, SourceError> {
        self.asked.lock().unwrap().push(digest.clone());
        self.content.get(digest).cloned().ok_or_else(|| SourceError::Refused {
            status: 404,
            code: "not-found".to_owned(),
            message: "no such blob".to_owned(),
        })
    }
}

#[async_trait]
impl Source for Hub {
    fn director(&self) -> &dyn Fetch {
        &self.director_files
    }
    fn artifacts(&self) -> &dyn Fetch {
        &self.artifacts_files
    }
    async fn manifest(&self, digest: &Digest, _max: u64) -> Result<Bytes, SourceError> {
        self.get(digest).map(Bytes::from)
    }
    async fn document(&self, digest: &Digest, _max: u64) -> Result<Bytes, SourceError> {
        self.get(digest).map(Bytes::from)
    }
    async fn blob(&self, digest: &Digest, offset: u64) -> Result<BlobStream, SourceError> {
        let bytes = self.get(digest)?;
        let rest = bytes[usize::try_from(offset).unwrap()..].to_vec();
        Ok(BlobStream { offset, bytes: stream::iter([Ok(Bytes::from(rest))]).boxed() })
    }
    async fn range(&self, digest: &Digest, offset: u64, _length: u64) -> Result<BlobStream, SourceError> {
        self.blob(digest, offset).await
    }
}

fn clock() -> Clock {
    Clock { system: Timestamp::now(), os_build: None }
}

#[tokio::test]
async fn a_generation_is_taken_whole_and_assembled_again_without_network() {
    let mut hub = Hub::new();
    let (app, image) = hub.app(b"module");
    hub.publish(1, &app, &[&app, &image]);
    let (ledger, mut puller) = hub.puller().await;
    let pulled = puller.pull(&hub, clock(), 0).await.unwrap().unwrap();
    assert_eq!(pulled.desired.generation, 1);
    assert_eq!(pulled.replicas.keys().collect::<Vec<_>>(), ["cairn-shop-api-0"]);
    assert!(Blobs::new(hub.dir.path()).contains(&Digest::of(b"module")));
    assert_eq!(puller.pull(&hub, clock(), 1).await.unwrap(), None, "nothing newer");
    assert_eq!(from_ledger(&ledger).await.unwrap().unwrap(), pulled);
}

#[tokio::test]
async fn a_generation_that_is_not_complete_is_not_applied_and_completed_later() {
    let mut hub = Hub::new();
    let (app, image) = hub.app(b"module");
    hub.publish(1, &app, &[&app, &image]);
    let module = hub.content.remove(&Digest::of(b"module")).unwrap();
    let (ledger, mut puller) = hub.puller().await;
    let error = puller.pull(&hub, clock(), 0).await.unwrap_err();
    assert!(matches!(error, PullError::Blob(_)), "{error}");
    assert!(ledger.generation().await.unwrap().is_none(), "nothing of it");
    hub.put(module);
    assert!(puller.pull(&hub, clock(), 0).await.unwrap().is_some(), "the same generation again");
}

#[tokio::test]
async fn rejects_an_image_that_only_the_app_names() {
    let mut hub = Hub::new();
    let (app, image) = hub.app(b"module");
    hub.publish(1, &app, &[&app]);
    let (ledger, mut puller) = hub.puller().await;
    let error = puller.pull(&hub, clock(), 0).await.unwrap_err();
    assert!(matches!(&error, PullError::Unsigned { digest } if *digest == image), "{error}");
    assert_eq!(error.attack().as_deref(), Some("arbitrary-software"));
    assert!(!hub.asked.lock().unwrap().contains(&image), "not even fetched");
    assert!(ledger.generation().await.unwrap().is_none());
}

#[tokio::test]
async fn rejects_an_app_that_only_the_director_signed() {
    let mut hub = Hub::new();
    let (app, image) = hub.app(b"module");
    hub.publish(1, &app, &[&app, &image]);
    let (evil, evil_image) = hub.app(b"evil");
    // What a thief of the hub's online keys can do: the director says so, the operators never did.
    let entries: Vec<_> = [&evil, &evil_image].map(|digest| hub.entry(digest)).into();
    let desired = serde_json::json!({
        "schema": 1, "node": hub.node, "generation": 2,
        "apps": {"shop": {"app": evil, "services": {"api": [0]}}},
        "policy": {"poll_seconds": 60, "report_seconds": 300},
    });
    let desired = serde_json::to_vec(&desired).unwrap();
    hub.director.publish(&hub.keys, &hub.node, 2, &desired, &entries, Timestamp::now()).unwrap();
    let (ledger, mut puller) = hub.puller().await;
    let error = puller.pull(&hub, clock(), 0).await.unwrap_err();
    assert!(error.attack().is_some(), "{error}");
    assert!(!hub.asked.lock().unwrap().contains(&evil), "not even fetched");
    assert!(ledger.generation().await.unwrap().is_none());
}

#[tokio::test]
async fn rejects_an_older_generation_under_newer_signatures() {
    let mut hub = Hub::new();
    let (app, image) = hub.app(b"module");
    hub.publish(5, &app, &[&app, &image]);
    let (ledger, mut puller) = hub.puller().await;
    puller.pull(&hub, clock(), 0).await.unwrap().unwrap();
    hub.publish(4, &app, &[&app, &image]);
    let error = puller.pull(&hub, clock(), 5).await.unwrap_err();
    assert!(error.attack().is_some(), "{error}");
    assert_eq!(ledger.generation().await.unwrap().unwrap().generation, 5);
}

#[tokio::test]
async fn rejects_a_tampered_manifest_and_a_tampered_blob() {
    for target in 0..2 {
        let mut hub = Hub::new();
        let (app, image) = hub.app(b"module");
        hub.publish(1, &app, &[&app, &image]);
        let tampered = [image, Digest::of(b"module")][target].clone();
        let bytes = hub.content.get_mut(&tampered).unwrap();
        bytes[0] ^= 1;
        let (ledger, mut puller) = hub.puller().await;
        let error = puller.pull(&hub, clock(), 0).await.unwrap_err();
        assert_eq!(error.attack().as_deref(), Some("arbitrary-software"), "{error}");
        assert!(ledger.generation().await.unwrap().is_none());
        assert!(!Blobs::new(hub.dir.path()).contains(&Digest::of(b"module")));
    }
}
