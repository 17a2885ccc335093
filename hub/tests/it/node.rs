//! A node as its hub sees it: a key, its token, and the verifier of the daemon.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cairn_model::{
    Facts, NodeId,
    enroll::EnrollRequest,
    media::{ARTIFACTS, DIRECTOR},
    report::{Record, Report},
};
use cairn_trust::{
    clock::Clock,
    envelope,
    fetch::{FolderFetch, HttpFetch},
    keys::KeyPair,
    node::{Update, UpdateError, Verifier},
};
use jiff::Timestamp;
use reqwest::{Method, RequestBuilder, StatusCode, header::HeaderMap};
use serde_json::{Value, json};

use crate::harness::{Hub, answer};

pub struct Node {
    pub key: KeyPair,
    pub id: NodeId,
    trust: tempfile::TempDir,
    pub applied: u64,
}

pub fn facts(hostname: &str) -> Facts {
    Facts {
        schema: 1,
        hostname: hostname.to_owned(),
        arch: "amd64".to_owned(),
        cpus: 2,
        memory_bytes: 1 << 30,
        runtimes: vec!["oci".to_owned(), "wasm".to_owned()],
        ..Facts::default()
    }
}

impl Node {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        Self { id: key.public().node_id(), key, trust: tempfile::tempdir().unwrap(), applied: 0 }
    }

    /// A node that is a member, labelled `zone=a`.
    pub async fn member(hub: &Hub, hostname: &str) -> Self {
        let token = hub.token(json!({"auto_approve": true, "labels": {"zone": "a"}})).await;
        let mut node = Self::new();
        let (status, grant) = node.enroll(hub, &token, hostname).await;
        assert_eq!(status, StatusCode::OK, "{grant}");
        node.pin(&grant);
        node
    }

    /// A member that never had a network: its request came by stick, and an operator approved it.
    pub async fn by_stick(hub: &Hub, hostname: &str) -> Self {
        let node = Self::new();
        let body = json!({"enrolments": [node.request("", hostname)]});
        let (status, imported) = hub.api(Method::POST, "/usb/import", Some(body)).await;
        assert_eq!(
            (status, &imported["enrolled"][0]["state"]),
            (StatusCode::OK, &json!("pending")),
            "{imported}"
        );
        let (status, shown) = hub.api(Method::POST, &format!("/nodes/{}/approve", node.id), None).await;
        assert_eq!(status, StatusCode::OK, "{shown}");
        node
    }

    pub fn request(&self, token: &str, hostname: &str) -> String {
        let request = EnrollRequest {
            schema: 1,
            token: token.to_owned(),
            public_key: self.key.public().to_base64url(),
            facts: facts(hostname),
        };
        envelope::sign_enroll(&self.key, &request).unwrap()
    }

    pub async fn enroll(&self, hub: &Hub, token: &str, hostname: &str) -> (StatusCode, Value) {
        let body = self.request(token, hostname);
        answer(hub.http.post(format!("{}/node/v1/enroll", hub.url)).body(body).send().await.unwrap()).await
    }

    pub fn pin(&mut self, grant: &Value) {
        // Through text again: the signatures are over the canonical form, not over these bytes.
        let root = |name: &str| serde_json::to_vec(&grant[name]).unwrap();
        Verifier::init(&self.folder(), &root("director_root"), &root("artifacts_root")).unwrap();
    }

    fn folder(&self) -> PathBuf {
        self.trust.path().join("trust")
    }

    pub fn jwt(&self) -> String {
        envelope::mint_node_token(&self.key, Timestamp::now()).unwrap()
    }

    pub fn ask(&self, hub: &Hub, method: Method, path: &str) -> RequestBuilder {
        hub.as_token(&self.jwt(), method, path)
    }

    pub async fn get(&self, hub: &Hub, path: &str) -> (StatusCode, Value) {
        answer(self.ask(hub, Method::GET, path).send().await.unwrap()).await
    }

    /// What the daemon does at each poll.
    pub async fn update(&mut self, hub: &Hub) -> Result<Update, UpdateError> {
        let jwt = self.jwt();
        let headers = Arc::new(move || {
            let value = format!("Bearer {jwt}").parse().unwrap();
            HeaderMap::from_iter([(reqwest::header::AUTHORIZATION, value)])
        });
        let base = |path: String| format!("{}/tuf/{path}/", hub.url).parse().unwrap();
        let director =
            HttpFetch::new(hub.http.clone(), base(format!("director/{}", self.id)), headers.clone());
        let artifacts = HttpFetch::new(hub.http.clone(), base("artifacts".to_owned()), headers);
        let mut verifier = Verifier::open(&self.folder(), self.id.clone()).unwrap();
        let clock = Clock { system: Timestamp::now(), os_build: None };
        verifier.update(&director, &artifacts, clock, self.applied).await
    }

    /// The same from a stick, at a time of the node's own; with what the hub says to have of its reports.
    pub async fn update_by_stick(
        &mut self,
        stick: &Path,
        system: Timestamp,
    ) -> (Result<Update, UpdateError>, Option<u64>) {
        let director = FolderFetch::new(stick.join(format!("{DIRECTOR}/{}", self.id)));
        let artifacts = FolderFetch::new(stick.join(ARTIFACTS));
        let mut verifier = Verifier::open(&self.folder(), self.id.clone()).unwrap();
        let clock = Clock { system, os_build: None };
        let update = verifier.update(&director, &artifacts, clock, self.applied).await;
        (update, verifier.acknowledged())
    }

    /// What a node just enrolled, with the id of `node` and a clock at `system`, says of a stick for it.
    pub async fn late(grant: &Value, stick: &Path, node: &Self, system: Timestamp) -> UpdateError {
        let mut blank = Self { id: node.id.clone(), ..Self::new() };
        blank.pin(grant);
        blank.update_by_stick(stick, system).await.0.map(|_| ()).unwrap_err()
    }

    pub fn report(&self, sequence: u64, records: Vec<Record>) -> String {
        let report = Report {
            schema: 1,
            node: self.id.clone(),
            boot: "0123456789abcdef0123456789abcdef".parse().unwrap(),
            sequence,
            time_ms: 1_700_000_000_000,
            records,
        };
        envelope::sign_report(&self.key, &report).unwrap()
    }

    pub async fn send(&self, hub: &Hub, envelopes: Vec<String>) -> (StatusCode, Value) {
        let request =
            self.ask(hub, Method::POST, "/node/v1/reports").json(&json!({ "envelopes": envelopes }));
        answer(request.send().await.unwrap()).await
    }
}
