//! From a signed app and a desired state to the replicas that run: a pure function, the same on hub and node.

mod image_config;
mod replica_id;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use serde::Serialize;

pub use image_config::{ImageConfig, ImageConfigError};
pub use replica_id::{ReplicaId, slice_name};

use crate::{
    compose::{App, Condition, HealthCheck, NetworkMode, Platform, Port, Restart, Service},
    desired::DesiredApp,
    id::{AppName, Digest, ServiceName},
};

/// The search path where neither image nor Compose file sets one: Docker's.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One replica with everything decided: what the planner compares and the executor starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedReplica {
    /// Which replica.
    pub id: ReplicaId,
    /// What runs: the digest that the app pins (the platform manifest; or an index, if the app pins one).
    pub image: Digest,
    /// Which runtime runs it.
    pub kind: Kind,
    /// Command line. Wasm: the service's name and its `command`.
    pub args: Vec<String>,
    /// Environment as `NAME=value`, sorted.
    pub env: Vec<String>,
    /// Working directory; absolute. `/` for wasm.
    pub cwd: String,
    /// `user[:group]`; empty is root.
    pub user: String,
    /// Host name inside.
    pub hostname: String,
    /// Volumes, then tmpfs.
    pub mounts: Vec<ResolvedMount>,
    /// Published ports.
    pub ports: Vec<Port>,
    /// Resource limits.
    pub limits: ResolvedLimits,
    /// Health check, if any.
    pub health: Option<HealthCheck>,
    /// Restart policy.
    pub restart: Restart,
    /// What must hold of other services before this starts; those that do not run on this node are among them.
    pub depends_on: Vec<(ServiceName, Condition)>,
    /// `SIG…`.
    pub stop_signal: String,
    /// Time between stop signal and SIGKILL.
    pub stop_grace: Duration,
    /// Root file system read-only.
    pub read_only: bool,
    /// Capabilities to add, as `CAP_…` or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities to drop, likewise.
    pub cap_drop: Vec<String>,
    /// Limits as (`RLIMIT_…`, soft, hard).
    pub ulimits: Vec<(String, u64, u64)>,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// A minimal init as PID 1.
    pub init: bool,
    /// Additional lines of /etc/hosts as (host name, address).
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// How it is connected. Wasm: `None`, or `Host` where outgoing connections are granted.
    pub network: NetworkMode,
}

/// Which runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// `cairn-oci`.
    Oci,
    /// `cairn-wasm`.
    Wasm,
}

/// A mount of a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ResolvedMount {
    /// A named volume of the app: the folder `volumes/<app>/<volume>/` of the node.
    Volume {
        /// Its name in the app.
        volume: String,
        /// Where, inside.
        target: String,
        /// Not writable inside.
        read_only: bool,
    },
    /// An empty tmpfs.
    Tmpfs {
        /// Where, inside.
        target: String,
        /// Size limit.
        size_bytes: Option<u64>,
        /// Permission bits.
        mode: Option<u32>,
    },
}

/// Resource limits in systemd's units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ResolvedLimits {
    /// `MemoryMax`.
    pub memory_bytes: Option<u64>,
    /// `CPUQuotaPerSecUSec`: 1,000,000 is one CPU.
    pub cpu_quota_usec_per_sec: Option<u64>,
    /// `TasksMax`.
    pub pids: Option<u64>,
}

/// Why an app cannot run as it is desired.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The artifact is of another app: an attacker could mount one app's volumes into another.
    #[error(
        "app {wanted} is desired, but its artifact says that it is {actual}; deploy it under its own name"
    )]
    OtherApp {
        /// By the desired state.
        wanted: AppName,
        /// By the artifact.
        actual: AppName,
    },
    /// A service that the app does not have.
    #[error("service {service} is desired, but app {app} has none of that name; deploy the app again")]
    UnknownService {
        /// The app.
        app: AppName,
        /// The service.
        service: ServiceName,
    },
    /// One index twice.
    #[error("replica {index} of service {service} is desired twice; deploy the app again")]
    ReplicaTwice {
        /// The service.
        service: ServiceName,
        /// The index.
        index: u32,
    },
    /// Two replicas on one node want the same port of it.
    #[error(
        "replicas of service {service} on one node all publish port {port}; set max_replicas_per_node: 1"
    )]
    PortTwice {
        /// The service.
        service: ServiceName,
        /// The port.
        port: u16,
    },
    /// An image without digest.
    #[error(
        "the image {image} of service {service} is not pinned to a digest; deploy the app through the hub"
    )]
    NotPinned {
        /// The service.
        service: ServiceName,
        /// The image as written.
        image: String,
    },
    /// The caller has not given the image's config.
    #[error("the config of image {image} of service {service} is not at hand; fetch the image first")]
    NoImageConfig {
        /// The service.
        service: ServiceName,
        /// The pinned digest.
        image: Digest,
    },
    /// Nothing to execute.
    #[error("service {service} has nothing to execute: its image sets no command; set `command`")]
    NoCommand {
        /// The service.
        service: ServiceName,
    },
}

