//! A node and its hub on one machine: the built `cairnd`, and a hub behind real TLS whose documents the hub's own code
//! signs, and which can fail in every way that a hub can. The workloads are processes of a script that stands in for
//! `cairn-wasm`: whether they go on is what is looked at, not what they do.

use std::{
    collections::BTreeMap,
    fs,
    future::pending,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use cairn_model::{
    Digest, NodeId,
    compose::App,
    enroll::{EnrollGrant, EnrollState, ReportsRequest},
    local::LocalStatus,
    oci,
    report::{Record, WorkloadState},
};
use cairn_trust::{
    envelope,
    keys::PublicKey,
    sign::{Artifacts, Director, HubKeys, Lifetimes, TargetEntry},
};
use futures_util::stream;
use jiff::Timestamp;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{json, value::RawValue};
use tokio::{net::TcpListener, runtime::Runtime, sync::watch, task::JoinSet};

use super::{cairnd, root, status};

/// A hub that hangs is given up after half a minute, and pauses between tries grow to half a minute too.
const DEADLINE: Duration = Duration::from_secs(150);
/// How long the long poll is held.
const HELD: Duration = Duration::from_secs(20);

/// How a hub behaves, once a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    /// Nobody listens.
    Down,
    /// It takes every request and never answers.
    Hangs,
    /// It answers every request with the same nonsense.
    Garbage,
    /// Its answers do not end.
    Endless,
}

/// What the hub has on its disk.
struct Books {
    keys: HubKeys,
    director: Director,
    artifacts: Artifacts,
    token: String,
    member: Option<PublicKey>,
    content: BTreeMap<Digest, Vec<u8>>,
    told: Vec<String>,
    stored: u64,
}

#[derive(Clone)]
struct Served {
    books: Arc<Mutex<Books>>,
    mood: watch::Receiver<Mood>,
    newest: watch::Receiver<u64>,
}

/// The hub; it ends when dropped.
pub(super) struct Hub {
    books: Arc<Mutex<Books>>,
    mood: watch::Sender<Mood>,
    newest: watch::Sender<u64>,
    port: u16,
    ca_pem: String,
    _dir: tempfile::TempDir,
    _runtime: Runtime,
}

impl Hub {
    /// A hub that admits whoever has `token`.
    pub(super) fn start(token: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (keys, lifetimes, now) = (HubKeys::generate().unwrap(), Lifetimes::default(), Timestamp::now());
        let director = Director::init(&dir.path().join("d"), &keys, lifetimes, now).unwrap();
        let artifacts = Artifacts::init(&dir.path().join("a"), &keys, lifetimes, now).unwrap();
        let (token, content, told) = (token.to_owned(), BTreeMap::new(), Vec::new());
        let books = Books { keys, director, artifacts, token, member: None, content, told, stored: 0 };
        let books = Arc::new(Mutex::new(books));
        let ((mood, moods), (newest, generations)) = (watch::channel(Mood::Well), watch::channel(0));
        let (ca_pem, tls) = certificate();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = Served { books: books.clone(), mood: moods.clone(), newest: generations };
        let router = Router::new().fallback(answer).with_state(served);
        runtime.spawn(serve(listener, tls, router, moods));
        Self { books, mood, newest, port, ca_pem, _dir: dir, _runtime: runtime }
    }

    /// From now on it is so; every connection is cut.
    pub(super) fn becomes(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// Wants these services of `node`, each with its component.
    pub(super) fn publish(&self, node: &NodeId, services: &[(&str, &str)]) -> u64 {
        let generation = *self.newest.borrow() + 1;
        self.books.lock().unwrap().publish(node, generation, services);
        self.newest.send_replace(generation);
        generation
    }

    /// The reasons of all events that have been reported, each report once and in order.
    pub(super) fn told(&self) -> Vec<String> {
        self.books.lock().unwrap().told.clone()
    }
}

fn certificate() -> (String, tokio_rustls::TlsAcceptor) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let der = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], der)
        .unwrap();
    (certificate.pem(), tokio_rustls::TlsAcceptor::from(Arc::new(config)))
}

