//! A laboratory: a hub, its nodes, and a folder for all that they leave behind.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    accel::{self, Accel},
    hub::Hub,
    vm::{Vm, VmConfig},
    wait,
};

/// Enrolment needs the network of a node that has just booted.
const ENROL_DEADLINE: Duration = Duration::from_secs(180);

/// A pull, an unpack and a start under TCG.
pub const READY_DEADLINE: Duration = Duration::from_secs(180);

/// On the console by this alone one knows that the unit of [`PLANTED`] has run.
pub const PLANTED_MARKER: &str = "planted-by-smbios";

/// What an attacker who runs the machine passes in by SMBIOS, as systemd's credentials allow: a unit that shows on the
/// console, what starts it, and a password for root. No shell is needed: a program of the image complains of the word.
pub const PLANTED: [(&str, &str); 3] = [
    (
        "systemd.extra-unit.planted.service",
        "[Service]\nType=oneshot\nExecStart=-/usr/bin/cairnd planted-by-smbios\nStandardOutput=tty\n\
         StandardError=tty\nTTYPath=/dev/console\n",
    ),
    ("systemd.unit-dropin.multi-user.target", "[Unit]\nWants=planted.service\n"),
    ("passwd.plaintext-password.root", "planted"),
];

/// What the scenarios need, as `./x test` builds it, below the workspace's `target/`.
#[derive(Debug, Clone)]
pub struct Lab {
    dir: PathBuf,
    target: PathBuf,
    image: PathBuf,
    accel: Accel,
}

impl Lab {
    /// A laboratory with an empty folder of its own, `target/vm/<name>`, for nodes of the test image. What is in there
    /// after a failure (console log, hub log, disks) is kept until the next run.
    pub fn new(name: &str) -> Result<Self> {
        Self::with_image(name, "image-test")
    }