/// Every replica of `app` that `desired` puts on this node, ordered by service and index. `images` holds the config of
/// each container image under the digest that the app pins; wasm artifacts need none.
///
/// # Errors
/// If the desired state does not fit the app, or an image is missing from `images`.
pub fn resolve(
    app_name: &AppName,
    app: &App,
    desired: &DesiredApp,
    images: &BTreeMap<Digest, ImageConfig>,
) -> Result<Vec<ResolvedReplica>, ResolveError> {
    if let Some(actual) = app.name.as_ref().filter(|name| *name != app_name) {
        return Err(ResolveError::OtherApp { wanted: app_name.clone(), actual: actual.clone() });
    }
    let mut replicas = Vec::new();
    for (name, indices) in &desired.services {
        let Some(service) = app.services.get(name) else {
            return Err(ResolveError::UnknownService { app: app_name.clone(), service: name.clone() });
        };
        let mut unique = BTreeSet::new();
        if let Some(&index) = indices.iter().find(|&&index| !unique.insert(index)) {
            return Err(ResolveError::ReplicaTwice { service: name.clone(), index });
        }
        if let (Some(port), 2..) = (service.ports.first(), unique.len()) {
            return Err(ResolveError::PortTwice { service: name.clone(), port: port.published });
        }
        for index in unique {
            let id = ReplicaId { app: app_name.clone(), service: name.clone(), index };
            replicas.push(replica(id, service, images)?);
        }
    }
    Ok(replicas)
}

fn replica(
    id: ReplicaId,
    service: &Service,
    images: &BTreeMap<Digest, ImageConfig>,
) -> Result<ResolvedReplica, ResolveError> {
    let Some(image) = service.image.digest.clone() else {
        return Err(ResolveError::NotPinned { service: id.service, image: service.image.to_string() });
    };
    let empty = ImageConfig::default();
    let (kind, config) = match service.platform {
        Platform::Wasm => (Kind::Wasm, &empty),
        Platform::Oci { .. } => match images.get(&image) {
            Some(config) => (Kind::Oci, config),
            None => return Err(ResolveError::NoImageConfig { service: id.service, image }),
        },
    };
    let args = args(&id.service, service, config);
    if args.first().is_none_or(String::is_empty) {
        return Err(ResolveError::NoCommand { service: id.service });
    }
    let hostname = service.hostname.clone().unwrap_or_else(|| id.service.to_string());
    let signal = service.stop_signal.clone().or_else(|| config.stop_signal.clone());
    Ok(ResolvedReplica {
        image,
        kind,
        args,
        env: env(kind, service, config, &hostname),
        cwd: cwd(service, config),
        user: service.user.clone().unwrap_or_else(|| config.user.clone()),
        hostname,
        mounts: mounts(service),
        ports: service.ports.clone(),
        limits: limits(service),
        health: service.healthcheck.clone(),
        restart: service.restart,
        depends_on: service.depends_on.iter().map(|(name, condition)| (name.clone(), *condition)).collect(),
        stop_signal: signal
            .and_then(|name| crate::compose::signal_name(&name))
            .unwrap_or("SIGTERM")
            .to_owned(),
        stop_grace: service.stop_grace_period.unwrap_or(Duration::from_secs(10)),
        read_only: service.read_only,
        cap_add: service.cap_add.clone(),
        cap_drop: service.cap_drop.clone(),
        ulimits: service
            .ulimits
            .iter()
            .map(|(name, limit)| (rlimit_name(name), limit.soft, limit.hard))
            .collect(),
        sysctls: service.sysctls.clone(),
        init: service.init,
        extra_hosts: service.extra_hosts.clone(),
        network: match (kind, service.network_mode) {
            // A component has no network namespace of its own: it may connect as the node does, or not at all.
            (Kind::Wasm, NetworkMode::Bridge) => NetworkMode::None,
            (_, mode) => mode,
        },
        id,
    })
}

