//! A service of an app, in types: what the Compose file says, with nothing filled in from the image.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use serde::Serialize;

use super::{constraint::Constraint, health::HealthCheck, image::ImageRef};
use crate::id::{Digest, ServiceName};

/// One entry of `services`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `image`.
    pub image: ImageRef,
    /// `platform`.
    pub platform: Platform,
    /// `command`: replaces the image's CMD. A text is split as a shell would, and never given to one.
    pub command: Option<Vec<String>>,
    /// `entrypoint`: replaces the image's ENTRYPOINT, and drops its CMD.
    pub entrypoint: Option<Vec<String>>,
    /// `environment`, over the image's.
    pub environment: BTreeMap<String, String>,
    /// `user`: `user[:group]`, names or numbers.
    pub user: Option<String>,
    /// `working_dir`; absolute.
    pub working_dir: Option<String>,
    /// `ports`.
    pub ports: Vec<Port>,
    /// `volumes` of type `volume`.
    pub volumes: Vec<VolumeMount>,
    /// `tmpfs`, and `volumes` of type `tmpfs`.
    pub tmpfs: Vec<Tmpfs>,
    /// `healthcheck` and `x-cairn.health`; none where it is absent or disabled.
    pub healthcheck: Option<HealthCheck>,
    /// `depends_on`: what each needs before this one starts.
    pub depends_on: BTreeMap<ServiceName, Condition>,
    /// `restart` or `deploy.restart_policy.condition`.
    pub restart: Restart,
    /// `stop_signal` as `SIG…`.
    pub stop_signal: Option<String>,
    /// `stop_grace_period`.
    pub stop_grace_period: Option<Duration>,
    /// `cap_add` as `CAP_…` or `ALL`.
    pub cap_add: Vec<String>,
    /// `cap_drop`, likewise.
    pub cap_drop: Vec<String>,
    /// `read_only`: the root file system is.
    pub read_only: bool,
    /// `ulimits` by name as in Compose (`nofile`).
    pub ulimits: BTreeMap<String, Ulimit>,
    /// `sysctls` of the container's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// `init`: a minimal init as PID 1.
    pub init: bool,
    /// `hostname`.
    pub hostname: Option<String>,
    /// `extra_hosts`: (host name, address), in order.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// `network_mode`.
    pub network_mode: NetworkMode,
    /// `labels`.
    pub labels: BTreeMap<String, String>,
    /// `deploy`.
    pub deploy: Deploy,
}

impl Service {
    /// Names the image by `digest` from now on; the tag is dropped, for it would only mislead.
    pub fn pin(&mut self, digest: Digest) {
        self.image.tag = None;
        self.image.digest = Some(digest);
    }

    /// Most replicas that one node can run: `max_replicas_per_node`, and one where the node's ports are published.
    pub fn max_per_node(&self) -> Option<u32> {
        if self.ports.is_empty() { self.deploy.max_replicas_per_node } else { Some(1) }
    }
}

/// `platform`: which runtime runs the service, and on which machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// `linux/amd64`, `linux/arm64`, or absent: a container.
    Oci {
        /// Only on nodes of this architecture; on any that the image has where absent.
        arch: Option<Arch>,
    },
    /// `wasi/wasm`: a WebAssembly module or component; runs on every architecture.
    Wasm,
}

/// CPU architecture in OCI's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// `amd64`.
    Amd64,
    /// `arm64`.
    Arm64,
}

impl Arch {
    /// OCI's name, as in [`crate::Facts::arch`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// One published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Port {
    /// The node's address to listen on; all of them where absent.
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub published: u16,
    /// The port inside.
    pub target: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl Port {
    /// Whether one node cannot publish both: same port and protocol, and an address in common.
    pub fn clashes_with(&self, other: &Self) -> bool {
        let everywhere = |ip: Option<IpAddr>| ip.is_none_or(|ip| ip.is_unspecified());
        self.published == other.published
            && self.protocol == other.protocol
            && (everywhere(self.host_ip) || everywhere(other.host_ip) || self.host_ip == other.host_ip)
    }
}

/// Transport of a [`Port`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A named volume, mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMount {
    /// A name of the app's `volumes`.
    pub volume: String,
    /// Where, inside; absolute.
    pub target: String,
    /// Not writable inside.
    pub read_only: bool,
}

/// An empty tmpfs, mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tmpfs {
    /// Where, inside; absolute.
    pub target: String,
    /// Size limit.
    pub size_bytes: Option<u64>,
    /// Permission bits.
    pub mode: Option<u32>,
}

/// `depends_on.<service>.condition`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// `service_started`.
    ServiceStarted,
    /// `service_healthy`.
    ServiceHealthy,
    /// `service_completed_successfully`.
    ServiceCompletedSuccessfully,
}

/// `restart`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// `no`: Compose's default.
    #[default]
    No,
    /// `always`.
    Always,
    /// `on-failure[:max]`.
    OnFailure {
        /// Give up after so many restarts; never where absent.
        max_retries: Option<u32>,
    },
    /// `unless-stopped`: as `always`, for a fleet has no manual stop.
    UnlessStopped,
}

/// A resource limit of processes; `u64::MAX` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ulimit {
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// `network_mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// `bridge`, or absent: the app's own network.
    #[default]
    Bridge,
    /// `host`: the node's.
    Host,
    /// `none`: loopback only.
    None,
}

/// `deploy`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deploy {
    /// `mode` with `replicas`.
    pub mode: Mode,
    /// `resources.limits`.
    pub limits: Limits,
    /// `resources.reservations`; its `pids` is always absent.
    pub reservations: Limits,
    /// `placement.constraints`; all must hold.
    pub constraints: Vec<Constraint>,
    /// `placement.max_replicas_per_node`.
    pub max_replicas_per_node: Option<u32>,
}

/// `deploy.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `replicated`: so many over the fleet.
    Replicated {
        /// `deploy.replicas`; 1 where absent.
        replicas: u32,
    },
    /// `global`: one on every node that fits, with index 0.
    Global,
}

impl Default for Mode {
    fn default() -> Self {
        Self::Replicated { replicas: 1 }
    }
}

/// Limits or reservations of resources.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// `memory`.
    pub memory_bytes: Option<u64>,
    /// `cpus` in thousandths.
    pub milli_cpus: Option<u64>,
    /// `pids`.
    pub pids: Option<u64>,
}
