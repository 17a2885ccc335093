//! From a resolved replica to what the runtime is told (`workload.json`) and what the supervisor is asked for.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use cairn_model::{
    compose::{NetworkMode, Port, Restart as ComposeRestart},
    resolve::{Kind, ResolvedMount, ResolvedReplica},
    workload::{Mount, Network, OciWorkload, WasmWorkload},
};
use nix::sys::signal::Signal;

use super::{
    network::{self, Slots},
    supervisor::{Sandbox, Tag, UnitSpec},
    trash::Trash,
    volumes,
};
use crate::{
    assemble::Content,
    config::Runtimes,
    plan::{HostPort, Restart},
};

#[cfg(test)]
mod tests;

/// Linear memory of a component whose service sets no limit.
const DEFAULT_WASM_MEMORY: u64 = 256 << 20;
/// What the wasm runtime needs beside the guest's memory.
const WASM_OVERHEAD: u64 = 64 << 20;
/// Longest time for one request to a component.
const WASM_REQUEST_TIMEOUT_MS: u64 = 30_000;
/// Tasks of a replica whose service sets no limit: no fork bomb takes the node.
const DEFAULT_TASKS: u64 = 4096;

/// Why a replica cannot be made ready to start.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// The disk failed.
    #[error("failed to {action} {path}; check the data partition")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It has no address.
    #[error("{unit} has no address on this node")]
    NoAddress {
        /// Which unit.
        unit: String,
    },
    /// Image and service are of different kinds.
    #[error(
        "{image} is not what `platform` of service {service} says; correct the platform and deploy again"
    )]
    Kind {
        /// Which image.
        image: String,
        /// Which service.
        service: String,
    },
}

/// Where things are on this node.
#[derive(Debug, Clone)]
pub struct Places {
    /// What outlives a reboot.
    pub state_dir: PathBuf,
    /// What does not.
    pub run_dir: PathBuf,
    /// The runtimes.
    pub runtimes: Runtimes,
    /// First address of the node's /16.
    pub network_base: Ipv4Addr,
    /// Where what may be large goes when it is not needed any more.
    pub trash: Trash,
}

impl Places {
    /// The folder of a unit below the run folder.
    pub fn unit_dir(&self, unit: &str) -> PathBuf {
        self.run_dir.join("workloads").join(unit)
    }

    /// What the runtime of a unit reads.
    pub fn workload_json(&self, unit: &str) -> PathBuf {
        self.unit_dir(unit).join("workload.json")
    }
}

impl Places {
    /// Removes what the daemon wrote for a unit that is gone. Never more than that: should the runtime have left a mount
    /// behind, whatever is below it belongs to somebody.
    pub fn remove_unit_dir(&self, unit: &str) {
        let folder = self.unit_dir(unit);
        for file in ["workload.json", "health"] {
            let _ = fs::remove_file(folder.join(file));
        }
        // Fails where something is left in it, and shall.
        let _ = fs::remove_dir(folder);
    }
}

/// What is ready for a replica, by the kind of its image.
#[derive(Debug, Clone)]
pub enum Prepared {
    /// Unpacked layers, top-most first.
    Layers(Vec<PathBuf>),
    /// A precompiled component.
    Module(PathBuf),
}

/// The node's ports that a replica takes.
pub fn host_ports(replica: &ResolvedReplica) -> Vec<HostPort> {
    replica.ports.iter().map(|p| (p.protocol.as_str().to_owned(), p.published)).collect()
}

/// The planner's word for a restart policy.
pub fn restart(policy: ComposeRestart) -> Restart {
    match policy {
        ComposeRestart::No => Restart::No,
        ComposeRestart::OnFailure { max_retries } => Restart::OnFailure { max: max_retries },
        ComposeRestart::Always | ComposeRestart::UnlessStopped => Restart::Always,
    }
}