/// Compose's rules: `command` replaces the image's CMD; `entrypoint` replaces its ENTRYPOINT and drops its CMD.
fn args(name: &ServiceName, service: &Service, config: &ImageConfig) -> Vec<String> {
    let (entrypoint, default_command) = match (service.platform, &service.entrypoint) {
        (Platform::Wasm, _) => (vec![name.to_string()], Vec::new()),
        (Platform::Oci { .. }, Some(entrypoint)) => (entrypoint.clone(), Vec::new()),
        (Platform::Oci { .. }, None) => (config.entrypoint.clone(), config.cmd.clone()),
    };
    entrypoint.into_iter().chain(service.command.clone().unwrap_or(default_command)).collect()
}

fn env(kind: Kind, service: &Service, config: &ImageConfig, hostname: &str) -> Vec<String> {
    let mut env = BTreeMap::new();
    if kind == Kind::Oci {
        env.insert("PATH".to_owned(), DEFAULT_PATH.to_owned());
        env.insert("HOSTNAME".to_owned(), hostname.to_owned());
    }
    env.extend(config.env_by_name());
    env.extend(service.environment.clone());
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn cwd(service: &Service, config: &ImageConfig) -> String {
    let cwd = service.working_dir.as_ref().unwrap_or(&config.working_dir);
    // Builders write relative ones too; they count from the root.
    if cwd.starts_with('/') { cwd.clone() } else { format!("/{cwd}") }
}

fn mounts(service: &Service) -> Vec<ResolvedMount> {
    let volumes = service.volumes.iter().map(|mount| ResolvedMount::Volume {
        volume: mount.volume.clone(),
        target: mount.target.clone(),
        read_only: mount.read_only,
    });
    let tmpfs = service.tmpfs.iter().map(|mount| ResolvedMount::Tmpfs {
        target: mount.target.clone(),
        size_bytes: mount.size_bytes,
        mode: mount.mode,
    });
    volumes.chain(tmpfs).collect()
}

fn limits(service: &Service) -> ResolvedLimits {
    let limits = &service.deploy.limits;
    ResolvedLimits {
        memory_bytes: limits.memory_bytes,
        cpu_quota_usec_per_sec: limits.milli_cpus.map(|milli| milli.saturating_mul(1000)),
        pids: limits.pids,
    }
}

fn rlimit_name(name: &str) -> String {
    format!("RLIMIT_{}", name.to_ascii_uppercase())
}

/// What [`ResolvedReplica::spec_hash`] covers. A field may be added only with `skip_serializing_if` its default:
/// otherwise an update of the daemon would replace everything that runs.
#[derive(Serialize)]
struct Spec<'a> {
    version: u32,
    unit: String,
    image: &'a Digest,
    kind: Kind,
    args: &'a [String],
    env: &'a [String],
    cwd: &'a str,
    user: &'a str,
    hostname: &'a str,
    mounts: &'a [ResolvedMount],
    ports: &'a [Port],
    limits: ResolvedLimits,
    restart: Restart,
    stop_signal: &'a str,
    stop_grace_ms: u128,
    read_only: bool,
    cap_add: &'a [String],
    cap_drop: &'a [String],
    ulimits: &'a [(String, u64, u64)],
    sysctls: &'a BTreeMap<String, String>,
    init: bool,
    extra_hosts: &'a [(String, IpAddr)],
    network: NetworkMode,
}

impl ResolvedReplica {
    /// Changes if and only if what runs must be replaced. Not covered: the health check and `depends_on`, which only the
    /// daemon acts on.
    pub fn spec_hash(&self) -> Digest {
        let spec = Spec {
            version: 1,
            unit: self.id.unit_name(),
            image: &self.image,
            kind: self.kind,
            args: &self.args,
            env: &self.env,
            cwd: &self.cwd,
            user: &self.user,
            hostname: &self.hostname,
            mounts: &self.mounts,
            ports: &self.ports,
            limits: self.limits,
            restart: self.restart,
            stop_signal: &self.stop_signal,
            stop_grace_ms: self.stop_grace.as_millis(),
            read_only: self.read_only,
            cap_add: &self.cap_add,
            cap_drop: &self.cap_drop,
            ulimits: &self.ulimits,
            sysctls: &self.sysctls,
            init: self.init,
            extra_hosts: &self.extra_hosts,
            network: self.network,
        };
        // Structs of texts, numbers and maps with text keys always serialise; `json!` would panic where this yields
        // the hash of nothing, so neither can happen, and no caller has an error to handle.
        Digest::of(&serde_json::to_vec(&spec).unwrap_or_default())
    }
}
