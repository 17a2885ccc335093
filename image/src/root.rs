//! The read-only root: a tree becomes an erofs by way of a tar that carries the ownership.

use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::tools::Tools;
use crate::tree::Tree;

/// lz4 is quick to read and, unlike stronger compression, leaves deltas between versions small.
const COMPRESSION: &str = "-zlz4hc,level=9";

/// Bytes in a compressed cluster.
const CLUSTER: &str = "-C65536";

/// Writes `tree` as an erofs to `output`.
pub fn write_erofs(tree: &Tree, tools: &Tools, scratch: &Path, output: &Path, epoch: u64) -> Result<()> {
    let tar = scratch.join("root.tar");
    let file = std::fs::File::create(&tar).with_context(|| format!("failed to create {}", tar.display()))?;
    tree.write_tar(BufWriter::new(file), epoch)?;
    let (time, uuid) = (format!("-T{epoch}"), format!("-U{}", fixed_uuid("root erofs")));
    let (output, tar_name) = (output.display().to_string(), tar.display().to_string());
    let options = [
        "--quiet",
        "--tar=f",
        COMPRESSION,
        CLUSTER,
        "-Eztailpacking",
        &time,
        "--all-time",
        &uuid,
        &output,
        &tar_name,
    ];
    tools.run("usr/bin/mkfs.erofs", &options)?;
    std::fs::remove_file(&tar).with_context(|| format!("failed to remove {}", tar.display()))
}

/// A UUID that depends on nothing but its purpose (RFC 9562, version 8).
pub fn fixed_uuid(purpose: &str) -> String {
    let mut bytes = Sha256::digest(format!("cairn image: {purpose}"));
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(&bytes[..16]);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::fixed_uuid;

    #[test]
    fn fixed_uuids_differ_by_purpose_and_are_version_8() {
        let uuid = fixed_uuid("a");
        assert_eq!(uuid, fixed_uuid("a"));
        assert_ne!(uuid, fixed_uuid("b"));
        assert_eq!(uuid.len(), 36);
        assert_eq!(uuid.as_bytes()[14], b'8');
    }
}
