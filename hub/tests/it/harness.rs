//! A hub in a folder of its own, and how tests talk to it.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

/// How long anything may take on a busy machine before a test calls it broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn-hub"));
    command.env("CAIRN_LOG", "info,sqlx=warn");
    command
}

/// A folder that init made.
pub struct Folder {
    pub temp: tempfile::TempDir,
    pub data: PathBuf,
    pub token: String,
}

impl Folder {
    pub fn init(more: &[&str]) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("hub");
        let output = binary()
            .args(["init", "--name", "localhost", "--address", "127.0.0.1", "--data"])
            .arg(&data)
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let token = std::fs::read_to_string(data.join("admin.token")).unwrap().trim().to_owned();
        assert!(String::from_utf8_lossy(&output.stdout).contains(&token), "printed once");
        Self { temp, data, token }
    }
}

/// A running hub; killed when dropped.
pub struct Hub {
    pub folder: Folder,
    process: Process,
    pub url: String,
    pub http: Client,
}

struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the hub's log\n{}", self.log.lock().unwrap());
        }
    }
}

fn spawn(data: &Path) -> (Process, String) {
    let mut child = binary()
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(data)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let log = Arc::new(Mutex::new(String::new()));
    let (sender, receiver) = mpsc::channel();
    let copy = Arc::clone(&log);
    std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            if let Some((_, url)) = line.split_once("listening on ") {
                let _ = sender.send(url.trim().to_owned());
            }
            let mut log = copy.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    });
    let process = Process { child, log };
    let url = receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("the hub does not start"));
    (process, url)
}

pub fn client(data: &Path) -> Client {
    // Another test may have been first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ca = reqwest::Certificate::from_pem(&std::fs::read(data.join("ca.pem")).unwrap()).unwrap();
    Client::builder().tls_certs_only([ca]).timeout(PATIENCE).build().unwrap()
}

impl Hub {
    pub fn start() -> Self {
        Self::start_in(Folder::init(&[]))
    }

    pub fn start_in(folder: Folder) -> Self {
        let (process, url) = spawn(&folder.data);
        let http = client(&folder.data);
        Self { folder, process, url, http }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.child.kill().unwrap();
        self.process.child.wait().unwrap();
    }

    /// Starts the hub again on what is on disk.
    pub fn restart(&mut self) {
        (self.process, self.url) = spawn(&self.folder.data);
        // Connections to the old port are of no use.
        self.http = client(&self.folder.data);
    }

    /// Starts the hub and kills it `after` that long, wherever it is then.
    pub fn start_and_kill(&self, after: Duration) {
        let mut child = binary()
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(&self.folder.data)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn pid(&self) -> i32 {
        self.process.child.id().cast_signed()
    }

    /// Waits for the process to end; its exit code.
    pub fn wait_for_exit(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.process.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::yield_now();
        }
        panic!("the hub does not stop");
    }

    pub fn as_token(&self, token: &str, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(token)
    }

    pub fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.as_token(&self.folder.token, method, path)
    }

    pub async fn api(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request = self.ask(method, &format!("/api/v1{path}"));
        if let Some(body) = body {
            request = request.json(&body);
        }
        answer(request.send().await.unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.api(Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    pub async fn deploy(&self, app: &str, compose: &str) -> (StatusCode, Value) {
        let body = json!({"file": "compose.yaml", "compose": compose});
        self.api(Method::PUT, &format!("/apps/{app}"), Some(body)).await
    }

    /// An enrolment token's secret.
    pub async fn token(&self, new: Value) -> String {
        let (status, body) = self.api(Method::POST, "/tokens", Some(new)).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body["secret"].as_str().unwrap().to_owned()
    }

    /// A metric's value.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.http.get(format!("{}/metrics", self.url)).send().await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }
}

pub async fn answer(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let text = response.text().await.unwrap();
    let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(json!(text)) };
    (status, body)
}

/// Asserts status and stable code of an error.
#[track_caller]
pub fn refused(got: &(StatusCode, Value), status: u16, code: &str) {
    assert_eq!(got.0.as_u16(), status, "{}", got.1);
    assert_eq!(got.1["error"]["code"], code, "{}", got.1);
    let message = got.1["error"]["message"].as_str().unwrap();
    assert!(message.contains(';'), "cause and cure: {message}");
}