async fn serve(
    first: TcpListener,
    tls: tokio_rustls::TlsAcceptor,
    router: Router,
    mut moods: watch::Receiver<Mood>,
) {
    let address: SocketAddr = first.local_addr().unwrap();
    let mut listener = Some(first);
    loop {
        if *moods.borrow_and_update() == Mood::Down {
            drop(listener.take());
            moods.changed().await.unwrap();
            continue;
        }
        let open = match listener.take() {
            Some(open) => open,
            None => TcpListener::bind(address).await.expect("its port is still free"),
        };
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = open.accept() => {
                    let (tls, router) = (tls.clone(), router.clone());
                    connections.spawn(async move {
                        let Ok(stream) = tls.accept(accepted.unwrap().0).await else { return };
                        let service = hyper_util::service::TowerToHyperService::new(router);
                        let io = hyper_util::rt::TokioIo::new(stream);
                        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                    });
                }
                _ = moods.changed() => break,
            }
        }
        // With the tasks go the connections.
        drop(connections);
        listener = Some(open);
    }
}

async fn answer(State(served): State<Served>, request: Request) -> Response {
    let mood = *served.mood.borrow();
    match mood {
        Mood::Well | Mood::Down => {}
        Mood::Hangs => return pending().await,
        Mood::Garbage => return "<html>\u{7}this is no hub</html>".repeat(40).into_response(),
        Mood::Endless => {
            let piece = Bytes::from(vec![b'x'; 16 << 10]);
            return Body::from_stream(stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone())))
                .into_response();
        }
    }
    let path = request.uri().path().to_owned();
    if path == "/node/v1/wait" {
        let applied = request.uri().query().and_then(|query| query.strip_prefix("generation=")?.parse().ok());
        return wait(served.newest, applied.unwrap()).await;
    }
    let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
    served.books.lock().unwrap().answer(&path, &body)
}

async fn wait(mut newest: watch::Receiver<u64>, applied: u64) -> Response {
    match tokio::time::timeout(HELD, newest.wait_for(|newest| *newest > applied)).await {
        Ok(newest) => json!({"generation": *newest.unwrap()}).to_string().into_response(),
        Err(_) => StatusCode::NO_CONTENT.into_response(),
    }
}

impl Books {
    fn answer(&mut self, path: &str, body: &[u8]) -> Response {
        if path == "/node/v1/enroll" {
            let (request, public) = envelope::verify_enroll(std::str::from_utf8(body).unwrap()).unwrap();
            if request.token != self.token {
                let message = "the token has expired; make a new one with `cairn token create`";
                let error = json!({"error": {"code": "token-expired", "message": message}});
                return (StatusCode::FORBIDDEN, error.to_string()).into_response();
            }
            self.member = Some(public);
        }
        let Some(public) = self.member else { return StatusCode::UNAUTHORIZED.into_response() };
        let (node, now) = (public.node_id(), Timestamp::now());
        let found = match path.split('/').skip(1).collect::<Vec<_>>()[..] {
            ["node", "v1", "enroll" | "enrollment"] => Some(self.grant(node)),
            ["node", "v1", "reports"] => Some(self.take(body, &public)),
            ["tuf", "director", _, ref file @ ..] => {
                self.director.file(&self.keys, &node, &file.join("/"), now).ok()
            }
            ["tuf", "artifacts", ref file @ ..] => self.artifacts.file(&self.keys, &file.join("/"), now).ok(),
            ["v2", "_", "manifests" | "blobs", digest] => {
                self.content.get(&digest.parse::<Digest>().unwrap()).cloned()
            }
            _ => None,
        };
        found.map_or_else(|| StatusCode::NOT_FOUND.into_response(), IntoResponse::into_response)
    }

