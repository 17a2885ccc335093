//! The real hub, and nodes without a network: what a stick carries between them.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{OnceLock, mpsc},
    time::{Duration, Instant},
};

use cairn_model::{Digest, Facts, NodeId, enroll::EnrollRequest, media::report_path, report::Report};
use cairn_trust::{envelope, keys::KeyPair};
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::run::{Ran, User};

/// How long anything may take on a busy machine before a test calls it broken.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The hub's program, beside ours. `cargo test --workspace` has built it; `cargo test -p cairn` alone builds it now.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let path = Path::new(env!("CARGO_BIN_EXE_cairn")).with_file_name("cairn-hub");
        if !path.exists() {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let built = Command::new(cargo).args(["build", "-q", "-p", "cairn-hub"]).status().unwrap();
            assert!(built.success() && path.exists(), "no hub to test with");
        }
        path
    })
}

/// A running hub and its admin; killed when dropped.
pub struct RealHub {
    folder: TempDir,
    process: Child,
    pub url: String,
    pub user: User,
}

impl Drop for RealHub {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl RealHub {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("hub");
        let made = Command::new(program())
            .args(["init", "--name", "localhost", "--address", "127.0.0.1", "--data"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let (process, url) = Self::serve(&data);
        let hub = Self { user: User::new(), folder, process, url };
        hub.add_context(&hub.user, &hub.url);
        hub
    }

    /// Remembers the hub at `url`, which may be something in between.
    pub fn add_context(&self, user: &User, url: &str) {
        let (ca, token) = (self.data().join("ca.pem"), self.data().join("admin.token"));
        let (ca, token) = (ca.to_str().unwrap(), token.to_str().unwrap());
        let add = ["context", "add", "real", "--replace", "--hub", url, "--ca", ca, "--token-file", token];
        user.run(&add).ok();
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("hub")
    }

    fn serve(data: &Path) -> (Child, String) {
        let mut process = Command::new(program())
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .env("CAIRN_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if let Some((_, url)) = line.split_once("listening on ") {
                    let _ = sender.send(url.trim().to_owned());
                }
            }
        });
        let url = receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("the hub does not start"));
        (process, url)
    }

    pub fn address(&self) -> String {
        self.url.trim_start_matches("https://").trim_end_matches('/').to_owned()
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        self.user.run(args)
    }

    /// An image of one layer, and an app of it that runs everywhere; the layer's digest.
    pub fn deploy(&self, app: &str, layer: &[u8]) -> Digest {
        let folder = format!("{app}-{}", Digest::of(layer).hex());
        let blob = |media_type: &str, bytes: &[u8]| {
            let digest = Digest::of(bytes);
            self.user.file(&format!("{folder}/blobs/sha256/{}", digest.hex()), bytes);
            json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
        };
        let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": [app]}}).to_string();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob("application/vnd.oci.image.config.v1+json", config.as_bytes()),
            "layers": [blob("application/vnd.oci.image.layer.v1.tar", layer)],
        });
        let top = blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
        self.user.file(&format!("{folder}/oci-layout"), "{}");
        let index = json!({"schemaVersion": 2, "manifests": [top]}).to_string();
        self.user.file(&format!("{folder}/index.json"), index);
        self.run(&["artifact", "push", &folder, &format!("demo/{app}:1")]).ok();
        let compose =
            format!("services:\n  web:\n    image: demo/{app}:1\n    deploy:\n      mode: global\n");
        self.user.file("compose.yaml", compose);
        self.run(&["app", "deploy", "compose.yaml", "--name", app]).ok();
        Digest::of(layer)
    }

    /// A member of this fleet that has never had a network, and its stick.
    pub fn member(&self, host: &str) -> Node {
        let node = Node::new(host);
        let stick = tempfile::tempdir().unwrap();
        node.ask_to_enroll(stick.path());
        self.run(&["usb", "import", stick.path().to_str().unwrap()]).ok();
        self.run(&["node", "approve", node.id.as_str()]).ok();
        node
    }
}

/// A node that only ever sees sticks.
pub struct Node {
    key: KeyPair,
    pub id: NodeId,
    host: String,
}

impl Node {
    pub fn new(host: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self { id: key.public().node_id(), key, host: host.to_owned() }
    }

    pub fn ask_to_enroll(&self, stick: &Path) {
        let facts = Facts {
            schema: 1,
            hostname: self.host.clone(),
            arch: "amd64".to_owned(),
            cpus: 2,
            memory_bytes: 1 << 30,
            runtimes: vec!["oci".to_owned(), "wasm".to_owned()],
            ..Facts::default()
        };
        let request = EnrollRequest {
            schema: 1,
            token: String::new(),
            public_key: self.key.public().to_base64url(),
            facts,
        };
        let jws = envelope::sign_enroll(&self.key, &request).unwrap();
        put(&stick.join(format!("outbox/{}/enroll.jws", self.id)), jws.as_bytes());
    }

    /// Writes a report, as the node does when it has visited.
    pub fn report(&self, stick: &Path, sequence: u64) {
        let report = Report {
            schema: 1,
            node: self.id.clone(),
            boot: "0123456789abcdef0123456789abcdef".parse().unwrap(),
            sequence,
            time_ms: Timestamp::now().as_millisecond() - 3 * 86_400_000,
            records: Vec::new(),
        };
        let jws = envelope::sign_report(&self.key, &report).unwrap();
        put(&stick.join(report_path(&self.id, sequence)), jws.as_bytes());
    }
}

pub fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// What the receipt on a stick says.
pub fn receipt(stick: &Path) -> Value {
    serde_json::from_slice(&fs::read(stick.join("cairn-bundle.json")).unwrap()).unwrap()
}

pub fn blob(stick: &Path, digest: &Digest) -> PathBuf {
    stick.join("blobs/sha256").join(digest.hex())
}

/// Bytes that no one can guess, and that compress to nothing less.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Waits until `is_so`.
#[track_caller]
pub fn wait_until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it does not happen");
        std::thread::yield_now();
    }
}
