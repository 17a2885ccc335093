//! A folder with compiled guests, the program, and a socket that plays systemd.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Far longer than anything here takes on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Bed {
    folder: TempDir,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Compiles a guest's text to `guest.cwasm` and returns the kind that was printed.
    pub(crate) fn precompile(&self, wat: &str) -> String {
        let output = self.try_precompile(&wat::parse_str(wat).unwrap());
        assert!(output.status.success(), "{}", stderr(&output));
        let line: Value = serde_json::from_slice(&output.stdout).unwrap();
        line["kind"].as_str().unwrap().to_owned()
    }

    pub(crate) fn try_precompile(&self, wasm: &[u8]) -> Output {
        fs::write(self.path("guest.wasm"), wasm).unwrap();
        program().arg("precompile").args([self.path("guest.wasm"), self.artifact()]).output().unwrap()
    }

    pub(crate) fn artifact(&self) -> PathBuf {
        self.path("guest.cwasm")
    }

    /// Writes a workload for the compiled guest, changed as the test needs it.
    pub(crate) fn workload(&self, change: impl FnOnce(&mut Value)) -> PathBuf {
        let mut workload = json!({
            "id": "cairn-test-guest-1", "module": self.artifact(), "args": ["guest"], "env": [],
            "preopens": [], "listen": [], "memory_bytes": 16 << 20, "request_timeout_ms": 0, "network": false
        });
        change(&mut workload);
        let path = self.path("workload.json");
        fs::write(&path, workload.to_string()).unwrap();
        path
    }

    /// Runs a command guest to its end.
    pub(crate) fn run(&self, change: impl FnOnce(&mut Value)) -> Output {
        program().arg("run").arg(self.workload(change)).output().unwrap()
    }

    /// Runs a server guest and waits until it says that it listens.
    pub(crate) fn serve(&self, change: impl FnOnce(&mut Value)) -> Server {
        let address = free_address();
        let workload = self.workload(|workload| {
            workload["listen"] = json!([address.to_string()]);
            change(workload);
        });
        let notify = UnixDatagram::bind(self.path("notify")).unwrap();
        notify.set_read_timeout(Some(DEADLINE)).unwrap();
        let child = program()
            .arg("run")
            .arg(workload)
            .env("NOTIFY_SOCKET", self.path("notify"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let server = Server { child: Some(child), address, notify };
        assert_eq!(server.notified(), "READY=1");
        server
    }
}

pub(crate) struct Server {
    child: Option<Child>,
    pub(crate) address: SocketAddr,
    notify: UnixDatagram,
}

impl Server {
    pub(crate) fn notified(&self) -> String {
        let mut buffer = [0; 256];
        let length = self.notify.recv(&mut buffer).expect("no message to systemd in time");
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        let mut stream = self.connect();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
        read_response(&mut stream)
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.as_ref().unwrap().id()).unwrap())
    }

    pub(crate) fn terminate(&self) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
    }

    /// How it ended and what it logged.
    pub(crate) fn end(mut self) -> Output {
        self.child.take().unwrap().wait_with_output().unwrap()
    }

    pub(crate) fn stop(self) -> Output {
        self.terminate();
        self.end()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) text: String,
}

pub(crate) fn read_response(stream: &mut TcpStream) -> Response {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    let status = text.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    Response { status, text }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
pub(crate) fn assert_refused(output: &Output, code: i32, words: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

pub(crate) fn program() -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_cairn-wasm")));
    command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
    command
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
