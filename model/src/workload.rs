//! What the daemon tells the two runtimes: one JSON file a replica under `/run/cairn/workloads/<unit>/workload.json`,
//! readable by root only. It never leaves the node, and has no version: daemon and runtimes come in one image.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One OCI container, for `cairn-oci run FILE`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OciWorkload {
    /// Container id, unique on the node, `[a-z0-9_-]{1,100}`; also the name of its state folder.
    pub id: String,
    /// A folder of this replica's own, on tmpfs: bundle, libcontainer state, mount point of the root.
    pub run_dir: PathBuf,
    /// Unpacked layers in overlayfs form, top-most first.
    pub layers: Vec<PathBuf>,
    /// Where the writable layer lives (`upper` and `work` are made in it); absent for a tmpfs one.
    pub writable_dir: Option<PathBuf>,
    /// Root file system read-only for the container.
    pub read_only: bool,
    /// Command line; never empty, never through a shell.
    pub args: Vec<String>,
    /// Environment as `NAME=value`.
    pub env: Vec<String>,
    /// Working directory, absolute.
    pub cwd: String,
    /// `user[:group]` as in the image config: names are looked up in the image's own passwd and group files, numbers
    /// taken as they are; empty is root.
    pub user: String,
    /// Host name inside.
    pub hostname: String,
    /// Capabilities to add to the default set, `CAP_…` names or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities to drop, likewise; applied before `cap_add`.
    pub cap_drop: Vec<String>,
    /// Bind mounts and tmpfs mounts, in order.
    pub mounts: Vec<Mount>,
    /// Extra `/etc/hosts` lines as (host name, address).
    pub extra_hosts: Vec<(String, String)>,
    /// Kernel parameters in the container's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Resource limits as (name as in `RLIMIT_…`, soft, hard).
    pub ulimits: Vec<(String, u64, u64)>,
    /// How it is connected.
    pub network: Network,
    /// Run a minimal init as PID 1 (Compose `init: true`).
    pub init: bool,
}

/// One mount of a container or preopened folder of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Mount {
    /// A folder or file of the node.
    Bind {
        /// On the node; absolute.
        source: PathBuf,
        /// Inside; absolute.
        target: PathBuf,
        /// Not writable inside.
        read_only: bool,
    },
    /// An empty tmpfs (containers only).
    Tmpfs {
        /// Inside; absolute.
        target: PathBuf,
        /// Size limit in bytes; the kernel's default (half of memory) where absent.
        size_bytes: Option<u64>,
        /// Permission bits; 1777 octal where absent.
        mode: Option<u32>,
    },
}

/// How a container is connected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Network {
    /// The node's own network.
    Host,
    /// Loopback only.
    None,
    /// A network namespace that netavark sets up and tears down.
    Bridge {
        /// netavark's input, as `netavark setup` reads it on stdin: the same for teardown.
        netavark: Value,
    },
}

/// One WebAssembly workload, for `cairn-wasm run FILE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WasmWorkload {
    /// Unique on the node, as [`OciWorkload::id`].
    pub id: String,
    /// The precompiled module or component (`cairn-wasm precompile`).
    pub module: PathBuf,
    /// Arguments after the program name; `args[0]` is the program name.
    pub args: Vec<String>,
    /// Environment as `NAME=value`.
    pub env: Vec<String>,
    /// Preopened folders; only [`Mount::Bind`].
    pub preopens: Vec<Mount>,
    /// Addresses (`ip:port`) to serve `wasi:http/incoming-handler` on; empty for command modules.
    pub listen: Vec<String>,
    /// Limit of each instance's linear memory in bytes.
    pub memory_bytes: u64,
    /// Longest time that one request may take, in milliseconds, before the instance is trapped by epoch; 0 for no
    /// limit. Commands have none.
    pub request_timeout_ms: u64,
    /// May open outgoing connections (sockets and `wasi:http/outgoing-handler`).
    pub network: bool,
}