/// Makes folders and `workload.json`, and says what unit to start.
pub fn make_ready(
    places: &Places,
    replica: &ResolvedReplica,
    content: &Content,
    prepared: Prepared,
    slots: &Slots,
    neighbours: &[(String, Ipv4Addr)],
) -> Result<UnitSpec, WorkloadError> {
    let unit = replica.id.unit_name();
    let json = match (replica.kind, content, prepared) {
        (Kind::Oci, Content::Oci(_), Prepared::Layers(layers)) => {
            to_json(&oci(places, replica, layers, slots, neighbours)?)
        }
        (Kind::Wasm, Content::Wasm(_), Prepared::Module(module)) => to_json(&wasm(places, replica, module)?),
        (Kind::Oci | Kind::Wasm, _, _) => {
            let (image, service) = (replica.image.to_string(), replica.id.service.to_string());
            return Err(WorkloadError::Kind { image, service });
        }
    };
    let path = places.workload_json(&unit);
    json.and_then(|json| write_private(&path, &json)).map_err(io_at("write", &path))?;
    Ok(unit_spec(places, replica))
}

fn unit_spec(places: &Places, replica: &ResolvedReplica) -> UnitSpec {
    let unit = replica.id.unit_name();
    let json = places.workload_json(&unit).to_string_lossy().into_owned();
    let line = |program: &Path, verb: &str| {
        vec![program.to_string_lossy().into_owned(), verb.to_owned(), json.clone()]
    };
    let (exec_start, exec_stop_post) = match replica.kind {
        Kind::Oci => (line(&places.runtimes.oci, "run"), Some(line(&places.runtimes.oci, "cleanup"))),
        Kind::Wasm => (line(&places.runtimes.wasm, "run"), None),
    };
    let memory_max = match replica.kind {
        Kind::Oci => replica.limits.memory_bytes,
        Kind::Wasm => {
            let guest = replica.limits.memory_bytes.unwrap_or(DEFAULT_WASM_MEMORY);
            Some(guest.saturating_add(WASM_OVERHEAD))
        }
    };
    let sandbox = match replica.kind {
        // Its walls are the runtime's to build, which needs to mount and to make namespaces.
        Kind::Oci => None,
        Kind::Wasm => {
            Some(Sandbox::new(&places.state_dir, &places.run_dir, writable_volumes(places, replica)))
        }
    };
    UnitSpec {
        tag: Tag { replica: replica.id.to_string(), spec: replica.spec_hash(), ports: host_ports(replica) },
        app: replica.id.app.to_string(),
        service: replica.id.service.to_string(),
        slice: cairn_model::resolve::slice_name(&replica.id.app),
        name: unit,
        exec_start,
        exec_stop_post,
        restart: restart(replica.restart),
        memory_max,
        cpu_quota_usec: replica.limits.cpu_quota_usec_per_sec,
        tasks_max: Some(replica.limits.pids.unwrap_or(DEFAULT_TASKS)),
        kill_signal: replica.stop_signal.parse::<Signal>().unwrap_or(Signal::SIGTERM) as i32,
        stop_timeout: replica.stop_grace,
        delegate: replica.kind == Kind::Oci,
        sandbox,
    }
}

fn writable_volumes(places: &Places, replica: &ResolvedReplica) -> Vec<PathBuf> {
    let volumes = replica.mounts.iter().filter_map(|mount| match mount {
        ResolvedMount::Volume { volume, read_only: false, .. } => Some(volume),
        ResolvedMount::Volume { .. } | ResolvedMount::Tmpfs { .. } => None,
    });
    volumes.map(|volume| volumes::volume_path(&places.state_dir, &replica.id.app, volume)).collect()
}

