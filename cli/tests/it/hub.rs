//! A hub that answers what a test says, and remembers what it was asked.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::Response,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::run::SECRET;

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
        let app = Router::new().fallback(answer).with_state(Arc::clone(&script));
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

/// A digest of one repeated digit.
pub fn digest(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}
