//! A hub that answers what a test says, and remembers what it was asked.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, Method, StatusCode, Uri},
    response::Response,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::run::SECRET;

/// No status of HTTP.
const HANG_UP: u16 = 0;

/// What was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    pub what: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Asked {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[derive(Debug, Clone)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

#[derive(Default)]
struct Script {
    /// By `METHOD /path?query`: answers in turn, the last one again and again.
    answers: BTreeMap<String, Vec<Answer>>,
    asked: Vec<Asked>,
}

/// The hub; it ends with the test.
pub struct Hub {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    _runtime: tokio::runtime::Runtime,
}

impl Hub {
    pub fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let script = Arc::new(Mutex::new(Script::default()));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let app =
            Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state(Arc::clone(&script));
        runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, script, _runtime: runtime }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers `what` with `body` from now on, after what was set up for it before.
    pub fn on(&self, what: &str, status: u16, body: Value) -> &Self {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        self.on_with(what, status, &[], text)
    }

    pub fn on_with(&self, what: &str, status: u16, headers: &[(&'static str, &str)], body: String) -> &Self {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let mut script = self.script.lock().unwrap();
        script.answers.entry(what.into()).or_default().push(Answer { status, headers, body });
        self
    }

    /// Reads `what`, then hangs up without an answer: what a connection that breaks looks like.
    pub fn hangs_up(&self, what: &str) -> &Self {
        self.on_with(what, HANG_UP, &[], String::new())
    }

    /// Everything that was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.script.lock().unwrap().asked.clone()
    }

    /// The one question `what`.
    #[track_caller]
    pub fn only(&self, what: &str) -> Asked {
        let asked = self.asked();
        let found: Vec<_> = asked.iter().filter(|asked| asked.what == what).cloned().collect();
        assert_eq!(found.len(), 1, "{what} in {:?}", asked.iter().map(|a| &a.what).collect::<Vec<_>>());
        found.into_iter().next().unwrap()
    }
}

async fn answer(
    State(script): State<Arc<Mutex<Script>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let what = format!("{method} {uri}");
    let authorised = headers.get("authorization").is_some_and(|value| value == &format!("Bearer {SECRET}"));
    let mut script = script.lock().unwrap();
    script.asked.push(Asked { what: what.clone(), headers, body });
    let found = script
        .answers
        .get_mut(&what)
        .map(|answers| if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() });
    let answer = match found {
        _ if !authorised => refusal(401, "unauthorized", "unknown token; make a new one"),
        Some(answer) => answer,
        None => refusal(404, "not-found", &format!("no answer for {what}")),
    };
    if answer.status == HANG_UP {
        drop(script);
        // The server's task for this connection ends with it, and no message is printed.
        std::panic::resume_unwind(Box::new("hang up"));
    }
    let mut response = Response::builder().status(StatusCode::from_u16(answer.status).unwrap());
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(answer.body)).unwrap()
}

fn refusal(status: u16, code: &str, message: &str) -> Answer {
    Answer { status, headers: Vec::new(), body: error(code, message).to_string() }
}

/// The body of an error.
pub fn error(code: &str, message: &str) -> Value {
    json!({"error": {"code": code, "message": message}})
}

/// A time that is `seconds` ago, and so shown as that age.
pub fn ago(seconds: i64) -> String {
    (Timestamp::now() - SignedDuration::from_secs(seconds)).to_string()
}

/// A node as the hub tells it.
pub fn node(id: &str, host: &str) -> Value {
    json!({
        "id": id, "state": "approved", "fingerprint": "aaaa bbbb cccc dddd", "labels": {"zone": "berlin"},
        "facts": {"schema": 1, "hostname": host, "arch": "amd64", "kernel": "6.12.1", "os": "cairn",
            "os_version": "7", "daemon_version": "0.1.0", "cpus": 2, "memory_bytes": 512_000_000,
            "data_bytes": 4_000_000_000u64, "runtimes": ["oci", "wasm"]},
        "enrolled_at": ago(3 * 86_400 + 9), "last_seen": ago(190), "online": true, "desired_generation": 3,
        "status": {"generation": 3, "workloads": [], "problems": []},
    })
}

/// An OS release as the hub lists it.
pub fn os_release(digit: char, version: &str, signed: bool) -> Value {
    json!({"digest": digest(digit), "release": release(version), "signed": signed, "pushed_at": ago(190),
        "desired": 2, "running": 1})
}

/// What an OS release says of itself.
pub fn release(version: &str) -> Value {
    let hash = "ab".repeat(32);
    json!({
        "schema": 1, "version": version, "compatible": "cairn-generic-amd64", "arch": "amd64",
        "min_version": "1.0.0", "changelog": "Faster.\nSafer\u{1b}[2J.\n", "name": format!("Cairn {version}"),
        "built": 1_780_000_000, "data_layout": {"min": 1, "max": 1},
        "root": {"digest": digest('1'), "size": 268_435_456}, "uki": {"digest": digest('2'), "size": 12_000_000},
        "verity": {"root_hash": hash, "salt": "", "uuid": "00".repeat(16)},
        "chunks": {"index": {"digest": digest('3'), "size": 200_000},
            "pack": {"digest": digest('4'), "size": 250_000_000}},
        "patches": [{"from": "1.1.0", "from_root_hash": hash, "blob": {"digest": digest('5'), "size": 7_000_000},
            "from_uki": digest('6'), "memory": 96_000_000}],
        "health_command": ["/usr/bin/check", "--all"],
    })
}

/// A node and its OS as the hub tells it, with `change` in what the node said.
pub fn os_node(id: &str, host: &str, change: Value) -> Value {
    let mut status = json!({"version": "1.1.0", "compatible": "cairn-generic-amd64", "slot": "a", "other": "1.0.0",
        "state": "idle"});
    for (key, value) in change.as_object().unwrap() {
        status[key] = value.clone();
    }
    json!({"node": id, "hostname": host, "online": true, "desired": null, "status": status})
}

/// A digest of one repeated digit.
pub fn digest(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}
