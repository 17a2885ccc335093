//! The container's network namespace: made here, connected by netavark as a program of its own.

pub(crate) mod files;

use std::{
    fs::{self, File},
    io::Write,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use cairn_model::workload::{Network, OciWorkload};
use libcontainer::network::{link::LinkClient, wrapper::create_network_client};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::{
    fs::FlockOperation,
    mount::{UnmountFlags, mount_bind, unmount},
};
use serde_json::Value;

use crate::{cli::NetworkTools, layout::Layout};

/// Where distributions put netavark and aardvark-dns.
const PODMAN_FOLDERS: [&str; 3] = ["/usr/libexec/podman", "/usr/lib/podman", "/usr/local/libexec/podman"];
/// For netavark's own helpers (nft, systemd-run); nothing of our caller's environment reaches it.
const TOOL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Makes the namespace and connects it. Gives netavark's answer, from which `/etc/hosts` and `/etc/resolv.conf` follow.
pub(crate) fn set_up(workload: &OciWorkload, layout: &Layout, tools: &NetworkTools) -> Result<Option<Value>> {
    match &workload.network {
        Network::Host => Ok(None),
        Network::None => make_namespace(&layout.netns()).map(|()| None),
        Network::Bridge { netavark } => {
            make_namespace(&layout.netns())?;
            // From here on a cleanup has something to tear down, with this very input.
            let input = serde_json::to_vec(netavark).context("failed to write netavark's input")?;
            fs::write(layout.network_note(), &input).context("failed to note the network")?;
            let answer = call(tools, "setup", &input, &layout.netns())?;
            serde_json::from_slice(&answer).map(Some).context("failed to read netavark's answer")
        }
    }
}

/// Takes the connection and the namespace away; fine where there is none.
pub(crate) fn tear_down(layout: &Layout, tools: &NetworkTools) -> Result<()> {
    let torn_down = match fs::read(layout.network_note()) {
        Ok(input) => call(tools, "teardown", &input, &layout.netns()).map(|_| ()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).context("failed to read the network's note"),
    };
    // The namespace goes even where netavark fails: its interfaces vanish with it.
    loop {
        match unmount(layout.netns(), UnmountFlags::DETACH) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
            Err(error) => return Err(error).context("failed to unmount the network namespace"),
        }
    }
    torn_down
}

/// A new network namespace with loopback up, kept by a bind mount on `place`. Made from this, the only thread.
fn make_namespace(place: &Path) -> Result<()> {
    let context = || format!("failed to make network namespace {}", place.display());
    File::create_new(place).with_context(context)?;
    let home = File::open("/proc/self/ns/net").with_context(context)?;
    unshare(CloneFlags::CLONE_NEWNET).with_context(context)?;
    let made = loopback_up().and_then(|()| mount_bind("/proc/self/ns/net", place).with_context(context));
    setns(home.as_fd(), CloneFlags::CLONE_NEWNET)
        .context("failed to return to the node's network namespace")?;
    made
}

fn loopback_up() -> Result<()> {
    let mut links = LinkClient::new(create_network_client()).context("failed to open a netlink socket")?;
    let loopback = links.get_by_name("lo").context("failed to find the loopback interface")?;
    links.set_up(loopback.header.index).context("failed to bring loopback up")
}

fn call(tools: &NetworkTools, verb: &str, input: &[u8], namespace: &Path) -> Result<Vec<u8>> {
    let netavark = match &tools.netavark {
        Some(path) => path.clone(),
        None => find("netavark").context("netavark is not installed; install the netavark package")?,
    };
    fs::create_dir_all(&tools.netavark_state)
        .with_context(|| format!("failed to make {}", tools.netavark_state.display()))?;
    let _lock = lock(&tools.netavark_state)?;
    let mut command = Command::new(&netavark);
    command.env_clear().env("PATH", TOOL_PATH).arg("--config").arg(&tools.netavark_state);
    if let Some(aardvark) = find("aardvark-dns") {
        command.arg("--aardvark-binary").arg(aardvark);
    }
    command.arg(verb).arg(namespace).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().with_context(|| format!("failed to start {}", netavark.display()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A netavark that exits before it has read its input says why in its answer.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().context("failed to wait for netavark")?;
    if !output.status.success() {
        let reason = serde_json::from_slice::<Value>(&output.stdout)
            .ok()
            .and_then(|answer| answer.get("error")?.as_str().map(str::to_owned))
            .unwrap_or_else(|| output.status.to_string());
        bail!("netavark {verb} failed: {reason}");
    }
    Ok(output.stdout)
}

/// One netavark at a time: it changes the node's firewall and aardvark-dns's files as a whole.
fn lock(state: &Path) -> Result<File> {
    let path = state.join("cairn.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("failed to open {}", path.display()))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive).context("failed to lock netavark's state")?;
    Ok(file)
}

fn find(name: &str) -> Option<PathBuf> {
    let folders = PODMAN_FOLDERS.iter().copied().chain(TOOL_PATH.split(':'));
    folders.map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}
