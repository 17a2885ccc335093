//! `kill -9` at random, a hundred times, in the middle of pushes and deploys.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use cairn_model::{Digest, oci, report::OsState};
use cairn_trust::node::Update;
use reqwest::{Client, Method, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    harness::{Folder, Hub},
    node::Node,
    os::{os_status, push_release, report_os},
    push::manifest_of,
};

const ROUNDS: u64 = 100;

/// Longest life of a hub in milliseconds.
const LIFE_MS: u64 = 200;

/// About how long a start takes, in milliseconds.
const START_MS: u64 = 60;

/// What the hub said yes to.
#[derive(Default)]
struct Acknowledged {
    blobs: Vec<Digest>,
    manifests: Vec<(String, Digest)>,
    /// The last deploy that was answered, and those begun since.
    app: Option<String>,
    deploys: u64,
    begun: Vec<Digest>,
    /// The last attempt at an OS that was answered.
    attempt: u64,
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// One client's work until the hub dies under it.
struct Work {
    http: Client,
    url: String,
    token: String,
    acknowledged: Arc<Mutex<Acknowledged>>,
}

impl Work {
    async fn send(&self, method: Method, path: &str, kind: &str, body: Vec<u8>) -> Option<Value> {
        let request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token);
        let response = request.header(header::CONTENT_TYPE, kind).body(body).send().await.ok()?;
        let status = response.status();
        let text = response.text().await.ok()?;
        assert!(status.is_success(), "{path}: {status} {text}");
        Some(if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() })
    }

    async fn blob(&self, bytes: Vec<u8>) -> Option<Digest> {
        let digest = Digest::of(&bytes);
        self.send(Method::POST, &format!("/v2/crash/web/blobs/uploads/?digest={digest}"), "", bytes).await?;
        self.acknowledged.lock().unwrap().blobs.push(digest.clone());
        Some(digest)
    }

    async fn once(&self, name: &str) -> Option<()> {
        let content = name.repeat(20_000).into_bytes();
        let layer = (content.len(), self.blob(content).await?);
        let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": [name]}}).to_string();
        let config = (config.len(), self.blob(config.into_bytes()).await?);
        let manifest = manifest_of((&config.1, config.0), (&layer.1, layer.0), json!({})).to_string();
        let digest = Digest::of(manifest.as_bytes());
        let path = format!("/v2/crash/web/manifests/{name}");
        self.send(Method::PUT, &path, oci::MEDIA_TYPE_MANIFEST, manifest.into_bytes()).await?;
        self.acknowledged.lock().unwrap().manifests.push((name.to_owned(), digest.clone()));
        let compose = format!("services:\n  web:\n    image: crash/web:{name}\n");
        let body = json!({"file": "c.yaml", "compose": compose}).to_string();
        self.acknowledged.lock().unwrap().begun.push(digest);
        let summary =
            self.send(Method::PUT, "/api/v1/apps/crash", "application/json", body.into_bytes()).await?;
        {
            let mut acknowledged = self.acknowledged.lock().unwrap();
            acknowledged.app = Some(summary["services"]["web"].as_str().unwrap().to_owned());
            acknowledged.deploys += 1;
            acknowledged.begun.clear();
        }
        let body = json!({"release": "2", "nodes": ["edge1"], "retry": true}).to_string();
        let set = self.send(Method::POST, "/api/v1/os/set", "application/json", body.into_bytes()).await?;
        self.acknowledged.lock().unwrap().attempt = set[0]["desired"]["attempt"].as_u64().unwrap();
        Some(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_time_loses_nothing_acknowledged_and_serves_nothing_half_done() {
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = std::env::var("CAIRN_SEED").map_or(clock.as_millis() as u64 | 1, |text| text.parse().unwrap());
    println!("CAIRN_SEED={seed} repeats this");
    let begin = Instant::now();
    let mut random = Random(seed);
    let mut hub = Hub::start_in(Folder::init(&[]));
    let mut node = Node::member(&hub, "edge1").await;
    push_release(&hub, "2", json!({})).await;
    report_os(&hub, &node, 1, os_status("1", OsState::Idle)).await;
    let mut attempt = 0;
    let acknowledged = Arc::new(Mutex::new(Acknowledged::default()));
    for round in 0..ROUNDS {
        let work = Work {
            http: hub.http.clone(),
            url: hub.url.clone(),
            token: hub.folder.token.clone(),
            acknowledged: Arc::clone(&acknowledged),
        };
        let worker = tokio::spawn(async move {
            let mut step = 0;
            while work.once(&format!("r{round}-{step}")).await.is_some() {
                step += 1;
            }
        });
        // The one place where time itself is the input: the kill comes when it comes.
        tokio::time::sleep(Duration::from_millis(random.below(LIFE_MS))).await;
        hub.kill();
        worker.await.unwrap();
        if random.below(4) == 0 {
            // What the first look after a start mends must stand a kill as well.
            let after = Duration::from_millis(random.below(START_MS));
            tokio::task::block_in_place(|| hub.start_and_kill(after));
        }
        hub.restart();
        let mut said = std::mem::take(&mut *acknowledged.lock().unwrap());
        check(&hub, &mut node, &mut said, &mut attempt).await;
        *acknowledged.lock().unwrap() = said;
    }
    let done = acknowledged.lock().unwrap();
    println!(
        "{ROUNDS} kills, {} pushes, {} deploys, {} attempts at an OS, in {:?}",
        done.manifests.len(),
        done.deploys,
        done.attempt,
        begin.elapsed()
    );
    assert!(
        !done.manifests.is_empty() && done.deploys > 0 && done.attempt > 0,
        "too little was tried to mean anything"
    );
}

async fn check(hub: &Hub, node: &mut Node, acknowledged: &mut Acknowledged, attempt: &mut u64) {
    // What was acknowledged in the last rounds is there, byte for byte; older ones were looked at before.
    for digest in acknowledged.blobs.drain(..) {
        let response = hub.ask(Method::GET, &format!("/v2/crash/web/blobs/{digest}")).send().await.unwrap();
        assert_eq!(Digest::of(&response.bytes().await.unwrap()), digest);
    }
    for (tag, digest) in acknowledged.manifests.iter().rev().take(3) {
        let response = hub.ask(Method::GET, &format!("/v2/crash/web/manifests/{tag}")).send().await.unwrap();
        assert_eq!(Digest::of(&response.bytes().await.unwrap()), *digest);
    }
    // What the node verifies is a deploy that was acknowledged, or one that was begun later, and all of it is there.
    match node.update(hub).await.unwrap() {
        Update::Unchanged => {}
        Update::Verified(bundle) => {
            node.applied = bundle.generation;
            *attempt = bundle.desired_state.os.as_ref().map_or(0, |os| os.attempt.into());
            for (digest, artifact) in &bundle.artifacts {
                let path = format!("/v2/_/manifests/{digest}");
                let manifest = node.ask(hub, Method::GET, &path).send().await.unwrap().bytes().await.unwrap();
                assert_eq!((Digest::of(&manifest), manifest.len() as u64), (digest.clone(), artifact.length));
                let manifest: Value = serde_json::from_slice(&manifest).unwrap();
                for blob in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
                    let path = format!("/v2/_/blobs/{}", blob["digest"].as_str().unwrap());
                    let response = node.ask(hub, Method::HEAD, &path).send().await.unwrap();
                    assert_eq!(response.status(), StatusCode::OK);
                }
            }
        }
    }
    // What the database says of the OS is what was signed, and not older than what was answered.
    let row = hub.get("/os/nodes").await[0]["desired"]["attempt"].as_u64().unwrap_or(0);
    assert!(row == *attempt && row >= acknowledged.attempt, "{row} {attempt} {}", acknowledged.attempt);
    if let Some(last) = &acknowledged.app {
        let runs = hub.get("/apps/crash").await["services"]["web"].as_str().unwrap().to_owned();
        let begun = acknowledged.begun.iter().any(|digest| digest.as_str() == runs);
        assert!(*last == runs || begun, "{runs} is neither {last} nor what was begun since");
        if begun {
            acknowledged.app = Some(runs);
        }
        acknowledged.begun.clear();
    }
}