    fn grant(&self, node: NodeId) -> Vec<u8> {
        let raw = |root: Vec<u8>| Some(RawValue::from_string(String::from_utf8(root).unwrap()).unwrap());
        let grant = EnrollGrant {
            schema: 1,
            node,
            state: EnrollState::Approved,
            director_root: raw(self.director.first_root().unwrap()),
            artifacts_root: raw(self.artifacts.first_root().unwrap()),
        };
        serde_json::to_vec(&grant).unwrap()
    }

    fn take(&mut self, body: &[u8], public: &PublicKey) -> Vec<u8> {
        let request: ReportsRequest = serde_json::from_slice(body).unwrap();
        for report in request.envelopes.iter().map(|e| envelope::verify_report(e, public).unwrap()) {
            if report.sequence <= self.stored {
                continue;
            }
            assert_eq!(report.sequence, self.stored + 1, "none is left out");
            self.stored = report.sequence;
            self.told.extend(report.records.into_iter().filter_map(|record| match record {
                Record::Event(event) => Some(event.reason),
                _ => None,
            }));
        }
        json!({"acknowledged": self.stored}).to_string().into_bytes()
    }

    fn put(&mut self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        self.content.insert(digest.clone(), bytes);
        digest
    }

    fn manifest(&mut self, kind: &str, config: Vec<u8>, layers: &[serde_json::Value]) -> Digest {
        let size = config.len();
        let config = json!({"mediaType": kind, "digest": self.put(config), "size": size});
        self.put(json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string().into_bytes())
    }

    fn publish(&mut self, node: &NodeId, generation: u64, services: &[(&str, &str)]) {
        let (mut compose, mut signed) = ("services:\n".to_owned(), Vec::new());
        for (service, module) in services {
            let digest = self.put(module.as_bytes().to_vec());
            let layer =
                json!({"mediaType": oci::MEDIA_TYPE_WASM_LAYER, "digest": digest, "size": module.len()});
            let image = self.manifest(oci::MEDIA_TYPE_WASM_CONFIG, b"{}".to_vec(), &[layer]);
            compose += &format!("  {service}:\n    image: a@{image}\n    platform: wasi/wasm\n");
            signed.push(image);
        }
        let app = App::parse("compose.yaml", &compose).unwrap().to_canonical_json();
        let app = self.manifest(oci::ARTIFACT_TYPE_APP, app, &[]);
        signed.push(app.clone());
        let entry = |digest: Digest| TargetEntry::new(digest.clone(), self.content[&digest].len() as u64);
        let entries: Vec<_> = signed.into_iter().map(entry).collect();
        let replicas: BTreeMap<_, _> = services.iter().map(|(service, _)| (service, [0])).collect();
        let desired = json!({
            "schema": 1, "node": node, "generation": generation,
            "apps": {"shop": {"app": app, "services": replicas}},
            "policy": {"poll_seconds": 60, "report_seconds": 300},
        });
        let (desired, now) = (desired.to_string().into_bytes(), Timestamp::now());
        self.artifacts.add(&self.keys, &entries, now).unwrap();
        self.director.publish(&self.keys, node, generation, &desired, &entries, now).unwrap();
    }
}

/// Stands in for `cairn-wasm`. A component holds how many MiB its compiled form takes; a workload says that it has begun,
/// and goes on until it is stopped.
const RUNTIME: &str = r#"#!/bin/sh
case "$1" in
precompile) head -c "$(cat "$2")M" /dev/zero > "$3.part" && mv "$3.part" "$3" || { rm -f "$3.part"; exit 1; } ;;
run) echo "$$ $2" >> "$(dirname "$0")/runs"; exec sleep 900 ;;
esac
"#;

