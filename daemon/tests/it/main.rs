//! The built `cairnd`, run as a program in a folder of its own: what it says and does without a hub.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use cairn_model::local::{LinkState, LocalStatus};

mod bad_hub;
mod full_disk;
mod hub;
mod media;
mod stick;
mod watchdog;

const DEADLINE: Duration = Duration::from_secs(30);

fn cairnd(root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairnd"));
    command.arg("--root").arg(root).env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET");
    command.env_remove("CREDENTIALS_DIRECTORY");
    command
}

/// A folder with a configuration that keeps everything inside it.
fn root(more: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let text = format!(
        "[node]\nstate_dir = '{at}/state'\nrun_dir = '{at}/run'\n[runtime]\nsupervisor = 'processes'\n{more}"
    );
    fs::create_dir_all(dir.path().join("etc/cairn")).unwrap();
    fs::write(dir.path().join("etc/cairn/cairnd.toml"), text).unwrap();
    dir
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn check_config(root: &Path) -> Output {
    cairnd(root).arg("check-config").output().unwrap()
}

/// A running daemon; killed when dropped.
struct Daemon(Child);

impl Daemon {
    fn start(root: &Path) -> Self {
        let child = cairnd(root).arg("run").stderr(Stdio::piped()).spawn().unwrap();
        Self(child)
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < DEADLINE, "cairnd does not end");
            std::thread::yield_now();
        }
    }

    fn stderr_line(&mut self, part: &str) -> String {
        let mut lines = BufReader::new(self.0.stderr.as_mut().unwrap()).lines();
        lines.find_map(|line| line.ok().filter(|line| line.contains(part))).expect("the line comes")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn status(root: &Path) -> LocalStatus {
    let answer = ask(root, "GET /v1/status");
    let body = answer.split_once("\r\n\r\n").expect("an HTTP answer").1;
    serde_json::from_str(body).expect("a status")
}

fn ask(root: &Path, what: &str) -> String {
    send(root, what, "")
}

fn send(root: &Path, what: &str, body: &str) -> String {
    let socket = root.join("run/cairnd.sock");
    let begun = Instant::now();
    let mut stream = loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(e) => assert!(begun.elapsed() < DEADLINE, "{}: {e}", socket.display()),
        }
        std::thread::yield_now();
    };
    let length = body.len();
    let head = format!("{what} HTTP/1.1\r\nHost: node\r\nContent-Length: {length}\r\nConnection: close\r\n");
    let request = format!("{head}Content-Type: application/json\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn check_config_says_what_holds_and_what_does_not() {
    let good = root("[log]\nlevel = 'debug'\n");
    let output = check_config(good.path());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("Processes"));

    let bad = root("[hub]\nurll = 'https://hub:1'\n");
    let output = check_config(bad.path());
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("did you mean \"url\"?"), "{}", text(&output.stderr));
}

#[test]
fn a_node_without_a_hub_says_so_and_ends_in_order() {
    let root = root("");
    let mut daemon = Daemon::start(root.path());
    let status = status(root.path());
    assert_eq!(status.link, LinkState::Unconfigured);
    assert_eq!(status.generation, 0);
    assert!(status.problems.iter().any(|p| p.contains("cairn.hub")), "{:?}", status.problems);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.0.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(daemon.wait().success());
}

#[test]
fn a_node_keeps_its_key_across_restarts() {
    let root = root("");
    let first = {
        let _daemon = Daemon::start(root.path());
        status(root.path()).node
    };
    fs::remove_file(root.path().join("run/cairnd.sock")).unwrap();
    let _daemon = Daemon::start(root.path());
    assert_eq!(status(root.path()).node, first);
}

#[test]
fn a_hub_that_is_down_is_named_and_asked_again() {
    // A port that was just free: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let root =
        root(&format!("[hub]\nurl = 'https://127.0.0.1:{port}'\nca_file = 'CA'\ntoken_file = 'TOKEN'\n"));
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let config = root.path().join("etc/cairn/cairnd.toml");
    let written = fs::read_to_string(&config).unwrap();
    for (name, content) in [("CA", ca.pem()), ("TOKEN", "token".to_owned())] {
        fs::write(root.path().join(name), content).unwrap();
    }
    let at = |name: &str| root.path().join(name).display().to_string();
    fs::write(
        &config,
        written.replace("'CA'", &format!("'{}'", at("CA"))).replace("'TOKEN'", &format!("'{}'", at("TOKEN"))),
    )
    .unwrap();
    let mut daemon = Daemon::start(root.path());
    let line = daemon.stderr_line("not enrolled");
    assert!(line.contains("cannot be reached") && line.contains("check the network"), "{line}");
    assert_eq!(status(root.path()).link, LinkState::Enrolling);
}

#[test]
fn a_torn_ledger_is_refused_with_its_cure() {
    let root = root("");
    fs::create_dir_all(root.path().join("state")).unwrap();
    fs::write(root.path().join("state/ledger.sqlite"), b"not a database at all").unwrap();
    let mut daemon = Daemon::start(root.path());
    assert!(daemon.stderr_line("damaged").contains("move ledger.sqlite* away"));
    assert!(!daemon.wait().success());
}

#[test]
fn a_machine_without_slots_has_nothing_to_confirm_and_nothing_to_apply() {
    let root = root("");
    let confirm = cairnd(root.path()).args(["os", "confirm"]).output().unwrap();
    assert!(confirm.status.success(), "without a daemon too: {}", text(&confirm.stderr));
    let _daemon = Daemon::start(root.path());
    assert_eq!(status(root.path()).os, None);
    assert!(ask(root.path(), "GET /v1/os/confirm").starts_with("HTTP/1.1 200 "));
    let refused = ask(root.path(), "POST /v1/os/apply");
    assert!(refused.starts_with("HTTP/1.1 409 ") && refused.contains("does not update its OS"), "{refused}");
}

#[test]
fn confirming_an_ordinary_boot_does_not_fail_by_a_configuration_that_is_refused() {
    let root = root("[hub]\nurll = 'x'\n");
    let confirm = cairnd(root.path()).args(["os", "confirm"]).output().unwrap();
    assert!(confirm.status.success(), "{}", text(&confirm.stderr));
}
