//! A real `cairn-hub` on the loopback, and the `cairn` tool that steers it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    child,
    vm::{free_port, run, write_private},
    wait,
};

/// The address under which QEMU's user network reaches this machine's loopback.
const HOST_FROM_GUEST: &str = "10.0.2.2";

/// Answers come from the loopback: what takes longer hangs.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// A hub that runs; dropped means killed.
#[derive(Debug)]
pub struct Hub {
    dir: PathBuf,
    binaries: PathBuf,
    port: u16,
    process: Option<Child>,
}

impl Hub {
    /// Makes a hub with all its keys in `dir/data` and starts it.
    pub fn start(binaries: &Path, dir: &Path) -> Result<Self> {
        Self::init(binaries, dir, &[])
    }

    /// Makes a hub whose root keys and artifacts targets key are in `dir/operator-keys`, out of the hub's reach.
    pub fn start_with_offline_keys(binaries: &Path, dir: &Path) -> Result<Self> {
        let keys = dir.join("operator-keys").display().to_string();
        Self::init(binaries, dir, &["--operator-keys", &keys])
    }

    fn init(binaries: &Path, dir: &Path, extra: &[&str]) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("failed to make {}", dir.display()))?;
        let mut hub =
            Self { dir: dir.to_owned(), binaries: binaries.to_owned(), port: free_port()?, process: None };
        let said = run(Command::new(binaries.join("cairn-hub"))
            .arg("init")
            .arg("--data")
            .arg(hub.data())
            .args(["--name", "localhost", "--address", "127.0.0.1", "--address", HOST_FROM_GUEST])
            .args(extra))?;
        // It tells the first admin's token.
        write_private(&dir.join("init.log"), &said)?;
        hub.resume()?;
        hub.cairn(&[
            "context",
            "add",
            "lab",
            "--hub",
            &hub.url(),
            "--ca",
            &hub.ca_file().display().to_string(),
            "--token-file",
            &hub.data().join("admin.token").display().to_string(),
        ])?;
        Ok(hub)
    }

    /// Starts the hub on the data that it has, and waits until it is ready.
    pub fn resume(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.dir.join("hub.log"))?;
        let process = child::command(self.binaries.join("cairn-hub"))
            .arg("serve")
            .arg("--data")
            .arg(self.data())
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("failed to start cairn-hub")?;
        self.process = Some(process);
        let url = format!("{}/readyz", self.url());
        wait::until("the hub to be ready", START_DEADLINE, || {
            run(Command::new("curl")
                .args(["-fsS", "--max-time", "5", "--cacert"])
                .arg(self.ca_file())
                .arg(&url))
            .map(Some)
        })
        .with_context(|| format!("the hub said: {}", self.log()))?;
        Ok(())
    }

    /// Kills the hub as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().ok();
            process.wait().ok();
        }
    }

    /// The hub's data folder.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Where the keys are that this hub does not hold.
    pub fn operator_keys(&self) -> PathBuf {
        self.dir.join("operator-keys")
    }

    /// The hub's CA, to pin.
    pub fn ca_file(&self) -> PathBuf {
        self.data().join("ca.pem")
    }

    /// The URL on this machine.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The URL as a node under QEMU sees it.
    pub fn url_from_guest(&self) -> String {
        format!("https://{HOST_FROM_GUEST}:{}", self.port)
    }

    /// `host:port`, as image names begin for skopeo.
    pub fn registry(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What the hub has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("hub.log")).unwrap_or_default()
    }

    /// The `cairn` tool with this hub's context.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.binaries.join("cairn"));
        command.env("XDG_CONFIG_HOME", self.dir.join("config")).stdin(Stdio::null());
        for name in ["CAIRN_HUB", "CAIRN_CA", "CAIRN_TOKEN", "CAIRN_TOKEN_FILE", "CAIRN_CONTEXT"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs `cairn` and returns what it prints; an error where it fails.
    pub fn cairn(&self, args: &[&str]) -> Result<String> {
        run(self.command().args(args)).with_context(|| format!("cairn {}", args.join(" ")))
    }

    /// Runs `cairn` and returns its error text; an error where it does *not* fail.
    pub fn cairn_refused(&self, args: &[&str]) -> Result<String> {
        let output = self.command().args(args).output().context("failed to start cairn")?;
        ensure!(!output.status.success(), "cairn {} succeeded and should have been refused", args.join(" "));
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Runs `cairn … -o json` and parses what it prints.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.cairn(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&text)
            .with_context(|| format!("cairn {} printed no JSON: {text}", args.join(" ")))
    }

    /// Makes an enrolment token and returns its secret.
    pub fn token(&self, args: &[&str]) -> Result<String> {
        let created = self.json(&[&["token", "create"], args].concat())?;
        match created["secret"].as_str() {
            Some(secret) => Ok(secret.to_owned()),
            None => bail!("`cairn token create` printed no secret: {created}"),
        }
    }

    /// Copies an OCI image layout into the hub as `name`, with skopeo, as a user would.
    pub fn push_image(&self, layout: &Path, name: &str) -> Result<()> {
        let auth = self.dir.join("registry-auth.json");
        let certs = self.dir.join("registry-certs");
        fs::create_dir_all(&certs)?;
        fs::copy(self.ca_file(), certs.join("ca.crt"))?;
        let token = File::open(self.data().join("admin.token")).context("failed to open the admin token")?;
        run(Command::new("skopeo")
            .args(["login", "--username", "operator", "--password-stdin", "--authfile"])
            .arg(&auth)
            .arg("--cert-dir")
            .arg(&certs)
            .arg(self.registry())
            .stdin(token))
        .context("skopeo login")?;
        run(Command::new("skopeo")
            .args(["copy", "-q", "--authfile"])
            .arg(&auth)
            .arg("--dest-cert-dir")
            .arg(&certs)
            .arg(format!("oci:{}:latest", layout.display()))
            .arg(format!("docker://{}/{name}", self.registry())))
        .context("skopeo copy")?;
        Ok(())
    }

    /// The nodes, as `cairn node ls` shows them.
    pub fn nodes(&self) -> Result<Vec<Value>> {
        let Value::Array(nodes) = self.json(&["node", "ls"])? else {
            bail!("`cairn node ls` printed no list")
        };
        Ok(nodes)
    }

    /// Waits until an app's replicas all run and are healthy.
    pub fn wait_app_ready(&self, app: &str, deadline: Duration) -> Result<Value> {
        wait::until(&format!("app {app} to be ready"), deadline, || {
            let status = self.json(&["app", "status", app])?;
            let (desired, ready) = (status["desired"].as_u64(), status["ready"].as_u64());
            if desired.is_some_and(|d| d > 0) && desired == ready {
                return Ok(Some(status));
            }
            bail!("{status}")
        })
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.kill();
    }
}