fn oci(
    places: &Places,
    replica: &ResolvedReplica,
    layers: Vec<PathBuf>,
    slots: &Slots,
    neighbours: &[(String, Ipv4Addr)],
) -> Result<OciWorkload, WorkloadError> {
    let unit = replica.id.unit_name();
    let upper = places.state_dir.join("upper").join(&unit);
    let writable_dir = if replica.read_only {
        None
    } else {
        let made = volumes::ensure_writable(&places.state_dir, &places.trash, &unit, &replica.spec_hash());
        Some(made.map_err(io_at("make", &upper))?)
    };
    let (network, mut extra_hosts) = match replica.network {
        NetworkMode::Host => (Network::Host, Vec::new()),
        NetworkMode::None => (Network::None, Vec::new()),
        NetworkMode::Bridge => {
            let app = replica.id.app.as_str();
            let place = network::place(places.network_base, slots, app, &unit)
                .ok_or_else(|| WorkloadError::NoAddress { unit: unit.clone() })?;
            let netavark = network::netavark(places.network_base, &place, replica);
            let hosts = neighbours.iter().map(|(name, ip)| (name.clone(), ip.to_string())).collect();
            (Network::Bridge { netavark }, hosts)
        }
    };
    // What the Compose file says comes first: the first line of a name counts.
    extra_hosts.splice(0..0, replica.extra_hosts.iter().map(|(name, ip)| (name.clone(), ip.to_string())));
    Ok(OciWorkload {
        run_dir: places.unit_dir(&unit),
        id: unit,
        layers,
        writable_dir,
        read_only: replica.read_only,
        args: replica.args.clone(),
        env: replica.env.clone(),
        cwd: replica.cwd.clone(),
        user: replica.user.clone(),
        hostname: replica.hostname.clone(),
        cap_add: replica.cap_add.clone(),
        cap_drop: replica.cap_drop.clone(),
        mounts: mounts(places, replica)?,
        extra_hosts,
        sysctls: replica.sysctls.clone(),
        ulimits: replica.ulimits.clone(),
        network,
        init: replica.init,
    })
}

fn wasm(places: &Places, replica: &ResolvedReplica, module: PathBuf) -> Result<WasmWorkload, WorkloadError> {
    Ok(WasmWorkload {
        id: replica.id.unit_name(),
        module,
        args: replica.args.clone(),
        env: replica.env.clone(),
        preopens: mounts(places, replica)?,
        listen: replica.ports.iter().map(listen).collect(),
        memory_bytes: replica.limits.memory_bytes.unwrap_or(DEFAULT_WASM_MEMORY),
        request_timeout_ms: WASM_REQUEST_TIMEOUT_MS,
        network: replica.network == NetworkMode::Host,
    })
}

fn listen(port: &Port) -> String {
    match port.host_ip {
        Some(IpAddr::V6(ip)) => format!("[{ip}]:{}", port.published),
        Some(IpAddr::V4(ip)) => format!("{ip}:{}", port.published),
        None => format!("0.0.0.0:{}", port.published),
    }
}

fn mounts(places: &Places, replica: &ResolvedReplica) -> Result<Vec<Mount>, WorkloadError> {
    let mut mounts = Vec::new();
    for mount in &replica.mounts {
        mounts.push(match mount {
            ResolvedMount::Volume { volume, target, read_only } => {
                let app = &replica.id.app;
                let source = volumes::ensure_volume(&places.state_dir, app, volume)
                    .map_err(io_at("make", &volumes::volume_path(&places.state_dir, app, volume)))?;
                Mount::Bind { source, target: target.into(), read_only: *read_only }
            }
            ResolvedMount::Tmpfs { target, size_bytes, mode } => {
                Mount::Tmpfs { target: target.into(), size_bytes: *size_bytes, mode: *mode }
            }
        });
    }
    Ok(mounts)
}

/// Service names and addresses of the app's replicas on this node: what `/etc/hosts` of each of them says.
pub fn neighbours(
    base: Ipv4Addr,
    slots: &Slots,
    replicas: &BTreeMap<String, ResolvedReplica>,
    app: &str,
) -> Vec<(String, Ipv4Addr)> {
    let same_app =
        replicas.iter().filter(|(_, r)| r.id.app.as_str() == app && r.network == NetworkMode::Bridge);
    same_app
        .filter_map(|(unit, r)| {
            Some((r.id.service.to_string(), network::place(base, slots, app, unit)?.address))
        })
        .collect()
}

fn to_json<T: serde::Serialize>(workload: &T) -> io::Result<Vec<u8>> {
    serde_json::to_vec_pretty(workload).map_err(io::Error::other)
}

/// Written beside and renamed: a runtime that starts never reads half of it. Root only: environments hold secrets.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        volumes::ensure_private(folder)?;
    }
    let beside = path.with_extension("json.new");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    fs::rename(beside, path)
}

fn io_at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WorkloadError {
    let path = path.to_owned();
    move |source| WorkloadError::Io { action, path, source }
}
