//! The release document: the config blob of an OS release artifact (design section 3). The operators' signature on the
//! artifact's manifest covers it, and it names all that a node writes by digest.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    document::{self, DocumentError},
    id::Digest,
    os_version::OsVersion,
};

/// The `schema` number of [`Release`].
pub const SCHEMA: u32 = 1;

/// Largest document that is read, in bytes.
pub const MAX_BYTES: usize = 256 << 10;

/// Most patches that one release may have.
pub const MAX_PATCHES: usize = 64;

/// An OS image with all ways to get it onto a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Always [`SCHEMA`].
    pub schema: u32,
    /// Its version; the root's os-release and the boot entry say the same.
    pub version: OsVersion,
    /// Which machines it is for: a node takes only what has its own string. 1 to 64 of `a-z0-9._-`.
    pub compatible: String,
    /// CPU architecture in Go's names: `amd64`, `arm64`.
    pub arch: String,
    /// A node that runs an older version must take another release first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_version: Option<OsVersion>,
    /// What is new, for people; at most 64 KiB.
    #[serde(default)]
    pub changelog: String,
    /// `PRETTY_NAME` of its os-release.
    pub name: String,
    /// When it was built, Unix seconds.
    pub built: i64,
    /// Layouts of the data partition that it can work with.
    pub data_layout: DataLayout,
    /// The root file system: all bytes of the root partition that count.
    pub root: Payload,
    /// The unified kernel image.
    pub uki: Payload,
    /// The hash tree over the root. It does not travel: a node computes it while it writes, and it must end in this.
    pub verity: Verity,
    /// Both payloads as chunks.
    pub chunks: Chunks,
    /// Patches from earlier releases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patches: Vec<Patch>,
    /// Command that must end with 0 on a node that tries the release, beside the node's own checks. An argument list,
    /// never a shell's line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub health_command: Vec<String>,
}

/// Which layouts of the data partition an OS reads, and which it leaves behind once it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataLayout {
    /// The oldest that it can work with.
    pub min: u32,
    /// The newest, to which it changes the partition once it is kept, and never before.
    pub max: u32,
}

/// Bytes by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Payload {
    /// SHA-256 of them.
    pub digest: Digest,
    /// How many.
    pub size: u64,
}

/// Parameters of dm-verity (format 1, SHA-256, blocks of 4 KiB).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Verity {
    /// Hash of the tree's top block: 64 lower-case hex digits.
    pub root_hash: String,
    /// Salt in hex, at most 256 bytes.
    pub salt: String,
    /// UUID in the superblock: 32 lower-case hex digits.
    pub uuid: String,
}

/// The release as chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Chunks {
    /// The table of chunks.
    pub index: Payload,
    /// All chunks, each compressed by itself.
    pub pack: Payload,
}

/// A patch from one earlier release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// The version that it starts from, for people.
    pub from: OsVersion,
    /// The root that it starts from: root hash of that release.
    pub from_root_hash: String,
    /// The patch.
    pub blob: Payload,
    /// The kernel image that it starts from.
    pub from_uki: Digest,
    /// Memory that applying it takes, in bytes.
    pub memory: u64,
}

impl Release {
    /// Reads a release.
    ///
    /// # Errors
    /// If it is larger than [`MAX_BYTES`], of a schema that is not known, malformed, or unsound: a hash that is none, a
    /// size of zero, layouts the wrong way round.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let release: Self = document::parse("release", bytes, MAX_BYTES, SCHEMA)?;
        release.check().map_err(|cause| DocumentError::Release { cause })?;
        Ok(release)
    }

    fn check(&self) -> Result<(), &'static str> {
        let word = |text: &str| {
            let allowed =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
            (1..=64).contains(&text.len()) && text.chars().all(allowed)
        };
        let ensure = |holds: bool, cause| if holds { Ok(()) } else { Err(cause) };
        ensure(word(&self.compatible), "'compatible' is not 1 to 64 of a-z, 0-9, '.', '_' and '-'")?;
        ensure(word(&self.arch), "'arch' is not a name such as amd64")?;
        ensure(self.changelog.len() <= 64 << 10, "'changelog' has over 64 KiB")?;
        ensure(self.name.len() <= 256, "'name' has over 256 bytes")?;
        let DataLayout { min, max } = self.data_layout;
        ensure((1..=max).contains(&min), "'data_layout' is not 1 <= min <= max")?;
        let Verity { root_hash, salt, uuid } = &self.verity;
        ensure(is_hex(root_hash, 64), "'verity.root_hash' is no SHA-256 in lower-case hex")?;
        ensure(is_hex(salt, salt.len()) && salt.len() <= 512, "'verity.salt' is not up to 256 bytes in hex")?;
        ensure(salt.len().is_multiple_of(2) && is_hex(uuid, 32), "'verity.uuid' is not 16 bytes in hex")?;
        let blobs = [&self.root, &self.uki, &self.chunks.index, &self.chunks.pack];
        let patches = self.patches.iter().map(|patch| &patch.blob);
        ensure(blobs.into_iter().chain(patches).all(|blob| blob.size > 0), "a payload has no bytes")?;
        ensure(self.root.size.is_multiple_of(4096), "'root.size' is not a multiple of 4096")?;
        ensure(self.patches.len() <= MAX_PATCHES, "there are over 64 patches")?;
        ensure(
            self.patches.iter().all(|patch| is_hex(&patch.from_root_hash, 64)),
            "a patch's 'from_root_hash' is no SHA-256 in lower-case hex",
        )?;
        let Self { health_command: command, .. } = self;
        let plain = |argument: &String| argument.len() <= 4096 && !argument.contains('\0');
        ensure(
            command.len() <= 64 && command.iter().all(plain),
            "'health_command' has over 64 arguments, or a NUL",
        )
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}