    /// Like [`Lab::new`], with the disk image in another folder of `target/`.
    pub fn with_image(name: &str, image: &str) -> Result<Self> {
        let target = match env::var_os("CAIRN_TARGET") {
            Some(dir) => PathBuf::from(dir),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        };
        let target = fs::canonicalize(&target).with_context(|| format!("no folder {}", target.display()))?;
        let dir = target.join("vm").join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("failed to empty {}", dir.display()))?;
        }
        fs::create_dir_all(&dir)?;
        // Another build of the same image, such as Nix's: CAIRN_IMAGE is its folder.
        let image =
            env::var_os("CAIRN_IMAGE").map_or_else(|| target.join(image), PathBuf::from).join("disk.raw");
        let lab = Self { accel: accel::probe(&target)?, image, dir, target };
        for needed in [lab.image.clone(), lab.binaries().join("cairn-hub"), lab.binaries().join("cairn")] {
            ensure!(
                needed.exists(),
                "{} is missing: `./x test vm` builds it and runs the scenarios",
                needed.display()
            );
        }
        Ok(lab)
    }

    /// The folder of this laboratory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The programs, stripped, as they are in the image.
    pub fn binaries(&self) -> PathBuf {
        self.target.join("bin")
    }

    /// The guests and images that the scenarios deploy, built from `examples/`.
    pub fn examples(&self) -> PathBuf {
        self.target.join("examples")
    }

    /// An OS release that `./x test` made, as an OCI image layout; see `xtask/src/releases.rs` for their names.
    pub fn release(&self, name: &str) -> String {
        self.target.join("releases").join(name).display().to_string()
    }

    /// A hub with all its keys.
    pub fn hub(&self) -> Result<Hub> {
        Hub::start(&self.binaries(), &self.dir.join("hub"))
    }

    /// A hub beside the first one, of another fleet, in a folder of this name.
    pub fn hub_named(&self, name: &str) -> Result<Hub> {
        Hub::start(&self.binaries(), &self.dir.join(name))
    }

    /// A hub that holds neither root keys nor the artifacts targets key.
    pub fn hub_with_offline_keys(&self) -> Result<Hub> {
        Hub::start_with_offline_keys(&self.binaries(), &self.dir.join("hub"))
    }

    /// Boots node `number` with what it needs to enrol at `hub`, and waits for its shell. Ports are the node's TCP
    /// ports to reach from here.
    pub fn boot(&self, hub: &Hub, number: u32, token: &str, ports: &[u16]) -> Result<Vm> {
        let mut vm = self.power_on(hub, number, token, ports)?;
        vm.wait_booted()?;
        Ok(vm)
    }

    /// Like [`Lab::boot`], without waiting: a production image has no shell that could answer.
    pub fn power_on(&self, hub: &Hub, number: u32, token: &str, ports: &[u16]) -> Result<Vm> {
        Vm::boot(&self.dir.join(format!("node{number}")), self.config(hub, number, token, ports)?)
    }

    /// Like [`Lab::boot`], with further credentials for systemd.
    pub fn boot_with(&self, hub: &Hub, number: u32, token: &str, credentials: &[(&str, &str)]) -> Result<Vm> {
        let mut vm = self.power_on_with(hub, number, token, credentials)?;
        vm.wait_booted()?;
        Ok(vm)
    }

    /// Like [`Lab::power_on`], with further credentials for systemd.
    pub fn power_on_with(
        &self,
        hub: &Hub,
        number: u32,
        token: &str,
        credentials: &[(&str, &str)],
    ) -> Result<Vm> {
        let mut config = self.config(hub, number, token, &[])?;
        config
            .credentials
            .extend(credentials.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Vm::boot(&self.dir.join(format!("node{number}")), config)
    }

    /// The disk image that nodes start from.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Boots node `number` without a network card and without a word about any hub, and waits for its shell.
    pub fn boot_air_gapped(&self, number: u32, credentials: &[(&str, &str)]) -> Result<Vm> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let config = VmConfig {
            credentials: credentials.iter().map(owned).collect(),
            network: false,
            ..self.machine(number)
        };
        let mut vm = Vm::boot(&self.dir.join(format!("node{number}")), config)?;
        vm.wait_booted()?;
        Ok(vm)
    }

    fn config(&self, hub: &Hub, number: u32, token: &str, ports: &[u16]) -> Result<VmConfig> {
        let ca = fs::read_to_string(hub.ca_file()).context("failed to read the hub's CA")?;
        let credential = |name: &str, value: String| (name.to_owned(), value);
        Ok(VmConfig {
            credentials: vec![
                credential("cairn.hub", hub.url_from_guest()),
                credential("cairn.hub-ca", ca),
                credential("cairn.enroll-token", token.to_owned()),
            ],
            forward: ports.to_vec(),
            ..self.machine(number)
        })
    }

    /// What all nodes have in common.
    fn machine(&self, number: u32) -> VmConfig {
        VmConfig {
            image: self.image.clone(),
            disk_gib: 4,
            memory_mib: 768,
            uuid: format!("00000000-0000-4000-8000-{number:012}"),
            credentials: Vec::new(),
            forward: Vec::new(),
            accel: self.accel,
            record: None,
            network: true,
            clock: None,
        }
    }

    /// A hub, and one node that has enrolled with a token that approves it: where most scenarios begin.
    pub fn enrolled(&self, ports: &[u16]) -> Result<(Hub, Vm)> {
        let hub = self.hub()?;
        let token = hub.token(&["--auto-approve"])?;
        let vm = self.boot(&hub, 1, &token, ports)?;
        wait_node(&hub, |node| node["state"] == "approved" && node["online"] == true)?;
        Ok((hub, vm))
    }

    /// Puts the container image and the wasm component of `examples/` into the hub.
    pub fn push_examples(&self, hub: &Hub) -> Result<()> {
        hub.push_image(&self.examples().join("web-server"), "demo/web:1")?;
        let component = self.examples().join("hello-http.wasm");
        hub.cairn(&["artifact", "push", &component.display().to_string(), "demo/hello:1"])?;
        Ok(())
    }
}

/// Waits until the hub's one node is as `wanted` says.
pub fn wait_node(hub: &Hub, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    wait::until("the node to be as wanted", ENROL_DEADLINE, || match hub.nodes()?.as_slice() {
        [node] if wanted(node) => Ok(Some(node.clone())),
        other => bail!("nodes: {other:?}; hub: {}", last_lines(&hub.log())),
    })
}

/// Fetches a page over HTTP with a deadline of its own, and retries until `deadline`.
pub fn fetch(port: u16, path: &str, deadline: Duration) -> Result<String> {
    let url = format!("http://127.0.0.1:{port}{path}");
    wait::until(&format!("a page from {url}"), deadline, || {
        crate::vm::run(std::process::Command::new("curl").args(["-fsS", "--max-time", "10", &url])).map(Some)
    })
}

fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
