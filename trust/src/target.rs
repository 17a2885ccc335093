//! What signed metadata says of one target.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use serde_json::Value;
use sigstore_tuf::TargetFile;

use crate::fetch::encode_segment;

/// Length, hashes and custom facts of one target.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetInfo {
    /// Length in bytes.
    pub length: u64,
    /// Hex hashes by algorithm.
    pub hashes: BTreeMap<String, String>,
    /// Facts for applications, `null` where there are none.
    pub custom: Value,
}

impl From<&TargetFile> for TargetInfo {
    fn from(file: &TargetFile) -> Self {
        Self {
            length: file.length,
            hashes: file.hashes.clone(),
            custom: file.custom.clone().unwrap_or(Value::Null),
        }
    }
}

impl TargetInfo {
    /// Whether `bytes` are this target: the length, and every hash of an algorithm that is known, of which there must
    /// be one.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        if bytes.len() as u64 != self.length {
            return false;
        }
        let mut checked = 0;
        for (algorithm, expected) in &self.hashes {
            let algorithm = match algorithm.as_str() {
                "sha256" => &SHA256,
                "sha512" => &SHA512,
                // An unknown algorithm neither helps nor harms.
                _ => continue,
            };
            if !hex::encode(digest(algorithm, bytes)).eq_ignore_ascii_case(expected) {
                return false;
            }
            checked += 1;
        }
        checked > 0
    }

    /// The SHA-256, in hex.
    pub fn sha256(&self) -> Option<&str> {
        self.hashes.get("sha256").map(String::as_str)
    }

    /// The path of the target `name` below the base of a repository's targets, percent-encoded; with consistent
    /// snapshots the hash stands before the last segment. `None` where there is no hash to use.
    pub fn path(&self, name: &str, consistent: bool) -> Option<String> {
        let encoded = name.split('/').map(encode_segment).collect::<Vec<_>>().join("/");
        if !consistent {
            return Some(encoded);
        }
        let hash = self.sha256().or_else(|| self.hashes.get("sha512").map(String::as_str))?;
        if hash.is_empty() || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        Some(match encoded.rsplit_once('/') {
            Some((folder, file)) => format!("{folder}/{hash}.{file}"),
            None => format!("{hash}.{encoded}"),
        })
    }
}