/// A node with its own folder; what it started ends with it.
pub(super) struct Node {
    root: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Node {
    /// Of this hub, with this token; not started yet.
    pub(super) fn new(hub: &Hub, token: &str) -> Self {
        let root = root("");
        let at = root.path();
        let runtime = at.join("cairn-wasm");
        for (path, text) in [(at.join("ca.pem"), hub.ca_pem.as_str()), (runtime.clone(), RUNTIME)] {
            fs::write(path, text).unwrap();
        }
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
        let config = format!(
            "[hub]\nurl = 'https://localhost:{}'\nca_file = '{at}/ca.pem'\ntoken_file = '{at}/token'\n[runtime]\nwasm = '{}'\n",
            hub.port,
            runtime.display(),
            at = at.display()
        );
        fs::create_dir_all(at.join("etc/cairn/cairnd.toml.d")).unwrap();
        fs::write(at.join("etc/cairn/cairnd.toml.d/10-hub.toml"), config).unwrap();
        let node = Self { root, daemon: None };
        node.has_token(token);
        node
    }

    pub(super) fn has_token(&self, token: &str) {
        fs::write(self.root.path().join("token"), token).unwrap();
    }

    pub(super) fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    pub(super) fn start(&mut self) {
        let journal = fs::File::options().create(true).append(true).open(self.root.path().join("journal"));
        let mut command = cairnd(self.root.path());
        self.daemon = Some(command.arg("run").stderr(Stdio::from(journal.unwrap())).spawn().unwrap());
    }

    /// Ends the daemon, and with it its workloads: so it is with plain processes.
    pub(super) fn stop(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        let _ = kill(Pid::from_raw(i32::try_from(daemon.id()).unwrap()), Signal::SIGTERM);
        let begun = Instant::now();
        while daemon.try_wait().unwrap().is_none() && begun.elapsed() < DEADLINE {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = daemon.kill();
        let _ = daemon.wait();
    }

    /// The daemon is killed; a power cut would take the workloads too.
    pub(super) fn dies(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        for pid in self.runs().into_iter().filter(|pid| is_alive(*pid)) {
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
        fs::remove_file(self.root.path().join("run/cairnd.sock")).unwrap();
    }

    /// Waits for the end of a daemon that cannot go on.
    pub(super) fn fails(&mut self) {
        let status = self.daemon.take().unwrap().wait().unwrap();
        assert!(!status.success(), "{}", self.journal());
    }

    pub(super) fn status(&self) -> LocalStatus {
        status(self.root.path())
    }

    /// The status as soon as it is so.
    pub(super) fn until(&mut self, what: &str, holds: impl Fn(&LocalStatus) -> bool) -> LocalStatus {
        let begun = Instant::now();
        loop {
            let ended = self.daemon.as_mut().and_then(|daemon| daemon.try_wait().unwrap());
            assert!(ended.is_none(), "{what}: cairnd has ended:\n{}", self.journal());
            let status = self.status();
            if holds(&status) {
                return status;
            }
            assert!(begun.elapsed() < DEADLINE, "{what}: {status:#?}\n{}", self.journal());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the journal has these words.
    pub(super) fn until_journal(&mut self, words: &[&str]) {
        let begun = Instant::now();
        while !words.iter().all(|word| self.journal().contains(word)) {
            assert!(begun.elapsed() < DEADLINE, "{words:?}: {}", self.journal());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The processes of all workloads that ever began, in that order.
    pub(super) fn runs(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.root.path().join("runs")).unwrap_or_default();
        text.lines().map(|line| line.split_once(' ').unwrap().0.parse().unwrap()).collect()
    }

    pub(super) fn journal(&self) -> String {
        fs::read_to_string(self.root.path().join("journal")).unwrap_or_default()
    }

    /// That these processes run, and no other ever began.
    pub(super) fn still_runs(&self, processes: &[i32]) {
        assert_eq!(self.runs(), processes, "{}", self.journal());
        assert!(processes.iter().all(|pid| is_alive(*pid)), "{}", self.journal());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

fn is_alive(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}/cwd")).read_link().is_ok()
}

/// How many of its workloads run.
pub(super) fn running(status: &LocalStatus) -> usize {
    status.workloads.iter().filter(|workload| workload.state == WorkloadState::Running).count()
}

/// Whether one of its problems has all these words.
pub(super) fn says(status: &LocalStatus, words: &[&str]) -> bool {
    status.problems.iter().any(|problem| words.iter().all(|word| problem.contains(word)))
}
