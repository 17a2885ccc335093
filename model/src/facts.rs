//! What a node says of itself: the input of placement, shown by `cairn node show`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::{self, DocumentError};

/// The `schema` number of [`Facts`].
pub const SCHEMA: u32 = 1;

/// Largest document that is read, in bytes.
pub const MAX_BYTES: usize = 64 << 10;

/// A node's capabilities, read at start of the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Facts {
    /// Always [`SCHEMA`].
    pub schema: u32,
    /// The host name.
    pub hostname: String,
    /// CPU architecture in Go's names, as OCI has them: `amd64`, `arm64`.
    pub arch: String,
    /// Kernel release, as `uname -r`.
    pub kernel: String,
    /// `IMAGE_ID` or else `ID` of os-release.
    pub os: String,
    /// `IMAGE_VERSION` or else `VERSION_ID` of os-release.
    pub os_version: String,
    /// Version of cairnd.
    pub daemon_version: String,
    /// Usable CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Size of the data partition in bytes.
    pub data_bytes: u64,
    /// Which runtimes are installed: `oci`, `wasm`.
    pub runtimes: Vec<String>,
    /// Labels that the node's own configuration sets; the hub's labels override them.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl Facts {
    /// Reads facts.
    ///
    /// # Errors
    /// If they are larger than [`MAX_BYTES`], of a schema that is not known, or malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        document::parse("facts", bytes, MAX_BYTES, SCHEMA)
    }
}
